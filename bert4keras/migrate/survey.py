"""Reading ahead: what has to be known of a script before anything of it is rewritten."""

import re
from collections.abc import Mapping

import libcst as cst
import libcst.matchers as m
from libcst.metadata import Scope

from bert4keras.migrate import rules
from bert4keras.migrate.names import Names, covered, replaced_prefix
from bert4keras.migrate.syntax import dotted, is_star, keywords_of, source_of, text_of

EVERYTHING_OF = m.Call(
    func=m.Attribute(
        value=m.Call(func=m.Name("locals") | m.Name("globals")), attr=m.Name("update")
    ),
    args=[m.Arg(m.Call(func=m.Name("get_all_attributes"), args=[m.Arg(m.Attribute())]))],
)
"""`locals().update(get_all_attributes(keras.layers))`, a star import in scripts of 2020."""


class Survey(cst.CSTVisitor):
    """What is known of a script.

    Args:
        module: the script.
        scopes: the scope of every node of it.

    Attributes:
        names: what its names mean.
        unpacked: whether `get_all_attributes` is used for `EVERYTHING_OF`, and for nothing else.
        gone: full names that imports leave out.
        own_tokenizers: whether the tokenizers are those of bert4keras.
        models: names that models are assigned to.
        optimizers: names that optimizer classes are assigned to.
        gradient_functions: functions that reach into Keras 2 for gradients, with their names.
        files: names of weight files that Keras 3 wants to end otherwise, with the new names.
        accuracy: whether a model is compiled with the metric «accuracy».
    """

    def __init__(self, module: cst.Module, scopes: Mapping[cst.CSTNode, Scope | None]):
        super().__init__()
        updates = m.findall(module, EVERYTHING_OF)
        uses = m.findall(module, m.Name("get_all_attributes"))
        # One import, and no other use.
        self.unpacked = bool(updates) and len(uses) == len(updates) + 1
        self.gone = rules.GONE | (
            {"bert4keras.snippets.get_all_attributes"} if self.unpacked else set()
        )
        stars = star_imports(module) + ["keras.layers"] * self.unpacked
        self.names = Names(scopes, stars)
        packages = imported_packages(module)
        self.own_tokenizers = "bert4keras" in packages and packages.isdisjoint(
            rules.OTHER_TOKENIZERS
        )
        self.models: set[str] = set()
        self.optimizers: set[str] = set()
        self.gradient_functions: dict[cst.FunctionDef, str] = {}
        self.files: dict[str, str] = {}
        self.accuracy = False
        module.visit(self)

    def visit_Assign(self, node: cst.Assign) -> None:
        """Note models and optimizer classes."""
        target = node.targets[0].target
        if not (isinstance(target, cst.Name) and isinstance(node.value, cst.Call)):
            return
        if self.names.today(node.value.func) in rules.MODEL_MAKERS:
            self.models.add(target.value)
        # A star import may have brought it, so that its module is not known.
        if (dotted(node.value.func) or [""])[-1].startswith("extend_with_"):
            self.optimizers.add(target.value)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> None:
        """Note functions that compute gradients."""
        names = m.findall(node.body, m.Attribute() | m.Name())
        if any(self.is_gradient(name) for name in names):
            self.gradient_functions[node] = node.name.value

    def is_gradient(self, node: cst.Attribute | cst.Name) -> bool:
        """Tell whether a name has a mark of the kind «gradients»."""
        marks = [rules.MARKS.get(covered(self.names.today(node) or "", rules.MARKS))]
        if isinstance(node, cst.Attribute):
            marks.append(rules.ATTRIBUTE_MARKS.get(node.attr.value))
        return any(mark is not None and mark.kind == "gradients" for mark in marks)

    def visit_Call(self, node: cst.Call) -> None:
        """Note files that need another suffix, and how accuracy is called."""
        keywords = keywords_of(node)
        if self.names.today(node.func) == "keras.callbacks.ModelCheckpoint" and node.args:
            path = text_of(keywords.get("filepath", node.args[0].value))
            weights = m.matches(keywords.get("save_weights_only"), m.Name("True"))
            suffixes = (".weights.h5",) if weights else (".keras", ".h5")
            if path and not path.endswith(suffixes):
                self.files[path] = re.sub(r"(\.weights|\.h5|\.hdf5)*$", "", path) + suffixes[0]
        if m.matches(node.func, m.Attribute(value=m.Name(), attr=m.Name("save"))) and node.args:
            path = text_of(node.args[0].value)
            if path and node.func.value.value in self.models and not path.endswith(".keras"):
                # HDF5 files of models whose mask is computed by operations cannot be read back.
                self.files[path] = re.sub(r"\.(h5|hdf5)$", "", path) + ".keras"
        if m.matches(node.func, m.Attribute(attr=m.Name("compile"))):
            metrics = getattr(keywords.get("metrics"), "elements", ())
            self.accuracy |= any(text_of(metric.value) == "accuracy" for metric in metrics)


def star_imports(module: cst.Module) -> list[str]:
    """The modules of which everything is imported, as they are called now, in order."""
    stars = [
        source_of(star)
        for star in m.findall(module, m.ImportFrom())
        if is_star(star) and star.module is not None and not star.relative
    ]
    stars = [replaced_prefix(star, rules.MODULES) or star for star in stars]
    return ["bert4keras.backend" if star == rules.K else star for star in stars]


def imported_packages(module: cst.Module) -> set[str]:
    """The packages that anything is imported from."""
    modules = [source_of(each) for each in m.findall(module, m.ImportFrom())]
    for each in m.findall(module, m.Import()):
        modules += [alias.evaluated_name for alias in each.names]
    return {name.split(".")[0] for name in modules}
