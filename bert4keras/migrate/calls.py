"""Calls: of what is imported, of methods of anything, and as statements of their own."""

from collections.abc import Callable, Mapping

import libcst as cst
import libcst.matchers as m

from bert4keras.migrate import rules
from bert4keras.migrate.arguments import named_weight, sliced_tokens, with_arguments
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.imports import Imports
from bert4keras.migrate.metrics import Metrics
from bert4keras.migrate.names import replaced_prefix
from bert4keras.migrate.survey import EVERYTHING_OF, Survey
from bert4keras.migrate.syntax import (
    call_of,
    expression,
    keyword_of,
    keywords_of,
    same_quotes,
    text_of,
    with_args,
    with_keyword,
)

SCHEDULE = "optimizers.schedules.InverseTimeDecay"

Rewriting = Callable[[cst.Call], cst.BaseExpression]


class Calls:
    """The rewriting of the calls of a script.

    Attributes:
        by_name: what happens to calls of full names of today, after the tables of `rules`.
        by_method: what happens to calls of methods, whatever they are called on.
    """

    def __init__(
        self,
        survey: Survey,
        imports: Imports,
        comments: Comments,
        metrics: Metrics,
        parents: Mapping[cst.CSTNode, cst.CSTNode],
    ):
        self.survey = survey
        self.names = survey.names
        self.imports = imports
        self.comments = comments
        self.metrics = metrics
        self.parents = parents
        self.by_name: dict[str, Rewriting] = {
            "keras.callbacks.ModelCheckpoint": self.with_new_file,
            "keras.models.load_model": self.with_new_file,
        }
        self.by_method: dict[str, Rewriting] = {
            **dict.fromkeys(rules.METHODS, self.of_model),
            **dict.fromkeys(rules.NODE_METHODS, self.of_layer),
            "add_weight": named_weight,
            "load_weights": self.with_new_file,
            "save": self.with_new_file,
            "save_weights": self.with_new_file,
        }
        if survey.own_tokenizers:
            self.by_method |= {
                **dict.fromkeys(rules.TOKENIZER_METHODS, self.of_tokenizer),
                "truncate_sequence": self.truncation,
            }

    def rewritten(self, original: cst.Call, call: cst.Call) -> cst.BaseExpression:
        """Rewrite a call.

        Args:
            original: the call as it was.
            call: the call with all that is inside of it rewritten.
        """
        function = original.func
        name = self.names.today(function)
        if name is not None:
            return self.of_name(name, original, call)
        if isinstance(function, cst.Name):
            if function.value in self.survey.optimizers:
                return with_arguments(call, rules.OPTIMIZER_ARGUMENTS)
            alone = isinstance(self.parents[original], cst.Expr)
            if alone and function.value in self.survey.gradient_functions.values():
                self.comments.mark(rules.STEP)
        elif isinstance(function, cst.Attribute):
            if m.matches(function, m.Attribute(value=m.Name("self"), attr=m.Name("add_metric"))):
                return self.metrics.updated(original, call)
            if function.attr.value in self.by_method:
                return self.by_method[function.attr.value](call)
        return call

    # === Of what is imported ===

    def of_name(self, name: str, original: cst.Call, call: cst.Call) -> cst.BaseExpression:
        """Rewrite a call of something imported, whose full name of today is given."""
        if name in rules.CALLS and not call.args:
            text, needed = rules.CALLS[name]
            return cst.parse_expression(text.format(*map(self.imports.need, needed)))
        # Under its name of today, a wrapper is the function that extends a class.
        written = self.names.full(original.func)
        wrapper = replaced_prefix(written, rules.MODULES) or written
        if wrapper in rules.OPTIMIZER_WRAPPERS:
            return self.unwrapped_optimizer(wrapper, call)
        if name in rules.ARGUMENTS:
            call = with_arguments(call, rules.ARGUMENTS[name])
        if name.startswith("keras.optimizers.") and name.count(".") == 2:
            call = with_arguments(call, rules.OPTIMIZER_ARGUMENTS)
        if name.startswith(("keras.optimizers.", "bert4keras.optimizers.")):
            call = self.with_schedule(call)
        return self.by_name[name](call) if name in self.by_name else call

    def unwrapped_optimizer(self, name: str, call: cst.Call) -> cst.Call:
        """Turn `Wrapper(Optimizer(…), x)` into `extend_with_…(Optimizer)(…, argument=x)`."""
        extend, old, new = rules.OPTIMIZER_WRAPPERS[name]
        inner = call.args[0].value if call.args else None
        given = next((arg for arg in call.args[1:] if keyword_of(arg) in (None, old)), None)
        if not isinstance(inner, cst.Call) or given is None or len(call.args) != 2:
            example = f"{extend.rpartition('.')[2]}(Adam)(1e-5, {new}=...)"
            self.comments.mark(rules.Mark("graph", example))
            return call
        extended = cst.Call(call.func, [cst.Arg(inner.func)])
        argument = with_keyword(cst.Arg(given.value), new)
        return with_args(inner.with_changes(func=extended), [*inner.args, argument])

    def with_schedule(self, call: cst.Call) -> cst.Call:
        """Make a schedule of a learning rate and `decay=`, which divided it by 1 + decay · step."""
        keywords = {keyword_of(arg): arg for arg in call.args if arg.keyword}
        if "decay" not in keywords:
            return call
        decay = keywords["decay"]
        args = [arg for arg in call.args if arg is not decay]
        if m.matches(decay.value, m.Integer("0") | m.Float("0.0") | m.Float("0.")):
            return with_args(call, args)
        first = args[0] if args and not args[0].keyword else None
        rate = keywords.get("learning_rate") or keywords.get("lr") or first
        if rate is None:
            advice = f"learning_rate=keras.{SCHEDULE}(...) in place of decay="
            self.comments.mark(rules.Mark("graph", advice))
            return call
        function = f"{self.imports.need('keras')}.{SCHEDULE}"
        schedule = call_of(function, rate.value, cst.Integer("1"), decay.value)
        return with_args(
            call, [arg.with_changes(value=schedule) if arg is rate else arg for arg in args]
        )

    # === Of methods ===

    def of_model(self, call: cst.Call) -> cst.Call:
        """Rewrite `fit_generator`, `compile` and the like."""
        rule = rules.METHODS[call.func.attr.value]
        if rule.arguments.positional and any(arg.star for arg in call.args):
            self.comments.mark(rules.Mark("graph", f"{rule.name}() with keyword arguments"))
            return call
        call = with_arguments(call, rule.arguments)
        if rule.name != call.func.attr.value:
            call = call.with_changes(func=call.func.with_changes(attr=cst.Name(rule.name)))
        return self.marked(call)

    def of_layer(self, call: cst.Call) -> cst.Call:
        """Rewrite `get_output_at` and `get_input_at`."""
        if len(call.args) != 1:
            return call
        name = rules.NODE_METHODS[call.func.attr.value]
        function = self.imports.need(f"bert4keras.legacy.{name}")
        index = call.args[0].with_changes(keyword=None, equal=cst.MaybeSentinel.DEFAULT)
        return cst.Call(cst.Name(function), [cst.Arg(call.func.value), index])

    def of_tokenizer(self, call: cst.Call) -> cst.BaseExpression:
        """Rewrite `encode` and `tokenize`."""
        method = call.func.attr.value
        call = self.marked(with_arguments(call, rules.TOKENIZER_METHODS[method]))
        return sliced_tokens(call) if method == "tokenize" else call

    def truncation(self, call: cst.Call) -> cst.Call:
        """Rewrite `tokenizer.truncate_sequence(length, first, second, index)`."""
        if len(call.args) < 2:
            return call
        order = ("maxlen", "first_sequence", "second_sequence", "pop_index")
        given = {order[i]: arg.value for i, arg in enumerate(call.args) if not arg.keyword}
        for name, value in keywords_of(call).items():
            given[name.replace("max_length", "maxlen")] = value
        index = given.get("pop_index", cst.parse_expression("-1"))
        sequences = [given["first_sequence"]]
        if not m.matches(given.get("second_sequence", cst.Name("None")), m.Name("None")):
            sequences.append(given["second_sequence"])
        function = self.imports.need("bert4keras.snippets.truncate_sequences")
        return call_of(function, given["maxlen"], index, *sequences)

    def marked(self, call: cst.Call) -> cst.Call:
        """Mark arguments that have no counterpart."""
        for name in keywords_of(call):
            if name in rules.ARGUMENT_MARKS:
                self.comments.mark(rules.ARGUMENT_MARKS[name])
        return call

    def with_new_file(self, call: cst.Call) -> cst.Call:
        """Use the new name of a file that Keras 3 wants to end otherwise."""
        for i, arg in enumerate(call.args):
            text = text_of(arg.value)
            if text in self.survey.files:
                new = arg.with_changes(value=same_quotes(arg.value, self.survey.files[text]))
                return call.with_changes(args=[*call.args[:i], new, *call.args[i + 1 :]])
        return call

    # === As statements ===

    def alone(self, original: cst.Call, statement: cst.Expr) -> list[cst.BaseSmallStatement]:
        """The statements in the place of a call that is one.

        Args:
            original: the call as it was.
            statement: the statement, with all that is inside of it rewritten.
        """
        if self.names.today(original.func) in rules.USELESS_CALLS:
            return []
        if self.survey.unpacked and m.matches(original, EVERYTHING_OF):
            module = self.names.today(original.args[0].value.args[0].value)
            if module is not None:
                return [cst.ImportFrom(expression(module), cst.ImportStar())]
        if m.matches(original.func, m.Attribute(value=m.Name(), attr=m.Name("add_loss"))):
            return [self.added_loss(original, statement)]
        return [statement]

    def added_loss(self, original: cst.Call, statement: cst.Expr) -> cst.BaseSmallStatement:
        """Rewrite `model.add_loss(x)`, which is a new model now."""
        receiver = original.func.value
        if receiver.value == "self" or len(original.args) != 1:
            return statement
        scope = self.names.scopes.get(receiver)
        if scope is None or receiver.value not in {each.name for each in scope.assignments}:
            advice = "model = with_loss(model, loss) of bert4keras.legacy"
            self.comments.mark(rules.Mark("graph", advice))
            return statement
        function = self.imports.need("bert4keras.legacy.with_loss")
        args = [cst.Arg(receiver), *statement.value.args]
        target = cst.AssignTarget(cst.Name(receiver.value))
        return cst.Assign([target], cst.Call(cst.Name(function), args))
