"""Pieces of syntax: what nodes of libcst say, and new nodes that keep the layout of old ones."""

from collections.abc import Iterable, Sequence

import libcst as cst

SPACED_COMMA = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))

# === Names ===


def dotted(node: cst.BaseExpression) -> list[str] | None:
    """The parts of `a.b.c`, None for anything else."""
    parts: list[str] = []
    while isinstance(node, cst.Attribute):
        parts.insert(0, node.attr.value)
        node = node.value
    return [node.value, *parts] if isinstance(node, cst.Name) else None


def root(node: cst.BaseExpression) -> cst.Name:
    """The first name of `a.b.c`."""
    while isinstance(node, cst.Attribute):
        node = node.value
    return node


def expression(name: str) -> cst.BaseExpression:
    """The node of a dotted name."""
    first, *rest = name.split(".")
    node: cst.BaseExpression = cst.Name(first)
    for part in rest:
        node = cst.Attribute(node, cst.Name(part))
    return node


# === Literals ===


def text_of(node: cst.BaseExpression | None) -> str | None:
    """The value of a plain string literal."""
    if isinstance(node, cst.SimpleString) and isinstance(node.evaluated_value, str):
        return node.evaluated_value
    return None


def same_quotes(literal: cst.SimpleString, text: str) -> cst.SimpleString:
    """Another text in the quotes of a literal."""
    start, _, end = literal.value.partition(literal.raw_value)
    return cst.SimpleString(f"{start}{text}{end}")


# === Statements ===


def is_statement(node: cst.CSTNode) -> bool:
    """Tell whether a node is a statement that comments can stand above."""
    return isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement)


def without_semicolon(statement: cst.BaseSmallStatement) -> cst.BaseSmallStatement:
    """A statement with the separator that its place asks for."""
    return statement.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)


# === Imports ===


def is_star(statement: cst.ImportFrom) -> bool:
    """Tell whether an import is `from module import *`."""
    return isinstance(statement.names, cst.ImportStar)


def source_of(statement: cst.ImportFrom) -> str:
    """The module of `from module import names`, without the dots of a relative one."""
    return ".".join(dotted(statement.module)) if statement.module else ""


def plain_import(module: str, local: str) -> cst.Import:
    """Make `import module as local`."""
    asname = None if local == module else cst.AsName(cst.Name(local))
    return cst.Import([cst.ImportAlias(expression(module), asname)])


def import_from(module: str, names: Iterable[tuple[str, str]]) -> cst.ImportFrom:
    """Make `from module import name as local, …`."""
    aliases = [
        cst.ImportAlias(cst.Name(name), None if name == local else cst.AsName(cst.Name(local)))
        for name, local in names
    ]
    return cst.ImportFrom(expression(module), aliases)


def joined(names: Sequence[cst.ImportAlias], added: cst.ImportAlias) -> list[cst.ImportAlias]:
    """Add a name to the names of an import, whose layout stays."""
    *rest, last = names
    if any(alias.evaluated_name == added.evaluated_name for alias in names):
        return list(names)
    if isinstance(last.comma, cst.MaybeSentinel):
        return [*rest, last.with_changes(comma=SPACED_COMMA), added]
    between = rest[-1].comma if rest else SPACED_COMMA
    return [*rest, last.with_changes(comma=between), added.with_changes(comma=last.comma)]


# === Calls ===


def keyword_of(arg: cst.Arg) -> str | None:
    """The name of an argument, None if it is given by position."""
    return arg.keyword.value if arg.keyword else None


def keywords_of(call: cst.Call) -> dict[str, cst.BaseExpression]:
    """The arguments that are given by name."""
    return {arg.keyword.value: arg.value for arg in call.args if arg.keyword}


def with_keyword(arg: cst.Arg, name: str) -> cst.Arg:
    """A positional argument, given by name."""
    equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    return arg.with_changes(keyword=cst.Name(name), equal=equal)


def call_of(function: str, *values: cst.BaseExpression) -> cst.Call:
    """Make `function(value, …)`."""
    return cst.Call(expression(function), [cst.Arg(value) for value in values])


def with_args(call: cst.Call, args: Sequence[cst.Arg]) -> cst.Call:
    """A call with other arguments; what stood behind the last one stays there."""
    args = list(args)
    if not args or not call.args or len(args) == len(call.args):
        return call.with_changes(args=args)
    last, old = args[-1], call.args[-1]
    if len(args) < len(call.args):
        if last is not old:
            args[-1] = last.with_changes(
                comma=old.comma, whitespace_after_arg=old.whitespace_after_arg
            )
        return call.with_changes(args=args)
    before = args[-2]
    if isinstance(before.comma, cst.MaybeSentinel):
        between = SPACED_COMMA
    else:
        between = args[0].comma if len(args) > 2 else SPACED_COMMA
        last = last.with_changes(comma=before.comma)
    args[-2:] = [
        before.with_changes(comma=between, whitespace_after_arg=cst.SimpleWhitespace("")),
        last.with_changes(whitespace_after_arg=before.whitespace_after_arg),
    ]
    return call.with_changes(args=args)
