"""Architectures that mix blocks of full and of sliding-window attention."""

from collections.abc import Mapping, Sequence
from typing import Any

from bert4keras.backend.tensors import Tensor
from bert4keras.layers.masks import AttentionMask, LocalMask
from bert4keras.models.roformer import RoFormer
from bert4keras.models.settings import Allowed, one_of

FULL, SLIDING = "full_attention", "sliding_attention"
_KINDS = one_of(FULL, SLIDING)
LAYER_TYPES = Allowed(
    f"a list with {_KINDS.words} for each layer",
    lambda x: isinstance(x, list | tuple) and all(map(_KINDS.holds, x)),
)


class LayerTypes(RoFormer):
    """An architecture with full or sliding-window attention by block, as in `layer_types`."""

    layer_types: Sequence[str]
    window: int | None
    """The size of the sliding window in tokens, see `window_mask`."""
    window_mask: type[AttentionMask] = LocalMask
    window_bias: Tensor | None = None

    def set_layer_types(self, layer_types: Sequence[str], window: int | None) -> None:
        """Set the kind of attention of each block.

        Raises:
            ValueError: their number differs from that of the blocks, or the window is missing.
        """
        if len(layer_types) != self.num_hidden_layers:
            raise ValueError(
                f"layer_types has {len(layer_types)} entries, but num_hidden_layers is "
                f"{self.num_hidden_layers}: give one entry for each layer"
            )
        if SLIDING in layer_types and window is None:
            raise ValueError(
                f"layer_types contains {SLIDING!r}, but no window is given: correct the config"
            )
        self.layer_types = list(layer_types)
        self.window = window

    def reset_shared_tensors(self) -> None:
        """Reset the tensors that the blocks of one call share, including the window mask."""
        super().reset_shared_tensors()
        self.window_bias = None

    def apply_main_layers(self, inputs: Any, index: int) -> Any:
        """Apply one block with its kind of attention."""
        self.layer_type = self.layer_types[index]
        return super().apply_main_layers(inputs, index)

    def compute_attention_bias(self, inputs: Any = None) -> Tensor | None:
        """Return the bias of the architecture or the mask of the window, computed once."""
        if self.layer_type == FULL:
            return super().compute_attention_bias(inputs)
        if self.window_bias is None:
            window = {"window": self.window, "name": "Attention-Local-Mask"}
            self.window_bias = self.apply(self.inputs[0], self.window_mask, **window)
        return self.window_bias


class RotaryByType(LayerTypes):
    """An architecture with rotary settings by kind of attention: `rotary[kind]`."""

    rotary: Mapping[str, dict[str, Any]]

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Return the sinusoidal vectors for the kind of the block, computed once for each."""
        if self.position_bias is None:
            self.position_bias = {}
        kind = self.layer_type
        if kind not in self.position_bias:
            name = f"Embedding-Rotary-Position-{kind.split('_')[0].title()}"
            self.position_bias[kind] = self.apply_rotary_position(inputs, name, self.rotary[kind])
        return self.position_bias[kind]
