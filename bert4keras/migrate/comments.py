"""Comments on places that have to be changed by hand."""

import ast

from bert4keras.migrate import rules
from bert4keras.migrate.edits import Edits
from bert4keras.migrate.names import in_backend, is_removed, longest_prefix, new_name
from bert4keras.migrate.source import Source

PREFIX = "# bert4keras.migrate: "
"""The prefix of the comments."""


class Comments:
    """Collects the comments on a script.

    Args:
        source: the script.
    """

    def __init__(self, source: Source):
        self.source = source
        self.found: dict[ast.stmt, dict[str, None]] = {}

    def mark(self, node: ast.AST, mark: rules.Mark) -> None:
        """Add a comment above the statement that contains a node."""
        self.found.setdefault(self.source.statement(node), {})[mark.advice] = None

    def mark_name(self, node: ast.AST, name: str, imported: bool = False) -> None:
        """Mark a full name of old versions that has no direct counterpart."""
        final = new_name(name)
        found = longest_prefix(final, rules.MARKS)
        # Names of `K` are marked at their uses, not at their imports.
        if found and not (imported and in_backend(final)):
            self.mark(node, rules.MARKS[found])
        elif is_removed(final) and not in_backend(final):
            self.mark(node, rules.Mark("names", f"{name} no longer exists: use something else"))

    def write(self, edits: Edits) -> None:
        """Insert the comments above their statements."""
        for statement, advices in self.found.items():
            while not self.source.begins_line(statement):
                # After a semicolon or a colon: go to the first statement of the line.
                statement = self.before(statement)
            above = self.above(statement)
            place = self.source.line_start(self.source.start(statement))
            indentation = self.source.indentation(statement)
            for advice in advices:
                if PREFIX + advice not in above:
                    edits.insert(place, f"{indentation}{PREFIX}{advice}{self.source.newline}")

    def before(self, statement: ast.stmt) -> ast.stmt:
        """Return the statement before another one, or the one that contains it."""
        block = self.source.block(statement)
        index = next(i for i, each in enumerate(block) if each is statement)
        return block[index - 1] if index else self.source.statement(self.source.parents[statement])

    def above(self, statement: ast.stmt) -> set[str]:
        """Return the comments in the lines directly above a statement."""
        number = self.source.line_of(self.source.start(statement)) - 1
        found = set()
        while number > 0:
            start, end = self.source.starts[number - 1], self.source.starts[number]
            line = self.source.text[start:end].strip()
            if not line.startswith("#"):
                break
            found.add(line)
            number -= 1
        return found
