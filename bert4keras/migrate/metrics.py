"""Replacement of `add_metric` of layers by attributes that are metrics."""

import ast

from bert4keras.migrate.edits import Edits
from bert4keras.migrate.imports import Imports
from bert4keras.migrate.source import Arg, Source, text_of


class Metrics:
    """Rewrites the metrics of the layers of a script."""

    def __init__(self, source: Source, imports: Imports, edits: Edits):
        self.source = source
        self.imports = imports
        self.edits = edits
        self.found: dict[ast.ClassDef, dict[str, str]] = {}

    def given(self, call: ast.Call) -> dict[str, Arg]:
        """Return the arguments of `add_metric` by name, in the order of Keras 2.3."""
        order = ("value", "name", "aggregation")
        args = self.source.args(call)
        return {arg.name or order[min(i, 2)]: arg for i, arg in enumerate(args)}

    def owner(self, call: ast.Call) -> ast.ClassDef | None:
        """Return the class of the layer that reports a metric; None if it cannot be rewritten."""
        given = self.given(call)
        name = text_of(given["name"].value) if "name" in given else None
        owner = self.source.enclosing(call, ast.ClassDef)
        if not name or "value" not in given or owner is None:
            return None
        return None if method_of(owner, "add_metric") else owner

    def rewrite(self, call: ast.Call) -> None:
        """Rewrite `self.add_metric(value, name=…)`."""
        owner = self.owner(call)
        if owner is None:
            return
        given = self.given(call)
        name = text_of(given["name"].value)
        attribute = "".join(x if x.isidentifier() or x.isdigit() else "_" for x in name) + "_metric"
        attribute = attribute if attribute.isidentifier() else f"_{attribute}"
        self.found.setdefault(owner, {})[attribute] = name
        new = f"self.{attribute}.update_state("
        self.edits.replace(self.source.span(call), new, given["value"].value_span, ")")

    def write(self) -> None:
        """Add the metrics to the constructors of the layers."""
        for owner, metrics in self.found.items():
            keras = self.imports.need(owner, "keras")
            lines = [
                f"self.{attribute} = {keras}.metrics.Mean(name={name!r})"
                for attribute, name in metrics.items()
            ]
            if constructor := method_of(owner, "__init__"):
                self.edits.add_lines(constructor.body[-1], lines)
                continue
            head = ["def __init__(self, *args, **kwargs):", "    super().__init__(*args, **kwargs)"]
            self.edits.insert_statement(owner, [*head, *(f"    {line}" for line in lines)])


def method_of(owner: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    """Return a method of a class, or None."""
    methods = [x for x in owner.body if isinstance(x, ast.FunctionDef) and x.name == name]
    return methods[0] if methods else None
