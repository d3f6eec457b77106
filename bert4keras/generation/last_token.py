"""What `AutoRegressiveDecoder.last_token` gives: a model at its last position, for old scripts."""

import sys
from typing import Any

import keras
import numpy as np
from keras import ops

from bert4keras.backend.engines import compiled
from bert4keras.data.arrays import as_floats, bucket_length
from bert4keras.generation.prompts import power_of_two
from bert4keras.layers.embeddings import Embedding
from bert4keras.layers.positions import PositionEmbedding


class LastToken:
    """A model that gives its outputs at the last position only, for few different shapes.

    Only that position leaves the device, and a step has none of the overhead of `model.predict`.

    Decoding makes the inputs longer at each step. TensorFlow gets by with one graph for all shapes,
    PyTorch with none, but JAX compiles for every new shape. There, sequences are padded at their
    end to the lengths of `bucket_length` (no further than a table of positions reaches), batches to
    powers of two, and the output is picked at the last true position.

    Padding must not change the result: a model has to look back only, or to hide the padding. When
    a padded length comes up for the first time, the model runs on inputs with and without padding,
    and if the results disagree, or the padded inputs are refused, it gets inputs of such lengths as
    they are. The first sequence is filled with the id that the token embedding hides, or 0, the
    others with their last value, as the segments of UniLM need it. Inputs of more axes, such as the
    context of a decoder, and axes of a fixed size stay as they are.

    Args:
        model: a Keras model; its outputs are (batch, length, ...).
    """

    def __init__(self, model: Any):
        specs = getattr(model, "inputs", None)
        structure = model.input if specs else None

        def run(dropped: Any, arrays: list) -> tuple[list, Any]:
            inputs = keras.tree.pack_sequence_as(structure, arrays) if specs else simplified(arrays)
            outputs = model(inputs, training=False)
            length = ops.shape(keras.tree.flatten(outputs)[0])[1]
            last = length - 1 - dropped
            return keras.tree.map_structure(lambda y: ops.take(y, last, axis=1), outputs), length

        def simplified(arrays: list) -> Any:
            return arrays if len(arrays) > 1 else arrays[0]

        self._specs = specs
        self._run = compiled(run, model, any_shape=True)
        self._pads = keras.backend.backend() == "jax"
        self._plans: dict[tuple, tuple[int, set[int]]] = {}
        self._pad_id, self._longest, self._tolerance = _padding_limits(model)

    def predict(self, inputs: Any) -> Any:
        """Give the outputs at the last position.

        Args:
            inputs: one array or nested list for each input of the model, `(batch, ...)`.

        Returns:
            `(batch, ...)`, a new array for each output of the model, in its structure, which is a
            single array as a rule.

        Raises:
            ValueError: another number of inputs, or inputs that are empty or of different batches.
        """
        arrays = self._as_arrays(inputs)
        rows = len(arrays[0])
        if not self._pads:
            return self._call(arrays)[0]
        if not self._specs or self._specs[0].shape[0] is None:
            arrays = [_extended(x, 0, power_of_two(rows)) for x in arrays]
        lengths = {i: x.shape[1] for i, x in enumerate(arrays) if self._is_sequence(i, x)}
        buckets = {i: self._bucket(n) for i, n in lengths.items()}
        if buckets == lengths:
            return self._call(arrays, rows)[0]
        # Sequences of one length may be one sequence, such as tokens and their segments.
        together = list(lengths.values()).index
        kind = tuple((buckets[i], together(n)) for i, n in lengths.items())
        if kind not in self._plans:
            self._plans[kind] = self._plan(arrays, lengths, buckets)
        return self._call_padded(arrays, buckets, *self._plans[kind], rows)

    def _bucket(self, length: int) -> int:
        """Give the length that a sequence is padded to."""
        return max(length, min(bucket_length(length), self._longest))

    def _plan(self, arrays: list, lengths: dict, buckets: dict) -> tuple[int, set[int]]:
        """Find the input that the output has its length of, and the inputs that may be padded.

        The inputs are cut to the shortest lengths that are padded likewise, where the padding shows
        the most. Different lengths remain different.
        """
        shortest = {}
        for i, n in lengths.items():
            alike = {m for j, m in lengths.items() if buckets[j] == buckets[i] and m < n}
            start = next(m for m in range(1, n + 1) if self._bucket(m) == buckets[i])
            shortest[i] = start + len(alike)
        arrays = [x[:, : shortest[i]] if i in shortest else x for i, x in enumerate(arrays)]
        expected, length = self._call(arrays)
        leaders = {i for i, n in shortest.items() if n == int(length)}
        if not leaders:
            return 0, set()
        leading = min(leaders)
        for padded in (set(lengths), leaders) if leaders != set(lengths) else (leaders,):
            try:
                outputs = self._call_padded(arrays, buckets, leading, padded)
            except Exception:  # of whatever kind: the model has just worked on shorter inputs
                continue
            pairs = zip(keras.tree.flatten(outputs), keras.tree.flatten(expected), strict=True)
            if all(_alike(x, y, self._tolerance) for x, y in pairs):
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
        """Run the model with some inputs padded; the output has the length of the leading one."""
        dropped = buckets[leading] - arrays[leading].shape[1] if leading in padded else 0
        tokens = min(buckets)
        arrays = [
            _extended(x, 1, buckets[i], self._pad_id if i == tokens else None) if i in padded else x
            for i, x in enumerate(arrays)
        ]
        return self._call(arrays, rows, dropped)[0]

    def _call(self, arrays: list, rows: int | None = None, dropped: int = 0) -> tuple[Any, Any]:
        """Give the outputs of the first rows before the `dropped` positions, and the length."""
        outputs, length = self._run(np.array(dropped, dtype=np.int32), arrays)
        return keras.tree.map_structure(
            lambda y: as_floats(ops.convert_to_numpy(y)[:rows]), outputs
        ), length

    def _is_sequence(self, i: int, x: np.ndarray) -> bool:
        """Tell whether an input is (batch, length), of any length."""
        return x.ndim == 2 and (not self._specs or self._specs[i].shape[1] is None)

    def _as_arrays(self, inputs: Any) -> list[np.ndarray]:
        """Give an array for each input, in the type that the model wants, so that types are few."""
        several = isinstance(inputs, list | tuple)
        if self._specs and len(self._specs) == 1:
            several = several and len(inputs) == 1 and hasattr(inputs[0], "shape")
        arrays = [np.asarray(x) for x in (inputs if several else [inputs])]
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
    """Read from a model its padding id, the longest input, and how exactly it computes."""
    pad_id, longest, tolerance = 0, sys.maxsize, 1e-3
    pending = list(getattr(model, "layers", []))
    while pending:
        layer = pending.pop()
        pending += getattr(layer, "layers", [])
        if isinstance(layer, Embedding) and layer.mask_zero:
            pad_id = layer.mask_id
        if isinstance(layer, PositionEmbedding):
            longest = min(longest, layer.reach)
        if layer.compute_dtype in ("float16", "bfloat16"):
            tolerance = 3e-2
    return pad_id, longest, tolerance


def _extended(x: np.ndarray, axis: int, size: int, value: int | None = None) -> np.ndarray:
    """Fill up an axis at its end, with its last element unless a value is given."""
    missing = size - x.shape[axis]
    if not missing:
        return x
    widths = [(0, missing if i == axis else 0) for i in range(x.ndim)]
    if value is None:
        return np.pad(x, widths, mode="edge")
    return np.pad(x, widths, constant_values=value)


def _alike(x: np.ndarray, y: np.ndarray, tolerance: float) -> bool:
    """Tell whether two results differ by rounding only, measured by the spread of each row.

    Probabilities are compared by their logarithms, since those of a confident model are all close
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
