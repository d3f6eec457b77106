"""The comments that say what a person has to change."""

import ast

from bert4keras.migrate import rules
from bert4keras.migrate.edits import Edits
from bert4keras.migrate.names import covered, in_backend, is_nowhere, today
from bert4keras.migrate.source import Source

PREFIX = "# bert4keras.migrate: "
"""How the comments begin."""


class Comments:
    """The comments of a script, gathered while it is walked.

    Args:
        source: the script.
    """

    def __init__(self, source: Source):
        self.source = source
        self.found: dict[ast.stmt, dict[str, None]] = {}

    def mark(self, node: ast.AST, mark: rules.Mark) -> None:
        """Have a comment put above the statement that a node is in."""
        self.found.setdefault(self.source.statement(node), {})[mark.advice] = None

    def mark_name(self, node: ast.AST, name: str, imported: bool = False) -> None:
        """Mark a full name, as the script means it, that has no counterpart of the same shape."""
        final = today(name)
        found = covered(final, rules.MARKS)
        # What of `K` is imported is marked where it is used.
        if found and not (imported and in_backend(final)):
            self.mark(node, rules.MARKS[found])
        elif is_nowhere(final) and not in_backend(final):
            self.mark(node, rules.Mark("names", f"{name} is no more: use something else"))

    def write(self, edits: Edits) -> None:
        """Put the comments where they belong."""
        for statement, advices in self.found.items():
            while not self.source.begins_line(statement):
                # Behind a semicolon or a colon: the statement that the line begins with.
                statement = self.before(statement)
            above = self.above(statement)
            place = self.source.line_start(self.source.start(statement))
            indentation = self.source.indentation(statement)
            for advice in advices:
                if PREFIX + advice not in above:
                    edits.insert(place, f"{indentation}{PREFIX}{advice}{self.source.newline}")

    def before(self, statement: ast.stmt) -> ast.stmt:
        """The statement before another one, or the one around it."""
        block = self.source.block(statement)
        index = next(i for i, each in enumerate(block) if each is statement)
        return block[index - 1] if index else self.source.statement(self.source.parents[statement])

    def above(self, statement: ast.stmt) -> set[str]:
        """The comments in the lines right above a statement."""
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
