"""The metrics that layers report: `add_metric` becomes an attribute of the layer."""

from collections.abc import Mapping

import libcst as cst
import libcst.matchers as m

from bert4keras.migrate.imports import Imports
from bert4keras.migrate.syntax import call_of, keyword_of, keywords_of, text_of

DOCSTRING = m.SimpleStatementLine(body=[m.Expr(m.SimpleString()), m.ZeroOrMore()])


class Metrics:
    """The metrics of the layers of a script.

    Args:
        parents: what every node is part of.
        imports: the imports of the script.
    """

    def __init__(self, parents: Mapping[cst.CSTNode, cst.CSTNode], imports: Imports):
        self.parents = parents
        self.imports = imports
        self.found: dict[cst.ClassDef, dict[str, str]] = {}

    def owner(self, call: cst.Call) -> cst.ClassDef | None:
        """The class of a layer that can be given a metric: it has no `__init__` of its own."""
        if not (text_of(keywords_of(call).get("name")) or "").isidentifier():
            return None
        node = call
        while not isinstance(node, cst.ClassDef | cst.Module):
            node = self.parents[node]
        if isinstance(node, cst.Module) or m.findall(
            node, m.FunctionDef(name=m.Name("__init__") | m.Name("add_metric"))
        ):
            return None
        return node

    def updated(self, original: cst.Call, call: cst.Call) -> cst.Call:
        """Rewrite `self.add_metric(value, name=…)`."""
        given = {keyword_of(arg) or "value": arg.value for arg in call.args}
        owner = self.owner(original)
        if owner is None or "value" not in given:
            return call
        name = text_of(given["name"])
        attribute = f"{name}_metric"
        self.found.setdefault(owner, {})[attribute] = name
        return call_of(f"self.{attribute}.update_state", given["value"])

    def constructed(self, original: cst.ClassDef, updated: cst.ClassDef) -> cst.ClassDef:
        """Give a layer the metrics that it reports."""
        metrics = self.found.get(original)
        if not metrics:
            return updated
        keras = self.imports.need("keras")
        lines = "".join(
            f"    self.{attribute} = {keras}.metrics.Mean(name={name!r})\n"
            for attribute, name in metrics.items()
        )
        method = cst.parse_statement(
            f"def __init__(self, *args, **kwargs):\n    super().__init__(*args, **kwargs)\n{lines}"
        )
        body = list(updated.body.body)
        start = int(m.matches(body[0], DOCSTRING))
        following = body[start]
        if not following.leading_lines:
            following = following.with_changes(leading_lines=[cst.EmptyLine(indent=False)])
        body[start : start + 1] = [method, following]
        return updated.with_changes(body=updated.body.with_changes(body=body))
