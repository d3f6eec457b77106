"""The layout of weights over devices for model parallelism."""

import keras

BATCH, MODEL = "batch", "model"
"""The axes of a device mesh, along which the batch and the weights are split."""

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
"""The axis of each variable that is split, by its path, which all architectures share."""


def layout_map(mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
    """Return the layout of the weights of any architecture over the axis 'model' of a mesh.

    The projections of queries, keys and values and the inner layer of a feed-forward network are
    split along their output, and the layers that follow along their input, so that each sub-layer
    needs a single sum over the devices (Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053,
    section 3). Token embeddings are split along the vocabulary. Norms, positions, segments and
    layers outside of the architecture are replicated on every device; assign to the result to split
    more:

        layout = layout_map(mesh)
        layout["Head/kernel"] = (None, "model")

    Args:
        mesh: a device mesh with an axis named 'model'.

    Raises:
        ValueError: the mesh has no such axis.
    """
    if MODEL not in mesh.axis_names:
        raise ValueError(
            f"the mesh has the axes {list(mesh.axis_names)}, but weights are split over the axis "
            f"{MODEL!r}: name one of the axes so"
        )
    layout = keras.distribution.LayoutMap(mesh)
    for path, axes in SPLIT.items():
        layout[path] = axes
    return layout
