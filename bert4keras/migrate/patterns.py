"""Recognition of functions that compute gradients in Keras 2, by the two published patterns."""

import ast
from dataclasses import dataclass

from bert4keras.migrate import rules
from bert4keras.migrate.names import Names
from bert4keras.migrate.source import is_name, keywords_of

GRADIENTS = f"{rules.K}.gradients"


@dataclass(frozen=True)
class Step:
    """A training step that replaces a function.

    Attributes:
        name: its class in `bert4keras.training`.
        model: the parameter of the function with the model.
        arguments: the arguments of the step, each an expression of parameters and constants.
    """

    name: str
    model: str
    arguments: dict[str, ast.expr]


class Wrapper:
    """Analyses a function that may wrap `model.train_function`."""

    def __init__(self, names: Names, function: ast.FunctionDef):
        self.names = names
        self.function = function
        self.nodes = list(ast.walk(function))

    def step(self) -> Step | None:
        """Return the equivalent step; None if the function is not recognised."""
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
        """Return virtual adversarial training if a loop improves a random direction."""
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
        """Return the model, and the function that replaces its `train_function`."""
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
        """Tell whether the function computes the gradient of the loss of the model."""
        return any(
            isinstance(x, ast.Call)
            and self.names.is_named(x.func, GRADIENTS)
            and getattr(x.args[0] if x.args else None, "attr", "") == "total_loss"
            for x in self.nodes
        )

    def layer(self) -> ast.expr | None:
        """Return the name of the embedding layer."""
        return layer_in(self.names, self.nodes)

    def products(self, where: ast.AST) -> list[tuple[ast.AST, ast.expr]]:
        """Return products of unit vectors and sizes, with the sizes."""
        found = []
        for node in ast.walk(where):
            above = self.names.source.parents.get(node)
            inside = isinstance(above, ast.BinOp) and isinstance(above.op, ast.Mult | ast.Div)
            if isinstance(node, ast.BinOp) and not inside and (size := size_of(node)):
                found.append((node, size))
        return found


def size_of(product: ast.BinOp) -> ast.expr | None:
    """Return the factor ε of `ε * g / norm(g)` or `ε * unit(g)`."""
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
    """Tell whether an expression computes a square root or a norm."""
    return any(
        getattr(x.func, "attr", getattr(x.func, "id", "")) in ("sqrt", "norm", "l2_norm")
        for x in ast.walk(node)
        if isinstance(x, ast.Call)
    )


def factors_of(node: ast.expr) -> tuple[list[ast.expr], list[ast.expr]]:
    """Return the factors and divisors of a product."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult | ast.Div):
        return [node], []
    factors, divisors = factors_of(node.left)
    more, fewer = factors_of(node.right)
    if isinstance(node.op, ast.Div):
        more, fewer = fewer, more
    return [*factors, *more], [*divisors, *fewer]


def layer_in(names: Names, nodes: list[ast.AST]) -> ast.expr | None:
    """Return the name of the layer that is passed to `search_layer` or `get_layer`."""
    for node in nodes:
        if isinstance(node, ast.Call):
            if names.is_named(node.func, "bert4keras.backend.search_layer") and len(node.args) == 2:
                return node.args[1]
            if getattr(node.func, "attr", "") == "get_layer" and len(node.args) == 1:
                return node.args[0]
    return None


@dataclass(frozen=True)
class PenalisedLoss:
    """The parts of a loss with a penalty.

    Attributes:
        layer: the code of the layer.
        epsilon: the code of the strength of the penalty.
        whole: the sum of the loss and the penalty.
        rest: the loss.
        statements: the statements for the penalty only.
        nodes: all nodes to be removed.
    """

    layer: str
    epsilon: str
    whole: ast.BinOp
    rest: ast.expr
    statements: list[ast.stmt]
    nodes: list[ast.AST]


class Penalty:
    """Analyses a function that may be a loss with the squared norm of a gradient."""

    def __init__(self, names: Names, function: ast.FunctionDef):
        self.names = names
        self.source = names.source
        self.function = function
        self.values = {
            x.targets[0].id: x
            for x in function.body
            if isinstance(x, ast.Assign) and isinstance(x.targets[0], ast.Name)
        }
        self.seen: dict[ast.stmt, None] = {}

    def step(self) -> PenalisedLoss | None:
        """Return the parts of the loss; None if the function is not recognised."""
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
        """Return the layer and the strength of a penalty; None for another term."""
        factors, divisors = factors_of(self.expanded(term))
        squares = [x for x in factors if self.layer_of(x)]
        if len(squares) != 1:
            return None
        others = [x for x in factors if x is not squares[0]]
        strength = self.strength(others, divisors)
        return (self.layer_of(squares[0]), strength) if strength else None

    def expanded(self, node: ast.expr) -> ast.expr:
        """Return the value of a local name that is assigned once, or the node itself."""
        while isinstance(node, ast.Name) and node.id in self.values:
            statement = self.values[node.id]
            self.seen[statement] = None
            node = statement.value
        return node

    def layer_of(self, node: ast.expr) -> str | None:
        """Return the layer of `K.sum(K.square(K.gradients(loss, [table])[0].values))`."""
        node = self.expanded(node)
        if not (isinstance(node, ast.Call) and self.names.is_named(node.func, f"{rules.K}.sum")):
            return None
        inner = self.expanded(node.args[0])
        if isinstance(inner, ast.Call) and self.names.is_named(inner.func, f"{rules.K}.square"):
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
        if not isinstance(gradient, ast.Call) or not self.names.is_named(gradient.func, GRADIENTS):
            return None
        table = gradient.args[1] if len(gradient.args) > 1 else None
        table = table.elts[0] if isinstance(table, ast.List) else table
        layer = layer_in(self.names, list(ast.walk(self.expanded(table))))
        return self.source.code(layer) if layer is not None else None

    def strength(self, factors: list[ast.expr], divisors: list[ast.expr]) -> str | None:
        """Return the code of ε in `0.5 * ε * penalty`."""
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
        """Return the code of the default of a parameter, or that of another expression."""
        defaults = defaults_of(self.function)
        unknown = {x.arg for x in self.function.args.args} - defaults.keys()
        if is_name(node, *unknown, *self.values):
            return None
        return self.source.code(defaults.get(getattr(node, "id", ""), node))

    def taken_apart(
        self, whole: ast.BinOp, term: ast.expr, rest: ast.expr, layer: str, epsilon: str
    ) -> PenalisedLoss:
        """Return the parts of a loss with a penalty."""
        removed = list(self.seen)
        names: dict[ast.stmt, str] = {x: name for name, x in self.values.items()}
        kept = [x for x in self.function.body if x not in removed]
        used = {
            x.id for each in [*kept[:-1], rest] for x in ast.walk(each) if isinstance(x, ast.Name)
        }
        # Keep statements that the loss needs, too.
        while shared := [x for x in removed if names[x] in used]:
            removed = [x for x in removed if x not in shared]
            used |= {x.id for each in shared for x in ast.walk(each) if isinstance(x, ast.Name)}
        return PenalisedLoss(layer, epsilon, whole, rest, removed, [*removed, term])


def defaults_of(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Return the defaults of the parameters of a function."""
    names = [x.arg for x in function.args.args]
    bound = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
    return dict(reversed(bound.items()))


def bound_to(call: ast.Call, function: ast.FunctionDef) -> dict[str, ast.expr]:
    """Return the value of each parameter in a call, including defaults."""
    names = [x.arg for x in function.args.args]
    given = dict(zip(names, call.args, strict=False))
    bound = {**defaults_of(function), **given, **keywords_of(call)}
    return {name: bound[name] for name in names if name in bound}


def method_of(call: ast.AST) -> str:
    """Return the name of the called method, "" if the node is not such a call."""
    return getattr(getattr(call, "func", None), "attr", "") if isinstance(call, ast.Call) else ""


def is_number(node: ast.AST) -> bool:
    """Tell whether a node is a number."""
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    )
