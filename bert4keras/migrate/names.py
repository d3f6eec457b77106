"""Resolution of names in a script to full names, and their counterparts in new versions."""

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
def new_name(name: str, modern: bool = False) -> str:
    """Return the new full name of an old one.

    Args:
        name: a full name.
        modern: whether the script is already written for Keras 3.
    """
    if modern and longest_prefix(name, rules.VALID):
        return name
    before = ""
    while name != before:
        before = name
        for table in (rules.MODULES, rules.NAMES):
            while (found := replaced_prefix(name, table)) is not None and found != name:
                name = found
    if in_backend(name):
        # The backend of Keras 3 has some functions that `K` lacks.
        function = name.removeprefix(f"{rules.K}.").split(".")[0]
        if function in rules.KERAS_BACKEND:
            return name.replace(rules.K, "keras.backend", 1)
    return name


def is_removed(name: str) -> bool:
    """Tell whether a new full name certainly does not exist."""
    if longest_prefix(name, rules.GONE):
        return False
    mark = rules.MARKS.get(longest_prefix(name, rules.MARKS) or "")
    return (mark is not None and mark.kind == "names") or is_missing(name)


def longest_prefix(name: str, table: Iterable[str]) -> str | None:
    """Return the longest prefix of a dotted name, or the name itself, in a table; or None."""
    while name:
        if name in table:
            return name
        name = name.rpartition(".")[0]
    return None


def module_of(name: str) -> str:
    """Return the module from which a full name is imported, "" for a module itself."""
    parts = name.split(".")
    depth = 2 if parts[0] in ("bert4keras", "keras") else 1
    return ".".join(parts[: min(depth, len(parts) - 1)])


def in_backend(name: str) -> bool:
    """Tell whether a full name is in `K`, an object from which nothing can be imported."""
    return name.startswith(f"{rules.K}.")


@dataclass(frozen=True)
class Meaning:
    """The meaning of a name.

    Attributes:
        full: its old full name; "" for a module of the same project.
        local: its local name, "" if it is bound by a star import of a library.
        rest: the attributes after it.
        scope: the scope that binds it, None for a star import.
        module: the module of the same project, if it is one.
        starred: whether it is bound by a star import of a library, in this script or another one.
    """

    full: str
    local: str
    rest: tuple[str, ...] = ()
    scope: Scope | None = None
    module: "Names | None" = None
    starred: bool = False

    @property
    def whole(self) -> str:
        """The full name with the attributes after it."""
        return ".".join([self.full, *self.rest])


def unpacked_module(node: ast.AST) -> ast.Attribute | None:
    """Return the module in `locals().update(get_all_attributes(keras.layers))`, or None.

    It serves as a star import in scripts of 2020.
    """
    match node:
        case ast.Call(
            func=ast.Attribute(
                value=ast.Call(func=ast.Name(id="locals" | "globals")), attr="update"
            ),
            args=[
                ast.Call(func=ast.Name(id="get_all_attributes"), args=[ast.Attribute() as module])
            ],
        ):
            return module
    return None


def nothing(name: str, level: int) -> None:
    """Return no module, for a single script."""


Finder = Callable[[str, int], "Names | None"]
"""A function that finds a module of the project by its name and the number of dots before it."""


class Names:
    """Resolves the names of a script.

    Args:
        source: the script.
        find: finds the modules of the same project; none by default.
        package: whether the script is the `__init__.py` of a package.

    Attributes:
        scopes: the scopes with the bindings of names.
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
        updates = [x for x in source.nodes if unpacked_module(x)]
        uses = [x for x in source.nodes if is_name(x, "get_all_attributes")]
        self.unpacked = bool(updates) and len(uses) == len(updates)
        if self.unpacked:
            star = ast.ImportFrom("keras.layers", [ast.alias("*")], 0)
            self.scopes.stars.append(star)

    @cached_property
    def modern(self) -> bool:
        """Whether the script is already written for Keras 3 and this library."""
        imports = [x for x in self.source.nodes if isinstance(x, ast.ImportFrom) and not x.level]
        written = [f"{x.module}.{alias.name}" for x in imports for alias in x.names]
        named = [
            self.full(x)
            for x in self.source.nodes
            if isinstance(x, ast.Attribute) and isinstance(x.value, ast.Name)
        ]
        return any(longest_prefix(name, rules.NEW) for name in [*written, *filter(None, named)])

    def new_name(self, name: str) -> str:
        """Return the new full name of an old one, or the old one if there is no such name."""
        final = new_name(name, self.modern)
        return name if final != name and is_removed(final) else final

    # === Modules ===

    @cached_property
    def stars(self) -> list[str]:
        """The new names of the libraries with star imports, in order."""
        found = []
        for star in self.scopes.stars:
            if module := self.local_module(star):
                found += module.once("stars", lambda: module.stars, [])
            elif library := self.library(star):
                found.append(library)
        return found

    def once(self, key: str, ask: Callable, otherwise: Any) -> Any:
        """Call a function, unless a call with this key is running: imports may be circular."""
        if key in self.busy:
            return otherwise
        self.busy.add(key)
        try:
            return ask()
        finally:
            self.busy.remove(key)

    def library(self, statement: ast.ImportFrom) -> str | None:
        """Return the new name of the library that a statement imports from."""
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
        """Return the module of the same project that a statement imports from, or None."""
        name = statement.module or ""
        if not statement.level and name.split(".")[0] in rules.LIBRARIES:
            return None
        return self.find(name, statement.level)

    def exported(self, name: str, local: str) -> Meaning | None:
        """Return the meaning of a name of this module for importing modules, None if unknown."""
        meaning = self.once(f"export {name}", lambda: self.export(name), None)
        return meaning and replace(meaning, local=local, scope=None)

    def export(self, name: str) -> Meaning | None:
        """Return the meaning of a name at the end of this module."""
        scope = self.scopes.module
        if name in scope.bindings:
            bindings, places = self.scopes.in_order(scope, name)
            return self.of_bindings(bindings if places is None else bindings[-1:], scope)
        meaning = self.of_stars(name)
        if meaning is None and self.package and not self.binds(name):
            module = self.find(name, 1)
            return module and Meaning("", name, module=module)
        return meaning

    def binds(self, name: str) -> bool:
        """Tell whether this module binds a name, also by star imports within the project."""
        if name in self.scopes.module.bindings:
            return True
        if f"export {name}" in self.busy:  # modules that import each other
            return False
        modules = filter(None, map(self.local_module, self.scopes.stars))
        return self.once(f"binds {name}", lambda: any(x.exports(name) for x in modules), False)

    def star_exports(self) -> set[str]:
        """Return the names that `from module import *` imports, if bound within the project."""
        found = set(self.scopes.module.bindings)
        for star in self.scopes.stars:
            if module := self.local_module(star):
                found |= module.once("star_exports", module.star_exports, set())
        return {name for name in found if self.exports(name)}

    def exports(self, name: str) -> bool:
        """Tell whether `from module import *` imports a name of this module."""
        listed = self.declared_exports()
        if listed is not None:
            return name in listed
        return not name.startswith("_") and self.binds(name)

    def declared_exports(self) -> set[str] | None:
        """Return the names in `__all__`; None if it is missing or cannot be evaluated."""
        names: set[str] | None = None
        for binding in self.scopes.module.bindings.get("__all__", []):
            if not isinstance(binding.value, ast.List | ast.Tuple):
                return None
            names = (names or set()) | {text_of(x) or "" for x in binding.value.elts}
        return names

    # === Meanings ===

    def meaning(self, node: ast.expr) -> Meaning | None:
        """Return the meaning of `a` or `a.b.c` by imports; None if it is not certain."""
        if node not in self.known:
            parts = dotted(node) or []
            first = self.of_name(root(node)) if parts else None
            self.known[node] = first and self.follow(first, parts[1:])
        return self.known[node]

    def follow(self, meaning: Meaning, attributes: list[str]) -> Meaning | None:
        """Return the meaning of attributes, which are looked up in modules of the project."""
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
        """Return the meaning of a single name by imports."""
        if node not in self.scopes.of_node:
            return None
        found = self.scopes.bindings_of(node)
        return self.of_bindings(found[1], found[0]) if found else self.of_stars(node.id)

    def of_bindings(self, bindings: list[Binding], scope: Scope) -> Meaning | None:
        """Return the meaning of a name with one or several bindings, which must agree."""
        key = scope, bindings[0].name
        if len(bindings) == 1:
            return self.common_meaning(bindings, scope)
        if key not in self.several:
            self.several[key] = None
            self.several[key] = self.common_meaning(bindings, scope)
        return self.several[key]

    def common_meaning(self, bindings: list[Binding], scope: Scope) -> Meaning | None:
        """Return the common meaning of bindings, None if they do not agree."""
        meanings = [self.of_binding(binding) for binding in bindings]
        known = [meaning for meaning in meanings if meaning is not None and not meaning.rest]
        names = {meaning.module or new_name(meaning.full) for meaning in known}
        if len(known) < len(meanings) or len(names) != 1:
            return None
        # The branches of a try may import one thing from several places.
        return replace(min(known, key=lambda x: x.full), local=bindings[0].name, scope=scope)

    def of_binding(self, binding: Binding) -> Meaning | None:
        """Return the meaning of a name by one binding."""
        if binding.imported:
            return self.of_import(binding.statement, binding.node)
        if binding.value is None:
            return None
        key = f"{binding.name} {id(binding.node)}"
        meaning = self.once(key, lambda: self.meaning(binding.value), None)
        # `layers = keras.layers` gives it another name.
        return meaning and replace(
            meaning, full=meaning.whole if meaning.full else "", rest=(), local=binding.name
        )

    def of_import(self, statement: ast.stmt, alias: ast.alias) -> Meaning | None:
        """Return the meaning of a name bound by an import."""
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
        """Return the submodule that is imported from a package, or None."""
        name = f"{statement.module or ''}.{alias.name}".strip(".")
        module = self.find(name, statement.level)
        return module and Meaning("", alias.asname or alias.name, module=module)

    def of_stars(self, name: str) -> Meaning | None:
        """Return the meaning of a name that only star imports can have bound."""
        for star in reversed(self.scopes.stars):
            if module := self.local_module(star):
                # A name of the module hides that of an earlier star import.
                if module.exports(name):
                    return module.exported(name, name)
                if module.declared_exports() is None and not name.startswith("_"):
                    ask = partial(module.of_stars, name)
                    if found := module.once(f"stars {name}", ask, None):
                        return found
            elif found := rules.STAR_IMPORTS.get(self.library(star) or "", {}).get(name):
                return Meaning(found, "", starred=True)
        return None

    # === Full names ===

    def full(self, node: ast.expr) -> str | None:
        """Return the old full name of `a` or `a.b.c`."""
        meaning = self.meaning(node)
        return meaning.whole if meaning is not None and meaning.full else None

    def new_name_of(self, node: ast.expr) -> str | None:
        """Return the new full name of `a` or `a.b.c`."""
        name = self.full(node)
        return None if name is None else self.new_name(name)

    def is_named(self, node: ast.AST, *names: str) -> bool:
        """Tell whether a node has one of these new full names."""
        return isinstance(node, ast.Name | ast.Attribute) and self.new_name_of(node) in names

    def uses(self, name: str) -> list[ast.Name]:
        """Return the nodes that read a name of the script itself."""
        return [
            node
            for node in self.source.nodes
            if is_name(node, name)
            and isinstance(node.ctx, ast.Load)
            and self.scopes.scope_at(node).find(name) in (self.scopes.module, None)
        ]
