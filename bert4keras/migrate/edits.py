"""Changes of a text at positions, possibly nested."""

import ast
from bisect import bisect_left
from dataclasses import dataclass, field

from bert4keras.migrate.source import Source, Span, is_docstring

Piece = str | Span
"""New text, or a span of the old text with all changes within it."""


@dataclass(frozen=True, order=True)
class Edit:
    """One change; insertions at a position sort before replacements that begin there."""

    start: int
    long: bool
    minus_end: int
    number: int
    pieces: tuple[Piece, ...] = field(compare=False)

    @property
    def end(self) -> int:
        """The end of the replaced text."""
        return -self.minus_end


class Edits:
    """Collects the changes of a script.

    Args:
        source: the script.

    Attributes:
        removed: the removed statements.
    """

    def __init__(self, source: Source):
        self.source = source
        self.text = source.text
        self.edits: list[Edit] = []
        self.done: set[int] = set()
        self.removed: set[ast.stmt] = set()

    def __len__(self) -> int:
        return len(self.edits)

    def replace(self, span: Span, *pieces: Piece) -> None:
        """Replace a span of text.

        Other changes within it apply only to pieces that are spans. Of two changes of the same
        span the first one contains the second.
        """
        start, end = span
        self.edits.append(Edit(start, end > start, -end, len(self.edits), pieces))

    def insert(self, at: int, text: str) -> None:
        """Insert a text."""
        self.replace((at, at), text)

    def remove(self, span: Span) -> None:
        """Remove a span of text."""
        self.replace(span)

    # === Statements ===

    def remove_statement(self, statement: ast.stmt, comments: bool = False) -> None:
        """Remove a statement with its line, or replace it by `pass` if its block has no other.

        Args:
            statement: the statement.
            comments: whether to remove the comments directly above it and blank lines above them.
        """
        source, (start, end) = self.source, self.source.span(statement)
        block = source.block(statement)
        self.removed.add(statement)
        if self.removed.issuperset(block) and not isinstance(source.parents[statement], ast.Module):
            self.replace((start, end), "pass")
        elif source.begins_line(statement) and source.ends_line(statement):
            first = source.line_start(start)
            if comments:
                first = source.blank_above(source.comments_above(first))
            self.remove((first, source.line_end(end)))
        elif (semicolon := source.find(";", end, source.line_end(end))) >= 0:
            following = source.skip(semicolon + 1)
            self.remove((start, min(following, source.line_end(end))))
        else:
            self.remove((start, end))

    def add_lines(self, after: ast.stmt, lines: list[str]) -> None:
        """Insert lines after the last line of a statement."""
        source = self.source
        while not source.ends_line(after):
            # The line has further statements.
            block = source.block(after)
            index = next(i for i, each in enumerate(block) if each is after)
            if index + 1 == len(block):
                break
            after = block[index + 1]
        indentation, newline = source.indentation(after), source.newline
        place = source.line_end(source.end(after))
        if self.text[place - 1 : place] in ("\n", "\r"):
            self.insert(place, "".join(f"{indentation}{line}{newline}" for line in lines))
        else:
            self.insert(place, "".join(f"{newline}{indentation}{line}" for line in lines))

    def insert_statement(self, owner: ast.ClassDef, lines: list[str]) -> None:
        """Insert lines at the beginning of a class, after its docstring, and a blank line."""
        source, newline = self.source, self.source.newline
        first = owner.body[0]
        if is_docstring(first) and len(owner.body) > 1:
            first = owner.body[1]
        place = source.line_start(source.start(first))
        place = source.comments_above(place)
        indentation = source.indentation(first)
        text = "".join(f"{indentation}{line}{newline}" for line in lines)
        following = source.text[place : source.line_end(place)].strip()
        self.insert(place, text + (newline if following else ""))

    # === The result ===

    def result(self) -> str:
        """Return the text with all changes.

        Raises:
            ValueError: changes overlap.
        """
        self.edits.sort()
        self.done.clear()
        return self.rendered((0, len(self.text)))

    def rendered(self, span: Span) -> str:
        """Return a span of the text with the changes in it that are not done yet."""
        at, end = span
        found = []
        for i in range(bisect_left(self.edits, at, key=lambda x: x.start), len(self.edits)):
            edit = self.edits[i]
            if edit.start > end or (edit.start == end and edit.long):
                break
            if edit.number in self.done or edit.end <= at > edit.start:
                continue
            if edit.start < at or edit.end > end:
                raise ValueError(f"changes overlap at {self.text[edit.start : edit.end]!r}")
            self.done.add(edit.number)
            found.append(self.text[at : edit.start])
            found += [x if isinstance(x, str) else self.rendered(x) for x in edit.pieces]
            at = edit.end
        return "".join([*found, self.text[at:end]])
