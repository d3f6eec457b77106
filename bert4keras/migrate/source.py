"""A script as text and syntax tree, with the positions of nodes in the text."""

import ast
import contextlib
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

Span = tuple[int, int]
"""The start and the end of a piece of text."""

OPERATORS = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
"""Nodes that occur several times in a tree and have no position in the text."""
DEPTH = 200_000
"""Maximum depth of a syntax tree, enough for ten thousand additions in a row."""
STACK = 512 * 2**20
"""Bytes of stack for a tree of that depth; only used pages take memory."""
LONGEST = 100
"""Maximum number of parts of a dotted name."""
BLANK = re.compile(r"(?:[ \t\f\r\n\\]|#[^\r\n]*)*")
"""Text between two tokens inside brackets: space, line ends and comments."""


def parse(text: str) -> ast.Module:
    """Parse a script, also if its expressions are too deep for the stack of this thread.

    Raises:
        SyntaxError: the text is not Python 3, or too deep for Python itself.
    """
    with contextlib.suppress(RecursionError, MemoryError):
        return parsed(text)
    results: list[ast.Module | BaseException] = []

    def run() -> None:
        try:
            results.append(parsed(text))
        except BaseException as error:
            results.append(error)

    limit, size = sys.getrecursionlimit(), threading.stack_size(STACK)
    sys.setrecursionlimit(DEPTH)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(size)
        sys.setrecursionlimit(limit)
    (result,) = results
    if isinstance(result, RecursionError | MemoryError):
        raise SyntaxError("nested too deeply for Python itself") from result
    if isinstance(result, BaseException):
        raise result
    return result


def parsed(text: str) -> ast.Module:
    """Call `ast.parse` without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except ValueError as error:  # a null byte, or a lone surrogate
            raise SyntaxError(str(error)) from error


@dataclass(frozen=True)
class Arg:
    """An argument of a call.

    Attributes:
        name: its name, None for a positional one.
        star: "*" or "**" if it is unpacked, otherwise "".
        value: the expression.
        span: the whole argument with its name and brackets around the value, without comma.
        value_span: the value with brackets around it.
    """

    name: str | None
    star: str
    value: ast.expr
    span: Span
    value_span: Span


class Source:
    """A script.

    Args:
        text: its text.

    Attributes:
        tree: its syntax tree.
        nodes: all nodes of the tree except operators, in depth-first order.
        parents: the parent of every node.
        children: the children of every node.

    Raises:
        SyntaxError: the text is not Python 3.
    """

    def __init__(self, text: str):
        self.text = text
        self.tree = parse(text)
        self.starts = [0, *(found.end() for found in re.finditer(r"\r\n|\r|\n", text))]
        self.ascii = text.isascii()
        self.parents: dict[ast.AST, ast.AST] = {}
        self.children: dict[ast.AST, list[ast.AST]] = {}
        self.nodes: list[ast.AST] = []
        stack: list[ast.AST] = [self.tree]
        while stack:
            node = stack.pop()
            self.nodes.append(node)
            children = [x for x in ast.iter_child_nodes(node) if not isinstance(x, OPERATORS)]
            self.children[node] = children
            for child in children:
                self.parents[child] = node
            stack.extend(reversed(children))

    # === Positions ===

    def offset(self, line: int, column: int) -> int:
        """Return the position in the text of a line and a number of bytes in UTF-8."""
        start = self.starts[line - 1]
        if self.ascii or column == 0:
            return start + column
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        text = self.text[start:end]
        if text.isascii():
            return start + column
        return start + len(text.encode()[:column].decode())

    def start(self, node: ast.AST) -> int:
        """Return the start of a node, including the decorators of a function or class."""
        decorators = getattr(node, "decorator_list", None)
        if decorators:
            at = self.offset(decorators[0].lineno, decorators[0].col_offset)
            return self.text.rindex("@", 0, at)
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: ast.AST) -> int:
        """Return the end of a node."""
        return self.offset(node.end_lineno, node.end_col_offset)

    def span(self, node: ast.AST) -> Span:
        """Return the start and the end of a node, without brackets around it."""
        return self.start(node), self.end(node)

    def code(self, node: ast.AST) -> str:
        """Return the text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def skip(self, at: int) -> int:
        """Return the position of the next token inside brackets."""
        return BLANK.match(self.text, at).end()

    def find(self, character: str, at: int, end: int) -> int:
        """Return the position of a character between tokens, -1 if there is none before `end`."""
        while (at := self.skip(at)) < end:
            if self.text[at] == character:
                return at
            at += 1
        return -1

    def line_of(self, at: int) -> int:
        """Return the line number of a position, from 1."""
        low, high = 0, len(self.starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.starts[middle] <= at else (low, middle)
        return low + 1

    def line_start(self, at: int) -> int:
        """Return the start of the line of a position."""
        return self.starts[self.line_of(at) - 1]

    def line_end(self, at: int) -> int:
        """Return the end of the line of a position, including its line break."""
        line = self.line_of(at)
        return self.starts[line] if line < len(self.starts) else len(self.text)

    @cached_property
    def newline(self) -> str:
        """The line break of the first line."""
        found = re.search(r"\r\n|\r|\n", self.text)
        return found.group() if found else "\n"

    # === Statements ===

    def statement(self, node: ast.AST) -> ast.stmt:
        """Return the statement that contains a node, or the node if it is a statement."""
        while not isinstance(node, ast.stmt):
            node = self.parents[node]
        return node

    def indentation(self, statement: ast.stmt) -> str:
        """Return the indentation of the line of a statement."""
        start = self.line_start(self.start(statement))
        return re.match(r"[ \t\f]*", self.text[start:]).group()

    def begins_line(self, statement: ast.stmt) -> bool:
        """Tell whether there is only space before a statement in its line."""
        start = self.start(statement)
        return not self.text[self.line_start(start) : start].strip(" \t\f")

    def ends_line(self, statement: ast.stmt) -> bool:
        """Tell whether there is at most a comment after a statement in its line."""
        end = self.end(statement)
        rest = self.text[end : self.line_end(end)].strip()
        return not rest or rest.startswith("#")

    def comments_above(self, place: int) -> int:
        """Return the start of the comment lines directly above a line."""
        line = self.line_of(place)
        while line > 1:
            text = self.text[self.starts[line - 2] : self.starts[line - 1]]
            if not text.lstrip().startswith("#"):
                break
            line -= 1
        return self.starts[line - 1]

    def blank_above(self, place: int) -> int:
        """Return the start of the blank lines directly above a line."""
        line = self.line_of(place)
        while line > 1 and not self.text[self.starts[line - 2] : self.starts[line - 1]].strip():
            line -= 1
        return self.starts[line - 1]

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """Return the block of statements that contains a statement."""
        for _, value in ast.iter_fields(self.parents[statement]):
            if isinstance(value, list) and any(each is statement for each in value):
                return value
        raise ValueError("not a statement of this script")

    def enclosing(self, node: ast.AST, *kinds: type) -> ast.AST | None:
        """Return the innermost node of some kinds that contains a node; None if there is none."""
        while (node := self.parents.get(node)) is not None:
            if isinstance(node, kinds):
                return node
        return None

    # === Calls ===

    def brackets(self, call: ast.Call) -> Span:
        """Return the span of the arguments of a call, without the brackets."""
        end = self.end(call) - 1
        return self.find("(", self.end(call.func), end) + 1, end

    def args(self, call: ast.Call) -> list[Arg]:
        """Return the arguments of a call, in their order."""
        items = sorted([*call.args, *call.keywords], key=lambda x: (x.lineno, x.col_offset))
        at, last = self.brackets(call)
        found = []
        for item in items:
            start = self.skip(at)
            comma = self.find(",", min(self.end(item), last), last)
            end = self.end_before(min(self.end(item), last), last if comma < 0 else comma)
            found.append(self.arg(item, (start, end)))
            at = last if comma < 0 else comma + 1
        return found

    def arg(self, item: ast.expr | ast.keyword, span: Span) -> Arg:
        """Return an argument at a span."""
        if isinstance(item, ast.keyword) and item.arg:
            start = self.skip(self.find("=", span[0] + len(item.arg), span[1]) + 1)
            return Arg(item.arg, "", item.value, span, (start, span[1]))
        star = "**" if isinstance(item, ast.keyword) else "*" * isinstance(item, ast.Starred)
        value = item.value if star else item
        return Arg(None, star, value, span, (self.skip(span[0] + len(star)), span[1]))

    def end_before(self, at: int, end: int) -> int:
        """Return the end of the last token between two positions, `at` if there is none."""
        last = at
        while (at := self.skip(at)) < end:
            at += 1
            last = at
        return last


def in_source_order(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    """Iterate over nodes in the order of their positions."""
    return iter(sorted(nodes, key=lambda x: (x.lineno, x.col_offset)))


# === Nodes ===


def dotted(node: ast.AST | None) -> list[str] | None:
    """Return the parts of `a.b.c`; None for other nodes, and beyond the maximum number of parts."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < LONGEST:
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else None


def root(node: ast.AST) -> ast.AST:
    """Return the first name of `a.b.c`."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def text_of(node: ast.AST | None) -> str | None:
    """Return the value of a string literal, None for other nodes."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def keywords_of(call: ast.Call) -> dict[str, ast.expr]:
    """Return the keyword arguments of a call."""
    return {each.arg: each.value for each in call.keywords if each.arg}


def is_name(node: ast.AST | None, *names: str) -> bool:
    """Tell whether a node is one of these names."""
    return isinstance(node, ast.Name) and node.id in names


def is_constant(node: ast.AST | None, value: object) -> bool:
    """Tell whether a node is this constant, of this type."""
    return (
        isinstance(node, ast.Constant) and type(node.value) is type(value) and (node.value == value)
    )


def is_docstring(statement: ast.stmt) -> bool:
    """Tell whether a statement is only a constant, such as a docstring."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
