"""The imports of a script: what they bind, what else is needed, and how they are written."""

from collections.abc import Iterable

import libcst as cst
import libcst.matchers as m

from bert4keras.migrate import rules
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.names import in_backend, module_of, today
from bert4keras.migrate.survey import Survey
from bert4keras.migrate.syntax import (
    expression,
    import_from,
    is_star,
    joined,
    plain_import,
    source_of,
)


class Imports:
    """What a script imports, and will have to import.

    Attributes:
        locals: full names of today, with their local names after the rewriting.
        renamed: local names before the rewriting, with those after it.
        needed: full names for which an import has to be added.
    """

    def __init__(self, module: cst.Module, survey: Survey, comments: Comments):
        self.names = survey.names
        self.gone = survey.gone
        self.comments = comments
        self.locals: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        self.needed: list[str] = []
        self.k_imported = False
        for line in module.body:
            for statement in line.body if isinstance(line, cst.SimpleStatementLine) else ():
                for old, new, name in self.bound(statement):
                    self.locals.setdefault(name, new)
                    self.renamed[old] = new

    # === What is there ===

    def bound(self, statement: cst.BaseSmallStatement) -> Iterable[tuple[str, str, str]]:
        """What an import binds: the local name before and after, and the full one."""
        if isinstance(statement, cst.Import):
            for alias in statement.names:
                name = alias.evaluated_name
                local = alias.evaluated_alias or name.split(".")[0]
                yield local, local, today(name) if alias.asname else local
        elif is_absolute(statement) and not is_star(statement):
            for alias in statement.names:
                final = today(f"{source_of(statement)}.{alias.name.value}")
                old = alias.evaluated_alias or alias.evaluated_name
                yield old, self.local_after(alias, final), importable(final)

    def local_after(self, alias: cst.ImportAlias, final: str) -> str:
        """The local name that an imported thing has after the rewriting."""
        if in_backend(final):
            return "K"
        if alias.asname is not None:
            return alias.evaluated_alias
        old, new = alias.name.value, final.rsplit(".", 1)[-1]
        return new if new == old or new not in self.names.used else old

    # === What becomes of it ===

    def rewritten(self, statement: cst.Import | cst.ImportFrom) -> list[cst.BaseSmallStatement]:
        """The imports in the place of one."""
        if isinstance(statement, cst.Import):
            return self.of_modules(statement)
        if not is_absolute(statement):
            return [statement]
        return self.of_all(statement) if is_star(statement) else self.of_names(statement)

    def of_modules(self, statement: cst.Import) -> list[cst.BaseSmallStatement]:
        """Rewrite `import module as name`."""
        kept, statements = [], []
        for alias in statement.names:
            name, local = alias.evaluated_name, alias.evaluated_alias
            final = today(name)
            self.comments.mark_name(final, imported=True)
            if final == name or local is None:
                kept.append(alias)
            elif final == rules.K:
                statements.append(import_from("bert4keras.backend", [("K", local)]))
            else:
                statements.append(plain_import(final, local))
        if not statements:
            return [statement]
        if not kept:
            return statements
        kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
        return [statement.with_changes(names=kept), *statements]

    def of_all(self, statement: cst.ImportFrom) -> list[cst.BaseSmallStatement]:
        """Rewrite `from module import *`."""
        module = source_of(statement)
        moved = today(module)
        if moved == module or module in rules.IMPORTABLE:
            return [statement]
        if moved == rules.K:
            self.need(rules.K)
            return []
        return [statement.with_changes(module=expression(moved))]

    def of_names(self, statement: cst.ImportFrom) -> list[cst.BaseSmallStatement]:
        """Rewrite `from module import names`."""
        kept: list[cst.ImportAlias] = []
        moved: dict[str, dict[tuple[str, str], None]] = {}
        for alias in statement.names:
            name = f"{source_of(statement)}.{alias.name.value}"
            final = today(name)
            if final in self.gone:
                continue
            self.comments.mark_name(final, imported=True)
            if final == name or name in rules.IMPORTABLE:
                kept.append(alias)
                continue
            source, _, last = importable(final).rpartition(".")
            moved.setdefault(source, {})[last, self.local_after(alias, final)] = None
        if len(kept) == len(statement.names):
            return [statement]
        backend = moved.get("bert4keras.backend", {})
        if self.k_imported:
            backend.pop(("K", "K"), None)
        self.k_imported |= ("K", "K") in backend
        # `from tensorflow import keras` becomes the import of a module.
        statements = [plain_import(*pair) for pair in moved.pop("", {})]
        statements += [import_from(source, pairs) for source, pairs in moved.items() if pairs]
        if not kept:
            return statements
        kept[-1] = kept[-1].with_changes(comma=statement.names[-1].comma)
        return [statement.with_changes(names=kept), *statements]

    # === What is added ===

    def need(self, name: str, local: str = "") -> str:
        """Have something imported at the top, and return its local name."""
        if name not in self.locals:
            local = local or name.rsplit(".", 1)[-1]
            if local in self.names.used or local in self.locals.values():
                local = f"{local}_of_{name.split('.')[0]}"
            self.locals[name] = local
            self.needed.append(name)
        return self.locals[name]

    def added_to(self, module: cst.Module) -> cst.Module:
        """A script with the imports that are needed."""
        body = list(module.body)
        for name in self.needed:
            add_import(body, name, self.locals[name])
        return module.with_changes(body=body)


def is_absolute(statement: cst.BaseSmallStatement) -> bool:
    """Tell whether a statement is `from module import …`, not `from .module import …`."""
    return (
        isinstance(statement, cst.ImportFrom)
        and statement.module is not None
        and not statement.relative
    )


def importable(name: str) -> str:
    """What is imported for a full name: `K` is an object, what is in it cannot be."""
    return rules.K if in_backend(name) else name


def add_import(body: list[cst.BaseStatement], name: str, local: str) -> None:
    """Put an import behind the others of a script, or into the one of its module."""
    module = module_of(name)
    pairs = [(name.removeprefix(f"{module}."), local)]
    statement = import_from(module, pairs) if module else plain_import(name, local)
    position = 0
    for i, line in enumerate(body):
        if isinstance(line, cst.ClassDef | cst.FunctionDef | cst.For | cst.While):
            break
        if not isinstance(line, cst.SimpleStatementLine):
            continue
        if position == 0 and m.matches(line.body[0], m.Expr(m.SimpleString())):
            position = i + 1
        for j, small in enumerate(line.body):
            if not isinstance(small, cst.Import | cst.ImportFrom):
                continue
            position = i + 1
            if not is_absolute(small) or is_star(small):
                continue
            if source_of(small) == module:
                small = small.with_changes(names=joined(small.names, statement.names[0]))
                smalls = [*line.body[:j], small, *line.body[j + 1 :]]
                body[i] = line.with_changes(body=smalls)
                return
    body.insert(position, cst.SimpleStatementLine([statement]))
