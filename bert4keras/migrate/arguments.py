"""Rewriting of the arguments of calls."""

import ast
from collections.abc import Sequence

from bert4keras.migrate import rules
from bert4keras.migrate.edits import Edits
from bert4keras.migrate.source import Arg, Source, is_constant, text_of

MODE = 4
"""The place of `mode` in `EarlyStopping` and `ReduceLROnPlateau` of Keras 2."""


class Arguments:
    """Rewrites the arguments of calls."""

    def __init__(self, source: Source, edits: Edits):
        self.source = source
        self.edits = edits

    def apply(self, call: ast.Call, rule: rules.Arguments) -> None:
        """Apply the rule for the arguments of a call."""
        args = self.source.args(call)
        named = {}
        for i, arg in enumerate(args):
            if i and rule.positional and not (arg.name or arg.star):
                if i >= len(rule.positional):
                    return
                named[i] = rule.positional[i]
        dropped = []
        for i, arg in enumerate(args):
            name = named.get(i) or arg.name
            if self.is_dropped(name, arg, rule):
                dropped.append(i)
            else:
                self.rewrite(name, arg, rule)
        self.drop(args, dropped)

    def add_mode(self, call: ast.Call) -> None:
        """Say whether more or less of the metric that a callback watches is better."""
        args = self.source.args(call)
        named = {arg.name: arg for arg in args if arg.name}
        watched = named.get("monitor") or (args[0] if args and not args[0].name else None)
        name = watched and text_of(watched.value)
        if not name or name.removeprefix("val_") == "loss" or any(arg.star for arg in args):
            return
        better = "max" if "acc" in name or name.startswith("fmeasure") else "min"
        mode = named.get("mode")
        if mode and isinstance(mode.value, ast.Constant) and mode.value.value == "auto":
            self.put_text(mode.value, better)
        elif not mode and len([arg for arg in args if not arg.name]) <= MODE:
            self.append(call, f"mode={better!r}")

    def is_dropped(self, name: str | None, arg: Arg, rule: rules.Arguments) -> bool:
        """Tell whether an argument is dropped."""
        if name in rule.dropped:
            return True
        return name in rule.flags and (is_constant(arg.value, False) or is_constant(arg.value, 0))

    def rewrite(self, name: str | None, arg: Arg, rule: rules.Arguments) -> None:
        """Apply a rule to an argument that is not dropped."""
        if name in rule.flags:
            self.replace_flag(arg, rule.flags[name])
        elif name in rule.opposites:
            self.negate(arg, rule.opposites[name])
        else:
            new = rule.renamed.get(name, name)
            if new != arg.name:
                self.name(arg, new)
            values = rule.values.get(new, {})
            if (text := text_of(arg.value)) in values:
                self.put_text(arg.value, values[text])

    def name(self, arg: Arg, name: str) -> None:
        """Pass an argument by this name."""
        start = arg.span[0]
        if arg.name is None:
            self.edits.insert(start, f"{name}=")
        else:
            self.edits.replace((start, start + len(arg.name)), name)

    def replace_flag(self, arg: Arg, flag: rules.Flag) -> None:
        """Rewrite an argument, true or false, that has become one of two values."""
        self.name(arg, flag.name)
        if is_constant(arg.value, True) or is_constant(arg.value, 1):
            self.edits.replace(arg.value_span, repr(flag.true))
        elif text_of(arg.value) is None:
            start, end = arg.value_span
            self.edits.insert(start, f"{flag.true!r} if ")
            self.edits.insert(end, f" else {flag.false!r}")

    def negate(self, arg: Arg, name: str) -> None:
        """Rewrite a boolean argument whose meaning has been inverted."""
        self.name(arg, name)
        if isinstance(getattr(arg.value, "value", None), bool):
            self.edits.replace(arg.value_span, str(not arg.value.value))
        else:
            self.edits.insert(arg.value_span[0], "not ")

    def put_text(self, literal: ast.Constant, text: str) -> None:
        """Replace the text of a string literal."""
        put_text(self.source, self.edits, literal, text)

    def drop(self, args: Sequence[Arg], dropped: Sequence[int]) -> None:
        """Remove arguments with their commas; text after the last argument is preserved."""
        kept = [i for i in range(len(args)) if i not in dropped]
        last = max(kept, default=-1)
        for i in dropped:
            if i < last:
                self.edits.remove((args[i].span[0], args[i + 1].span[0]))
        if last < len(args) - 1:
            start = args[last].span[1] if kept else args[0].span[0]
            self.edits.remove((start, args[-1].span[1]))

    def append(self, call: ast.Call, text: str) -> None:
        """Add an argument after the others, in their layout."""
        args = self.source.args(call)
        start, _ = self.source.brackets(call)
        if not args:
            self.edits.insert(start, text)
            return
        last = args[-1].span
        before = args[-2].span[1] if len(args) > 1 else start
        between = self.source.text[before : last[0]]
        if len(args) == 1:
            between = f",{between}" if "\n" in between else ", "
        self.edits.insert(last[1], (", " if "#" in between else between) + text)


def put_text(source: Source, edits: Edits, literal: ast.Constant, text: str) -> None:
    """Replace the text of a string literal, keeping its quotes if it is a single literal."""
    start, end = source.span(literal)
    written = source.text[start:end]
    body = written.lstrip("rRuUbBfF")
    quote = body[:3] if body[:3] in ('"""', "'" * 3) else body[:1]
    if quote + literal.value + quote == body:
        edits.replace((end - len(body) + len(quote), end - len(quote)), text)
    elif text != literal.value:
        edits.replace((start, end), repr(text))
