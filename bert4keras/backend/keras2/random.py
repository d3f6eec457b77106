"""Random numbers of `K`."""

from collections.abc import Sequence

import keras
from keras import ops

from bert4keras.backend.engines import seed_of_run
from bert4keras.backend.keras2.shapes import as_shape
from bert4keras.backend.keras2.types import as_float_tensor
from bert4keras.backend.sizes import takes_sizes
from bert4keras.backend.tensors import Tensor

Seed = int | keras.random.SeedGenerator | None


def _seed(given: Seed) -> Seed:
    return seed_of_run() if given is None else given


@takes_sizes
def random_normal(
    shape: Sequence,
    mean: float = 0.0,
    stddev: float = 1.0,
    dtype: str | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draw from a normal distribution."""
    return keras.random.normal(as_shape(shape), mean, stddev, dtype=dtype, seed=_seed(seed))


@takes_sizes
def truncated_normal(
    shape: Sequence,
    mean: float = 0.0,
    stddev: float = 1.0,
    dtype: str | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draw from a normal distribution truncated at two standard deviations from the mean."""
    seed = _seed(seed)
    return keras.random.truncated_normal(as_shape(shape), mean, stddev, dtype=dtype, seed=seed)


@takes_sizes
def random_uniform(
    shape: Sequence,
    minval: float = 0.0,
    maxval: float = 1.0,
    dtype: str | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draw uniformly from `minval` to below `maxval`, integers if `dtype` is an integer type."""
    dtype = None if dtype is None else keras.backend.standardize_dtype(dtype)
    draw = keras.random.randint if dtype and "int" in dtype else keras.random.uniform
    return draw(as_shape(shape), minval, maxval, dtype=dtype, seed=_seed(seed))


@takes_sizes
def random_binomial(
    shape: Sequence,
    p: float = 0.0,
    dtype: str | None = None,
    seed: Seed = None,
) -> Tensor:
    """Draw 1 with probability `p`, otherwise 0."""
    drawn = keras.random.uniform(as_shape(shape), seed=_seed(seed))
    return ops.cast(ops.less(drawn, p), dtype or keras.config.floatx())


@takes_sizes
def dropout(
    x: Tensor,
    level: float,
    noise_shape: Sequence | None = None,
    seed: Seed = None,
) -> Tensor:
    """Set a fraction `level` of the elements to 0 and multiply the others by 1 / (1 - level)."""
    noise_shape = None if noise_shape is None else as_shape(noise_shape)
    x = as_float_tensor(x)
    return keras.random.dropout(x, level, noise_shape=noise_shape, seed=_seed(seed))
