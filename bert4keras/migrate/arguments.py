"""What happens to the arguments of calls, whatever script they are in."""

import libcst as cst
import libcst.matchers as m

from bert4keras.migrate import rules
from bert4keras.migrate.syntax import (
    keyword_of,
    same_quotes,
    text_of,
    with_args,
    with_keyword,
)


def with_arguments(call: cst.Call, rule: rules.Arguments) -> cst.Call:
    """Apply the rule for the arguments of a call."""
    args = []
    for i, arg in enumerate(call.args):
        if i and rule.positional and not (arg.keyword or arg.star):
            if i >= len(rule.positional):
                return call
            if name := rule.positional[i]:
                arg = with_keyword(arg, name)
        if (new := with_argument(arg, rule)) is not None:
            args.append(new)
    return with_args(call, args)


def with_argument(arg: cst.Arg, rule: rules.Arguments) -> cst.Arg | None:
    """Apply the rule for the arguments of a call to one of them; None if it goes."""
    name = keyword_of(arg)
    if name in rule.dropped:
        return None
    if name in rule.flags:
        return chosen(arg, rule.flags[name])
    if name in rule.opposites:
        return opposite(arg, rule.opposites[name])
    if name in rule.renamed:
        name = rule.renamed[name]
        arg = arg.with_changes(keyword=cst.Name(name))
    values = rule.values.get(name, {})
    if (text := text_of(arg.value)) in values:
        arg = arg.with_changes(value=same_quotes(arg.value, values[text]))
    return arg


def chosen(arg: cst.Arg, flag: rules.Flag) -> cst.Arg | None:
    """Rewrite an argument that was true or false; None if it was false."""
    if m.matches(arg.value, m.Name("False")):
        return None
    value = cst.SimpleString(repr(flag.true))
    if not m.matches(arg.value, m.Name("True") | m.SimpleString()):
        value = cst.IfExp(arg.value, value, cst.SimpleString(repr(flag.false)))
    return arg.with_changes(keyword=cst.Name(flag.name), value=value)


def opposite(arg: cst.Arg, name: str) -> cst.Arg:
    """Rewrite an argument whose opposite is asked for now."""
    constant = {"True": "False", "False": "True"}.get(getattr(arg.value, "value", ""))
    value = cst.Name(constant) if constant else cst.UnaryOperation(cst.Not(), arg.value)
    return arg.with_changes(keyword=cst.Name(name), value=value)


def named_weight(call: cst.Call) -> cst.Call:
    """Give the arguments of `add_weight` by name if a name comes first, as it did in Keras 2."""
    order = ("name", "shape", "dtype", "initializer")
    first = call.args[0].value if call.args and not call.args[0].keyword else None
    texts = m.SimpleString() | m.FormattedString() | m.BinaryOperation(left=m.SimpleString())
    if first is None or not m.matches(first, texts):
        return call
    args = [
        arg if arg.keyword or arg.star or i >= len(order) else with_keyword(arg, order[i])
        for i, arg in enumerate(call.args)
    ]
    return call.with_changes(args=args)


def sliced_tokens(call: cst.Call) -> cst.BaseExpression:
    """Rewrite `tokenize(text, add_cls=False, add_sep=False)` to a slice of all tokens."""
    cuts = {"add_cls": "1", "add_sep": "-1"}
    args, cut = [], dict.fromkeys(cuts, "")
    for arg in call.args:
        name = keyword_of(arg)
        if name not in cuts:
            args.append(arg)
        elif m.matches(arg.value, m.Name("False")):
            cut[name] = cuts[name]
        elif not m.matches(arg.value, m.Name("True")):
            return call
    call = with_args(call, args)
    if not any(cut.values()):
        return call
    piece = cst.parse_expression(f"x[{cut['add_cls']}:{cut['add_sep']}]")
    return piece.with_changes(value=call)
