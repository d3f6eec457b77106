"""Replacement of functions that compute gradients inside Keras 2 by `compile(step=…)`.

Two patterns are published. One wraps `model.train_function`, and moves an embedding table along a
gradient before each step and back after it: adversarial training, or virtual adversarial training
if the initial direction is random. The other one is a loss that adds the squared norm of a
gradient. Both are recognised by their computation, under any name.
"""

import ast
from collections.abc import Iterator

from bert4keras.migrate import rules
from bert4keras.migrate.parts import Parts, Rewriter
from bert4keras.migrate.patterns import (
    GRADIENTS,
    PenalisedLoss,
    Penalty,
    Step,
    Wrapper,
    bound_to,
    defaults_of,
    is_number,
    layer_in,
    method_of,
)
from bert4keras.migrate.source import dotted, is_docstring, is_name, keywords_of, text_of

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
INSIDE = frozenset({"call", "compute_loss", "compute_mask", "get_gradients", "get_updates"})
"""Methods of layers and optimizers, in which tensors have no history for gradients."""


class Gradients(Rewriter):
    """Rewrites functions that compute gradients.

    Attributes:
        functions: these functions, without nested ones.
        done: the nodes that are rewritten as a whole.
    """

    def __init__(self, parts: Parts):
        super().__init__(parts)
        self.done: set[ast.AST] = set()
        self.functions = self.found() if self.survey.related else []

    def found(self) -> list[ast.FunctionDef]:
        """Return the functions that compute gradients, in the order of the text."""
        found: dict[ast.AST, None] = {}
        for node in self.source.nodes:
            if self.is_gradient(node) and (function := self.outermost(node)):
                found[function] = None
        return list(found)

    def is_gradient(self, node: ast.AST) -> bool:
        """Tell whether a node is a name or attribute for computing gradients in Keras 2."""
        if self.names.is_named(node, GRADIENTS):
            return True
        mark = rules.ATTRIBUTE_MARKS.get(node.attr) if isinstance(node, ast.Attribute) else None
        return mark is rules.STEP

    def outermost(self, node: ast.AST) -> ast.AST | None:
        """Return the outermost function or method that contains a node, or None."""
        function = None
        while (node := self.source.parents.get(node)) is not None:
            if isinstance(node, FUNCTIONS):
                function = node
        return function

    def rewrite(self) -> None:
        """Rewrite the recognised functions, and comment on the others."""
        for function in self.functions:
            if step := Wrapper(self.names, function).step():
                self.replace_wrapper(function, step)
            elif penalty := Penalty(self.names, function).step():
                self.replace_penalty(function, penalty)
            elif self.sees_values(function) and not self.called_by_hand(function):
                self.mark(function)

    def sees_values(self, function: ast.FunctionDef) -> bool:
        """Tell whether a function computes with values, which have no history for gradients.

        In other functions `K.gradients` differentiates symbolic tensors.
        """
        reaches_in = any(
            isinstance(x, ast.Attribute) and rules.ATTRIBUTE_MARKS.get(x.attr) is rules.STEP
            for x in ast.walk(function)
        )
        parameters = {x.arg for x in function.args.args}
        is_loss = parameters >= {"y_true", "y_pred"} or any(self.compiled_with(function))
        return reaches_in or is_loss or function.name in INSIDE

    # === A function that wraps `train_function` ===

    def replace_wrapper(self, function: ast.FunctionDef, step: Step) -> None:
        """Replace a function that wraps `model.train_function` by a step."""
        calls = list(self.calls_of(function))
        compiled = [self.compiled_before(call, function, step) for call in calls]
        if calls and all(compiled) and not self.imports.others(function.name):
            for call, target in zip(calls, compiled, strict=True):
                self.arguments.append(target, f"step={self.written(step, function, call)}")
                self.remove(self.source.statement(call))
            self.remove(function)
        else:
            self.replace_body(function, step)

    def calls_of(self, function: ast.FunctionDef) -> Iterator[ast.Call]:
        """Yield the calls of a function in its script."""
        for name in self.names.uses(function.name):
            parent = self.source.parents[name]
            if isinstance(parent, ast.Call) and parent.func is name:
                yield parent

    def compiled_before(
        self, call: ast.Call, function: ast.FunctionDef, step: Step
    ) -> ast.Call | None:
        """Return the `compile` of the model passed in a call, if it certainly runs before."""
        model = dotted(bound_to(call, function).get(step.model))
        if not self.is_statement(call) or model is None:
            return None
        found: list[ast.Call] = []
        for block, last in self.blocks_before(self.source.statement(call)):
            calls = [x.value for x in block[:last] if isinstance(x, ast.Expr)]
            compiled = [x for x in calls if method_of(x) == "compile"]
            found = found or [x for x in compiled if dotted(x.func.value) == model]
        if not found or {"step", None} & {x.arg for x in found[-1].keywords}:
            return None
        values = [self.value(x, function, call) for x in step.arguments.values()]
        return None if None in values else found[-1]

    def blocks_before(self, statement: ast.stmt) -> Iterator[tuple[list[ast.stmt], int]]:
        """Yield blocks with the number of their statements that certainly run before another."""
        while True:
            block = self.source.block(statement)
            yield block, next(i for i, each in enumerate(block) if each is statement)
            parent = self.source.parents[statement]
            if not (isinstance(parent, ast.If) and "__name__" in self.source.code(parent.test)):
                return
            statement = parent

    def value(self, node: ast.expr, function: ast.FunctionDef, call: ast.Call) -> str | None:
        """Return an expression of parameters of a function with the arguments of a call."""
        bound = bound_to(call, function)
        names = [x for x in ast.walk(node) if isinstance(x, ast.Name)]
        if isinstance(node, ast.Name) and node.id in bound:
            return self.source.code(bound[node.id])
        return None if any(name.id in bound for name in names) else self.source.code(node)

    def written(self, step: Step, function: ast.FunctionDef, call: ast.Call) -> str:
        """Return the code of a step with the arguments of a call."""
        values = {k: self.value(x, function, call) for k, x in step.arguments.items()}
        return self.spelled(step, call, values)

    def spelled(self, step: Step, node: ast.AST, values: dict[str, str]) -> str:
        """Return the code of a step, with the layer by position and numbers by name."""
        name = self.imports.need(node, f"bert4keras.training.{step.name}")
        given = [value if k == "layer" else f"{k}={value}" for k, value in values.items()]
        given += ["add_loss=False"] if step.name == "VirtualAdversarialTraining" else []
        return f"{name}({', '.join(given)})"

    def replace_body(self, function: ast.FunctionDef, step: Step) -> None:
        """Replace the body of a function by setting the step of the compiled model."""
        values = {k: self.source.code(x) for k, x in step.arguments.items()}
        new = f"{step.model}.train_with({self.spelled(step, function, values)})"
        body = function.body
        first = body[1] if is_docstring(body[0]) and len(body) > 1 else body[0]
        self.edits.replace((self.source.start(first), self.source.end(body[-1])), new)
        self.done.update(body)

    def remove(self, statement: ast.stmt) -> None:
        """Remove a statement with the comments above it."""
        self.edits.remove_statement(statement, comments=True)
        self.done.add(statement)

    # === A loss with a penalty ===

    def replace_penalty(self, function: ast.FunctionDef, penalty: PenalisedLoss) -> None:
        """Replace the penalty in a loss by a step."""
        compiled = [x for x in self.compiled_with(function) if "step" not in keywords_of(x)]
        if not compiled:
            self.mark(function)
            return
        for call in compiled:
            name = self.imports.need(call, "bert4keras.training.GradientPenalty")
            self.arguments.append(call, f"step={name}({penalty.layer}, epsilon={penalty.epsilon})")
        self.edits.replace(self.source.span(penalty.whole), self.source.span(penalty.rest))
        for statement in penalty.statements:
            self.remove(statement)
        self.done.update(x for x in penalty.nodes)

    def compiled_with(self, function: ast.FunctionDef) -> Iterator[ast.Call]:
        """Yield the calls of `compile` with a loss."""
        for name in self.names.uses(function.name):
            call = self.source.enclosing(name, ast.Call, ast.stmt)
            if method_of(call) == "compile":
                loss = keywords_of(call).get("loss", call.args[1] if len(call.args) > 1 else None)
                if loss is name:
                    yield call

    # === A layer ===

    def called_by_hand(self, function: ast.FunctionDef) -> bool:
        """Call the method of a layer with symbolic tensors, for which gradients are possible.

        `Layer()(inputs)` becomes `Layer().call(inputs)`. Tell whether this is possible.
        """
        owner = self.source.parents[function]
        if not (isinstance(owner, ast.ClassDef) and function.name == "call"):
            return False
        made = [self.source.parents[name] for name in self.names.uses(owner.name)]
        made = [x for x in made if isinstance(x, ast.Call) and is_name(x.func, owner.name)]
        called = [x for x in made if self.is_called(x, "")]
        if not made or not all(x in called or self.is_called(x, "call") for x in made):
            return False
        for each in called:
            self.edits.insert(self.source.end(each), ".call")
        return True

    def is_called(self, node: ast.Call, method: str) -> bool:
        """Tell whether a node, or a method of it, is called immediately."""
        parent = self.source.parents[node]
        if method and getattr(parent, "attr", "") == method:
            node, parent = parent, self.source.parents[parent]
        elif method:
            return False
        return isinstance(parent, ast.Call) and parent.func is node

    # === Changes by hand ===

    def mark(self, function: ast.FunctionDef) -> None:
        """Comment on a function and its calls."""
        calls = [x for x in self.calls_of(function) if self.is_statement(x)]
        for node in [function, *calls]:
            call = node if isinstance(node, ast.Call) else next(iter(calls), None)
            self.comments.mark(node, rules.Mark("gradients", self.advice(function, call)))
        self.done.add(function)

    def is_statement(self, call: ast.Call) -> bool:
        """Tell whether a call is a statement."""
        return isinstance(self.source.parents[call], ast.Expr)

    def advice(self, function: ast.FunctionDef, call: ast.Call | None) -> str:
        """Return a line of code as a replacement, with names and numbers of the script if known."""
        bound = bound_to(call, function) if call else defaults_of(function)
        given = list(bound.values())
        found = layer_in(self.names, list(ast.walk(function)))
        found = bound.get(getattr(found, "id", ""), found)
        layers = [x for x in [found, *given] if text_of(x)]
        layer = self.source.code(layers[0]) if layers else "'Embedding-Token'"
        numbers = [self.source.code(x) for x in given if is_number(x)]
        epsilon = f", epsilon={numbers[0]}" if numbers else ""
        if function.name == "call":
            return f"gradients_of(model, at={layer}) of bert4keras.training, beside the model"
        model = next((self.source.code(x) for x in given if dotted(x)), "model")
        inside = "\n".join(self.source.code(x) for x in function.body)
        name = "AdversarialTraining" if "train_function" in inside else "GradientPenalty"
        name = "VirtualAdversarialTraining" if "rand" in inside else name
        return f"{model}.compile(..., step={name}({layer}{epsilon})) of bert4keras.training"
