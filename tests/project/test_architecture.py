"""The rooms of the library: who imports whom, how large they are, and what scripts may import.

The files are parsed, not imported, but for the last test. Which imports count:

* At the top of a module, also in a class, `if`, `try` or `with`: for every rule.
* In a function: for every rule as well. Where one has to lead upwards, because a method that a room
  offers is answered by a higher one, it stands in `DOORS` with the reason; doors are no imports as
  far as circles and the order of the rooms are concerned. A room without Keras may import an engine
  in a function that `ENGINE_IN_A_FUNCTION` names.
* Under `TYPE_CHECKING`: for no rule, as they are not run.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.glob("bert4keras/**/*.py"))
}
ENGINES = {"keras", "tensorflow", "jax", "torch"}

ROOMS = [
    "starting",
    "lazy",
    "extending",
    "parallel",
    "checkpoints",
    "text",
    "data",
    "metrics",
    "migrate",
    "serving",
    "generation.autoregressive",
    "keras_private",
    "backend",
    "layers",
    "optimizers",
    "training",
    "export",
    "models",
    "generation",
    "sentences",
    "convert",
    "snippets",
    "tokenizers",
    "legacy",
]
"""From the bottom to the top; a room imports itself and what stands before it."""
WITHOUT_KERAS = [
    "starting",
    "lazy",
    "extending",
    "parallel",
    "checkpoints",
    "text",
    "data",
    "metrics",
    "migrate",
    "serving",
    "generation.autoregressive",
    "snippets",
    "tokenizers",
]
FACES = [
    "backend",
    "checkpoints",
    "generation",
    "layers",
    "legacy",
    "metrics",
    "models",
    "optimizers",
    "sentences",
    "serving",
    "snippets",
    "tokenizers",
    "training",
]
"""Modules that scripts import and that only re-export. The library imports what they re-export."""

DOORS = {
    ("data.generator", "backend.engines"): "DataGenerator.pad asks if each length is compiled",
    ("data.generator", "training.feed"): "DataGenerator.forfit gives a BatchFeed",
    ("generation.autoregressive", "generation.last_token"): "AutoRegressiveDecoder.last_token",
}
ENGINE_IN_A_FUNCTION = {
    ("data.generator", "tensorflow"): "DataGenerator.to_dataset",
    ("generation.autoregressive", "keras"): "states that are tensors",
}

MAX_LINES = 800
MAX_METHODS = 30

PUBLIC = {
    "checkpoints": """
        ARCHITECTURE Checkpoint CheckpointError Files LayerNames Report TensorBundle as_official
        find_files list_variables load_layers load_variable match_variables open_checkpoint
        save_layers to_hugging_face write_checkpoint write_safetensors Dialect Signature
    """,
    "generation": "Generator LastToken",
    "metrics": """
        corpus_bleu precision_recall_f1 rouge scores_by_kind sentence_bleu tagging_scores
    """,
    "models": """
        ALBERT ALBERT_Unshared APPLICATIONS ARCHITECTURES BART BERT Block DeBERTaV2 DistilBERT
        ELECTRA ERNIE Family GAU_alpha GPT GPT2 GPT2_ML Gemma3 LLaMA LM_Mask MBART Model ModernBERT
        NEZHA Qwen2 Qwen3 RoBERTa RoFormer RoFormerV2 T5 T5_Base T5_Decoder T5_Encoder Transformer
        UniLM_Mask XLMRoBERTa build_transformer_model extend_with_language_model
        extend_with_unified_language_model keras load_adapter load_model renamed save_adapter
    """,
    "optimizers": """
        AdaFactor AdaFactorV1 AdaFactorV2 Adam Lion Muon layer_wise_lr_decay warmup_cosine
        extend_with_exponential_moving_average extend_with_exponential_moving_average_v2
        extend_with_gradient_accumulation extend_with_gradient_accumulation_v2
        extend_with_layer_adaptation extend_with_layer_adaptation_v2
        extend_with_lazy_optimization extend_with_lazy_optimization_v2
        extend_with_lookahead extend_with_lookahead_v2
        extend_with_parameter_wise_lr extend_with_parameter_wise_lr_v2
        extend_with_piecewise_linear_lr extend_with_piecewise_linear_lr_v2
        extend_with_weight_decay extend_with_weight_decay_v2
    """,
    "sentences": "CrossEncoder SentenceEncoder quantize_embeddings",
    "serving": "WebServing",
    "snippets": """
        AutoRegressiveDecoder DataGenerator SequenceLabelingGenerator TextClassificationGenerator
        ViterbiDecoder WebServing as_floats bucket_length convert_to_str convert_to_unicode
        delete_arguments insert_arguments is_one_of is_string
        longest_common_subsequence longest_common_substring lowercase_and_normalize open
        orthogonally_resize parallel_apply parallel_apply_generator sample_length sequence_padding
        softmax spans_to_tags strQ2B string_matching tags_to_spans text_segmentate to_array
        truncate_sequences uniout
    """,
    "tokenizers": """
        JsonTokenizer SPACE SpTokenizer Tokenizer TokenizerBase TokenizerError VOCAB_FILE is_string
        load_tokenizer load_vocab lowercase_and_normalize save_vocab settled_words
        truncate_sequences vocab_text well_formed without_space
    """,
    "training": """
        AdversarialTraining BatchFeed CoSENT Devices DistributedModel EvaluateAverage Evaluator
        GradientPenalty InfoNCE Matryoshka MultilabelCrossentropy RDrop RDropCrossentropy SimCSE
        SparseCategoricalFocalCrossentropy SparseMultilabelCrossentropy Step TokenAccuracy
        TokenCrossentropy VirtualAdversarialTraining add_lora as_feed batch_mean data_parallel
        divergence gradients_of integrated_gradients layout_map merge_lora model_parallel
    """,
}
"""What scripts may import from each face."""


class Import(NamedTuple):
    """A module that another one imports, in a function or at the top."""

    target: str
    in_function: bool


def short(name):
    """The name of a module within the library."""
    return name.removeprefix("bert4keras").removeprefix(".")


@cache
def tree(module):
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def statements(node, in_function=False):
    """Yield all import statements that are run, and whether only when a function is called."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.orelse:
                yield from statements(ast.Module([statement], []), in_function)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from statements(child, in_function or function)


def targets(statement):
    """The modules that a statement names: of `from package import x` the module x if it is one."""
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names}
    assert statement.level == 0, "imports are absolute"
    names = {f"{statement.module}.{alias.name}" for alias in statement.names}
    return {name if name in FILES else statement.module for name in names}


@cache
def imports(module):
    """What a module imports, of the library and of others."""
    return {Import(t, deep) for s, deep in statements(tree(module)) for t in targets(s)}


def own_imports():
    """Yield importer, what it imports of the library, and whether in a function; short names."""
    for module in FILES:
        for target, in_function in imports(module):
            if target.split(".")[0] == "bert4keras" and target != module:
                yield short(module), short(target), in_function


def is_in(module, rooms):
    """Tell whether a module is one of some rooms, or within one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def room_of(module):
    """The number of a room, from the bottom; the package itself, which is empty, is below all."""
    if not module:
        return -1
    found = [room for room in ROOMS if is_in(module, [room])]
    assert found, f"{module} is in no room: name it in ROOMS, where it belongs"
    return ROOMS.index(max(found, key=len))


def test_there_is_something_to_see():
    assert {"bert4keras.text.wordpiece", "bert4keras.models.transformer"} <= FILES.keys()
    pairs = {(importer, target) for importer, target, _ in own_imports()}
    assert {("text.pretrained", "text.json"), ("data.generator", "text.strings")} <= pairs
    source = """
if TYPE_CHECKING:
    import a
else:
    import b
class C:
    import c
    def method(self):
        from d import x
try:
    from bert4keras.text import json, nothing
except ImportError:
    pass
"""
    found = [(targets(s), deep) for s, deep in statements(ast.parse(source))]
    library = {"bert4keras.text.json", "bert4keras.text"}
    assert found == [({"b"}, False), ({"c"}, False), ({"d"}, True), (library, False)]


def test_every_room_is_there():
    names = {short(module) for module in FILES}
    assert {*ROOMS, *FACES, *WITHOUT_KERAS} <= names
    assert PUBLIC.keys() == set(FACES) - {"backend", "layers", "legacy"}  # in test_faces.py


def test_nothing_imports_upwards():
    upwards = {(a, b) for a, b, _ in own_imports() if room_of(a) < room_of(b)}
    assert upwards <= DOORS.keys()


def test_doors_are_in_functions_and_needed():
    in_functions = {(a, b) for a, b, in_function in own_imports() if in_function}
    at_the_top = {(a, b) for a, b, in_function in own_imports() if not in_function}
    assert DOORS.keys() <= in_functions - at_the_top


def circles(graph):
    """The strongly connected components of more than one node (Tarjan, 1972)."""
    number, low, stack, found = {}, {}, [], set()

    def visit(node):
        number[node] = low[node] = len(number)
        stack.append(node)
        for following in graph.get(node, ()):
            if following not in number:
                visit(following)
            if following in stack:
                low[node] = min(low[node], low[following])
        if low[node] == number[node]:
            circle = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(circle) > 1:
                found.add(frozenset(circle))

    for node in graph:
        if node not in number:
            visit(node)
    return found


def test_circles_are_seen():
    assert circles({1: [2, 5], 2: [3], 3: [2, 4], 4: [], 5: [6], 6: [5, 3]}) == {
        frozenset({2, 3}),
        frozenset({5, 6}),
    }


def test_there_is_no_circle():
    graph = {}
    for importer, target, _ in own_imports():
        if (importer, target) not in DOORS:
            graph.setdefault(importer, []).append(target)
    assert circles(graph) == set()


def test_the_library_imports_no_face():
    """Apart from `python -m bert4keras.migrate` and the like, which are there for people."""
    found = {(a, b) for a, b, _ in own_imports() if b in FACES and not a.endswith("__main__")}
    assert found == set()


def is_of_a_face(statement):
    """Tell whether a statement re-exports, or gives a name when it is asked for."""
    if isinstance(statement, ast.FunctionDef):
        return statement.name in ("__getattr__", "__dir__")
    if isinstance(statement, ast.Assign):
        names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
        return isinstance(statement.value, ast.Name) or all(n.startswith("_") for n in names)
    if isinstance(statement, ast.With):
        return all(map(is_of_a_face, statement.body))
    return isinstance(statement, ast.Import | ast.ImportFrom | ast.Expr) or (
        isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
    )


@pytest.mark.parametrize("face", PUBLIC)
def test_a_face_only_re_exports(face):
    body = tree(f"bert4keras.{face}").body
    assert [ast.unparse(s) for s in body if not is_of_a_face(s)] == []


def loaded_with(module):
    """What an import of a module loads, of the library and of others: packages load as well."""
    loaded, pending = set(), [module]
    while pending:
        module = pending.pop()
        if module in loaded:
            continue
        loaded.add(module)
        if "." in module:
            pending.append(module.rpartition(".")[0])
        if module in FILES:
            pending += [target for target, in_function in imports(module) if not in_function]
    return loaded


def test_rooms_without_keras_load_none():
    modules = [module for module in FILES if is_in(short(module), WITHOUT_KERAS)]
    assert {m: engines for m in modules if (engines := loaded_with(m) & ENGINES)} == {}
    in_functions = {
        (short(module), target.split(".")[0])
        for module in modules
        for target, in_function in imports(module)
        if in_function and target.split(".")[0] in ENGINES
    }
    assert in_functions == ENGINE_IN_A_FUNCTION.keys()


def test_files_are_short():
    large = {
        short(module)
        for module, path in FILES.items()
        if len(path.read_text(encoding="utf-8").splitlines()) > MAX_LINES
    }
    assert large == set()


def test_classes_are_small():
    large = {
        f"{short(module)}.{node.name}"
        for module in FILES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ClassDef)
        and sum(isinstance(s, ast.FunctionDef | ast.AsyncFunctionDef) for s in node.body)
        > MAX_METHODS
    }
    assert large == set()


@pytest.mark.parametrize("face", PUBLIC)
def test_a_face_gives_what_scripts_may_import(face):
    """No more either: not the modules and helpers that it is made of."""
    module = importlib.import_module(f"bert4keras.{face}")
    names = set(PUBLIC[face].split())
    assert set(module.__all__) == names
    assert len(module.__all__) == len(names)
    assert all(hasattr(module, name) for name in names)
    rooms = {
        name
        for name in dir(module)
        if isinstance(value := getattr(module, name), ModuleType)
        and value.__name__ == f"{module.__name__}.{name}"
    }
    assert {name for name in dir(module) if not name.startswith("_")} - rooms == names
