"""Functions that reach into Keras 2 for gradients: what `compile(step=…)` replaces them by.

Two patterns are published. One wraps `model.train_function`, moves the table of an embedding along
a gradient before each step and back after it: adversarial training, virtual if the direction is
random at first. The other one is a loss that adds the squared norm of a gradient. Both are
recognised by what they do, whatever they are called.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from bert4keras.migrate import rules
from bert4keras.migrate.arguments import Arguments
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.edits import Edits
from bert4keras.migrate.imports import Imports
from bert4keras.migrate.source import Source, dotted, is_name, keywords_of, text_of
from bert4keras.migrate.survey import Survey

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
GRADIENTS = f"{rules.K}.gradients"
INSIDE = frozenset({"call", "compute_loss", "compute_mask", "get_gradients", "get_updates"})
"""Methods of layers and optimizers, in which tensors do not know where they come from."""


@dataclass(frozen=True)
class Step:
    """A training step, in the terms of the function that it replaces.

    Attributes:
        name: its class in `bert4keras.training`.
        model: the parameter of the function that is the model.
        arguments: the arguments of the step, each an expression of parameters and constants.
    """

    name: str
    model: str
    arguments: dict[str, ast.expr]


class Gradients:
    """The rewriting of functions that compute gradients.

    Attributes:
        functions: these functions, not those inside of others.
        done: what is rewritten as a whole.
    """

    def __init__(
        self,
        source: Source,
        survey: Survey,
        imports: Imports,
        comments: Comments,
        edits: Edits,
    ):
        self.source = source
        self.survey = survey
        self.names = survey.names
        self.imports = imports
        self.comments = comments
        self.edits = edits
        self.arguments = Arguments(source, edits)
        self.done: set[ast.AST] = set()
        self.functions = self.found() if survey.related else []

    def found(self) -> list[ast.FunctionDef]:
        """The functions that compute gradients, in the order of the text."""
        found: dict[ast.AST, None] = {}
        for node in self.source.nodes:
            if self.is_gradient(node) and (function := self.outermost(node)):
                found[function] = None
        return list(found)

    def is_gradient(self, node: ast.AST) -> bool:
        """Tell whether a node is something of which Keras 2 made gradients."""
        if self.names.is_today(node, GRADIENTS):
            return True
        mark = rules.ATTRIBUTE_MARKS.get(node.attr) if isinstance(node, ast.Attribute) else None
        return mark is rules.STEP

    def outermost(self, node: ast.AST) -> ast.AST | None:
        """The function or method that a node is in, and that is in no other function."""
        function = None
        while (node := self.source.parents.get(node)) is not None:
            if isinstance(node, FUNCTIONS):
                function = node
        return function

    def rewrite(self) -> None:
        """Rewrite what is recognised, and comment on the rest."""
        for function in self.functions:
            if step := Wrapper(self, function).step():
                self.use(function, step)
            elif penalty := Penalty(self, function).step():
                self.penalise(function, penalty)
            elif self.sees_values(function) and not self.called_by_hand(function):
                self.mark(function)

    def sees_values(self, function: ast.FunctionDef) -> bool:
        """Tell whether a function sees values, which do not know where they come from.

        Elsewhere `K.gradients` differentiates symbolic tensors.
        """
        reaches_in = any(
            isinstance(x, ast.Attribute) and rules.ATTRIBUTE_MARKS.get(x.attr) is rules.STEP
            for x in ast.walk(function)
        )
        parameters = {x.arg for x in function.args.args}
        is_loss = parameters >= {"y_true", "y_pred"} or any(self.compiled_with(function))
        return reaches_in or is_loss or function.name in INSIDE

    # === A function that wraps `train_function` ===

    def use(self, function: ast.FunctionDef, step: Step) -> None:
        """Have a step in the place of a function that wraps `model.train_function`."""
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
        """The calls of a function in its script."""
        for name in self.names.uses(function.name):
            parent = self.source.parents[name]
            if isinstance(parent, ast.Call) and parent.func is name:
                yield parent

    def compiled_before(
        self, call: ast.Call, function: ast.FunctionDef, step: Step
    ) -> ast.Call | None:
        """The `compile` of the model that a function is called with, if it surely comes before."""
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
        """The blocks of which a statement surely comes after a part, with the end of that part."""
        while True:
            block = self.source.block(statement)
            yield block, next(i for i, each in enumerate(block) if each is statement)
            parent = self.source.parents[statement]
            if not (isinstance(parent, ast.If) and "__name__" in self.source.code(parent.test)):
                return
            statement = parent

    def value(self, node: ast.expr, function: ast.FunctionDef, call: ast.Call) -> str | None:
        """An expression of a function's parameters in the terms of a call of it."""
        bound = bound_to(call, function)
        names = [x for x in ast.walk(node) if isinstance(x, ast.Name)]
        if isinstance(node, ast.Name) and node.id in bound:
            return self.source.code(bound[node.id])
        return None if any(name.id in bound for name in names) else self.source.code(node)

    def written(self, step: Step, function: ast.FunctionDef, call: ast.Call) -> str:
        """A step in the terms of a call."""
        values = {k: self.value(x, function, call) for k, x in step.arguments.items()}
        return self.spelled(step, call, values)

    def spelled(self, step: Step, node: ast.AST, values: dict[str, str]) -> str:
        """Write a step, the layer by position and the numbers by name."""
        name = self.imports.need(node, f"bert4keras.training.{step.name}")
        given = [value if k == "layer" else f"{k}={value}" for k, value in values.items()]
        given += ["add_loss=False"] if step.name == "VirtualAdversarialTraining" else []
        return f"{name}({', '.join(given)})"

    def replace_body(self, function: ast.FunctionDef, step: Step) -> None:
        """Let a function set the step of a model that has been compiled."""
        values = {k: self.source.code(x) for k, x in step.arguments.items()}
        new = f"{step.model}.train_with({self.spelled(step, function, values)})"
        body = function.body
        first = body[1] if is_text(body[0]) and len(body) > 1 else body[0]
        self.edits.replace((self.source.start(first), self.source.end(body[-1])), new)
        self.done.update(body)

    def remove(self, statement: ast.stmt) -> None:
        """Take a statement out, with what the comments above it say of it."""
        self.edits.remove_statement(statement, comments=True)
        self.done.add(statement)

    # === A loss with a penalty ===

    def penalise(self, function: ast.FunctionDef, penalty: "Penalised") -> None:
        """Have a step in the place of the penalty in a loss."""
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
        """The calls of `compile` with a loss."""
        for name in self.names.uses(function.name):
            call = self.source.enclosing(name, ast.Call, ast.stmt)
            if method_of(call) == "compile":
                loss = keywords_of(call).get("loss", call.args[1] if len(call.args) > 1 else None)
                if loss is name:
                    yield call

    # === A layer ===

    def called_by_hand(self, function: ast.FunctionDef) -> bool:
        """Have the method of a layer called on symbolic tensors, which know what they come from.

        `Layer()(inputs)` becomes `Layer().call(inputs)`.
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
        """Tell whether a node, or a method of it, is called at once."""
        parent = self.source.parents[node]
        if method and getattr(parent, "attr", "") == method:
            node, parent = parent, self.source.parents[parent]
        elif method:
            return False
        return isinstance(parent, ast.Call) and parent.func is node

    # === What is left to a person ===

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
        """A line that does the same, as far as seen, with the names and numbers of the script."""
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


# === Recognising them ===


class Wrapper:
    """A function that wraps `model.train_function`, as far as it is one."""

    def __init__(self, gradients: Gradients, function: ast.FunctionDef):
        self.gradients = gradients
        self.names = gradients.names
        self.function = function
        self.nodes = list(ast.walk(function))

    def step(self) -> Step | None:
        """The step that does the same; None if it is not known what the function does."""
        model, inner = self.wrapped()
        layer = self.layer()
        if inner is None or layer is None or not self.of_total_loss():
            return None
        loops = [x for x in ast.walk(inner) if isinstance(x, ast.For)]
        inside = {x for loop in loops for x in ast.walk(loop)}
        sizes = [x for x in self.products(inner) if x[0] not in inside]
        epsilons = {ast.dump(x): x for _, x in sizes}
        if len(epsilons) != 1 or len(loops) > 1:
            return None
        arguments = {"layer": layer, "epsilon": next(iter(epsilons.values()))}
        if not loops:
            return Step("AdversarialTraining", model, arguments)
        return self.virtual(model, arguments, inner, loops[0])

    def virtual(
        self, model: str, arguments: dict[str, ast.expr], inner: ast.AST, loop: ast.For
    ) -> Step | None:
        """Virtual adversarial training: a random direction, which a loop improves."""
        random = any(
            "rand" in (x.attr or "") for x in ast.walk(inner) if isinstance(x, ast.Attribute)
        )
        radii = {ast.dump(x): x for _, x in self.products(loop)}
        count = loop.iter
        if (
            not random
            or len(radii) != 1
            or not (
                isinstance(count, ast.Call)
                and is_name(count.func, "range")
                and len(count.args) == 1
            )
        ):
            return None
        arguments |= {"xi": next(iter(radii.values())), "iterations": count.args[0]}
        return Step("VirtualAdversarialTraining", model, arguments)

    def wrapped(self) -> tuple[str, ast.AST | None]:
        """The model, and the function that takes the place of its `train_function`."""
        inner = {x.name: x for x in self.nodes if isinstance(x, ast.FunctionDef)}
        parameters = {x.arg for x in self.function.args.args}
        for node in self.nodes:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                target, value = node.targets[0], node.value
                wraps = target.attr == "train_function" and isinstance(value, ast.Name)
                if wraps and is_name(target.value, *parameters):
                    return target.value.id, inner.get(value.id)
        return "", None

    def of_total_loss(self) -> bool:
        """Tell whether what is computed is the gradient of the loss of the model."""
        return any(
            isinstance(x, ast.Call)
            and self.names.is_today(x.func, GRADIENTS)
            and getattr(x.args[0] if x.args else None, "attr", "") == "total_loss"
            for x in self.nodes
        )

    def layer(self) -> ast.expr | None:
        """The name of the embedding."""
        return layer_in(self.names, self.nodes)

    def products(self, where: ast.AST) -> list[tuple[ast.AST, ast.expr]]:
        """Where something of the length 1 is multiplied by a size, and the size."""
        found = []
        for node in ast.walk(where):
            above = self.gradients.source.parents.get(node)
            inside = isinstance(above, ast.BinOp) and isinstance(above.op, ast.Mult | ast.Div)
            if isinstance(node, ast.BinOp) and not inside and (size := size_of(node)):
                found.append((node, size))
        return found


def size_of(product: ast.BinOp) -> ast.expr | None:
    """The factor ε of `ε * g / norm(g)` or `ε * unit(g)`."""
    factors, divisors = factors_of(product)
    sizes = [x for x in factors if isinstance(x, ast.Name | ast.Attribute) or is_number(x)]
    calls = [x for x in factors if isinstance(x, ast.Call)]
    if len(factors) != 2:
        return None
    if divisors and any(is_norm(x) for x in divisors):
        # ε comes first, or is the only number.
        numbers = [x for x in factors if is_number(x)]
        return numbers[0] if numbers else sizes[0] if len(sizes) == 2 else None
    return sizes[0] if len(sizes) == 1 and len(calls) == 1 and not divisors else None


def is_norm(node: ast.expr) -> bool:
    """Tell whether an expression takes a root or a norm."""
    return any(
        getattr(x.func, "attr", getattr(x.func, "id", "")) in ("sqrt", "norm", "l2_norm")
        for x in ast.walk(node)
        if isinstance(x, ast.Call)
    )


def factors_of(node: ast.expr) -> tuple[list[ast.expr], list[ast.expr]]:
    """The factors of a product, and what it is divided by."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult | ast.Div):
        return [node], []
    factors, divisors = factors_of(node.left)
    more, fewer = factors_of(node.right)
    if isinstance(node.op, ast.Div):
        more, fewer = fewer, more
    return [*factors, *more], [*divisors, *fewer]


def layer_in(names, nodes: list[ast.AST]) -> ast.expr | None:
    """The name of the layer that `search_layer` or `get_layer` is asked for."""
    for node in nodes:
        if isinstance(node, ast.Call):
            if names.is_today(node.func, "bert4keras.backend.search_layer") and len(node.args) == 2:
                return node.args[1]
            if getattr(node.func, "attr", "") == "get_layer" and len(node.args) == 1:
                return node.args[0]
    return None


@dataclass(frozen=True)
class Penalised:
    """A loss with a penalty, taken apart.

    Attributes:
        layer: the layer, as it is written.
        epsilon: the strength of the penalty, as it is written.
        whole: the sum of the loss and the penalty.
        rest: the loss.
        statements: what is computed for the penalty only.
        nodes: all that goes.
    """

    layer: str
    epsilon: str
    whole: ast.BinOp
    rest: ast.expr
    statements: list[ast.stmt]
    nodes: list[ast.AST]


class Penalty:
    """A loss that adds the squared norm of a gradient, as far as a function is one."""

    def __init__(self, gradients: Gradients, function: ast.FunctionDef):
        self.gradients = gradients
        self.source = gradients.source
        self.names = gradients.names
        self.function = function
        self.values = {
            x.targets[0].id: x
            for x in function.body
            if isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name)
        }
        self.seen: dict[ast.stmt, None] = {}

    def step(self) -> Penalised | None:
        """The parts of the loss; None if it is not known what the function does."""
        last = self.function.body[-1]
        if not (isinstance(last, ast.Return) and isinstance(last.value, ast.BinOp)):
            return None
        for whole in ast.walk(last.value):
            if isinstance(whole, ast.BinOp) and isinstance(whole.op, ast.Add):
                for term, rest in ((whole.right, whole.left), (whole.left, whole.right)):
                    self.seen = {}
                    if found := self.parts(term):
                        return self.taken_apart(whole, term, rest, *found)
        return None

    def parts(self, term: ast.expr) -> tuple[str, str] | None:
        """The layer and the strength of a term that is a penalty."""
        factors, divisors = factors_of(self.expanded(term))
        squares = [x for x in factors if self.layer_of(x)]
        if len(squares) != 1:
            return None
        others = [x for x in factors if x is not squares[0]]
        strength = self.strength(others, divisors)
        return (self.layer_of(squares[0]), strength) if strength else None

    def expanded(self, node: ast.expr) -> ast.expr:
        """What a local name stands for, if it is assigned once."""
        while isinstance(node, ast.Name) and node.id in self.values:
            statement = self.values[node.id]
            self.seen[statement] = None
            node = statement.value
        return node

    def layer_of(self, node: ast.expr) -> str | None:
        """The layer of `K.sum(K.square(K.gradients(loss, [table])[0].values))`."""
        node = self.expanded(node)
        if not (isinstance(node, ast.Call) and self.names.is_today(node.func, f"{rules.K}.sum")):
            return None
        inner = self.expanded(node.args[0])
        if isinstance(inner, ast.Call) and self.names.is_today(inner.func, f"{rules.K}.square"):
            inner = self.expanded(inner.args[0])
        elif isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Pow):
            inner = self.expanded(inner.left)
        else:
            return None
        if not (isinstance(inner, ast.Attribute) and inner.attr == "values"):
            return None
        gradient = self.expanded(inner.value)
        if not isinstance(gradient, ast.Subscript):
            return None
        gradient = self.expanded(gradient.value)
        if not isinstance(gradient, ast.Call) or not self.names.is_today(gradient.func, GRADIENTS):
            return None
        table = gradient.args[1] if len(gradient.args) > 1 else None
        table = table.elts[0] if isinstance(table, ast.List) else table
        layer = layer_in(self.names, list(ast.walk(self.expanded(table))))
        return self.source.code(layer) if layer is not None else None

    def strength(self, factors: list[ast.expr], divisors: list[ast.expr]) -> str | None:
        """ε of `0.5 * ε * penalty`, as it is written."""
        number = 2.0
        for factor in factors:
            number *= factor.value if is_number(factor) else 1
        for divisor in divisors:
            if not is_number(divisor):
                return None
            number /= divisor.value
        rest = [self.default(x) for x in factors if not is_number(x)]
        if None in rest:
            return None
        shown = [] if number == 1 and rest else [f"{number:g}"]
        return " * ".join([*shown, *rest])

    def default(self, node: ast.expr) -> str | None:
        """The value of a parameter, by default; what is no parameter stays."""
        defaults = defaults_of(self.function)
        unknown = {x.arg for x in self.function.args.args} - defaults.keys()
        if is_name(node, *unknown, *self.values):
            return None
        return self.source.code(defaults.get(getattr(node, "id", ""), node))

    def taken_apart(
        self, whole: ast.BinOp, term: ast.expr, rest: ast.expr, layer: str, epsilon: str
    ) -> Penalised:
        """All of a loss with a penalty."""
        goes = list(self.seen)
        kept = [x for x in self.function.body if x not in goes]
        used = {
            x.id for each in [*kept[:-1], rest] for x in ast.walk(each) if isinstance(x, ast.Name)
        }
        # What the loss needs as well stays.
        while shared := [x for x in goes if x.targets[0].id in used]:
            goes = [x for x in goes if x not in shared]
            used |= {x.id for each in shared for x in ast.walk(each) if isinstance(x, ast.Name)}
        return Penalised(layer, epsilon, whole, rest, goes, [*goes, term])


def defaults_of(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """The defaults of the parameters of a function."""
    names = [x.arg for x in function.args.args]
    bound = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
    return dict(reversed(bound.items()))


def bound_to(call: ast.Call, function: ast.FunctionDef) -> dict[str, ast.expr]:
    """What each parameter of a function is in a call, defaults included."""
    names = [x.arg for x in function.args.args]
    given = dict(zip(names, call.args, strict=False))
    bound = {**defaults_of(function), **given, **keywords_of(call)}
    return {name: bound[name] for name in names if name in bound}


def method_of(call: ast.AST) -> str:
    """The name of the method that is called, "" if it is none."""
    return getattr(getattr(call, "func", None), "attr", "") if isinstance(call, ast.Call) else ""


def is_number(node: ast.AST) -> bool:
    """Tell whether a node is a number."""
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    )


def is_text(statement: ast.stmt) -> bool:
    """Tell whether a statement is a text, such as a docstring."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
