"""Exporting a model with free batch size and length: what Keras leaves to be desired."""

import keras
import numpy as np

from bert4keras import keras_private


def check_export(model: keras.Model, format: str) -> None:
    """Refuse a format that the backend cannot write with free axes, and prepare the others.

    Args:
        model: the model.
        format: that of `keras.Model.export`.

    Raises:
        ValueError: only TensorFlow can write it, or no runtime could read it.
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


def _check_onnx(model: keras.Model) -> None:
    """Refuse what tf2onnx fails on, and what it writes but onnxruntime does not read."""
    if any(layer.compute_dtype == "bfloat16" for layer in keras_private.layers_within(model)):
        raise ValueError(
            "onnxruntime reads no bfloat16: build the model with precision='float32' (or "
            "'float16'), into which the weights of this one load, and export that"
        )
    if any(node.arguments.kwargs.get("decode") for node in keras_private.calls_in(model)):
        raise ValueError(
            "export(format='onnx') cannot write the loop of decode(): export the model that gives "
            "the scores, and decode these by snippets.ViterbiDecoder(trans)"
        )


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
