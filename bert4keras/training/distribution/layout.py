"""How weights are split over devices that hold a part of each large matrix."""

import keras

BATCH, MODEL = "batch", "model"
"""The axes of a mesh of devices: along the first the batch is split, along the other weights."""

_ATTENTION = r".*MultiHead(Self|Cross)Attention"
SPLIT: dict[str, tuple[str | None, ...]] = {
    rf"{_ATTENTION}/[qkv]_dense/kernel": (None, MODEL),
    rf"{_ATTENTION}/[qkv]_dense/bias": (MODEL,),
    rf"{_ATTENTION}/o_dense/kernel": (MODEL, None),
    r".*FeedForward/i\d_dense/kernel": (None, MODEL),
    r".*FeedForward/i\d_dense/bias": (MODEL,),
    r".*FeedForward/o_dense/kernel": (MODEL, None),
    r".*GatedAttentionUnit/i_dense/kernel": (None, MODEL),
    r".*GatedAttentionUnit/i_dense/bias": (MODEL,),
    r".*GatedAttentionUnit/o_dense/kernel": (MODEL, None),
    r".*Embedding-Token/embeddings": (MODEL, None),
    r".*Embedding-Mapping/kernel": (None, MODEL),
    r".*Embedding-Mapping/bias": (MODEL,),
    r".*(MLM-Dense|Pooler-Dense|Output-Mapping|Output-LM)/kernel": (None, MODEL),
    r".*(MLM-Dense|Pooler-Dense|Output-Mapping|Output-LM)/bias": (MODEL,),
    r".*MLM-Bias/beta": (MODEL,),
}
"""Which axis of a variable is split, by its path. All architectures share the names."""


def layout_map(mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
    """Say how the weights of any architecture are split over the axis 'model' of a mesh.

    Queries, keys, values and the inner layer of a feed-forward network are split by their output,
    and the layers that follow by their input, so that one sum over the devices ends a sub-layer
    (Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053, section 3). Token embeddings are split
    over the vocabulary. Norms, positions, segments and what is not of the architecture are
    whole on every device; assign to the result to split more:

        layout = layout_map(mesh)
        layout["Head/kernel"] = (None, "model")

    Args:
        mesh: devices with the axis 'model' among the names of its axes.

    Raises:
        ValueError: the mesh has no such axis.
    """
    if MODEL not in mesh.axis_names:
        raise ValueError(
            f"the mesh has the axes {list(mesh.axis_names)}, and weights are split over the axis "
            f"{MODEL!r}: name one of them so"
        )
    layout = keras.distribution.LayoutMap(mesh)
    for path, axes in SPLIT.items():
        layout[path] = axes
    return layout
