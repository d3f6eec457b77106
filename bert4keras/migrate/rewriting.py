"""A script is walked once; what happens to each part of it is in the module for that part."""

import re

import libcst as cst
from libcst.metadata import (
    MetadataWrapper,
    ParentNodeProvider,
    PositionProvider,
    ScopeProvider,
)

from bert4keras.migrate import rules
from bert4keras.migrate.calls import Calls
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.imports import Imports
from bert4keras.migrate.metrics import Metrics
from bert4keras.migrate.references import References
from bert4keras.migrate.survey import Survey
from bert4keras.migrate.syntax import same_quotes, text_of, without_semicolon


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
    script = MetadataWrapper(module)
    new = script.visit(Migration(source, script)).code
    # What is imported now can bring further rules with it.
    return new if new == source else migrate(new)


class Migration(cst.CSTTransformer):
    """The rewriting of one script."""

    def __init__(self, source: str, script: MetadataWrapper):
        super().__init__()
        self.parents = script.resolve(ParentNodeProvider)
        self.survey = Survey(script.module, script.resolve(ScopeProvider))
        self.comments = Comments(source, script.resolve(PositionProvider))
        self.imports = Imports(script.module, self.survey, self.comments)
        self.metrics = Metrics(self.parents, self.imports)
        parts = (self.survey, self.imports, self.comments, self.metrics, self.parents)
        self.references = References(*parts)
        self.calls = Calls(*parts)

    # === Everything ===

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Gather the comments of each statement by itself."""
        self.comments.enter(node)
        if node in self.survey.gradient_functions:
            # One comment for all of the function.
            self.comments.mark(rules.GRADIENTS)
            self.comments.muted += 1
        return super().on_visit(node)

    def on_leave(self, original_node, updated_node):
        """Put the comments where they belong."""
        updated_node = super().on_leave(original_node, updated_node)
        if original_node in self.survey.gradient_functions:
            self.comments.muted -= 1
        return self.comments.leave(original_node, updated_node)

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        """Add the imports that are needed."""
        return self.imports.added_to(updated_node)

    # === Statements ===

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement | cst.FlattenSentinel | cst.RemovalSentinel:
        """Rewrite imports, and statements that become others."""
        statements: list[cst.BaseSmallStatement] = []
        for old, new in zip(original_node.body, updated_node.body, strict=True):
            statements += self.statements_for(old, new)
        if statements == list(updated_node.body):
            return updated_node
        if not statements:
            return self.without(original_node, updated_node)
        statements = [without_semicolon(statement) for statement in statements]
        if len(updated_node.body) > 1:
            return updated_node.with_changes(body=statements)
        lines = [cst.SimpleStatementLine([statement]) for statement in statements]
        lines[0] = lines[0].with_changes(leading_lines=updated_node.leading_lines)
        lines[-1] = lines[-1].with_changes(trailing_whitespace=updated_node.trailing_whitespace)
        return cst.FlattenSentinel(lines)

    def statements_for(
        self, old: cst.BaseSmallStatement, new: cst.BaseSmallStatement
    ) -> list[cst.BaseSmallStatement]:
        """What one statement becomes: itself, others, or nothing."""
        if isinstance(old, cst.Import | cst.ImportFrom):
            return self.imports.rewritten(old)
        if isinstance(old, cst.Expr) and isinstance(old.value, cst.Call):
            return self.calls.alone(old.value, new)
        return [new]

    def without(
        self, original: cst.SimpleStatementLine, updated: cst.SimpleStatementLine
    ) -> cst.SimpleStatementLine | cst.RemovalSentinel:
        """Remove a line; where it is all there is in a block, `pass` takes its place."""
        block = self.parents[original]
        if len(block.body) > 1 or isinstance(block, cst.Module):
            return cst.RemoveFromParent()
        return updated.with_changes(body=[cst.Pass()])

    def leave_ClassDef(
        self, original_node: cst.ClassDef, updated_node: cst.ClassDef
    ) -> cst.ClassDef:
        """Give a layer the metrics that it reports."""
        return self.metrics.constructed(original_node, updated_node)

    def leave_Decorator(
        self, original_node: cst.Decorator, updated_node: cst.Decorator
    ) -> cst.Decorator | cst.RemovalSentinel:
        """Remove decorators that nothing needs."""
        if self.survey.names.today(original_node.decorator) in rules.DECORATORS:
            return cst.RemoveFromParent()
        return updated_node

    # === Expressions ===

    def visit_ImportFrom(self, node: cst.ImportFrom) -> bool:
        """Leave the names in imports to `leave_SimpleStatementLine`."""
        return False

    def visit_Import(self, node: cst.Import) -> bool:
        """Leave the names in imports to `leave_SimpleStatementLine`."""
        return False

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        """Rewrite names that stand alone."""
        return self.references.rewritten(original_node, updated_node)

    def leave_Attribute(
        self, original_node: cst.Attribute, updated_node: cst.Attribute
    ) -> cst.BaseExpression:
        """Rewrite dotted names and attributes."""
        return self.references.rewritten(original_node, updated_node)

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        """Rewrite calls."""
        return self.calls.rewritten(original_node, updated_node)

    def leave_SimpleString(
        self, original_node: cst.SimpleString, updated_node: cst.SimpleString
    ) -> cst.SimpleString:
        """Rename layers, losses and metrics that strings name."""
        text = text_of(original_node) or ""
        new = rules.LOSSES.get(text, text)
        if found := re.fullmatch(rules.LAYER_NAME, text):
            new = f"Transformer-{int(found[1]) - 1}-{found[2]}"
        elif text in ("acc", "val_acc") and self.survey.accuracy:
            new = text.replace("acc", "accuracy")
        return same_quotes(updated_node, new) if new != text else updated_node
