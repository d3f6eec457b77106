"""`LastToken`, a model evaluated at its last position, which `AutoRegressiveDecoder` uses."""

import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import compiled
from bert4keras.data.arrays import as_floats, bucket_length
from bert4keras.generation.prompts import next_power_of_two
from bert4keras.layers.embeddings import Embedding
from bert4keras.layers.positions import PositionEmbedding


class LastToken:
    """A model that returns its outputs at the last position only, compiled for few shapes.

    Only that position is copied from the device, and a step avoids the overhead of `model.predict`.

    Decoding makes the inputs longer at each step. TensorFlow needs one graph for all shapes and
    PyTorch none, but JAX compiles for every new shape. On JAX, sequences are therefore padded at
    their end to the lengths of `bucket_length` (but not beyond the size of a position table),
    batches to powers of two, and the output is taken at the last position that is not padding.

    Padding must not change the result: the model has to be causal or to mask the padding. The first
    time that a padded length occurs, the model runs on inputs with and without padding. If the
    results differ, or the model refuses the padded inputs, inputs of these lengths are not padded.
    The first sequence is padded with the id that the token embedding masks, or 0, the others with
    their last value, as the segments of UniLM require. Inputs with more axes, such as the context
    of a decoder, and axes of a fixed size are not padded.

    Args:
        model: a Keras model; its outputs are (batch, length, ...).
    """

    def __init__(self, model: Any):
        specs = getattr(model, "inputs", None)
        structure = model.input if specs else None

        def run(n_padding: Any, arrays: list) -> tuple[list, Any]:
            inputs = keras.tree.pack_sequence_as(structure, arrays) if specs else simplified(arrays)
            outputs = model(inputs, training=False)
            length = ops.shape(keras.tree.flatten(outputs)[0])[1]
            last = length - 1 - n_padding
            return keras.tree.map_structure(lambda y: ops.take(y, last, axis=1), outputs), length

        def simplified(arrays: list) -> Any:
            return arrays if len(arrays) > 1 else arrays[0]

        self._specs = specs
        self._run = compiled(run, model, any_shape=True)
        self._must_pad = keras.backend.backend() == "jax"
        self._padding_plans: dict[tuple, tuple[int, set[int]]] = {}
        self._pad_id, self._max_length, self._tolerance = _padding_limits(model)

    def predict(self, inputs: Any) -> Any:
        """Return the outputs at the last position.

        Args:
            inputs: one array or nested list for each input of the model, `(batch, ...)`.

        Returns:
            `(batch, ...)`, a new array for each output of the model, in the structure of its
            outputs, which is usually a single array.

        Raises:
            ValueError: the number of inputs is wrong, an input is empty, or batch sizes differ.
        """
        arrays = self._as_arrays(inputs)
        rows = len(arrays[0])
        if not self._must_pad:
            return self._call(arrays)[0]
        if not self._specs or self._specs[0].shape[0] is None:
            arrays = [_pad_end(x, 0, next_power_of_two(rows)) for x in arrays]
        lengths = {i: x.shape[1] for i, x in enumerate(arrays) if self._is_sequence(i, x)}
        buckets = {i: self._bucket(n) for i, n in lengths.items()}
        if buckets == lengths:
            return self._call(arrays, rows)[0]
        # Inputs of the same length may belong to one sequence, such as tokens and their segments.
        first_of_length = list(lengths.values()).index
        lengths_key = tuple((buckets[i], first_of_length(n)) for i, n in lengths.items())
        if lengths_key not in self._padding_plans:
            self._padding_plans[lengths_key] = self._padding_plan(arrays, lengths, buckets)
        return self._call_padded(arrays, buckets, *self._padding_plans[lengths_key], rows)

    def _bucket(self, length: int) -> int:
        """Return the length that a sequence is padded to."""
        return max(length, min(bucket_length(length), self._max_length))

    def _padding_plan(self, arrays: list, lengths: dict, buckets: dict) -> tuple[int, set[int]]:
        """Find out which input the output has its length from, and which inputs may be padded.

        The inputs are cut to the shortest lengths that are padded to the same buckets, where
        padding has the largest effect. Different lengths remain different.

        Returns:
            The index of the input whose length the output has, and the indices of those to pad.
        """
        shortest = {}
        for i, n in lengths.items():
            shorter = {m for j, m in lengths.items() if buckets[j] == buckets[i] and m < n}
            start = next(m for m in range(1, n + 1) if self._bucket(m) == buckets[i])
            shortest[i] = start + len(shorter)
        arrays = [x[:, : shortest[i]] if i in shortest else x for i, x in enumerate(arrays)]
        expected, length = self._call(arrays)
        candidates = {i for i, n in shortest.items() if n == int(length)}
        if not candidates:
            return 0, set()
        leading = min(candidates)
        for padded in (set(lengths), candidates) if candidates != set(lengths) else (candidates,):
            try:
                outputs = self._call_padded(arrays, buckets, leading, padded)
            except Exception:  # of any kind: the model has just succeeded on shorter inputs
                continue
            pairs = zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True)
            if all(_nearly_equal(x, y, self._tolerance) for x, y in pairs):
                return leading, padded
        return leading, set()

    def _call_padded(
        self,
        arrays: list,
        buckets: dict,
        leading: int,
        padded: set[int],
        rows: int | None = None,
    ) -> Any:
        """Run the model with the inputs `padded` padded; the output has the length of `leading`."""
        n_padding = buckets[leading] - arrays[leading].shape[1] if leading in padded else 0
        tokens = min(buckets)
        arrays = [
            _pad_end(x, 1, buckets[i], self._pad_id if i == tokens else None) if i in padded else x
            for i, x in enumerate(arrays)
        ]
        return self._call(arrays, rows, n_padding)[0]

    def _call(self, arrays: list, rows: int | None = None, n_padding: int = 0) -> tuple[Any, Any]:
        """Return the outputs of the first `rows` before `n_padding` positions, and their length."""
        outputs, length = self._run(np.array(n_padding, dtype=np.int32), arrays)
        return keras.tree.map_structure(
            lambda y: as_floats(ops.convert_to_numpy(y)[:rows]), outputs
        ), length

    def _is_sequence(self, i: int, x: np.ndarray) -> bool:
        """Tell whether an input is (batch, length) with a variable length."""
        return x.ndim == 2 and (not self._specs or self._specs[i].shape[1] is None)

    def _as_arrays(self, inputs: Any) -> list[np.ndarray]:
        """Convert each input to an array of the model's dtype, so that there are few dtypes."""
        is_list = isinstance(inputs, list | tuple)
        if self._specs and len(self._specs) == 1:
            is_list = is_list and len(inputs) == 1 and hasattr(inputs[0], "shape")
        arrays = [np.asarray(x) for x in (inputs if is_list else [inputs])]
        shapes = [x.shape for x in arrays]
        if self._specs and len(arrays) != len(self._specs):
            raise ValueError(
                f"last_token: the model has {len(self._specs)} inputs and got {len(arrays)}, of "
                f"the shapes {shapes}; give a list with an array for each"
            )
        if any(0 in shape or not shape for shape in shapes) or len({s[0] for s in shapes}) > 1:
            raise ValueError(
                f"last_token: the inputs have the shapes {shapes}; give arrays of one batch size, "
                "none of them empty"
            )
        if self._specs:
            return [x.astype(spec.dtype) for x, spec in zip(arrays, self._specs, strict=True)]
        return [x.astype(np.int32 if x.dtype.kind in "bui" else np.float32) for x in arrays]


def _padding_limits(model: Any) -> tuple[int, int, float]:
    """Return the padding id of a model, its largest input length and a tolerance of its results."""
    pad_id, max_length, tolerance = 0, sys.maxsize, 1e-3
    pending = list(getattr(model, "layers", []))
    while pending:
        layer = pending.pop()
        pending += getattr(layer, "layers", [])
        if isinstance(layer, Embedding) and layer.mask_zero:
            pad_id = layer.mask_id
        if isinstance(layer, PositionEmbedding):
            max_length = min(max_length, layer.max_length)
        if layer.compute_dtype in ("float16", "bfloat16"):
            tolerance = 3e-2
    return pad_id, max_length, tolerance


def _pad_end(x: np.ndarray, axis: int, size: int, value: int | None = None) -> np.ndarray:
    """Pad an axis at its end to `size`, with its last element unless a value is given."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    widths = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    if value is None:
        return np.pad(x, widths, mode="edge")
    return np.pad(x, widths, constant_values=value)


def _nearly_equal(x: np.ndarray, y: np.ndarray, tolerance: float) -> bool:
    """Tell whether two results differ by rounding only, relative to the spread of each row.

    Probabilities are compared by their logarithms, since a confident model gives only values close
    to 0 or 1.
    """
    x, y = np.float64(x), np.float64(y)
    finite = np.isfinite(y)
    if (np.isfinite(x) != finite).any():
        return False
    x, y = np.where(finite, x, 0), np.where(finite, y, 0)
    if (y >= 0).all():
        x, y = np.log(x + 1e-20), np.log(y + 1e-20)
    differences = np.sqrt(np.square(x - y).mean(axis=-1))
    return bool((differences <= tolerance * y.std(axis=-1)).all())
