"""Which full name a piece of a script means, and where that name is today."""

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any

from bert4keras.migrate import rules
from bert4keras.migrate.library import is_missing
from bert4keras.migrate.scopes import Binding, Scope, Scopes
from bert4keras.migrate.source import Source, dotted, is_name, root, text_of


def replaced_prefix(name: str, table: Mapping[str, str]) -> str | None:
    """Replace the longest prefix of a dotted name that a table has; None if it has none."""
    head, rest = name, ""
    while head:
        if head in table:
            return table[head] + rest
        head, dot, last = head.rpartition(".")
        rest = f"{dot}{last}{rest}"
    return None


@cache
def today(name: str, modern: bool = False) -> str:
    """The full name under which something is found now.

    Args:
        name: a full name.
        modern: the script is written for Keras 3 already.
    """
    if modern and covered(name, rules.VALID):
        return name
    before = ""
    while name != before:
        before = name
        for table in (rules.MODULES, rules.NAMES):
            while (found := replaced_prefix(name, table)) is not None and found != name:
                name = found
    if in_backend(name):
        # Keras 3 has some functions of its backend that `K` has not.
        function = name.removeprefix(f"{rules.K}.").split(".")[0]
        if function in rules.KERAS_BACKEND:
            return name.replace(rules.K, "keras.backend", 1)
    return name


def is_nowhere(name: str) -> bool:
    """Tell whether a full name of today is surely not there."""
    if covered(name, rules.GONE):
        return False
    mark = rules.MARKS.get(covered(name, rules.MARKS) or "")
    return (mark is not None and mark.kind == "names") or is_missing(name)


def covered(name: str, table: Iterable[str]) -> str | None:
    """The entry that a dotted name is, or is inside of; None if there is none."""
    while name:
        if name in table:
            return name
        name = name.rpartition(".")[0]
    return None


def module_of(name: str) -> str:
    """The part of a full name from which it is imported, "" for a module itself."""
    parts = name.split(".")
    depth = 2 if parts[0] in ("bert4keras", "keras") else 1
    return ".".join(parts[: min(depth, len(parts) - 1)])


def in_backend(name: str) -> bool:
    """Tell whether a full name is inside of `K`, which is an object: it cannot be imported from."""
    return name.startswith(f"{rules.K}.")


@dataclass(frozen=True)
class Meaning:
    """What a name means.

    Attributes:
        full: its full name, as the script means it; "" for a module of the same project.
        local: the name by which the script has it, "" if a star import of a library brings it.
        rest: the attributes behind it.
        scope: the scope that binds it, None if a star import does.
        module: the module of the same project that it is.
        starred: whether a star import of a library brings it, in this script or another one.
    """

    full: str
    local: str
    rest: tuple[str, ...] = ()
    scope: Scope | None = None
    module: "Names | None" = None
    starred: bool = False

    @property
    def whole(self) -> str:
        """The full name with the attributes behind it."""
        return ".".join([self.full, *self.rest])


def unpacks(node: ast.AST) -> bool:
    """Tell whether a node is `locals().update(get_all_attributes(keras.layers))`.

    It is a star import in scripts of 2020.
    """
    match node:
        case ast.Call(
            func=ast.Attribute(
                value=ast.Call(func=ast.Name(id="locals" | "globals")), attr="update"
            ),
            args=[ast.Call(func=ast.Name(id="get_all_attributes"), args=[ast.Attribute()])],
        ):
            return True
    return False


def nothing(name: str, level: int) -> None:
    """Find no module: a script by itself."""


Finder = Callable[[str, int], "Names | None"]
"""Finds a module of the same project by its name and the number of dots before it."""


class Names:
    """The names of a script.

    Args:
        source: the script.
        find: finds the modules of the same project; none by default.
        package: whether the script is the `__init__.py` of a package.

    Attributes:
        scopes: what binds the names.
        unpacked: whether `get_all_attributes` serves as a star import, and for nothing else.
    """

    def __init__(self, source: Source, find: Finder = nothing, package: bool = False):
        self.source = source
        self.find = find
        self.package = package
        self.scopes = Scopes(source)
        self.busy: set[str] = set()
        self.known: dict[ast.AST, Meaning | None] = {}
        self.several: dict[tuple[Scope, str], Meaning | None] = {}
        updates = [x for x in source.nodes if unpacks(x)]
        uses = [x for x in source.nodes if is_name(x, "get_all_attributes")]
        self.unpacked = bool(updates) and len(uses) == len(updates)
        if self.unpacked:
            star = ast.ImportFrom("keras.layers", [ast.alias("*")], 0)
            self.scopes.stars.append(star)

    @cached_property
    def modern(self) -> bool:
        """Whether the script is written for Keras 3 and this library already."""
        imports = [x for x in self.source.nodes if isinstance(x, ast.ImportFrom) and not x.level]
        written = [f"{x.module}.{alias.name}" for x in imports for alias in x.names]
        named = [
            self.full(x)
            for x in self.source.nodes
            if isinstance(x, ast.Attribute) and isinstance(x.value, ast.Name)
        ]
        return any(covered(name, rules.NEW) for name in [*written, *filter(None, named)])

    def now(self, name: str) -> str:
        """The full name under which something is found now; as it was if it is nowhere."""
        final = today(name, self.modern)
        return name if final != name and is_nowhere(final) else final

    # === Modules ===

    @cached_property
    def stars(self) -> list[str]:
        """The libraries of which everything is imported, as they are called now, in order."""
        found = []
        for star in self.scopes.stars:
            if module := self.local_module(star):
                found += module.once("stars", lambda: module.stars, [])
            elif library := self.library(star):
                found.append(library)
        return found

    def once(self, key: str, ask: Callable, otherwise: Any) -> Any:
        """Ask something, unless it is being asked: modules may import each other."""
        if key in self.busy:
            return otherwise
        self.busy.add(key)
        try:
            return ask()
        finally:
            self.busy.remove(key)

    def library(self, statement: ast.ImportFrom) -> str | None:
        """The library that a statement imports from, as it is called now."""
        if statement.level or statement.module is None or self.local_module(statement):
            return None
        module = replaced_prefix(statement.module, rules.MODULES) or statement.module
        return "bert4keras.backend" if module == rules.K else module

    @cached_property
    def imports_of_project(self) -> bool:
        """Whether the script imports modules of the same project."""
        imports = (x for x in self.source.nodes if isinstance(x, ast.Import | ast.ImportFrom))
        return any(
            self.local_module(x)
            if isinstance(x, ast.ImportFrom)
            else any(self.find(alias.name, 0) for alias in x.names)
            for x in imports
        )

    def local_module(self, statement: ast.ImportFrom) -> "Names | None":
        """The module of the same project that a statement imports from."""
        name = statement.module or ""
        if not statement.level and name.split(".")[0] in rules.LIBRARIES:
            return None
        return self.find(name, statement.level)

    def exported(self, name: str, local: str) -> Meaning | None:
        """What a name of this module means to one that imports it; None if that is unknown."""
        meaning = self.once(f"export {name}", lambda: self.export(name), None)
        return meaning and replace(meaning, local=local, scope=None)

    def export(self, name: str) -> Meaning | None:
        """What a name means at the end of this module."""
        scope = self.scopes.module
        if name in scope.bindings:
            bindings, places = self.scopes.in_order(scope, name)
            return self.of_bindings(bindings if places is None else bindings[-1:], scope)
        meaning = self.of_stars(name)
        if meaning is None and self.package and not self.brings(name):
            module = self.find(name, 1)
            return module and Meaning("", name, module=module)
        return meaning

    def brings(self, name: str) -> bool:
        """Tell whether this module has a name, by itself or by star imports of the project."""
        if name in self.scopes.module.bindings:
            return True
        if f"export {name}" in self.busy:  # modules that import each other
            return False
        modules = filter(None, map(self.local_module, self.scopes.stars))
        return self.once(f"brings {name}", lambda: any(x.gives_all(name) for x in modules), False)

    def given(self) -> set[str]:
        """The names that `from module import *` brings, as far as they are bound in the project."""
        found = set(self.scopes.module.bindings)
        for star in self.scopes.stars:
            if module := self.local_module(star):
                found |= module.once("given", module.given, set())
        return {name for name in found if self.gives_all(name)}

    def gives_all(self, name: str) -> bool:
        """Tell whether `from module import *` brings a name of this module."""
        listed = self.listed()
        if listed is not None:
            return name in listed
        return not name.startswith("_") and self.brings(name)

    def listed(self) -> set[str] | None:
        """The names in `__all__`; None if there is none, or none that can be read."""
        names: set[str] | None = None
        for binding in self.scopes.module.bindings.get("__all__", []):
            if not isinstance(binding.value, ast.List | ast.Tuple):
                return None
            names = (names or set()) | {text_of(x) or "" for x in binding.value.elts}
        return names

    # === Meanings ===

    def meaning(self, node: ast.expr) -> Meaning | None:
        """What imports make `a` or `a.b.c` mean; None if they do not, or not surely."""
        if node not in self.known:
            parts = dotted(node)
            first = self.of_name(root(node)) if parts else None
            self.known[node] = first and self.followed(first, parts[1:])
        return self.known[node]

    def followed(self, meaning: Meaning, attributes: list[str]) -> Meaning | None:
        """What attributes of something mean; those of modules of the project are looked up."""
        local, rest = meaning.local, [*meaning.rest, *attributes]
        while meaning.module is not None:
            if not rest:
                return replace(meaning, local=local)
            local, name = f"{local}.{rest[0]}", rest.pop(0)
            scope = meaning.scope
            found = meaning.module.exported(name, local)
            if found is None:
                return None
            rest = [*found.rest, *rest]
            meaning = replace(found, rest=(), scope=scope)
        return replace(meaning, rest=tuple(rest))

    def of_name(self, node: ast.Name) -> Meaning | None:
        """What imports make a single name mean."""
        if node not in self.scopes.of_node:
            return None
        found = self.scopes.bindings_of(node)
        return self.of_bindings(found[1], found[0]) if found else self.of_stars(node.id)

    def of_bindings(self, bindings: list[Binding], scope: Scope) -> Meaning | None:
        """What a name means that is bound in one or several places, which have to agree."""
        key = scope, bindings[0].name
        if len(bindings) == 1:
            return self.agreed(bindings, scope)
        if key not in self.several:
            self.several[key] = None
            self.several[key] = self.agreed(bindings, scope)
        return self.several[key]

    def agreed(self, bindings: list[Binding], scope: Scope) -> Meaning | None:
        """What bindings mean together."""
        meanings = [self.of_binding(binding) for binding in bindings]
        if any(meaning is None or meaning.rest for meaning in meanings):
            return None
        if len({meaning.module or today(meaning.full) for meaning in meanings}) != 1:
            return None
        # The branches of a try may import one thing from several places.
        return replace(min(meanings, key=lambda x: x.full), local=bindings[0].name, scope=scope)

    def of_binding(self, binding: Binding) -> Meaning | None:
        """What a name means that is bound in one place."""
        if binding.imported:
            return self.of_import(binding.statement, binding.node)
        if binding.value is None:
            return None
        key = f"{binding.name} {id(binding.node)}"
        meaning = self.once(key, lambda: self.meaning(binding.value), None)
        # `layers = keras.layers` is another name for it.
        return meaning and replace(
            meaning, full=meaning.whole if meaning.full else "", rest=(), local=binding.name
        )

    def of_import(self, statement: ast.stmt, alias: ast.alias) -> Meaning | None:
        """What an import binds."""
        if isinstance(statement, ast.ImportFrom):
            local = alias.asname or alias.name
            if module := self.local_module(statement):
                return module.exported(alias.name, local) or self.submodule(statement, alias)
            if statement.level or statement.module is None:
                return None
            return Meaning(f"{statement.module}.{alias.name}", local)
        local = alias.asname or alias.name.split(".")[0]
        name = alias.name if alias.asname else local
        module = None if local in rules.LIBRARIES else self.find(name, 0)
        return Meaning("" if module else name, local, module=module)

    def submodule(self, statement: ast.ImportFrom, alias: ast.alias) -> Meaning | None:
        """The module of a package that is imported from it by its name."""
        name = f"{statement.module or ''}.{alias.name}".strip(".")
        module = self.find(name, statement.level)
        return module and Meaning("", alias.asname or alias.name, module=module)

    def of_stars(self, name: str) -> Meaning | None:
        """What a name means that only star imports can have brought."""
        for star in reversed(self.scopes.stars):
            if module := self.local_module(star):
                # A name of its own hides that of a star import before.
                if module.gives_all(name):
                    return module.exported(name, name)
                if module.listed() is None and not name.startswith("_"):
                    ask = partial(module.of_stars, name)
                    if found := module.once(f"stars {name}", ask, None):
                        return found
            elif found := rules.STAR_IMPORTS.get(self.library(star) or "", {}).get(name):
                return Meaning(found, "", starred=True)
        return None

    # === Full names ===

    def full(self, node: ast.expr) -> str | None:
        """The full name, as the script means it, of `a` or `a.b.c`."""
        meaning = self.meaning(node)
        return meaning.whole if meaning is not None and meaning.full else None

    def today(self, node: ast.expr) -> str | None:
        """The full name of today of `a` or `a.b.c`."""
        name = self.full(node)
        return None if name is None else self.now(name)

    def is_today(self, node: ast.AST, *names: str) -> bool:
        """Tell whether a node has one of these full names of today."""
        return isinstance(node, ast.Name | ast.Attribute) and self.today(node) in names

    def uses(self, name: str) -> list[ast.Name]:
        """Where a name of the script itself is read."""
        return [
            node
            for node in self.source.nodes
            if is_name(node, name)
            and isinstance(node.ctx, ast.Load)
            and self.scopes.scope_at(node).find(name) in (self.scopes.module, None)
        ]
