"""How the tables of `rules` are applied to a script."""

import re
from collections.abc import Iterable, Sequence

import libcst as cst
import libcst.matchers as m
from libcst.metadata import (
    MetadataWrapper,
    ParentNodeProvider,
    PositionProvider,
    ScopeProvider,
)

from bert4keras.migrate import rules
from bert4keras.migrate.names import (
    Names,
    covered,
    dotted,
    expression,
    module_of,
    replaced_prefix,
    root,
    today,
)

EVERYTHING_OF = m.Call(
    func=m.Attribute(
        value=m.Call(func=m.Name("locals") | m.Name("globals")), attr=m.Name("update")
    ),
    args=[m.Arg(m.Call(func=m.Name("get_all_attributes"), args=[m.Arg(m.Attribute())]))],
)
"""`locals().update(get_all_attributes(keras.layers))`, a star import in scripts of 2020."""

PREFIX = "# bert4keras.migrate: "
"""How the comments begin that say what a person has to change."""

SCHEDULE = "keras.optimizers.schedules.InverseTimeDecay"


def migrate(source: str) -> str:
    """Rewrite a script for the original, Keras 2 and old versions of bert4keras.

    Args:
        source: the text of the script.

    Returns:
        The text of the script for this library. Lines that no rule applies to are the same to the
        character.

    Raises:
        libcst.ParserSyntaxError: the script is no Python 3.
    """
    module = cst.parse_module(source)
    if not any(package in source for package in ("keras", "tensorflow")):
        return source
    new = MetadataWrapper(module, unsafe_skip_copy=False).visit(Migration(source)).code
    # What is imported now can bring further rules with it.
    return new if new == source else migrate(new)


# ------------------------------------------------------------------------------------ reading ahead


class Survey(cst.CSTVisitor):
    """What has to be known of a script before anything is rewritten.

    Attributes:
        models: names that models are assigned to.
        optimizers: names that optimizer classes are assigned to.
        gradient_functions: functions that reach into Keras 2 for gradients.
        files: names of weight files that Keras 3 wants to end otherwise, with the new names.
    """

    METADATA_DEPENDENCIES = (ScopeProvider,)

    def __init__(self, names: Names):
        super().__init__()
        self.names = names
        self.models: set[str] = set()
        self.optimizers: set[str] = set()
        self.gradient_functions: set[str] = set()
        self.files: dict[str, str] = {}
        self.accuracy: set[str] = set()

    def visit_Assign(self, node: cst.Assign) -> None:
        """Note models and optimizer classes."""
        target = node.targets[0].target
        if not (isinstance(target, cst.Name) and isinstance(node.value, cst.Call)):
            return
        name = self.names.today(node.value.func) or ""
        if name in rules.MODEL_MAKERS:
            self.models.add(target.value)
        # A star import may have brought it, so that its module is not known.
        if (dotted(node.value.func) or [""])[-1].startswith("extend_with_"):
            self.optimizers.add(target.value)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        """Note functions that compute gradients."""
        if self.computes_gradients(node):
            self.gradient_functions.add(node.name.value)

    def computes_gradients(self, function: cst.FunctionDef) -> bool:
        """Tell whether a marked name of the kind «gradients» is in a function itself."""
        for node in own_nodes(function.body):
            if isinstance(node, cst.Attribute):
                mark = rules.ATTRIBUTE_MARKS.get(node.attr.value)
                if mark is not None and mark.kind == "gradients":
                    return True
            if isinstance(node, cst.Attribute | cst.Name):
                found = covered(self.names.today(node) or "", rules.MARKS)
                if found and rules.MARKS[found].kind == "gradients":
                    return True
        return False

    def visit_Call(self, node: cst.Call) -> None:
        """Note checkpoints that need another suffix, and how accuracy is called."""
        keywords = {a.keyword.value: a.value for a in node.args if a.keyword}
        if self.names.today(node.func) == "keras.callbacks.ModelCheckpoint" and node.args:
            path = text_of(keywords.get("filepath", node.args[0].value))
            weights = m.matches(
                keywords.get("save_weights_only", cst.Name("False")), m.Name("True")
            )
            suffix = ".weights.h5" if weights else ".keras"
            if path and not path.endswith((suffix,) if weights else (".keras", ".h5")):
                self.files[path] = re.sub(r"(\.weights|\.h5|\.hdf5)*$", "", path) + suffix
        if m.matches(node.func, m.Attribute(value=m.Name(), attr=m.Name("save"))) and node.args:
            path = text_of(node.args[0].value)
            if path and node.func.value.value in self.models and not path.endswith(".keras"):
                # HDF5 files of models whose mask is computed by operations cannot be read back.
                self.files[path] = re.sub(r"\.(h5|hdf5)$", "", path) + ".keras"
        if m.matches(node.func, m.Attribute(attr=m.Name("compile"))) and "metrics" in keywords:
            for element in getattr(keywords["metrics"], "elements", ()):
                self.accuracy.add(text_of(element.value) or "")


def own_nodes(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """All nodes below one, those in nested functions and classes included."""
    for child in node.children:
        yield child
        yield from own_nodes(child)


def text_of(node: cst.BaseExpression | None) -> str | None:
    """The value of a plain string literal."""
    if isinstance(node, cst.SimpleString) and isinstance(node.evaluated_value, str):
        return node.evaluated_value
    return None


# --------------------------------------------------------------------------------------- rewriting


class Migration(cst.CSTTransformer):
    """The rewriting of one script."""

    METADATA_DEPENDENCIES = (ScopeProvider, ParentNodeProvider, PositionProvider)

    def __init__(self, source: str):
        super().__init__()
        self.lines = source.splitlines()
        self.needed: dict[str, None] = {}
        self.marks: list[dict[str, None]] = []
        self.silent = 0
        self.k_imported = False
        self.metrics: dict[cst.ClassDef, dict[str, str]] = {}

    # === Preparation ===

    def visit_Module(self, node: cst.Module) -> None:
        """Read ahead."""
        stars = [
            ".".join(dotted(each.module))
            for each in m.findall(node, m.ImportFrom(names=m.ImportStar()))
            if each.module is not None and not each.relative
        ]
        self.stars = [replaced_prefix(star, rules.MODULES) or star for star in stars]
        self.stars = ["bert4keras.backend" if s == rules.K else s for s in self.stars]
        updates = m.findall(node, EVERYTHING_OF)
        # One import, and no other use.
        uses = len(m.findall(node, m.Name("get_all_attributes")))
        self.unpacked = bool(updates) and uses == len(updates) + 1
        if self.unpacked:
            self.stars.append("keras.layers")
        self.names = Names(
            {n: self.get_metadata(ScopeProvider, n, None) for n in all_of(node)}, self.stars
        )
        self.survey = Survey(self.names)
        node.visit(self.survey)
        packages = {
            (dotted(each.module) if each.module else [""])[0]
            for each in m.findall(node, m.ImportFrom())
        } | {dotted(alias.name)[0] for each in m.findall(node, m.Import()) for alias in each.names}
        self.own_tokenizers = "bert4keras" in packages and not packages & set(
            rules.OTHER_TOKENIZERS
        )
        self.locals: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        for old, new, final in self.bindings(node):
            self.locals.setdefault(final, new)
            self.renamed[old] = new

    def bindings(self, module: cst.Module) -> Iterable[tuple[str, str, str]]:
        """What imports at the top bind: the local name before and after, and the full one."""
        for line in module.body:
            if not isinstance(line, cst.SimpleStatementLine):
                continue
            for statement in line.body:
                if isinstance(statement, cst.ImportFrom) and not isinstance(
                    statement.names, cst.ImportStar
                ):
                    if statement.module is None or statement.relative:
                        continue
                    source = ".".join(dotted(statement.module))
                    for alias in statement.names:
                        final = today(f"{source}.{alias.name.value}")
                        yield (
                            alias.evaluated_alias or alias.evaluated_name,
                            *(
                                ("K", rules.K)
                                if final.startswith(f"{rules.K}.")
                                else (self.new_local(alias, final), final)
                            ),
                        )
                elif isinstance(statement, cst.Import):
                    for alias in statement.names:
                        name = ".".join(dotted(alias.name))
                        local = alias.evaluated_alias or name.split(".")[0]
                        yield local, local, today(name) if alias.asname else local

    # === Comments ===

    def mark(self, mark: rules.Mark) -> None:
        """Have a comment put above the statement that is being visited."""
        if not self.silent and self.marks:
            self.marks[-1][mark.advice] = None

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Collect the comments of each statement by itself."""
        if is_statement(node):
            self.marks.append({})
        if isinstance(node, cst.FunctionDef) and self.survey.computes_gradients(node):
            if not self.silent:
                self.mark(rules._GRADIENTS)
            self.silent += 1
        return super().on_visit(node)

    def on_leave(self, original_node, updated_node):
        """Put the comments where they belong."""
        updated_node = super().on_leave(original_node, updated_node)
        if isinstance(original_node, cst.FunctionDef):
            self.silent -= self.survey.computes_gradients(original_node)
        if not is_statement(original_node):
            return updated_node
        comments = [PREFIX + advice for advice in self.marks.pop()]
        above = self.comments_above(original_node)
        comments = [comment for comment in comments if comment not in above]
        if not comments:
            return updated_node
        first = updated_node
        if isinstance(updated_node, cst.FlattenSentinel):
            first = updated_node.nodes[0]
        if not hasattr(first, "leading_lines"):
            return updated_node
        lines = [cst.EmptyLine(comment=cst.Comment(comment)) for comment in comments]
        first = first.with_changes(leading_lines=[*first.leading_lines, *lines])
        if isinstance(updated_node, cst.FlattenSentinel):
            return cst.FlattenSentinel([first, *updated_node.nodes[1:]])
        return first

    def comments_above(self, statement: cst.CSTNode) -> set[str]:
        """The comments in the lines right above a statement."""
        number = self.get_metadata(PositionProvider, statement).start.line - 1
        found = set()
        while number > 0 and (line := self.lines[number - 1].strip()).startswith(("#", "@")):
            found.add(line)
            number -= 1
        return found

    # === Imports ===

    def new_local(self, alias: cst.ImportAlias, final: str) -> str:
        """The local name that an imported thing has after the rewriting."""
        if alias.asname is not None:
            return alias.asname.name.value
        old, new = alias.name.value, final.rsplit(".", 1)[-1]
        if final.startswith(f"{rules.K}."):
            return "K"
        return new if new == old or new not in self.names.used else old

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement | cst.FlattenSentinel | cst.RemovalSentinel:
        """Rewrite imports, and statements that become others."""
        pieces: list[cst.BaseSmallStatement] = []
        for old, new in zip(original_node.body, updated_node.body, strict=True):
            pieces += self.small_statement(old, new)
        if pieces == list(updated_node.body):
            return updated_node
        if not pieces:
            return self.without(original_node, updated_node)
        if len(updated_node.body) > 1:
            return updated_node.with_changes(body=[without_semicolon(p) for p in pieces])
        lines = [cst.SimpleStatementLine([without_semicolon(piece)]) for piece in pieces]
        lines[0] = lines[0].with_changes(leading_lines=updated_node.leading_lines)
        lines[-1] = lines[-1].with_changes(trailing_whitespace=updated_node.trailing_whitespace)
        return cst.FlattenSentinel(lines) if len(lines) > 1 else lines[0]

    def without(self, original: cst.CSTNode, updated: cst.SimpleStatementLine):
        """Remove a line; where it is all there is in a block, `pass` takes its place."""
        parent = self.get_metadata(ParentNodeProvider, original)
        if len(parent.body) > 1 or isinstance(parent, cst.Module):
            return cst.RemoveFromParent()
        return updated.with_changes(body=[cst.Pass()])

    def small_statement(
        self, old: cst.BaseSmallStatement, new: cst.BaseSmallStatement
    ) -> list[cst.BaseSmallStatement]:
        """What one statement becomes: itself, others, or nothing."""
        if isinstance(old, cst.ImportFrom):
            return self.import_from(old, new)
        if isinstance(old, cst.Import):
            return self.plain_import(old, new)
        if isinstance(old, cst.Expr) and isinstance(old.value, cst.Call):
            return self.lone_call(old.value, new)
        return [new]

    def import_from(self, old: cst.ImportFrom, new: cst.ImportFrom) -> list:
        """`from module import names`."""
        if old.module is None or old.relative:
            return [new]
        module = ".".join(dotted(old.module))
        if isinstance(old.names, cst.ImportStar):
            moved = today(module)
            if moved == module or module in rules.IMPORTABLE:
                return [new]
            if moved == rules.K:
                self.need(rules.K)
                return []
            return [new.with_changes(module=expression(moved))]
        kept, moved = [], {}
        for alias in old.names:
            name = f"{module}.{alias.name.value}"
            final = today(name)
            if final == "bert4keras.snippets.get_all_attributes" and self.unpacked:
                continue
            self.mark_name(final, imported=True)
            if name in rules.GONE or final in rules.GONE:
                continue
            if final == name or name in rules.IMPORTABLE or not self.is_gone_from(name, final):
                kept.append(alias)
            elif final == rules.K or final.startswith(f"{rules.K}."):
                local = self.new_local(alias, final) if final == rules.K else "K"
                moved.setdefault("bert4keras.backend", {})[("K", local)] = None
            else:
                local = self.new_local(alias, final)
                source = module_of(final) or final
                moved.setdefault(source, {})[(final.removeprefix(f"{source}."), local)] = None
        if not moved and len(kept) == len(old.names):
            return [new]
        if self.k_imported:
            moved.get("bert4keras.backend", {}).pop(("K", "K"), None)
        self.k_imported |= ("K", "K") in moved.get("bert4keras.backend", {})
        statements = [import_statement(source, found) for source, found in moved.items() if found]
        if not kept:
            return statements
        kept[-1] = kept[-1].with_changes(comma=old.names[-1].comma)
        return [new.with_changes(names=kept), *statements]

    def is_gone_from(self, name: str, final: str) -> bool:
        """Tell whether a name has to be imported from elsewhere."""
        return not (name.startswith("tensorflow.") and final.startswith("tensorflow.compat"))

    def plain_import(self, old: cst.Import, new: cst.Import) -> list:
        """`import module as name`."""
        kept, statements = [], []
        for alias in old.names:
            name = ".".join(dotted(alias.name))
            final = today(name)
            self.mark_name(final, imported=True)
            if final == name or alias.asname is None:
                kept.append(alias)
                continue
            local = alias.asname.name.value
            if final == rules.K:
                statements.append(import_statement("bert4keras.backend", {("K", local): None}))
            elif "." not in final:
                asname = None if local == final else cst.AsName(cst.Name(local))
                statements.append(cst.Import([cst.ImportAlias(cst.Name(final), asname)]))
            else:
                asname = cst.AsName(cst.Name(local))
                statements.append(cst.Import([cst.ImportAlias(expression(final), asname)]))
        if len(kept) == len(old.names):
            return [new]
        if kept:
            kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
            return [new.with_changes(names=kept), *statements]
        return statements

    def need(self, name: str, local: str = "") -> str:
        """Have something imported at the top, and return its local name."""
        one = ("keras", "bert4keras.backend.keras")
        for known in one if name in one else (name,):
            if known in self.locals:
                return self.locals[known]
        local = local or name.rsplit(".", 1)[-1]
        if local in self.names.used or local in self.locals.values():
            local = f"{local}_of_{name.split('.')[0]}"
        self.locals[name] = local
        self.needed[name] = None
        return local

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        """Add the imports that are needed."""
        body = list(updated_node.body)
        for name in self.needed:
            module, local = module_of(name), self.locals[name]
            statement = (
                import_statement(module, {(name.removeprefix(f"{module}."), local): None})
                if module
                else cst.Import(
                    [
                        cst.ImportAlias(
                            cst.Name(name), None if local == name else cst.AsName(cst.Name(local))
                        )
                    ]
                )
            )
            self.add_import(body, module, statement)
        return updated_node.with_changes(body=body)

    def add_import(self, body: list, module: str, statement: cst.BaseSmallStatement) -> None:
        """Put an import behind the others, or into the one of that module."""
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
                if (
                    isinstance(small, cst.ImportFrom)
                    and not isinstance(small.names, cst.ImportStar)
                    and small.module is not None
                    and ".".join(dotted(small.module)) == module
                    and isinstance(statement, cst.ImportFrom)
                ):
                    small = small.with_changes(names=joined(small.names, statement.names[0]))
                    smalls = [*line.body[:j], small, *line.body[j + 1 :]]
                    body[i] = line.with_changes(body=smalls)
                    return
        body.insert(position, cst.SimpleStatementLine([statement]))

    # === Names ===

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        """Leave imports to `leave_SimpleStatementLine`."""
        return False

    def visit_Import(self, node: cst.Import) -> bool:
        """Leave imports to `leave_SimpleStatementLine`."""
        return False

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        """Rewrite names that stand alone."""
        if self.is_reference(original_node):
            return self.reference(original_node, updated_node)
        return updated_node

    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        """Rewrite dotted names and attributes."""
        name = original_node.attr.value
        if self.is_reference(original_node) and dotted(original_node):
            result = self.reference(original_node, updated_node)
            if result is not updated_node:
                return result
        if self.names.full(original_node) is None:
            if name in rules.ATTRIBUTES:
                return updated_node.with_changes(attr=cst.Name(rules.ATTRIBUTES[name]))
            if name == "lr" and m.matches(
                original_node.value, m.Attribute(attr=m.Name("optimizer")) | m.Name("optimizer")
            ):
                return updated_node.with_changes(attr=cst.Name("learning_rate"))
            if name in ("output_shape", "input_shape") and m.matches(
                original_node.value,
                m.Call(func=m.Attribute(attr=m.Name("get_layer")))
                | m.Subscript(value=m.Attribute(attr=m.Name("layers"))),
            ):
                part = name.removesuffix("_shape")
                inner = updated_node.with_changes(attr=cst.Name(part))
                return cst.Attribute(inner, cst.Name("shape"))
            if name in rules.ATTRIBUTE_MARKS and not self.handled(original_node):
                self.mark(rules.ATTRIBUTE_MARKS[name])
        return updated_node

    def handled(self, node: cst.Attribute) -> bool:
        """Tell whether a marked attribute is of something else, or is rewritten."""
        name = node.attr.value
        parent = self.get_metadata(ParentNodeProvider, node)
        if name == "truncate_sequence":
            return self.own_tokenizers and isinstance(parent, cst.Call) and len(parent.args) > 1
        if name == "add_metric" and isinstance(parent, cst.Call):
            return self.metric_owner(parent) is not None
        return not (self.stars or any("keras" in name for name in self.locals))

    def is_reference(self, node: cst.CSTNode) -> bool:
        """Tell whether a name is a whole name, and read."""
        parent = self.get_metadata(ParentNodeProvider, node)
        if isinstance(parent, cst.Attribute):
            return False
        inner = isinstance(parent, cst.Arg) and parent.keyword is node
        written = isinstance(parent, cst.AssignTarget | cst.Param | cst.FunctionDef | cst.ClassDef)
        return not (inner or written or isinstance(parent, cst.NameItem | cst.AsName))

    def reference(self, node: cst.BaseExpression, updated: cst.BaseExpression):
        """Rewrite a name that imports have bound."""
        bound = self.names.imported(root(node))
        if bound is None:
            return updated
        written, local = bound
        name = ".".join([written, *dotted(node)[1:]])
        final = today(name)
        if constant := covered(final, rules.EXPRESSIONS):
            result = cst.parse_expression(rules.EXPRESSIONS[constant])
            for part in final.split(".")[constant.count(".") + 1 :]:
                result = cst.Attribute(result, cst.Name(part))
            return result
        if final in rules.RESULTS:
            return cst.Call(cst.Name(self.need(rules.RESULTS[final])))
        if final in rules.GONE:
            return updated
        self.mark_name(final)
        if not local:  # what a star import brought
            if written == final and module_of(final) in self.stars and not self.missing(final):
                return updated
            if final == today(written) + name[len(written) :]:
                return expression(
                    self.need(today(written), root(node).value) + name[len(written) :]
                )
            return self.spelled(final, updated)
        base = today(written)
        rest = name.removeprefix(written)
        if final == base + rest and not base.startswith(f"{rules.K}."):
            new = self.renamed.get(local, local)
            return expression(new + rest) if new != local else updated
        return self.spelled(final, updated)

    def missing(self, name: str) -> bool:
        """Tell whether `from module import *` does not bring a name any more."""
        module, _, last = name.rpartition(".")
        return (
            last in rules.STAR_IMPORTS.get(module, {})
            and module.startswith("bert4keras")
            and (last not in rules.OWN_LAYERS)
        )

    def spelled(self, final: str, updated: cst.BaseExpression) -> cst.BaseExpression:
        """Write a full name with the local names that there are."""
        if final.startswith(f"{rules.K}."):
            return expression(self.need(rules.K) + final.removeprefix(rules.K))
        if module_of(final) in self.stars and not self.missing(final):
            return expression(final.removeprefix(f"{module_of(final)}."))
        head, rest = final, ""
        while head:
            if head in self.locals and (rest or head == final):
                return expression(self.locals[head] + rest)
            head, dot, last = head.rpartition(".")
            rest = f"{dot}{last}{rest}"
        if final.startswith("keras.") and isinstance(updated, cst.Attribute):
            return expression(self.need("keras") + final.removeprefix("keras"))
        module = module_of(final)
        name = final.removeprefix(f"{module}.").split(".")[0]
        thing = f"{module}.{name}" if module else name
        return expression(self.need(thing) + final.removeprefix(thing))

    def mark_name(self, final: str, imported: bool = False) -> None:
        """Mark what has no counterpart of the same shape."""
        found = covered(final, rules.MARKS)
        if self.unpacked and final == "bert4keras.snippets.get_all_attributes":
            return
        if found and not (imported and final.startswith(f"{rules.K}.")):
            self.mark(rules.MARKS[found])

    # === Decorators ===

    def leave_Decorator(self, original_node: cst.Decorator, updated_node: cst.Decorator):
        """Remove decorators that nothing needs."""
        name = self.names.full(original_node.decorator)
        if name and (name in rules.DECORATORS or today(name) in rules.DECORATORS):
            return cst.RemoveFromParent()
        return updated_node

    # === Calls ===

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        """Rewrite calls."""
        name = self.names.today(original_node.func)
        if name is not None:
            return self.call_of_name(name, original_node, updated_node)
        if isinstance(original_node.func, cst.Name):
            function = original_node.func.value
            if function in self.survey.optimizers:
                return self.with_arguments(updated_node, rules.OPTIMIZER_ARGUMENTS)
            if function in self.survey.gradient_functions and m.matches(
                self.get_metadata(ParentNodeProvider, original_node), m.Expr()
            ):
                self.mark(rules._STEP)
        if isinstance(original_node.func, cst.Attribute):
            return self.call_of_method(original_node, updated_node)
        return updated_node

    def call_of_name(self, name: str, original: cst.Call, call: cst.Call) -> cst.BaseExpression:
        """Rewrite a call of something imported."""
        if name in rules.CALLS and not call.args:
            text, needed = rules.CALLS[name]
            return cst.parse_expression(
                text.format(**{needed: self.need(needed)} if needed else {})
            )
        written = self.names.full(original.func)
        wrapper = replaced_prefix(written, rules.MODULES) or written
        if wrapper in rules.OPTIMIZER_WRAPPERS:
            return self.unwrapped_optimizer(wrapper, call)
        if name in rules.ARGUMENTS:
            call = self.with_arguments(call, rules.ARGUMENTS[name])
        if name.startswith("keras.optimizers.") and name.count(".") == 2:
            call = self.with_arguments(call, rules.OPTIMIZER_ARGUMENTS)
        if name.startswith(("keras.optimizers.", "bert4keras.optimizers.")):
            call = self.with_decay(call)
        if name == "bert4keras.models.build_transformer_model":
            call = self.old_build(call)
        if name == "bert4keras.tokenizers.Tokenizer":
            call = self.old_tokenizer(call)
        if name in ("keras.callbacks.ModelCheckpoint", "keras.models.load_model"):
            call = self.with_new_files(call)
        return call

    def call_of_method(self, original: cst.Call, call: cst.Call) -> cst.BaseExpression:
        """Rewrite a call of a method of anything."""
        method = original.func.attr.value
        receiver = call.func.value
        if method in rules.METHODS:
            rule = rules.METHODS[method]
            if rule.arguments.positional and any(arg.star for arg in call.args):
                self.mark(rules.Mark("graph", f"{rule.name}() with keyword arguments"))
                return call
            call = self.with_arguments(call, rule.arguments)
            if rule.name != method:
                call = call.with_changes(func=call.func.with_changes(attr=cst.Name(rule.name)))
            return self.marked_arguments(call)
        if method in rules.TOKENIZER_METHODS and self.own_tokenizers:
            call = self.with_arguments(call, rules.TOKENIZER_METHODS[method])
            call = self.marked_arguments(call)
            return sliced_tokens(call) if method == "tokenize" else call
        if method in rules.NODE_METHODS and len(call.args) == 1:
            function = self.need(f"bert4keras.legacy.{rules.NODE_METHODS[method]}")
            index = call.args[0].with_changes(keyword=None, equal=cst.MaybeSentinel.DEFAULT)
            return cst.Call(cst.Name(function), [cst.Arg(receiver), index])
        if method == "truncate_sequence" and self.own_tokenizers and len(call.args) > 1:
            return self.truncation(call)
        if method == "add_weight":
            return named_weight(call)
        if method in ("save", "save_weights", "load_weights"):
            return self.with_new_files(call)
        if method == "add_metric" and m.matches(receiver, m.Name("self")):
            return self.added_metric(original, call)
        return call

    def with_arguments(self, call: cst.Call, rule: rules.Arguments) -> cst.Call:
        """Apply the rule for the arguments of a call."""
        args: list[cst.Arg] = []
        for i, arg in enumerate(call.args):
            name = arg.keyword.value if arg.keyword else None
            if name is None and not arg.star and rule.positional and i:
                if i >= len(rule.positional):
                    return call
                if name := rule.positional[i]:
                    arg = with_keyword(arg, name)
            if name in rule.dropped:
                continue
            if name and rule.renamed and name in rule.renamed:
                name = rule.renamed[name]
                arg = arg.with_changes(keyword=cst.Name(name))
            values = (rule.values or {}).get(name or "", {})
            if (text := text_of(arg.value)) in values:
                arg = arg.with_changes(value=same_quotes(arg.value, values[text]))
            args.append(arg)
        return with_args(call, args)

    def marked_arguments(self, call: cst.Call) -> cst.Call:
        """Mark arguments that have no counterpart."""
        for arg in call.args:
            if arg.keyword and arg.keyword.value in rules.ARGUMENT_MARKS:
                self.mark(rules.ARGUMENT_MARKS[arg.keyword.value])
        return call

    def with_decay(self, call: cst.Call) -> cst.Call:
        """Make a schedule of a learning rate and `decay=`, which divided it by 1 + decay · step."""
        keywords = {arg.keyword.value: arg for arg in call.args if arg.keyword}
        if "decay" not in keywords:
            return call
        rate = next((k for k in ("learning_rate", "lr") if k in keywords), None)
        value = keywords["decay"].value
        args = [arg for arg in call.args if arg is not keywords["decay"]]
        if m.matches(value, m.Integer("0") | m.Float("0.0") | m.Float("0.")):
            return with_args(call, args)
        old = keywords[rate] if rate else (args[0] if args and not args[0].keyword else None)
        if old is None:
            self.mark(rules.Mark("graph", f"learning_rate={SCHEDULE}(...) in place of decay="))
            return call
        keras = self.need("keras")
        schedule = cst.Call(
            expression(keras + SCHEDULE.removeprefix("keras")),
            [cst.Arg(part) for part in (old.value, cst.Integer("1"), value)],
        )
        return with_args(
            call, [arg.with_changes(value=schedule) if arg is old else arg for arg in args]
        )

    def unwrapped_optimizer(self, name: str, call: cst.Call) -> cst.BaseExpression:
        """Turn `Wrapper(Optimizer(…), x)` into `extend_with_…(Optimizer)(…, argument=x)`."""
        extend, old, new = rules.OPTIMIZER_WRAPPERS[name]
        inner = call.args[0].value if call.args else None
        given = next((a for a in call.args[1:] if not a.keyword or a.keyword.value == old), None)
        if not isinstance(inner, cst.Call) or given is None or len(call.args) != 2:
            self.mark(rules.Mark("graph", f"{extend.rpartition('.')[2]}(Adam)(1e-5, {new}=...)"))
            return call
        extended = cst.Call(call.func, [cst.Arg(inner.func)])
        argument = with_keyword(cst.Arg(given.value), new)
        return with_args(inner.with_changes(func=extended), [*inner.args, argument])

    def old_build(self, call: cst.Call) -> cst.Call:
        """Rewrite `albert=True` and `seq2seq=True`, which `build_bert_model` took."""
        args = []
        for arg in call.args:
            name = arg.keyword.value if arg.keyword else None
            new = {"albert": ("model", "'albert'"), "seq2seq": ("application", "'unilm'")}.get(name)
            if new is None:
                args.append(arg)
            elif m.matches(arg.value, m.Name("True") | m.SimpleString()):
                value = cst.SimpleString(new[1])
                args.append(arg.with_changes(keyword=cst.Name(new[0]), value=value))
            elif not m.matches(arg.value, m.Name("False")):
                default = "'bert'" if name == "albert" else "'encoder'"
                value = cst.IfExp(arg.value, cst.SimpleString(new[1]), cst.SimpleString(default))
                args.append(arg.with_changes(keyword=cst.Name(new[0]), value=value))
        return with_args(call, args)

    def old_tokenizer(self, call: cst.Call) -> cst.Call:
        """Rewrite `case_sensitive=`, the opposite of `do_lower_case=`."""
        args = []
        for arg in call.args:
            if arg.keyword and arg.keyword.value == "case_sensitive":
                opposite = {"True": "False", "False": "True"}.get(getattr(arg.value, "value", ""))
                value = cst.Name(opposite) if opposite else cst.UnaryOperation(cst.Not(), arg.value)
                arg = arg.with_changes(keyword=cst.Name("do_lower_case"), value=value)
            args.append(arg)
        return with_args(call, args)

    def truncation(self, call: cst.Call) -> cst.BaseExpression:
        """Rewrite `tokenizer.truncate_sequence(length, first, second, index)`."""
        order = ("maxlen", "first_sequence", "second_sequence", "pop_index")
        given = {order[i]: arg.value for i, arg in enumerate(call.args) if not arg.keyword}
        given |= {
            arg.keyword.value.replace("max_length", "maxlen"): arg.value
            for arg in call.args
            if arg.keyword
        }
        index = given.get("pop_index", cst.parse_expression("-1"))
        sequences = [given["first_sequence"]]
        if not m.matches(given.get("second_sequence", cst.Name("None")), m.Name("None")):
            sequences.append(given["second_sequence"])
        function = self.need("bert4keras.snippets.truncate_sequences")
        return cst.Call(
            cst.Name(function), [cst.Arg(v) for v in (given["maxlen"], index, *sequences)]
        )

    def with_new_files(self, call: cst.Call) -> cst.Call:
        """Use the new names of files that Keras 3 wants to end otherwise."""
        for i, arg in enumerate(call.args):
            text = text_of(arg.value)
            if text in self.survey.files:
                new = arg.with_changes(value=same_quotes(arg.value, self.survey.files[text]))
                return call.with_changes(args=[*call.args[:i], new, *call.args[i + 1 :]])
        return call

    def lone_call(self, old: cst.Call, new: cst.Expr) -> list[cst.BaseSmallStatement]:
        """Rewrite a call that is a statement of its own."""
        name = self.names.today(old.func)
        if name in rules.USELESS_CALLS:
            return []
        if self.unpacked and m.matches(old, EVERYTHING_OF):
            module = self.names.today(old.args[0].value.args[0].value)
            if module is not None:
                return [cst.ImportFrom(expression(module), cst.ImportStar())]
        if m.matches(old.func, m.Attribute(value=m.Name(), attr=m.Name("add_loss"))):
            return self.added_loss(old, new)
        return [new]

    def added_loss(self, old: cst.Call, new: cst.Expr) -> list[cst.BaseSmallStatement]:
        """Rewrite `model.add_loss(x)`, which is a new model now."""
        receiver = old.func.value
        scope = self.get_metadata(ScopeProvider, receiver)
        if receiver.value == "self" or len(old.args) != 1:
            return [new]
        if scope is None or receiver.value not in {a.name for a in scope.assignments}:
            self.mark(rules.Mark("graph", "model = with_loss(model, loss) of bert4keras.legacy"))
            return [new]
        function = cst.Name(self.need("bert4keras.legacy.with_loss"))
        args = [cst.Arg(receiver), *new.value.args]
        target = cst.AssignTarget(cst.Name(receiver.value))
        call = with_args(cst.Call(function), args)
        return [cst.Assign([target], call)]

    # === Metrics of layers ===

    def added_metric(self, original: cst.Call, call: cst.Call) -> cst.BaseExpression:
        """Rewrite `self.add_metric(value, name=…)`, which is an attribute of the layer now."""
        given = {a.keyword.value if a.keyword else "value": a.value for a in call.args}
        name = text_of(given.get("name"))
        owner = self.metric_owner(original)
        if owner is None or "value" not in given:
            return call
        attribute = f"{name}_metric"
        self.metrics.setdefault(owner, {})[attribute] = name
        update = expression(f"self.{attribute}.update_state")
        return cst.Call(update, [cst.Arg(given["value"])])

    def metric_owner(self, call: cst.Call) -> cst.ClassDef | None:
        """The class of a layer that can be given a metric: it has no `__init__` of its own."""
        name = next((a.value for a in call.args if a.keyword and a.keyword.value == "name"), None)
        if not (text_of(name) or "").isidentifier():
            return None
        node = call
        while not isinstance(node, cst.ClassDef | cst.Module):
            node = self.get_metadata(ParentNodeProvider, node)
        if isinstance(node, cst.Module) or m.findall(
            node, m.FunctionDef(name=m.Name("__init__") | m.Name("add_metric"))
        ):
            return None
        return node

    def leave_ClassDef(self, original_node: cst.ClassDef, updated_node: cst.ClassDef):
        """Give a layer the metrics that it reports."""
        metrics = self.metrics.get(original_node)
        if not metrics:
            return updated_node
        keras = self.need("keras")
        lines = "".join(
            f"    self.{attribute} = {keras}.metrics.Mean(name={name!r})\n"
            for attribute, name in metrics.items()
        )
        method = cst.parse_statement(
            f"def __init__(self, *args, **kwargs):\n    super().__init__(*args, **kwargs)\n{lines}"
        )
        body = list(updated_node.body.body)
        documented = m.matches(
            body[0], m.SimpleStatementLine(body=[m.Expr(m.SimpleString()), m.ZeroOrMore()])
        )
        following = body[documented]
        if not following.leading_lines:
            blank = cst.EmptyLine(indent=False)
            following = following.with_changes(leading_lines=[blank])
        body[documented:] = [method, following, *body[documented + 1 :]]
        return updated_node.with_changes(body=updated_node.body.with_changes(body=body))

    # === Literals ===

    def leave_SimpleString(
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.SimpleString:
        """Rename layers and metrics that strings name."""
        text = text_of(original_node)
        if text is None:
            return updated_node
        if found := re.fullmatch(rules.LAYER_NAME, text):
            new = f"Transformer-{int(found[1]) - 1}-{found[2]}"
            return same_quotes(updated_node, new)
        if text in rules.LOSSES:
            return same_quotes(updated_node, rules.LOSSES[text])
        if text in ("acc", "val_acc") and "accuracy" in self.survey.accuracy - {"acc"}:
            return same_quotes(updated_node, text.replace("acc", "accuracy"))
        return updated_node


# --------------------------------------------------------------------------------- pieces of syntax


def all_of(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
    """A node and all below it."""
    yield node
    yield from own_nodes(node)


def is_statement(node: cst.CSTNode) -> bool:
    """Tell whether a node is a statement that comments can stand above."""
    return isinstance(node, cst.SimpleStatementLine | cst.BaseCompoundStatement)


def without_semicolon(statement: cst.BaseSmallStatement) -> cst.BaseSmallStatement:
    """A statement with the separator that its place asks for."""
    return statement.with_changes(semicolon=cst.MaybeSentinel.DEFAULT)


def import_statement(module: str, names: Iterable[tuple[str, str]]) -> cst.BaseSmallStatement:
    """Make `from module import name as local, …`."""
    aliases = [
        cst.ImportAlias(cst.Name(name), None if name == local else cst.AsName(cst.Name(local)))
        for name, local in names
    ]
    return cst.ImportFrom(expression(module), aliases)


def joined(names: Sequence[cst.ImportAlias], added: cst.ImportAlias) -> list[cst.ImportAlias]:
    """Add a name to the names of an import, whose layout stays."""
    *rest, last = names
    if any(alias.evaluated_name == added.evaluated_name for alias in names):
        return list(names)
    space = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    if isinstance(last.comma, cst.MaybeSentinel):
        return [*rest, last.with_changes(comma=space), added]
    between = rest[-1].comma if rest else space
    return [*rest, last.with_changes(comma=between), added.with_changes(comma=last.comma)]


def with_args(call: cst.Call, args: Sequence[cst.Arg]) -> cst.Call:
    """A call with other arguments; what stood behind the last one stays there."""
    if len(args) == len(call.args) or not call.args:
        return call.with_changes(args=args)
    args = list(args)
    if args:
        last, old = args[-1], call.args[-1]
        if len(args) > len(call.args):
            before = args[-2]
            comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
            if isinstance(before.comma, cst.MaybeSentinel):
                args[-2] = before.with_changes(comma=comma)
            else:
                between = args[0].comma if len(args) > 2 else comma
                last = last.with_changes(comma=before.comma)
                args[-2] = before.with_changes(comma=between)
            space = before.whitespace_after_arg
            args[-2] = args[-2].with_changes(whitespace_after_arg=cst.SimpleWhitespace(""))
            args[-1] = last.with_changes(whitespace_after_arg=space)
        elif last is not old:
            args[-1] = last.with_changes(
                comma=old.comma, whitespace_after_arg=old.whitespace_after_arg
            )
    return call.with_changes(args=args)


def with_keyword(arg: cst.Arg, name: str) -> cst.Arg:
    """A positional argument, given by name."""
    equal = cst.AssignEqual(cst.SimpleWhitespace(""), cst.SimpleWhitespace(""))
    return arg.with_changes(keyword=cst.Name(name), equal=equal)


def same_quotes(literal: cst.SimpleString, text: str) -> cst.SimpleString:
    """Another text in the quotes of a literal."""
    start, _, end = literal.value.partition(literal.raw_value)
    return cst.SimpleString(f"{start}{text}{end}")


def named_weight(call: cst.Call) -> cst.Call:
    """Give the arguments of `add_weight` by name if a name comes first, as it did in Keras 2."""
    order = ("name", "shape", "dtype", "initializer")
    first = call.args[0].value if call.args and not call.args[0].keyword else None
    texts = m.SimpleString() | m.FormattedString() | m.BinaryOperation(left=m.SimpleString())
    if first is None or not m.matches(first, texts):
        return call
    args = [
        arg if arg.keyword or arg.star or i >= len(order) else with_keyword(arg, order[i])
        for i, arg in enumerate(call.args)
    ]
    return call.with_changes(args=args)


def sliced_tokens(call: cst.Call) -> cst.BaseExpression:
    """Rewrite `tokenize(text, add_cls=False, add_sep=False)` to a slice of all tokens."""
    cut = {"add_cls": "", "add_sep": ""}
    args = []
    for arg in call.args:
        name = arg.keyword.value if arg.keyword else None
        if name not in cut:
            args.append(arg)
        elif m.matches(arg.value, m.Name("False")):
            cut[name] = "1" if name == "add_cls" else "-1"
        elif not m.matches(arg.value, m.Name("True")):
            return call
    call = with_args(call, args)
    if not any(cut.values()):
        return call
    text = cst.parse_expression(f"x[{cut['add_cls']}:{cut['add_sep']}]")
    return text.with_changes(value=call)
