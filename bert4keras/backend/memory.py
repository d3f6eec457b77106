"""Arrays in memory of their own that an engine takes over."""

import math
from collections.abc import Sequence

import numpy as np

ALIGNMENT = 64
"""What the address of an array is a multiple of, bytes: TensorFlow takes over no other."""
PIECE = 64 << 20
"""How much memory is asked for at once, bytes."""
STRIP = 32
"""How many rows are transposed at once: what they are read from stays in the cache."""


class Memory:
    """Memory for arrays that an engine takes over, in a few large pieces.

    The pages of large pieces are large, and there are few of them to ask the system for, which is
    most of the work of filling new memory. A piece is free again when all arrays in it are.

    Args:
        size: how many bytes all arrays together will have.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.piece = np.empty(0, np.uint8)

    def array(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Make an array at an aligned address, with whatever is in memory there."""
        size = math.prod(shape) * dtype.itemsize
        room = size + ALIGNMENT
        if len(self.piece) < room:
            self.piece = np.empty(max(room, min(PIECE, self.size)), np.uint8)
        start = -self.piece.ctypes.data % ALIGNMENT
        memory = self.piece[start : start + size]
        self.piece = self.piece[start + size :]
        self.size -= size
        return memory.view(dtype).reshape(shape)

    def copy(self, value: np.ndarray, dtype: str, any_order: bool) -> np.ndarray:
        """Copy an array.

        Args:
            value: the array, maybe a view of a mapped file.
            dtype: type of the copy.
            any_order: whether the copy of a transposed matrix may be a transposed matrix itself,
                which takes a quarter of the time.
        """
        if any_order and value.flags.f_contiguous and value.ndim > 1:
            return self.copy(value.T, dtype, any_order=False).T
        copy = self.array(value.shape, np.dtype(dtype))
        if value.ndim == 2 and not value.flags.c_contiguous:
            for start in range(0, len(value), STRIP):
                copy[start : start + STRIP] = value[start : start + STRIP]
        else:
            copy[...] = value
        return copy
