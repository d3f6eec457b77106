"""The comments that say what a person has to change."""

from collections.abc import Mapping

import libcst as cst
from libcst.metadata import CodeRange

from bert4keras.migrate import rules
from bert4keras.migrate.names import covered, in_backend
from bert4keras.migrate.syntax import is_statement

PREFIX = "# bert4keras.migrate: "
"""How the comments begin."""


class Comments:
    """The comments of a script, gathered statement by statement while it is walked.

    Args:
        source: the text of the script.
        positions: the position of every node.
    """

    def __init__(self, source: str, positions: Mapping[cst.CSTNode, CodeRange]):
        self.lines = source.splitlines()
        self.positions = positions
        self.open: list[dict[str, None]] = []
        self.muted = 0

    def mark(self, mark: rules.Mark) -> None:
        """Have a comment put above the statement that is being visited."""
        if not self.muted and self.open:
            self.open[-1][mark.advice] = None

    def mark_name(self, name: str, imported: bool = False) -> None:
        """Mark a full name that has no counterpart of the same shape."""
        found = covered(name, rules.MARKS)
        # What of `K` is imported is marked where it is used.
        if found and not (imported and in_backend(name)):
            self.mark(rules.MARKS[found])

    def enter(self, node: cst.CSTNode) -> None:
        """Gather what is marked from here on for this statement."""
        if is_statement(node):
            self.open.append({})

    def leave(self, original: cst.CSTNode, updated):
        """Put the comments above the statement that they were gathered for."""
        if not is_statement(original):
            return updated
        above = self.above(original)
        comments = [PREFIX + advice for advice in self.open.pop()]
        comments = [comment for comment in comments if comment not in above]
        if not comments or isinstance(updated, cst.RemovalSentinel):
            return updated
        first, *rest = updated if isinstance(updated, cst.FlattenSentinel) else [updated]
        lines = [cst.EmptyLine(comment=cst.Comment(comment)) for comment in comments]
        first = first.with_changes(leading_lines=[*first.leading_lines, *lines])
        return cst.FlattenSentinel([first, *rest]) if rest else first

    def above(self, statement: cst.CSTNode) -> set[str]:
        """The comments in the lines right above a statement."""
        number = self.positions[statement].start.line - 1
        found = set()
        while number > 0 and (line := self.lines[number - 1].strip()).startswith(("#", "@")):
            found.add(line)
            number -= 1
        return found
