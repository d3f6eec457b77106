"""Names and attributes: what they refer to, and how that is written now."""

from collections.abc import Mapping
from dataclasses import dataclass

import libcst as cst
import libcst.matchers as m

from bert4keras.migrate import rules
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.imports import Imports
from bert4keras.migrate.metrics import Metrics
from bert4keras.migrate.names import covered, in_backend, module_of, replaced_prefix, today
from bert4keras.migrate.survey import Survey
from bert4keras.migrate.syntax import dotted, expression, root

OPTIMIZER = m.Attribute(attr=m.Name("optimizer")) | m.Name("optimizer")
LAYER = m.Call(func=m.Attribute(attr=m.Name("get_layer"))) | m.Subscript(
    value=m.Attribute(attr=m.Name("layers"))
)


@dataclass
class References:
    """The rewriting of the names and attributes of a script."""

    survey: Survey
    imports: Imports
    comments: Comments
    metrics: Metrics
    parents: Mapping[cst.CSTNode, cst.CSTNode]

    def rewritten(
        self, original: cst.Name | cst.Attribute, updated: cst.BaseExpression
    ) -> cst.BaseExpression:
        """Rewrite a name, dotted or not, or an attribute of anything."""
        if self.is_whole(original) and dotted(original):
            result = self.of_import(original, updated)
            if result is not updated:
                return result
        if isinstance(original, cst.Attribute) and self.survey.names.full(original) is None:
            return self.of_anything(original, updated)
        return updated

    def is_whole(self, node: cst.Name | cst.Attribute) -> bool:
        """Tell whether a name is a whole name, and read."""
        parent = self.parents[node]
        if isinstance(parent, cst.Arg):
            return parent.keyword is not node
        return not isinstance(
            parent,
            cst.Attribute
            | cst.AssignTarget
            | cst.Param
            | cst.FunctionDef
            | cst.ClassDef
            | cst.NameItem
            | cst.AsName,
        )

    # === What is imported ===

    def of_import(
        self, node: cst.Name | cst.Attribute, updated: cst.BaseExpression
    ) -> cst.BaseExpression:
        """Rewrite a name that imports have bound."""
        bound = self.survey.names.imported(root(node))
        if bound is None:
            return updated
        written, local = bound
        rest = "".join(f".{part}" for part in dotted(node)[1:])
        final = today(written + rest)
        if constant := covered(final, rules.EXPRESSIONS):
            result = cst.parse_expression(rules.EXPRESSIONS[constant])
            for part in final.split(".")[constant.count(".") + 1 :]:
                result = cst.Attribute(result, cst.Name(part))
            return result
        if final in rules.RESULTS:
            return cst.Call(cst.Name(self.imports.need(rules.RESULTS[final])))
        if final in self.survey.gone:
            return updated
        self.comments.mark_name(final)
        base = today(written)
        if final != base + rest or in_backend(base):
            return self.spelled(final, updated)
        if not local:  # what a star import brought
            if written == final and self.is_starred(final):
                return updated
            return expression(self.imports.need(base, root(node).value) + rest)
        new = self.imports.renamed.get(local, local)
        return expression(new + rest) if new != local else updated

    def is_starred(self, name: str) -> bool:
        """Tell whether `from module import *` of the script brings a full name, still today."""
        module, _, last = name.rpartition(".")
        missing = (
            module.startswith("bert4keras")
            and last in rules.STAR_IMPORTS.get(module, {})
            and last not in rules.OWN_LAYERS
        )
        return module_of(name) in self.survey.names.stars and not missing

    def spelled(self, final: str, updated: cst.BaseExpression) -> cst.BaseExpression:
        """Write a full name with the local names that there are, or with an import."""
        if in_backend(final):
            return expression(self.imports.need(rules.K) + final.removeprefix(rules.K))
        module = module_of(final)
        if self.is_starred(final):
            return expression(final.removeprefix(f"{module}."))
        if found := replaced_prefix(final, self.imports.locals):
            return expression(found)
        if final.startswith("keras.") and isinstance(updated, cst.Attribute):
            return expression(self.imports.need("keras") + final.removeprefix("keras"))
        name = final.removeprefix(f"{module}.").split(".")[0]
        thing = f"{module}.{name}" if module else name
        return expression(self.imports.need(thing) + final.removeprefix(thing))

    # === Attributes of anything ===

    def of_anything(self, original: cst.Attribute, updated: cst.Attribute) -> cst.BaseExpression:
        """Rewrite an attribute by its name, or mark it."""
        name = original.attr.value
        if name in rules.ATTRIBUTES:
            return updated.with_changes(attr=cst.Name(rules.ATTRIBUTES[name]))
        if name == "lr" and m.matches(original.value, OPTIMIZER):
            return updated.with_changes(attr=cst.Name("learning_rate"))
        if name in ("output_shape", "input_shape") and m.matches(original.value, LAYER):
            inner = updated.with_changes(attr=cst.Name(name.removesuffix("_shape")))
            return cst.Attribute(inner, cst.Name("shape"))
        if name in rules.ATTRIBUTE_MARKS and not self.is_fine(original):
            self.comments.mark(rules.ATTRIBUTE_MARKS[name])
        return updated

    def is_fine(self, node: cst.Attribute) -> bool:
        """Tell whether a marked attribute is of something else, or is rewritten."""
        name, parent = node.attr.value, self.parents[node]
        if name == "truncate_sequence":
            called = isinstance(parent, cst.Call) and len(parent.args) > 1
            return called and self.survey.own_tokenizers
        if name == "add_metric" and isinstance(parent, cst.Call):
            return self.metrics.owner(parent) is not None
        return not (self.survey.names.stars or any("keras" in each for each in self.imports.locals))
