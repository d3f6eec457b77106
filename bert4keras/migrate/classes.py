"""Rewriting of classes in scripts: callbacks and layers."""

import ast

from bert4keras.migrate import rules
from bert4keras.migrate.parts import Rewriter
from bert4keras.migrate.source import dotted, is_name

CHECKPOINT = "bert4keras.legacy.ModelCheckpoint"
EARLY = ("__init__", "build", "compute_output_shape")
"""Methods of a layer that Keras 3 calls before it computes the output shape."""


class Classes(Rewriter):
    """Rewrites the classes of a script."""

    def rewrite(self, node: ast.ClassDef) -> None:
        """Rewrite a class, or mark it."""
        bases = [self.names.new_name_of(x) or "" for x in node.bases if dotted(x)]
        if any(x.startswith("keras.callbacks.") or x == CHECKPOINT for x in bases):
            self.rewrite_callback(node)
        else:
            self.mark_late_shape(node)

    def rewrite_callback(self, node: ast.ClassDef) -> None:
        """Rewrite assignments to `model` of a callback, which is read-only, to `set_model`."""
        for each in ast.walk(node):
            match each:
                case ast.Assign(targets=[ast.Attribute(attr="model") as target], value=value):
                    if is_name(target.value, "self"):
                        span = self.source.start(each), self.source.end(each)
                        pieces = "self.set_model(", self.source.span(value), ")"
                        self.edits.replace(span, *pieces)

    def mark_late_shape(self, node: ast.ClassDef) -> None:
        """Mark a layer whose `compute_output_shape` needs attributes that only `call` sets.

        Keras 2 called `call` first, unlike Keras 3.
        """
        methods = {x.name: x for x in node.body if isinstance(x, ast.FunctionDef)}
        if not {"call", "compute_output_shape"} <= methods.keys():
            return
        early = {y for name in EARLY if name in methods for y in assigned(methods[name])}
        late = assigned(methods["call"]) - early
        read = {
            x.attr
            for x in ast.walk(methods["compute_output_shape"])
            if isinstance(x, ast.Attribute) and is_name(x.value, "self")
        }
        for name in sorted(late & read):
            advice = f"set self.{name} in build(): Keras 3 computes the shape before call()"
            self.comments.mark(methods["compute_output_shape"], rules.Mark("graph", advice))


def assigned(method: ast.FunctionDef) -> set[str]:
    """The attributes of `self` that a method sets."""
    return {
        x.attr
        for x in ast.walk(method)
        if isinstance(x, ast.Attribute)
        and isinstance(x.ctx, ast.Store)
        and is_name(x.value, "self")
    }
