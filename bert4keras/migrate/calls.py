"""Rewriting of calls: of imported names, of methods, and of calls that are statements."""

import ast
from collections.abc import Callable

from bert4keras.migrate import rules
from bert4keras.migrate.names import replaced_prefix, unpacked_module
from bert4keras.migrate.parts import Parts, Rewriter
from bert4keras.migrate.source import (
    Arg,
    dotted,
    is_constant,
    is_name,
    keywords_of,
    text_of,
)

SCHEDULE = "optimizers.schedules.InverseTimeDecay"


class Calls(Rewriter):
    """Rewrites the calls of a script.

    Attributes:
        by_name: the functions for calls of new full names, applied after the tables of `rules`.
        by_method: the functions for calls of methods, of objects of any class.
    """

    def __init__(self, parts: Parts):
        super().__init__(parts)
        self.by_name: dict[str, Callable[[ast.Call], None]] = {
            "bert4keras.backend.sequence_masking": self.mark_masking,
            "bert4keras.snippets.sequence_padding": self.rewrite_padding,
        }
        self.by_method: dict[str, Callable[[ast.Call], None]] = {
            **dict.fromkeys(rules.METHODS, self.rewrite_method),
            **dict.fromkeys(rules.NODE_METHODS, self.rewrite_node),
            "add_weight": self.name_weight,
            "save": self.mark_arguments,
        }
        if self.survey.own_tokenizers:
            self.by_method |= {
                **dict.fromkeys(rules.TOKENIZER_METHODS, self.rewrite_tokenizing),
                "truncate_sequence": self.rewrite_truncation,
            }

    def rewrite(self, call: ast.Call) -> None:
        """Rewrite a call."""
        function = call.func
        if isinstance(function, ast.Name | ast.Attribute):
            name = self.names.new_name_of(function)
            if name is not None:
                self.rewrite_named(name, call)
                return
        if isinstance(function, ast.Name) and function.id in self.survey.optimizers:
            self.arguments.apply(call, rules.OPTIMIZER_ARGUMENTS)
        elif isinstance(function, ast.Attribute):
            if function.attr == "add_metric" and is_name(function.value, "self"):
                self.metrics.rewrite(call)
            elif function.attr in self.by_method:
                self.by_method[function.attr](call)

    # === Imported names ===

    def rewrite_named(self, name: str, call: ast.Call) -> None:
        """Rewrite a call of an imported name, given its new full name."""
        if name in rules.CALLS and not (call.args or call.keywords):
            text, needed = rules.CALLS[name]
            text = text.format(*(self.imports.need(call, each) for each in needed))
            self.edits.replace(self.source.span(call), text)
            return
        # The new name of a wrapper is that of the function that extends a class.
        written = self.names.full(call.func)
        wrapper = replaced_prefix(written, rules.MODULES) or written
        if wrapper in rules.OPTIMIZER_WRAPPERS:
            self.unwrap_optimizer(wrapper, call)
            return
        if name in rules.ARGUMENTS:
            self.arguments.apply(call, rules.ARGUMENTS[name])
        if name in rules.WATCHERS and not self.names.modern:
            self.arguments.add_mode(call)
        if name.startswith("keras.optimizers.") and name.count(".") == 2:
            self.arguments.apply(call, rules.OPTIMIZER_ARGUMENTS)
        if name.startswith(("keras.optimizers.", "bert4keras.optimizers.")):
            self.schedule(call)
        if name in self.by_name:
            self.by_name[name](call)

    def unwrap_optimizer(self, name: str, call: ast.Call) -> None:
        """Turn `Wrapper(Optimizer(…), x)` into `extend_with_…(Optimizer)(…, argument=x)`."""
        extend, old, new = rules.OPTIMIZER_WRAPPERS[name]
        args = self.source.args(call)
        given = next((arg for arg in args[1:] if arg.name in (None, old)), None)
        inner = args[0].value if args else None
        if not isinstance(inner, ast.Call) or given is None or len(args) != 2:
            example = f"{extend.rpartition('.')[2]}(Adam)(1e-5, {new}=...)"
            self.comments.mark(call, rules.Mark("graph", example))
            return
        start, end = self.source.brackets(inner)
        before = ", " if inner.args or inner.keywords else ""
        pieces = [
            self.source.span(call.func),
            "(",
            self.source.span(inner.func),
            ")(",
            (start, end),
            f"{before}{new}=",
            given.value_span,
            ")",
        ]
        self.edits.replace(self.source.span(call), *pieces)

    def schedule(self, call: ast.Call) -> None:
        """Replace `decay=` by a schedule that divides the learning rate by 1 + decay · step."""
        args = self.source.args(call)
        by_name = {arg.name: arg for arg in args if arg.name}
        if "decay" not in by_name:
            return
        decay = by_name["decay"]
        if is_constant(decay.value, 0) or is_constant(decay.value, 0.0):
            self.arguments.drop(args, [args.index(decay)])
            return
        first = args[0] if not (args[0].name or args[0].star) else None
        rate = by_name.get("learning_rate") or by_name.get("lr") or first
        if rate is None:
            advice = f"learning_rate=keras.{SCHEDULE}(...) in place of decay="
            self.comments.mark(call, rules.Mark("graph", advice))
            return
        keras = self.imports.need(call, "keras")
        self.edits.replace(
            rate.value_span,
            f"{keras}.{SCHEDULE}(",
            rate.value_span,
            ", 1, ",
            decay.value_span,
            ")",
        )
        self.arguments.drop(args, [args.index(decay)])

    def mark_masking(self, call: ast.Call) -> None:
        """Mark `sequence_masking(x, mask, 1)`, where 1 was a mode before 0.10.1, now a value."""
        third = self.source.args(call)[2:3]
        if third and not third[0].name and is_constant(third[0].value, 1):
            advice = "'-inf' in place of 1, in a script for a version before 0.10.1"
            self.comments.mark(call, rules.Mark("graph", advice))

    def rewrite_padding(self, call: ast.Call) -> None:
        """Rewrite `sequence_padding(x, padding=…)`, whose value has become a single number."""
        args = self.source.args(call)
        for i, arg in enumerate(args):
            if arg.name == "padding" and getattr(getattr(arg.value, "func", None), "attr", "") == (
                "zeros"
            ):
                self.arguments.drop(args, [i])
            elif arg.name == "padding":
                self.arguments.name(arg, "value")

    # === Methods ===

    def rewrite_method(self, call: ast.Call) -> None:
        """Rewrite `fit_generator`, `compile` and other methods in `rules.METHODS`."""
        method = call.func.attr
        rule = rules.METHODS[method]
        positional = rule.arguments.positional
        args = self.source.args(call)
        if rule.name != method and positional and any(arg.star for arg in args):
            self.comments.mark(call, rules.Mark("graph", f"{rule.name}() with keyword arguments"))
            return
        if any(arg.star == "*" for arg in args) or self.names.modern:
            # The arguments after the first ones are unknown, or in the new order already.
            rule_of = rules.Arguments(rule.arguments.renamed, rule.arguments.dropped)
        else:
            rule_of = rule.arguments
        self.arguments.apply(call, rule_of)
        if rule.name != method:
            end = self.source.end(call.func)
            self.edits.replace((end - len(method), end), rule.name)
        self.mark_arguments(call)

    def rewrite_node(self, call: ast.Call) -> None:
        """Rewrite `get_output_at` and `get_input_at`."""
        args = self.source.args(call)
        if len(args) != 1:
            return
        function = self.imports.need(
            call, f"bert4keras.legacy.{rules.NODE_METHODS[call.func.attr]}"
        )
        receiver = self.source.span(call.func.value)
        pieces = f"{function}(", receiver, ", ", args[0].value_span, ")"
        self.edits.replace(self.source.span(call), *pieces)

    def name_weight(self, call: ast.Call) -> None:
        """Pass the arguments of `add_weight` by name if the first one is a name, as in Keras 2."""
        order = ("name", "shape", "dtype", "initializer")
        args = self.source.args(call)
        if not args or args[0].name or not is_string(args[0].value):
            return
        for name, arg in zip(order, args, strict=False):
            if not (arg.name or arg.star):
                self.arguments.name(arg, name)

    def rewrite_tokenizing(self, call: ast.Call) -> None:
        """Rewrite `encode` and `tokenize`."""
        method = call.func.attr
        self.mark_arguments(call)
        if method == "tokenize" and self.slice_tokens(call):
            return
        self.arguments.apply(call, rules.TOKENIZER_METHODS[method])

    def slice_tokens(self, call: ast.Call) -> bool:
        """Rewrite `tokenize(text, add_cls=False, add_sep=False)` to a slice of all tokens."""
        cuts = {"add_cls": "1", "add_sep": "-1"}
        args = self.source.args(call)
        asked = [i for i, arg in enumerate(args) if arg.name in cuts]
        if not all(isinstance(getattr(args[i].value, "value", None), bool) for i in asked):
            return False
        cut = {args[i].name: cuts[args[i].name] for i in asked if not args[i].value.value}
        rest = [arg for arg in args if arg.name not in cuts]
        for arg in rest:
            self.arguments.rewrite(arg.name, arg, rules.TOKENIZER_METHODS["tokenize"])
        self.arguments.drop(args, asked)
        if cut:
            piece = f"[{cut.get('add_cls', '')}:{cut.get('add_sep', '')}]"
            self.edits.insert(self.source.end(call), piece)
        return True

    def rewrite_truncation(self, call: ast.Call) -> None:
        """Rewrite `tokenizer.truncate_sequence(length, first, second, index)`."""
        args = self.source.args(call)
        if len(args) < 2 or any(arg.star for arg in args):
            return
        order = ("maxlen", "first_sequence", "second_sequence", "pop_index")
        given: dict[str, Arg] = {}
        for i, arg in enumerate(args):
            given[arg.name.replace("max_length", "maxlen") if arg.name else order[i]] = arg
        if not {"maxlen", "first_sequence"} <= given.keys():
            return
        pieces: list = [given["maxlen"].value_span, ", "]
        pieces.append(given["pop_index"].value_span if "pop_index" in given else "-1")
        pieces += [", ", given["first_sequence"].value_span]
        second = given.get("second_sequence")
        if second and not is_constant(second.value, None):
            pieces += [", ", second.value_span]
        function = self.imports.need(call, "bert4keras.snippets.truncate_sequences")
        self.edits.replace(self.source.span(call), f"{function}(", *pieces, ")")

    def mark_arguments(self, call: ast.Call) -> None:
        """Mark arguments that have no counterpart."""
        for name in keywords_of(call):
            if name in rules.ARGUMENT_MARKS:
                self.comments.mark(call, rules.ARGUMENT_MARKS[name])

    # === Statements ===

    def rewrite_alone(self, statement: ast.Expr) -> bool:
        """Rewrite a call that is a statement; tell whether it is complete, with its arguments."""
        call = statement.value
        if self.names.is_named(call.func, *rules.USELESS_CALLS):
            self.edits.remove_statement(statement)
            return True
        if self.survey.unpacked and (unpacked := unpacked_module(call)):
            module = self.names.new_name_of(unpacked)
            self.edits.replace(self.source.span(statement), f"from {module} import *")
            return True
        if getattr(call.func, "attr", "") == "add_loss" and dotted(call.func.value):
            self.rewrite_added_loss(statement)
        return False

    def rewrite_added_loss(self, statement: ast.Expr) -> None:
        """Rewrite `model.add_loss(x)` to the function that returns a new model."""
        call = statement.value
        receiver = dotted(call.func.value)
        args = self.source.args(call)
        if receiver == ["self"] or len(args) != 1:
            return
        scope = self.names.scopes.scope_at(call)
        if len(receiver) == 1 and receiver[0] not in scope.bindings:
            advice = "model = with_loss(model, loss) of bert4keras.legacy"
            self.comments.mark(statement, rules.Mark("graph", advice))
            return
        function = self.imports.need(statement, "bert4keras.legacy.with_loss")
        model = ".".join(receiver)
        new = f"{model} = {function}({model}, "
        self.edits.replace(self.source.span(statement), new, args[0].span, ")")


def is_string(node: ast.expr) -> bool:
    """Tell whether an expression is a string literal, possibly formatted."""
    while isinstance(node, ast.BinOp):
        node = node.left
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "format":
        node = node.func.value
    return isinstance(node, ast.JoinedStr) or text_of(node) is not None
