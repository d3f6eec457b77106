"""Reading ahead: what has to be known of a script before anything of it is rewritten."""

import ast
from collections.abc import Iterator

from bert4keras.migrate import rules
from bert4keras.migrate.names import Names
from bert4keras.migrate.source import Source, dotted, keywords_of, text_of


class Survey:
    """What is known of a script.

    Args:
        source: the script.
        names: what its names mean.

    Attributes:
        unpacked: whether `get_all_attributes` is used for star imports, and for nothing else.
        gone: full names that imports leave out.
        related: whether the script has to do with Keras at all.
        own_tokenizers: whether the tokenizers are those of bert4keras.
        models: names that models are assigned to.
        optimizers: names that optimizer classes are assigned to.
        accuracy: whether a model is compiled with the metric «accuracy».
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
        """Note models and optimizer classes."""
        target = node.targets[0]
        if not (isinstance(target, ast.Name) and isinstance(node.value, ast.Call)):
            return
        if self.names.today(node.value.func) in rules.MODEL_MAKERS:
            self.models.add(target.id)
        # A star import may have brought it, so that its module is not known.
        if (dotted(node.value.func) or [""])[-1].startswith("extend_with_"):
            self.optimizers.add(target.id)


def imported_packages(source: Source) -> Iterator[str]:
    """The packages that anything is imported from."""
    for node in source.nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield (node.module or "").split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
