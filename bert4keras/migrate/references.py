"""Rewriting of names and attributes."""

import ast

from bert4keras.migrate import rules
from bert4keras.migrate.imports import import_from, plain_import
from bert4keras.migrate.names import Meaning, in_backend, longest_prefix, module_of
from bert4keras.migrate.parts import Rewriter
from bert4keras.migrate.scopes import Scope
from bert4keras.migrate.source import dotted, is_name


class References(Rewriter):
    """Rewrites the names and attributes of a script."""

    def rewrite(self, node: ast.Name | ast.Attribute) -> None:
        """Rewrite a name, dotted or not, or an attribute of any object."""
        meaning = self.names.meaning(node)
        if meaning is not None and meaning.full:
            if self.is_whole(node) and (text := self.of_import(node, meaning)) is not None:
                self.put(node, text)
        elif isinstance(node, ast.Attribute) and meaning is None:
            self.of_anything(node)

    def rewrite_alias(self, statement: ast.Assign) -> bool:
        """Replace `Model = keras.models.Model` by an import if that name has moved."""
        target, value = statement.targets[0], statement.value
        meaning = self.names.meaning(value)
        if meaning is None or not meaning.full or self.of_import(value, meaning) != target.id:
            return False
        final = self.names.new_name(meaning.whole)
        module, _, name = final.rpartition(".")
        pair = name, target.id
        line = import_from(module, [pair]) if module else plain_import(*pair)
        self.edits.replace(self.source.span(statement), line)
        return True

    def put(self, node: ast.Name | ast.Attribute, text: str) -> None:
        """Replace the code of a name."""
        written = self.source.code(node)
        # Within f-strings the positions that Python gives may be wrong.
        parts = dotted(node)
        if written.startswith(parts[0]) and written.endswith(parts[-1]):
            self.edits.replace(self.source.span(node), text)
        else:
            self.comments.mark(node, rules.Mark("names", f"{'.'.join(parts)} is {text} now"))

    def is_whole(self, node: ast.Name | ast.Attribute) -> bool:
        """Tell whether a name is not part of a longer one, and is read."""
        if not isinstance(node.ctx, ast.Load):
            return False
        parent = self.source.parents[node]
        return not (isinstance(parent, ast.Attribute) and self.names.full(parent))

    # === Imported names ===

    def of_import(self, node: ast.Name | ast.Attribute, meaning: Meaning) -> str | None:
        """Return the new code of an imported name; None if it does not change."""
        final = self.names.new_name(meaning.whole)
        if constant := longest_prefix(final, rules.EXPRESSIONS):
            return rules.EXPRESSIONS[constant] + final.removeprefix(constant)
        if final in rules.RESULTS:
            return f"{self.imports.need(node, rules.RESULTS[final])}()"
        if final in self.survey.gone:
            return None
        if meaning.rest or meaning.starred or longest_prefix(final, rules.MARKS):
            self.comments.mark_name(node, meaning.whole)
        rest = "".join(f".{part}" for part in meaning.rest)
        base = self.names.new_name(meaning.full)
        if final != base + rest or in_backend(base):
            return self.spelled(node, final)
        if meaning.starred and not (meaning.full == base and self.is_starred(base)):
            return self.imports.need(node, base, dotted(node)[0]) + rest
        new = self.imports.renamed.get(meaning.local, meaning.local)
        return new + rest if new != meaning.local else None

    def is_starred(self, name: str) -> bool:
        """Tell whether a star import of the script still binds a full name in new versions."""
        module, _, last = name.rpartition(".")
        missing = (
            module.startswith("bert4keras")
            and last in rules.STAR_IMPORTS.get(module, {})
            and last not in rules.OWN_LAYERS
        )
        return module_of(name) in self.names.stars and not missing

    def spelled(self, node: ast.expr, final: str) -> str:
        """Return the code of a full name, by existing local names or an additional import."""
        scope = self.scope_of_import(node)
        if in_backend(final):
            return self.imports.need(node, rules.K, scope=scope) + final.removeprefix(rules.K)
        module = module_of(final)
        if self.is_starred(final):
            return final.removeprefix(f"{module}.")
        if found := self.imports.local(node, final):
            return found
        if final.startswith("keras.") and isinstance(node, ast.Attribute):
            keras = self.imports.need(node, "keras", scope=scope)
            return keras + final.removeprefix("keras")
        name = final.removeprefix(f"{module}.").split(".")[0]
        thing = f"{module}.{name}" if module else name
        return self.imports.need(node, thing, scope=scope) + final.removeprefix(thing)

    def scope_of_import(self, node: ast.expr) -> Scope | None:
        """Return the scope of the function that imports the first part of a name, or None."""
        meaning = self.names.meaning(node)
        scope = meaning and meaning.scope
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        return scope if scope and isinstance(scope.node, functions) else None

    # === Attributes of any object ===

    def of_anything(self, node: ast.Attribute) -> None:
        """Rewrite an attribute by its name, or mark it."""
        name = node.attr
        if name in rules.ATTRIBUTES:
            self.rename(node, rules.ATTRIBUTES[name])
        elif name == "lr" and is_optimizer(node.value):
            self.rename(node, "learning_rate")
        elif name in ("output_shape", "input_shape") and self.is_layer(node.value):
            self.rename(node, f"{name.removesuffix('_shape')}.shape")
        elif name in rules.NODES and self.survey.related:
            self.call(node, rules.NODES[name])
        elif name in rules.LAYER_NODES and self.is_layer(node.value):
            self.call(node, rules.LAYER_NODES[name])
        elif name in rules.ATTRIBUTE_MARKS and not self.is_fine(node):
            self.comments.mark(node, rules.ATTRIBUTE_MARKS[name])

    def rename(self, node: ast.Attribute, name: str) -> None:
        """Rename an attribute."""
        end = self.source.end(node)
        span = end - len(node.attr), end
        if self.source.text[span[0] : span[1]] == node.attr:
            self.edits.replace(span, name)

    def call(self, node: ast.Attribute, function: str) -> None:
        """Replace an attribute by a call of a function of `bert4keras.legacy`."""
        if isinstance(node.ctx, ast.Load):
            local = self.imports.need(node, f"bert4keras.legacy.{function}")
            pieces = f"{local}(", self.source.span(node.value), ")"
            self.edits.replace(self.source.span(node), *pieces)

    def is_layer(self, node: ast.expr) -> bool:
        """Tell whether an expression is a layer, such as `model.get_layer(…)`."""
        if isinstance(node, ast.Name):
            found = self.names.scopes.bindings_of(node)
            values = [x.value for x in found[1] if x.value is not None] if found else []
            return any(self.is_layer(x) for x in values if not isinstance(x, ast.Name))
        if isinstance(node, ast.Call):
            made = self.names.new_name_of(node.func) if dotted(node.func) else None
            is_made = (made or "").startswith(("keras.layers.", "bert4keras.layers."))
            is_found = getattr(node.func, "attr", "") == "get_layer"
            return is_made or is_found or made == "bert4keras.backend.search_layer"
        return isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "layers"

    def is_fine(self, node: ast.Attribute) -> bool:
        """Tell whether an attribute needs no mark, since it is another one or is rewritten."""
        name, parent = node.attr, self.source.parents[node]
        if name == "truncate_sequence":
            called = isinstance(parent, ast.Call) and len(parent.args) + len(parent.keywords) > 1
            return called and self.survey.own_tokenizers
        if name == "add_metric" and isinstance(parent, ast.Call):
            return self.metrics.owner(parent) is not None
        return not self.survey.related


def is_optimizer(node: ast.expr) -> bool:
    """Tell whether an expression has the name `optimizer`."""
    return is_name(node, "optimizer") or getattr(node, "attr", "") == "optimizer"
