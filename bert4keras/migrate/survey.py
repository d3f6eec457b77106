"""Facts about a script that have to be known before rewriting it."""

import ast
from collections.abc import Iterator

from bert4keras.migrate import rules
from bert4keras.migrate.names import Names
from bert4keras.migrate.source import Source, dotted, keywords_of, text_of


class Survey:
    """Facts about a script.

    Args:
        source: the script.
        names: its resolved names.

    Attributes:
        unpacked: whether `get_all_attributes` is used for star imports only.
        gone: full names that are no longer imported.
        related: whether the script imports Keras, TensorFlow or bert4keras.
        own_tokenizers: whether the tokenizers are those of bert4keras.
        models: names that models are assigned to.
        optimizers: names that optimizer classes are assigned to.
        accuracy: whether a model is compiled with the metric `accuracy`.
    """

    def __init__(self, source: Source, names: Names):
        self.source = source
        self.names = names
        self.unpacked = names.unpacked
        self.gone = rules.GONE | (
            {"bert4keras.snippets.get_all_attributes"} if self.unpacked else set()
        )
        packages = set(imported_packages(source))
        self.related = bool(packages & {"bert4keras", "keras", "tensorflow"})
        self.own_tokenizers = "bert4keras" in packages and packages.isdisjoint(
            rules.OTHER_TOKENIZERS
        )
        self.models: set[str] = set()
        self.optimizers: set[str] = set()
        self.accuracy = False
        for node in source.nodes:
            if isinstance(node, ast.Assign):
                self.note_assignment(node)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "compile":
                metrics = getattr(keywords_of(node).get("metrics"), "elts", ())
                self.accuracy |= any(text_of(metric) == "accuracy" for metric in metrics)

    def note_assignment(self, node: ast.Assign) -> None:
        """Record models and optimizer classes."""
        target = node.targets[0]
        if not (isinstance(target, ast.Name) and isinstance(node.value, ast.Call)):
            return
        if self.names.new_name_of(node.value.func) in rules.MODEL_MAKERS:
            self.models.add(target.id)
        # It may be from a star import, so that its module is unknown.
        if (dotted(node.value.func) or [""])[-1].startswith("extend_with_"):
            self.optimizers.add(target.id)


def imported_packages(source: Source) -> Iterator[str]:
    """Yield the imported packages."""
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
