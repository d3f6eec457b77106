"""Functions of NumPy arrays: padding, bucketing, resizing of weights, Viterbi decoding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

FREE_PADDING = 64
"""Padding of a batch that takes about as long as another call of a model on a CPU, in tokens."""


def to_array(*args: Any) -> np.ndarray | list[np.ndarray]:
    """Convert every argument to an array; return one array for a single argument, else a list."""
    arrays = [np.array(a) for a in args]
    return arrays[0] if len(arrays) == 1 else arrays


def as_floats(scores: Any) -> np.ndarray:
    """Copy scores to an array of at least float32, since float16 is too coarse for sums."""
    scores = np.asarray(scores)
    return np.array(scores, dtype=np.result_type(scores.dtype, np.float32))


def sequence_padding(
    inputs: Sequence,
    length: int | Sequence[int] | None = None,
    value: float = 0,
    seq_dims: int = 1,
    mode: str = "post",
) -> np.ndarray:
    """Pad sequences to one length and stack them.

    Args:
        inputs: sequences of one rank, lists or arrays, with the same sizes of axes that are not
            padded.
        length: the length of each padded axis, or of the only one; longer sequences are truncated
            at the end. None stands for the longest.
        value: the padding value.
        seq_dims: number of padded axes, counted from the first.
        mode: `post` pads at the end, `pre` at the start.

    Returns:
        `(len(inputs), *length, ...)`, in the type of the inputs: integers stay integers and
        float32 stays float32, unless `value` does not fit.

    Raises:
        ValueError: there are no inputs, their ranks differ, or the mode is unknown.
    """
    if mode not in ("post", "pre"):
        raise ValueError(f'sequence_padding: mode is {mode!r}: give "post" or "pre"')
    arrays = [np.asarray(x) for x in inputs]
    if not arrays or any(x.ndim != arrays[0].ndim or x.ndim < seq_dims for x in arrays):
        raise ValueError(
            f"sequence_padding: the inputs have the ranks {sorted({x.ndim for x in arrays})}: "
            f"give at least one sequence, all of the same rank, which is at least {seq_dims}"
        )
    rest = {x.shape[seq_dims:] for x in arrays}
    if len(rest) > 1:
        raise ValueError(
            f"sequence_padding: beyond the {seq_dims} padded axes the shapes of the inputs differ, "
            f"{sorted(rest)}: pad these axes too by a larger seq_dims"
        )
    if length is None:
        lengths = longest(arrays, seq_dims)
    else:
        lengths = list(length) if hasattr(length, "__getitem__") else [length]
    if len(lengths) < seq_dims:
        raise ValueError(
            f"sequence_padding: length is {length}: give {seq_dims} numbers, one for each axis"
        )
    # An empty list has the type float64, but no element of that type.
    dtypes = {x.dtype for x in arrays if x.size} or {x.dtype for x in arrays}
    dtype = np.result_type(*dtypes)
    if dtype.kind in "bui" and not float(value).is_integer():
        dtype = np.result_type(dtype, value)
    outputs = np.full((len(arrays), *lengths[:seq_dims], *rest.pop()), value, dtype)
    for output, x in zip(outputs, arrays, strict=True):
        kept = [min(n, m) for n, m in zip(x.shape, lengths[:seq_dims], strict=False)]
        if mode == "post":
            place = tuple(slice(n) for n in kept)
        else:
            place = tuple(slice(m - n, m) for n, m in zip(kept, lengths, strict=False))
        output[place] = x[tuple(slice(n) for n in kept)]
    return outputs


def longest(inputs: Sequence, seq_dims: int) -> list[int]:
    """Return the largest size of each of the first `seq_dims` axes."""
    return [int(n) for n in np.max([np.shape(x)[:seq_dims] for x in inputs], axis=0)]


def bucket_length(length: int) -> int:
    """Round a length up to one of few values, so that a model is compiled for few shapes.

    The values are 0, 1, the multiples of 16 up to 128, of 32 up to 256, of 64 up to 512, of 128 up
    to 1024 and so on: 18 values up to 512. From 64 on less than a quarter is added. An axis of size
    1, such as a column of labels, is not a sequence and keeps its size.

    Args:
        length: the number of elements, at least 0.

    Returns:
        The smallest of the values that is not less than `length`.
    """
    if length <= 1:
        return length
    step = max(16, 1 << (length - 1).bit_length() >> 3)
    return -(-length // step) * step


def similar_lengths(lengths: Sequence[int], batch_size: int, divided: bool) -> Iterator[list[int]]:
    """Put sequences of similar length into batches.

    Args:
        lengths: the length of each sequence.
        batch_size: largest number of sequences in a batch.
        divided: whether a batch also ends where its padding would exceed both `FREE_PADDING`
            elements and a quarter of what is no padding.

    Yields:
        The indices of the sequences of a batch, longest first.
    """
    batch, total = [], 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padding = lengths[batch[0]] * (len(batch) + 1) - total - lengths[i] if batch else 0
        too_much = divided and padding > max(FREE_PADDING, (total + lengths[i]) / 4)
        if len(batch) == batch_size or too_much:
            yield batch
            batch, total = [], 0
        batch.append(i)
        total += lengths[i]
    if batch:
        yield batch


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Compute the softmax along an axis, without overflow for large values."""
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def orthogonally_resize(a: np.ndarray, new_shape: Sequence[int], window: int = 2) -> np.ndarray:
    """Resize a weight, preserving its Frobenius norm and much of its orthogonality.

    An axis that grows is repeated in groups of `window` neighbours, then every axis is truncated to
    its new size and the weight is scaled to its former norm.

    Args:
        a: a weight of any rank.
        new_shape: its new shape.
        window: the size of the groups, which must divide an axis that grows.

    Returns:
        An array of shape `new_shape` with the norm of `a`.

    Raises:
        ValueError: the rank differs, or an axis that grows is not a multiple of `window`.
    """
    if a.ndim != len(new_shape):
        raise ValueError(
            f"orthogonally_resize: the new shape {tuple(new_shape)} has another rank than "
            f"{a.shape}: give one size for each axis"
        )
    resized = a
    for axis, (old, new) in enumerate(zip(a.shape, new_shape, strict=True)):
        if new > old:
            if old % window:
                raise ValueError(
                    f"orthogonally_resize: axis {axis} of {a.shape} cannot grow to {new}, since "
                    f"its size is not a multiple of the window {window}: give another window"
                )
            times = -(-new // old)
            before, after = resized.shape[:axis], resized.shape[axis + 1 :]
            groups = resized.reshape(*before, old // window, window, *after)
            resized = np.repeat(groups, times, axis=axis).reshape(*before, old * times, *after)
        resized = np.take(resized, range(new), axis=axis) if new != old else resized
    norm = np.linalg.norm(resized)
    return resized if norm == 0 else resized / norm * np.linalg.norm(a)


class ViterbiDecoder:
    """Find the best label sequence under transition scores by the Viterbi algorithm.

    Viterbi, Error bounds for convolutional codes, IEEE Transactions on Information Theory 1967.

    Args:
        trans: `(labels, labels)`, the scores of transitions from each label (row) to each label
            (column); the attribute of this name may be set to another matrix at any time.
        starts: the labels with which a sequence may start; None for all.
        ends: the labels with which a sequence may end; None for all.
    """

    def __init__(
        self,
        trans: np.ndarray,
        starts: Iterable[int] | None = None,
        ends: Iterable[int] | None = None,
    ):
        self.trans = trans
        self.num_labels = len(trans)
        labels = range(self.num_labels)
        self.non_starts = [] if starts is None else sorted(set(labels) - set(starts))
        self.non_ends = [] if ends is None else sorted(set(labels) - set(ends))

    def decode(self, nodes: np.ndarray) -> np.ndarray:
        """Find the best labels.

        Args:
            nodes: `(length, labels)`, the score of each label at each position; it is not changed.

        Returns:
            `(length,)`, the labels of the best path, in a tie those with smaller ids.

        Raises:
            ValueError: nodes have another shape or length 0, or there is NaN in them or in the
                transitions.
        """
        nodes, trans = np.asarray(nodes), np.asarray(self.trans)
        if nodes.ndim != 2 or not len(nodes) or nodes.shape[1] != self.num_labels:
            raise ValueError(
                f"ViterbiDecoder: nodes has the shape {nodes.shape}: give (length, "
                f"{self.num_labels}) with a length of at least 1"
            )
        nodes = nodes.astype(np.result_type(nodes, np.float32))  # a copy, of a type that has -inf
        for name, scores in {"nodes": nodes, "trans": trans}.items():
            if np.isnan(scores).any():
                row, label = np.argwhere(np.isnan(scores))[0].tolist()
                raise ValueError(
                    f"ViterbiDecoder: {name} has NaN at [{row}, {label}], so no path is the best: "
                    "look for NaN or infinity in the model that computes it"
                )
        nodes[0, self.non_starts] = -np.inf
        nodes[-1, self.non_ends] = -np.inf
        scores, origins = nodes[0], []
        for node in nodes[1:]:
            candidates = scores[:, None] + trans + node
            origins.append(candidates.argmax(0))
            scores = candidates.max(0)
        path = [scores.argmax()]
        for origin in reversed(origins):
            path.append(origin[path[-1]])
        return np.array(path[::-1])
