"""What scripts import: the modules that only hand on names, and what stands behind them."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "bert4keras"

BACKEND = """
    ACTIVATIONS K Keys ROTARY_SCALING Sinusoidal TRACING Tensor YARN_OPTIONS activation
    adam_in_place affine align apply_rotary_position_embeddings as_floats attention_normalize
    attention_scores attention_visibility batch_gather check_labels compiled compiled_by_jax
    compiled_by_tensorflow compiled_without_weights divisible_temporal_padding
    dot_product_attention dropout first_in_turn flatten fold gelu_erf gelu_tanh initializer
    is_bool is_int keras known_values laid_out layer_norm leaky_relu lowest
    multilabel_categorical_crossentropy on_present_values ops piecewise_linear plain_attention
    pool1d pooling present_values product recompute_by_default recompute_grad recomputed
    recomputed_by_jax recomputed_by_tensorflow registered reshape root_mean_square
    rotary_frequencies scaling_kind scan search_layer sequence_masking set_gelu shapes_of
    shared_rows sinusoidal_embeddings softmax
    sparse_multilabel_categorical_crossentropy standardized swish torch_attention weighted_values
    without_gradients yarn_factor yarn_frequencies
"""
LAYERS = """
    Add AttentionBias AttentionMask Average BatchConcat BatchSplit Concatenate Concatenate1D
    ConditionalRandomField CopyMask Dense DisentangledAttention Dropout EfficientGlobalPointer
    Embedding FeedForward FirstToken GatedAttentionUnit GatherPositions GlobalAveragePooling1D
    GlobalMaxPooling1D GlobalPointer GlobalPooling1D GlobalSquareRootPooling1D LMMask LabelChain
    Lambda LastVisibleToken LayerNormalization LocalLMMask LocalMask Loss MaskKeepingMerge
    MaskReader MaskedConv1D Maximum MaximumEntropyMarkovModel Minimum MultiHeadAttention Multiply
    PlainMerge PositionEmbedding PositionEmbeddingBase PositionWeightedPooling1D Recomputable
    RelativePositionEmbedding RelativePositionEmbeddingT5 RelativePositionTable Saturation
    ScaleOffset SinusoidalPositionEmbedding Subtract TableLayer TextPositionEmbedding UniLMMask add
    average concatenate maximum minimum multiply subtract
"""
WITH_LAYERS = """
    K Layer align apply_rotary_position_embeddings attention_normalize initializers keras
    recompute_grad sequence_masking sinusoidal_embeddings
"""
"""What `from bert4keras.layers import *` of 0.11.5 brought besides, and scripts use."""
LEGACY = """
    AddedLoss Dimension K LayerCall LegacyBackend ModelCheckpoint PhaseProbe PrintedTensor Shape
    SizeOperation Tensor TrainPhase arange batch_dot batch_flatten batch_get_value
    batch_normalization batch_set_value bias_add binary_crossentropy cast cast_to_floatx
    categorical_crossentropy clip concatenate constant conv1d count_params dot dropout dtype eye
    flatten foldl foldr gather get_value get_variable_shape groupby hard_sigmoid identity
    in_test_phase in_top_k in_train_phase inbound_nodes input_at input_mask input_shape_at
    int_shape is_placeholder is_sparse is_tensor is_variable l2_normalize learning_phase map_fn
    moving_average_update name_scope ndim normalize_batch_in_training normalize_data_format
    one_hot ones ones_like outbound_nodes output_at output_mask output_shape_at
    permute_dimensions pooling print_tensor prod random_binomial random_normal
    random_normal_variable random_uniform random_uniform_variable relu repeat repeat_elements
    reshape resize_images resize_volumes reverse rnn set_value shape size slice_
    sparse_categorical_crossentropy sqrt squeeze stack stop_gradient switch temporal_padding tile
    to_dense transpose truncated_normal update update_add update_sub variable where with_loss
    zeros zeros_like
"""
FACES = {"backend": BACKEND, "layers": LAYERS + WITH_LAYERS, "legacy": LEGACY}


def face(name):
    return importlib.import_module(f"bert4keras.{name}")


def source_of(name):
    return Path(face(name).__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FACES)
def test_a_face_gives_the_names_that_it_always_gave(name):
    assert set(face(name).__all__) == set(FACES[name].split())


@pytest.mark.parametrize("name", FACES)
def test_a_face_gives_nothing_else(name):
    module = face(name)
    rooms = {room.name for room in pkgutil.iter_modules(getattr(module, "__path__", []))}
    given = {each for each in vars(module) if not each.startswith("__")}
    assert given - rooms - {"_starts_keras"} == set(FACES[name].split())


@pytest.mark.parametrize("name", FACES)
def test_a_star_import_gives_all_names(name):
    names = {}
    exec(f"from bert4keras.{name} import *", names)
    assert names.keys() - {"__builtins__"} == set(FACES[name].split())


def is_import(statement):
    """Tell whether a statement imports, perhaps where it is told which engine is missing."""
    if isinstance(statement, ast.With):
        called = [ast.unparse(item.context_expr) for item in statement.items]
        return called == ["_starts_keras()"] and all(map(is_import, statement.body))
    return isinstance(statement, ast.Import | ast.ImportFrom)


@pytest.mark.parametrize("name", FACES)
def test_a_face_has_no_code(name):
    docstring, *statements = ast.parse(source_of(name)).body
    assert isinstance(docstring, ast.Expr)
    *imports, names = statements
    assert all(map(is_import, imports))
    assert isinstance(names, ast.Assign) and names.targets[0].id == "__all__"


def test_k_is_one_object():
    ks = [face(name).K for name in FACES]
    assert all(k is ks[0] for k in ks)
    assert len(vars(ks[0])) == 149


def imported_by(path):
    """Full names of the modules that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ROOMS = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path not in {Path(face(name).__file__) for name in FACES}
]


def test_nothing_in_the_library_imports_these():
    faces = {f"bert4keras.{name}" for name in FACES}
    assert [path for path in ROOMS if faces & set(imported_by(path))] == []
