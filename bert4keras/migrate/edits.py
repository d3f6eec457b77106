"""Changes of a text at places, some of them inside of others."""

import ast
from bisect import bisect_left
from dataclasses import dataclass, field

from bert4keras.migrate.source import Source, Span, is_docstring

Piece = str | Span
"""A text, or a place of the old text with all that changes inside of it."""


@dataclass(frozen=True, order=True)
class Edit:
    """One change; in order, what is inserted somewhere comes before what begins there."""

    start: int
    long: bool
    minus_end: int
    number: int
    pieces: tuple[Piece, ...] = field(compare=False)

    @property
    def end(self) -> int:
        """Where the old text ends."""
        return -self.minus_end


class Edits:
    """The changes of a script.

    Args:
        source: the script.

    Attributes:
        removed: the statements that are taken out.
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
        """Put something in the place of a piece of text.

        What else changes inside of it counts only as far as one of the pieces is a place. Of two
        changes of the same place the first one is around the second.
        """
        start, end = span
        self.edits.append(Edit(start, end > start, -end, len(self.edits), pieces))

    def insert(self, at: int, text: str) -> None:
        """Put a text somewhere."""
        self.replace((at, at), text)

    def remove(self, span: Span) -> None:
        """Take a piece of text out."""
        self.replace(span)

    # === Statements ===

    def remove_statement(self, statement: ast.stmt, comments: bool = False) -> None:
        """Take a statement out with its line; where a block has no other, put `pass` there.

        Args:
            statement: the statement.
            comments: whether the comments right above it go as well, and blank lines above them.
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
        """Put lines behind the one that a statement ends in."""
        source = self.source
        while not source.ends_line(after):
            # Other statements stand behind it in the line.
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
        """Put lines at the beginning of a class, behind its docstring, and a blank one."""
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
        """The text with all changes.

        Raises:
            ValueError: changes overlap.
        """
        self.edits.sort()
        self.done.clear()
        return self.rendered((0, len(self.text)))

    def rendered(self, span: Span) -> str:
        """A piece of the text with what changes in it and is not done yet."""
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
