"""Which full name a piece of a script means, and where that name is today."""

from collections.abc import Iterable, Mapping

import libcst as cst
from libcst.metadata import ImportAssignment, QualifiedNameSource, Scope

from bert4keras.migrate import rules
from bert4keras.migrate.syntax import dotted, root


def replaced_prefix(name: str, table: Mapping[str, str]) -> str | None:
    """Replace the longest prefix of a dotted name that a table has; None if it has none."""
    head, rest = name, ""
    while head:
        if head in table:
            return table[head] + rest
        head, dot, last = head.rpartition(".")
        rest = f"{dot}{last}{rest}"
    return None


def today(name: str) -> str:
    """The full name under which something is found now."""
    name = name.replace("tensorflow.compat.v1", "tensorflow")
    for table in (rules.MODULES, rules.NAMES):
        while (found := replaced_prefix(name, table)) is not None and found != name:
            name = found
    return name


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


class Names:
    """The names of a script.

    Args:
        scopes: the scope of every node, as libcst finds it.
        stars: the modules of which everything is imported, in order.
    """

    def __init__(self, scopes: Mapping[cst.CSTNode, Scope | None], stars: list[str]):
        self.scopes = scopes
        self.stars = stars
        self.used = {
            assignment.name
            for scope in set(scopes.values())
            if scope is not None
            for assignment in scope.assignments
        }

    def imported(self, node: cst.Name) -> tuple[str, str] | None:
        """What a name is bound to by imports: its full name as written, and the local name."""
        scope = self.scopes.get(node)
        if scope is None:
            return None
        found = scope[node.value]
        if found:
            if not all(isinstance(each, ImportAssignment) for each in found):
                return None
            names = {
                each.name
                for each in scope.get_qualified_names_for(node.value)
                if each.source is QualifiedNameSource.IMPORT
            }
            # The branches of a try may import one thing from several places.
            return (min(names), node.value) if len({today(name) for name in names}) == 1 else None
        if any(name.startswith(f"{node.value}.") for name in self.used):
            return node.value, node.value  # `import keras.layers` binds `keras`
        for star in reversed(self.stars):
            name = rules.STAR_IMPORTS.get(star, {}).get(node.value)
            if name is not None:
                return name, ""
        return None

    def full(self, node: cst.BaseExpression) -> str | None:
        """The full name, as the script means it, of `a` or `a.b.c`."""
        parts = dotted(node)
        if parts is None:
            return None
        bound = self.imported(root(node))
        return None if bound is None else ".".join([bound[0], *parts[1:]])

    def today(self, node: cst.BaseExpression) -> str | None:
        """The full name of today of `a` or `a.b.c`."""
        name = self.full(node)
        return None if name is None else today(name)
