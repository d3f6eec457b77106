"""Rewriting of imports, and additional imports."""

import ast
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from bert4keras.migrate import rules
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.edits import Edits
from bert4keras.migrate.names import in_backend, module_of, replaced_prefix
from bert4keras.migrate.scopes import Scope
from bert4keras.migrate.source import Source, Span, is_docstring
from bert4keras.migrate.survey import Survey

Pair = tuple[str, str]
"""An imported name, and its local name."""


@dataclass
class NewImport:
    """The replacement of an import.

    Attributes:
        kept: the names that remain in it; None if it does not change.
        modules: names by the other modules from which to import them; "" for modules themselves.
        lines: further lines.
    """

    kept: list[ast.alias] | None = None
    modules: dict[str, dict[Pair, None]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def written(self) -> list[str]:
        """Return the lines after the kept import."""
        lines = []
        for module, pairs in self.modules.items():
            if module:
                lines.append(import_from(module, pairs))
            else:
                lines += [plain_import(*pair) for pair in pairs]
        return [*lines, *self.lines]


class Imports:
    """Rewrites the imports of a script, and adds others.

    Args:
        source: the script.
        survey: facts about the script.
        comments: its comments.
        edits: its changes.
        others: tells whether other modules of the project import a name from this one.

    Attributes:
        statements: the imports with their replacements.
        locals: for each scope, new full names with their new local names.
        renamed: old local names with new ones.
        needed: the imports to be added: the scope, the full name and the local one.
    """

    def __init__(
        self,
        source: Source,
        survey: Survey,
        comments: Comments,
        edits: Edits,
        others: Callable[[str], bool],
    ):
        self.source = source
        self.names = survey.names
        self.gone = survey.gone
        self.comments = comments
        self.edits = edits
        self.others = others
        self.locals: dict[Scope, dict[str, str]] = {}
        self.renamed: dict[str, str] = {}
        self.needed: list[tuple[Scope, str, str]] = []
        self.statements: dict[ast.Import | ast.ImportFrom, NewImport] = {
            x: NewImport() for x in source.nodes if isinstance(x, ast.Import | ast.ImportFrom)
        }
        for statement in self.statements:
            for old, new, name in self.bound(statement):
                self.note(self.names.scopes.scope_at(statement), name, new)
                self.renamed[old] = new
        self.note_others()

    def note(self, scope: Scope, name: str, local: str) -> None:
        """Record the local name of a full name in a scope."""
        self.locals.setdefault(scope, {}).setdefault(name, local)

    # === Existing imports ===

    def bound(self, statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str, str]]:
        """Yield the bindings of an import: the old and the new local name, and the full name."""
        for alias in statement.names:
            meaning = self.names.of_import(statement, alias) if alias.name != "*" else None
            if meaning is None or not meaning.full:
                continue
            final = self.names.new_name(meaning.whole)
            if isinstance(statement, ast.Import):
                yield meaning.local, meaning.local, final if alias.asname else meaning.local
            elif self.stays(statement, alias):
                yield meaning.local, meaning.local, final
            else:
                yield meaning.local, self.local_after(alias, final), importable(final)

    def note_others(self) -> None:
        """Record the names from star imports within the project and from assignments."""
        scope = self.names.scopes.module
        for star in self.names.scopes.stars:
            module = self.names.local_module(star)
            for name in module.star_exports() if module else ():
                meaning = module.exported(name, name)
                if meaning and meaning.full and not meaning.starred:
                    self.note(scope, self.names.new_name(meaning.whole), name)
        for name, bindings in scope.bindings.items():
            if len(bindings) == 1 and bindings[0].value is not None:
                meaning = self.names.of_binding(bindings[0])
                if meaning and meaning.full:
                    self.note(scope, self.names.new_name(meaning.whole), name)

    def stays(self, statement: ast.ImportFrom, alias: ast.alias) -> bool:
        """Tell whether a module of the project keeps a name that is imported from it."""
        if not self.names.local_module(statement):
            return False
        meaning = self.names.of_import(statement, alias)
        if meaning is None or not meaning.full:
            return True
        return not meaning.starred and self.names.new_name(meaning.whole) not in self.gone

    def local_after(self, alias: ast.alias, final: str) -> str:
        """Return the new local name of an imported name."""
        if in_backend(final):
            return "K"
        old, new = alias.name, final.rsplit(".", 1)[-1]
        if alias.asname is not None or self.others(old) or "." not in final:
            return alias.asname or old
        return new if new == old or new not in self.names.scopes.used else old

    # === Replacements ===

    def rewrite(self, statement: ast.Import | ast.ImportFrom) -> None:
        """Determine the replacement of an import."""
        if isinstance(statement, ast.Import):
            self.rewrite_modules(statement)
        elif statement.names[0].name == "*":
            self.rewrite_star(statement)
        else:
            self.rewrite_names(statement)

    def rewrite_modules(self, statement: ast.Import) -> None:
        """Rewrite `import module as name`."""
        new = NewImport(kept=[])
        for alias in statement.names:
            known = alias.name.split(".")[0] in rules.LIBRARIES
            final = self.names.new_name(alias.name) if known else alias.name
            if known:
                self.comments.mark_name(statement, alias.name, imported=True)
            if final == alias.name or alias.asname is None:
                new.kept.append(alias)
            elif final == rules.K:
                new.modules.setdefault("bert4keras.backend", {})["K", alias.asname] = None
            else:
                new.modules.setdefault("", {})[final, alias.asname] = None
        if len(new.kept) < len(statement.names):
            self.statements[statement] = new

    def rewrite_star(self, statement: ast.ImportFrom) -> None:
        """Rewrite `from module import *`."""
        module = statement.module
        if module is None or self.names.library(statement) is None:
            return
        moved = self.names.new_name(module)
        if moved == module or module in rules.IMPORTABLE:
            return
        if moved == rules.K:
            self.need(statement, rules.K)
            self.statements[statement] = NewImport(kept=[])
        else:
            self.statements[statement] = NewImport(kept=[], lines=[f"from {moved} import *"])

    def rewrite_names(self, statement: ast.ImportFrom) -> None:
        """Rewrite `from module import names`."""
        new = NewImport(kept=[])
        for alias in statement.names:
            meaning = self.names.of_import(statement, alias)
            name = meaning.whole if meaning and meaning.full else ""
            final = self.names.new_name(name)
            if name and final in self.gone:
                continue
            if self.names.local_module(statement):
                stays = self.stays(statement, alias)
            else:
                stays = final == name or name in rules.IMPORTABLE
                self.comments.mark_name(statement, name, imported=True)
            if stays:
                new.kept.append(alias)
            else:
                self.move(new, alias, final)
        if len(new.kept) < len(statement.names):
            self.without_second_k(statement, new)
            self.statements[statement] = new

    def move(self, new: NewImport, alias: ast.alias, final: str) -> None:
        """Import a name from its new module."""
        source, _, last = importable(final).rpartition(".")
        new.modules.setdefault(source, {})[last, self.local_after(alias, final)] = None
        local = alias.asname or alias.name
        if in_backend(final) and self.others(local):
            new.lines.append(f"{local} = K.{final.rpartition('.')[2]}")

    def without_second_k(self, statement: ast.ImportFrom, new: NewImport) -> None:
        """Import `K` only once in a scope that imported several functions of it."""
        scope = self.names.scopes.scope_at(statement)
        earlier = [
            pair
            for other, rewritten in self.statements.items()
            if other is not statement and self.names.scopes.scope_at(other) is scope
            for pair in rewritten.modules.get("bert4keras.backend", ())
        ]
        pairs = new.modules.get("bert4keras.backend", {})
        if ("K", "K") in earlier and pairs.pop(("K", "K"), 0) is None and not pairs:
            del new.modules["bert4keras.backend"]

    # === Additional imports ===

    def local(self, node: ast.AST, name: str) -> str | None:
        """Return how to write a full name at a node; None if no part of it has a local name."""
        scope: Scope | None = self.names.scopes.scope_at(node)
        while scope is not None:
            if found := replaced_prefix(name, self.locals.get(scope, {})):
                return found
            scope = scope.parent
        return None

    def need(self, node: ast.AST, name: str, local: str = "", scope: Scope | None = None) -> str:
        """Import a name if necessary, and return its local name.

        Args:
            node: the node that needs it.
            name: its full name.
            local: the preferred local name.
            scope: the scope of the import, by default that of the script.
        """
        at: Scope | None = self.names.scopes.scope_at(node)
        while at is not None:
            if name in self.locals.get(at, {}):
                return self.locals[at][name]
            at = at.parent
        local = local or name.rsplit(".", 1)[-1]
        if local in self.names.scopes.used or local in self.taken():
            local = f"{local}_of_{name.split('.')[0]}"
        scope = scope or self.names.scopes.module
        self.note(scope, name, local)
        self.needed.append((scope, name, local))
        return local

    def taken(self) -> set[str]:
        """Return the local names of all imports."""
        return {local for names in self.locals.values() for local in names.values()}

    def add(self, scope: Scope, name: str, local: str) -> None:
        """Add an import after the others of a scope, or to the one from the same module."""
        module = module_of(name)
        pair = (name.removeprefix(f"{module}."), local)
        before = self.before_definitions(scope)
        for statement in before:
            new = self.statements[statement]
            stays = new.kept is None or new.kept
            if stays and module and is_from(statement, module):
                self.join(statement, new.kept or statement.names, pair)
                return
            if module and module in new.modules:
                new.modules[module][pair] = None
                return
        if before:
            self.statements[before[-1]].modules.setdefault(module, {})[pair] = None
            return
        line = import_from(module, [pair]) if module else plain_import(*pair)
        self.insert_first(scope, line)

    def before_definitions(self, scope: Scope) -> list[ast.Import | ast.ImportFrom]:
        """Return the imports before the first function, class or loop of a scope."""
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.For, ast.While)
        first = next((x.lineno for x in scope.node.body if isinstance(x, kinds)), None)
        return [
            x
            for x in self.statements
            if self.source.parents[x] is scope.node and (first is None or x.lineno < first)
        ]

    def join(self, statement: ast.ImportFrom, names: list[ast.alias], pair: Pair) -> None:
        """Add a name to the names of an import, in its layout."""
        last, between = names[-1], ", "
        start, end = self.source.span(last)
        if len(names) > 1:
            text = self.source.text[self.source.end(names[-2]) : start]
            between = text if "#" not in text else between
        elif self.source.text[end : self.source.end(statement)].startswith(","):
            before = self.source.text[self.source.line_start(start) : start]
            between = f",{self.source.newline}{before}" if not before.strip() else between
        self.edits.insert(end, between + as_name(pair))

    def insert_first(self, scope: Scope, line: str) -> None:
        """Insert a line at the beginning of a scope, after its docstring."""
        first = scope.node.body[0]
        if is_docstring(first):
            self.edits.add_lines(first, [line])
            return
        place = self.source.line_start(self.source.start(first))
        indentation = self.source.indentation(first)
        self.edits.insert(place, f"{indentation}{line}{self.source.newline}")

    # === Writing ===

    def write(self) -> None:
        """Write all imports."""
        for needed in self.needed:
            self.add(*needed)
        for statement, new in self.statements.items():
            lines = new.written()
            if new.kept is None or new.kept:
                for span in self.without(statement, new.kept):
                    self.edits.remove(span)
                if lines:
                    self.write_after(statement, lines)
            elif lines:
                self.replace(statement, lines)
            else:
                self.edits.remove_statement(statement)

    def write_after(self, statement: ast.stmt, lines: list[str]) -> None:
        """Write imports after one that is kept."""
        if self.source.begins_line(statement) and self.source.ends_line(statement):
            self.edits.add_lines(statement, lines)
        else:
            self.edits.insert(self.source.end(statement), "".join(f"; {x}" for x in lines))

    def replace(self, statement: ast.stmt, lines: list[str]) -> None:
        """Replace an import by others."""
        alone = self.source.begins_line(statement) and self.source.ends_line(statement)
        indentation = self.source.indentation(statement)
        between = f"{self.source.newline}{indentation}" if alone else "; "
        self.edits.replace(self.source.span(statement), between.join(lines))

    def without(self, statement: ast.stmt, kept: list[ast.alias] | None) -> list[Span]:
        """Return the spans to remove, so that only these names remain in an import."""
        if kept is None:
            return []
        spans = [self.source.span(alias) for alias in statement.names]
        goes = [alias not in kept for alias in statement.names]
        last = max(i for i, gone in enumerate(goes) if not gone)
        # Each with the text up to the next one; after the last kept name, with the comma before.
        found = [(spans[i][0], spans[i + 1][0]) for i in range(last) if goes[i]]
        if last < len(spans) - 1:
            found.append((spans[last][1], spans[-1][1]))
        return found


def is_from(statement: ast.stmt, module: str) -> bool:
    """Tell whether a statement imports names from a module."""
    return (
        isinstance(statement, ast.ImportFrom)
        and statement.module == module
        and not statement.level
        and statement.names[0].name != "*"
    )


def importable(name: str) -> str:
    """Return the name to import for a full name: `K`, an object, for functions of `K`."""
    return rules.K if in_backend(name) else name


def as_name(pair: Pair) -> str:
    """Return the code `name as local`."""
    name, local = pair
    return name if name == local else f"{name} as {local}"


def plain_import(module: str, local: str) -> str:
    """Return the code `import module as local`."""
    return f"import {as_name((module, local))}"


def import_from(module: str, pairs: Iterable[Pair]) -> str:
    """Return the code `from module import name as local, …`."""
    return f"from {module} import {', '.join(map(as_name, pairs))}"
