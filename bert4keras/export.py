"""Exporting a model with free batch size and length, as SavedModel or ONNX, also in eight bits.

check_export  refuse what cannot be written, before anything is written
write_onnx    write an ONNX file, and compare what onnxruntime computes with the model
"""

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bert4keras import keras_private
from bert4keras.checkpoints.writing import replacing

LIMIT = 2**31
"""Bytes that an ONNX file can have."""
TOLERATED = {"float32": 1e-3, "float16": 0.05, "int8": 0.3}
"""How far outputs of a file may be from those of the model, by what it computes in: the norm of the
difference as a share of the norm of the outputs."""


def check_export(model: keras.Model, format: str) -> None:
    """Refuse a format that the backend cannot write with free axes, and prepare the others.

    Args:
        model: the model.
        format: that of `keras.Model.export`.

    Raises:
        ValueError: only TensorFlow can write it, no runtime could read it, or it is too large.
    """
    backend = keras.backend.backend()
    # ONNX: Keras fixes all axes on PyTorch, and needs the package jax2onnx on JAX. SavedModel: it
    # traces PyTorch with nested inputs in vain, and gives the lengths of two inputs two symbols on
    # JAX, which cannot be added.
    refused = {
        "onnx": backend != "tensorflow",
        "tf_saved_model": backend == "torch" or (backend == "jax" and len(model.inputs) > 1),
    }
    if refused.get(format):
        raise ValueError(
            f"export(format={format!r}) does not work for this model on {backend}. Save it with "
            "model.save('model.keras'), load that under KERAS_BACKEND=tensorflow, which computes "
            "the same, and export there"
        )
    if format == "onnx":
        _check_onnx(model)
        _write_erfc()
        model(_smallest_inputs(model))  # Keras refuses a model that has not been called


def write_onnx(
    model: keras.Model,
    path: Path,
    examples: Sequence[list[np.ndarray]],
    int8: bool = False,
    **kwargs: Any,
) -> None:
    """Write an ONNX file, and compare what onnxruntime computes with the outputs of the model.

    In eight bits are the kernels of all projections, one scale for each of their outputs, and the
    tables of embeddings; what is multiplied with the kernels is quantized while the file runs.
    Kernels take seven of the eight bits: without, sums of products overflow on processors that
    have AVX2 or AVX512 but no VNNI.

    Args:
        model: the model.
        path: the file, which is replaced in one step.
        examples: inputs of the model that are tried, each an array for each input; with none of
            them, onnxruntime only reads the file.
        int8: see above.
        **kwargs: those of `keras.Model.export`.

    Raises:
        CheckpointError: the file cannot be written.
        ValueError: see `check_export` and `require_onnx`; or onnxruntime does not run the file, or
            computes something else with it.
    """
    check_export(model, "onnx")
    require_onnx()
    half = _computes_in(model, "float16")
    if int8 and half:
        raise ValueError(
            "eight bits are made of float32: build the model with precision='float32', into which "
            "the weights of this one load, and export that"
        )
    with replacing(path.parent, path.name) as folder, _without_advice():
        written = folder / path.name
        keras.Model.export(model, written, **{"format": "onnx", "verbose": False} | kwargs)
        if int8:
            whole = written.rename(folder / "float32.onnx")
            _quantize(whole, written)
            whole.unlink()
        kind = "int8" if int8 else "float16" if half else "float32"
        _compare(model, written, examples, TOLERATED[kind])


def require_onnx() -> None:
    """Refuse to write ONNX files where that is not possible, before a model is loaded for it.

    Raises:
        ValueError: the backend is another one, or a package is not installed.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"ONNX files are written on TensorFlow, and Keras runs on {backend}: set "
            "KERAS_BACKEND=tensorflow"
        )
    missing = [x for x in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(x) is None]
    if missing:
        raise ValueError(
            f"{missing[0]} is not installed, with which ONNX files are written and checked: "
            'pip install "bert4keras[onnx]"'
        )


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Keep quiet what tf2onnx and onnxruntime advise those who call them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _quantize(source: Path, target: Path) -> None:
    """Write an ONNX file in eight bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source, target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
    )


def _compare(
    model: keras.Model, path: Path, examples: Sequence[list[np.ndarray]], tolerated: float
) -> None:
    """Refuse a file that cannot be run, or computes other outputs than the model."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        found = [session.run(None, dict(zip(names, x, strict=True))) for x in examples]
    except Exception as error:  # onnxruntime has a class for each of its status codes
        what = str(error).splitlines()[0]
        raise ValueError(
            f"onnxruntime does not run what tf2onnx made of the model ({what:.200}): use another "
            "format"
        ) from error
    for x, outputs in zip(examples, found, strict=True):
        expected = keras.tree.flatten(model(x if len(x) > 1 else x[0], training=False))
        for ours, each in zip(expected, outputs, strict=True):
            far = _distance(np.asarray(keras.ops.convert_to_numpy(ours)), np.asarray(each))
            if not far <= tolerated:
                raise ValueError(
                    f"the outputs of the ONNX file differ from those of the model by {far:.2g} of "
                    f"their size, and up to {tolerated} is allowed: use another format, or float32"
                )


def _distance(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the norm of a difference as a share of that of what is expected.

    Scores of minus infinity, such as those of masked spans, have to be equal.
    """
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], found[~finite]):
        return float("inf")
    expected, found = (x[finite].astype("float32") for x in (expected, found))
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-12))


def _check_onnx(model: keras.Model) -> None:
    """Refuse what tf2onnx fails on, and what it writes but onnxruntime does not read."""
    size = sum(int(np.prod(x.shape)) * np.dtype("float32").itemsize for x in model.variables)
    if size >= LIMIT:
        raise ValueError(
            f"the model has {size / 2**30:.1f} GiB of weights, and an ONNX file holds 2: use "
            "format='tf_saved_model'"
        )
    if _computes_in(model, "bfloat16"):
        raise ValueError(
            "onnxruntime reads no bfloat16: build the model with precision='float32' (or "
            "'float16'), into which the weights of this one load, and export that"
        )
    if any(node.arguments.kwargs.get("decode") for node in keras_private.calls_in(model)):
        raise ValueError(
            "export(format='onnx') cannot write the loop of decode(): export the model that gives "
            "the scores, and decode these by snippets.ViterbiDecoder(trans)"
        )


def _computes_in(model: keras.Model, dtype: str) -> bool:
    """Tell whether a layer of a model computes in a type."""
    return any(layer.compute_dtype == dtype for layer in keras_private.layers_within(model))


def _smallest_inputs(model: keras.Model) -> list[np.ndarray] | np.ndarray:
    """Zeros with 1 for every free axis."""
    zeros = [np.zeros([n or 1 for n in each.shape], each.dtype) for each in model.inputs]
    return zeros if len(zeros) > 1 else zeros[0]


def _write_erfc() -> None:
    """Teach tf2onnx the function that TensorFlow computes the exact gelu by, as 1 - erf(x)."""
    try:
        from tf2onnx.handler import tf_op
        from tf2onnx.utils import make_name, map_onnx_to_numpy_type
    except ImportError as error:
        raise ValueError("export(format='onnx') needs tf2onnx: pip install tf2onnx") from error

    @tf_op("Erfc")
    class _Erfc:
        @classmethod
        def version_9(cls, ctx, node, **kwargs) -> None:
            kind, shape = ctx.get_dtype(node.output[0]), ctx.get_shape(node.output[0])
            ctx.remove_node(node.name)
            erf = ctx.make_node("Erf", node.input, shapes=[shape], dtypes=[kind])
            one = ctx.make_const(make_name("one"), np.ones((), map_onnx_to_numpy_type(kind)))
            ctx.make_node(
                "Sub",
                [one.output[0], erf.output[0]],
                name=node.name,
                outputs=node.output,
                shapes=[shape],
                dtypes=[kind],
            )
