"""The walk over the syntax tree of a script, which calls the rewriters of its parts."""

import ast
import re
from collections.abc import Callable

from bert4keras.migrate import rules
from bert4keras.migrate.arguments import put_text
from bert4keras.migrate.calls import Calls
from bert4keras.migrate.classes import Classes
from bert4keras.migrate.comments import Comments
from bert4keras.migrate.edits import Edits
from bert4keras.migrate.gradients import Gradients
from bert4keras.migrate.imports import Imports
from bert4keras.migrate.metrics import Metrics
from bert4keras.migrate.names import Names
from bert4keras.migrate.parts import Parts
from bert4keras.migrate.references import References
from bert4keras.migrate.sessions import Sessions
from bert4keras.migrate.source import Source
from bert4keras.migrate.survey import Survey

PASSES = 4
"""The maximum number of passes over a script; one is usually enough."""


def migrate(source: str) -> str:
    """Rewrite a script for the original, Keras 2 and old versions of bert4keras.

    Args:
        source: the text of the script.

    Returns:
        The text of the script for this library. Lines to which no rule applies are not changed at
        all.

    Raises:
        SyntaxError: the script is not Python 3.
    """
    return rewritten(source, lambda text: Names(Source(text)))


def mentions_keras(text: str) -> bool:
    """Tell whether a script mentions Keras or TensorFlow."""
    return "keras" in text or "tensorflow" in text


def rewritten(
    text: str,
    names_of: Callable[[str], Names],
    others: Callable[[str], bool] = lambda name: False,
) -> str:
    """Rewrite a script until it does not change: new imports may make further rules apply.

    Args:
        text: the text of the script.
        names_of: parses a text and resolves its names.
        others: tells whether other modules of the project import a name from this one.
    """
    names = names_of(text)
    for _ in range(PASSES):
        if not (mentions_keras(text) or names.imports_of_project):
            break
        new = Rewriting(names, others).result()
        if new == text:
            break
        text = new
        try:
            names = names_of(text)
        except SyntaxError as error:
            raise RuntimeError(
                f"line {error.lineno} would be invalid Python: {error.text}"
            ) from error
    return text


class Rewriting:
    """Rewrites one script."""

    def __init__(self, names: Names, others: Callable[[str], bool]):
        self.source = source = names.source
        self.names = names
        self.edits = Edits(source)
        self.survey = Survey(source, names)
        self.comments = Comments(source)
        self.imports = Imports(source, self.survey, self.comments, self.edits, others)
        self.metrics = Metrics(source, self.imports, self.edits)
        parts = Parts(source, self.survey, self.imports, self.comments, self.edits, self.metrics)
        self.references = References(parts)
        self.calls = Calls(parts)
        self.classes = Classes(parts)
        self.patterns = [Sessions(parts), Gradients(parts)]

    def result(self) -> str:
        """Return the new text."""
        for pattern in self.patterns:
            pattern.rewrite()
        done = {node for pattern in self.patterns for node in pattern.done}
        stack: list[ast.AST] = [self.source.tree]
        while stack:
            node = stack.pop()
            if node not in done and not self.rewrite(node):
                stack.extend(reversed(self.source.children[node]))
        self.metrics.write()
        self.imports.write()
        self.comments.write(self.edits)
        return self.edits.result()

    def rewrite(self, node: ast.AST) -> bool:
        """Rewrite a node; tell whether its children are done, too."""
        match node:
            case ast.Import() | ast.ImportFrom():
                self.imports.rewrite(node)
            case ast.Expr(value=ast.Call()):
                return self.calls.rewrite_alone(node)
            case ast.Assign(targets=[ast.Name()], value=ast.Name() | ast.Attribute()):
                return self.references.rewrite_alias(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.rewrite_decorators(node)
            case ast.ClassDef():
                self.rewrite_decorators(node)
                self.classes.rewrite(node)
            case ast.Call():
                self.calls.rewrite(node)
            case ast.Name() | ast.Attribute():
                self.references.rewrite(node)
            case ast.Constant(value=str()):
                self.rewrite_text(node)
        return False

    def rewrite_decorators(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        """Remove decorators that are no longer needed."""
        for decorator in node.decorator_list:
            if self.names.is_named(decorator, *rules.DECORATORS):
                start, end = self.source.span(decorator)
                start = self.source.text.rindex("@", 0, start)
                whole = self.source.line_start(start), self.source.line_end(end)
                self.edits.remove(whole)

    def rewrite_text(self, node: ast.Constant) -> None:
        """Rename layers, losses and metrics in strings."""
        text = node.value
        new = rules.LOSSES.get(text, text)
        if found := re.fullmatch(rules.LAYER_NAME, text):
            new = f"Transformer-{int(found[1]) - 1}-{found[2]}"
        elif text in ("acc", "val_acc") and self.survey.accuracy:
            new = text.replace("acc", "accuracy")
        if new != text and not isinstance(self.source.parents[node], ast.JoinedStr):
            put_text(self.source, self.edits, node, new)
