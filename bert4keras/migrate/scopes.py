"""Scopes of a script, and bindings of names."""

import ast
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from bert4keras.migrate.source import Source, is_constant

SCOPES = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.Lambda,
    ast.ClassDef,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
)
"""Nodes with a scope of their own, other than the script itself."""
Place = tuple[int, int]
"""A line and a column."""


@dataclass(frozen=True)
class Binding:
    """A binding of a name.

    Attributes:
        name: the name.
        node: the name, the alias of an import, the function or the class.
        statement: the statement of the binding.
        value: the assigned value, if it is a plain assignment.
    """

    name: str
    node: ast.AST
    statement: ast.stmt
    value: ast.expr | None = None

    @property
    def imported(self) -> bool:
        """Whether an import binds the name."""
        return isinstance(self.node, ast.alias)


@dataclass(eq=False)
class Scope:
    """A scope.

    Attributes:
        node: the script, function, class or comprehension.
        parent: the enclosing scope.
        bindings: the bindings of each name, in the order of the text.
        elsewhere: names of another scope, such as `global` ones of that of the script.
    """

    node: ast.AST
    parent: "Scope | None" = None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, "Scope"] = field(default_factory=dict)

    def find(self, name: str) -> "Scope | None":
        """Return the scope that binds a name used in this one, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.elsewhere:
                return scope.elsewhere[name].find(name)
            # Methods do not see the names that their class binds.
            if name in scope.bindings and (
                scope is self or not isinstance(scope.node, ast.ClassDef)
            ):
                return scope
            scope = scope.parent
        return None


class Scopes:
    """The scopes of a script.

    Attributes:
        module: the scope of the script.
        of_node: the scope of each name, import, function and class.
        stars: the star imports, in the order of the text.
        used: all bound names.
    """

    def __init__(self, source: Source):
        self.source = source
        self.module = Scope(source.tree)
        self.of_node: dict[ast.AST, Scope] = {}
        self.stars: list[ast.ImportFrom] = []
        self.known: dict[tuple[Scope, str], tuple[list[Binding], list[Place] | None]] = {}
        self.declared: list[tuple[Scope, ast.Global | ast.Nonlocal]] = []
        stack: list[tuple[ast.AST, Scope]] = [(source.tree, self.module)]
        while stack:
            node, scope = stack.pop()
            stack.extend(reversed(list(self.parts(node, scope))))
        for scope, node in self.declared:
            self.declare(scope, node)
        self.used = {name for scope in self.all_scopes() for name in scope.bindings}

    def all_scopes(self) -> set[Scope]:
        """Return all scopes that contain nodes."""
        return {self.module, *self.of_node.values()}

    def parts(self, node: ast.AST, scope: Scope) -> Iterator[tuple[ast.AST, Scope]]:
        """Yield the children of a node with their scopes, and record the bindings of the node."""
        self.of_node[node] = scope
        self.note(node, scope)
        if not isinstance(node, SCOPES):
            for child in self.source.children[node]:
                yield child, scope
            return
        inner = Scope(node, scope)
        outside = set(self.outside(node))
        for child in self.source.children[node]:
            if child in outside:
                yield child, scope
            elif isinstance(child, ast.arguments):
                for arg in ast.walk(child):
                    if isinstance(arg, ast.arg):
                        self.bind(inner, arg.arg, arg)
                        if arg.annotation:
                            yield arg.annotation, scope
                for default in [*child.defaults, *filter(None, child.kw_defaults)]:
                    yield default, scope
            elif isinstance(child, ast.comprehension) and child is node.generators[0]:
                yield child.iter, scope
                for each in (child.target, *child.ifs):
                    yield each, inner
            else:
                yield child, inner

    def outside(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the parts of a function or class that are evaluated in the enclosing scope."""
        yield from getattr(node, "decorator_list", [])
        yield from getattr(node, "bases", [])
        yield from getattr(node, "keywords", [])
        if getattr(node, "returns", None):
            yield node.returns

    # === Bindings ===

    def note(self, node: ast.AST, scope: Scope) -> None:
        """Record the bindings of a node in its scope."""
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            self.bind(scope, node.id, node, self.value_of(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.bind(scope, node.name, node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                self.bind(scope, alias.asname or alias.name.split(".")[0], alias)
        elif isinstance(node, ast.ImportFrom):
            if node.names[0].name == "*":
                self.stars.append(node)
                return
            for alias in node.names:
                self.bind(scope, alias.asname or alias.name, alias)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            self.declared.append((scope, node))
        else:
            for field_ in ("name", "rest"):  # of handlers of exceptions, and patterns
                name = getattr(node, field_, None)
                if isinstance(name, str) and not isinstance(node, ast.alias):
                    self.bind(scope, name, node)

    def bind(self, scope: Scope, name: str, node: ast.AST, value: ast.expr | None = None) -> None:
        """Record a binding."""
        binding = Binding(name, node, self.source.statement(node), value)
        scope.bindings.setdefault(name, []).append(binding)

    def value_of(self, name: ast.Name) -> ast.expr | None:
        """Return the value assigned to a name in a plain assignment, or None."""
        parent = self.source.parents[name]
        if isinstance(parent, ast.Assign):
            return parent.value
        if isinstance(parent, ast.AnnAssign):
            return parent.value
        if isinstance(parent, ast.Tuple | ast.List):
            values = getattr(self.source.parents[parent], "value", None)
            if isinstance(self.source.parents[parent], ast.Assign) and isinstance(
                values, ast.Tuple | ast.List
            ):
                pairs = dict(zip(parent.elts, values.elts, strict=False))
                return pairs[name] if len(values.elts) == len(parent.elts) else None
        return None

    def declare(self, scope: Scope, node: ast.Global | ast.Nonlocal) -> None:
        """Move the bindings of names that are declared to belong to another scope."""
        for name in node.names:
            other = self.module
            if isinstance(node, ast.Nonlocal):
                other = (scope.parent and scope.parent.find(name)) or self.module
            if other is scope:
                continue
            other.bindings.setdefault(name, []).extend(scope.bindings.pop(name, []))
            scope.elsewhere[name] = other

    # === Queries ===

    def scope_at(self, node: ast.AST) -> Scope:
        """Return the scope that contains a node."""
        while node not in self.of_node:
            node = self.source.parents[node]
        return self.of_node[node]

    def bindings_of(self, name: ast.Name) -> tuple[Scope, list[Binding]] | None:
        """Return the scope that binds a name, and the bindings that may be valid at a node."""
        here = self.scope_at(name)
        scope = here.find(name.id)
        if scope is None:
            return None
        bindings, places = self.in_order(scope, name.id)
        if places is None:
            return scope, bindings
        if here is not scope:
            return scope, bindings[-1:]
        before = bisect_left(places, place_of(self.source.statement(name)))
        return scope, bindings[before - 1 : before] or bindings

    def in_order(self, scope: Scope, name: str) -> tuple[list[Binding], list[Place] | None]:
        """Return the bindings of a name in a scope, and their positions if they are sequential."""
        if (scope, name) not in self.known:
            bindings = [x for x in scope.bindings[name] if not self.is_stand_in(x)]
            bindings = bindings or scope.bindings[name]
            parents = {self.source.parents[x.statement] for x in bindings}
            places = [place_of(x.statement) for x in bindings] if parents == {scope.node} else None
            self.known[scope, name] = bindings, places
        return self.known[scope, name]

    def is_stand_in(self, binding: Binding) -> bool:
        """Tell whether `None` is assigned because an import failed."""
        handler = self.source.parents.get(binding.statement)
        return is_constant(binding.value, None) and isinstance(handler, ast.ExceptHandler)


def place_of(statement: ast.stmt) -> Place:
    """Return the position of a statement: its line and column."""
    return statement.lineno, statement.col_offset
