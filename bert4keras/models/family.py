"""How Hugging Face describes an architecture, and what many of its descriptions share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """How Hugging Face describes one `model_type`.

    What a key of its `config.json` is called here stands in one table, for both directions. What no
    table can say is a function: `versions`, `read`, `write`.

    Attributes:
        model_type: what `config.json` calls it.
        models: our architectures that it may be, the first one if `model=` does not say.
        name: what the names of its classes begin with.
        keys: its keys, and our arguments that they are.
        defaults: what its missing keys mean.
        fixed: keys that may only have these values.
        causal: how the name of its class for language models ends; empty if there is none.
        gates: whether it can say of feed-forward layers that they are gated.
        maps_always: whether it maps embeddings to hidden_size even if they are of that size.
        mark: a key that tells it in old files, which name neither `model_type` nor a class.
        strings: keys that must be strings, as the functions take them to be.
        versions: of a config and its path, those of `models` that it may be, the likeliest first.
        read: of a config and its path, the config with what `keys` cannot say in our terms.
        write: of a model, what is to be put into its config; None leaves a key out.
    """

    model_type: str
    models: tuple[str, ...]
    name: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    causal: str = ""
    gates: bool = False
    maps_always: bool = False
    mark: str = ""
    strings: tuple[str, ...] = ()
    versions: Callable[[Mapping[str, Any], Any], Sequence[str]] | None = None
    read: Callable[[dict[str, Any], Any], dict[str, Any]] = lambda config, path: config
    write: Callable[[Any], Mapping[str, Any]] = lambda transformer: {}

    def versions_of(self, config: Mapping[str, Any], path: Any) -> Sequence[str]:
        """Return which of our architectures a config may be, the likeliest first."""
        return self.models if self.versions is None else self.versions(config, path)


def same(*keys: str) -> dict[str, str]:
    """Keys that are called the same here."""
    return {key: key for key in keys}


SIZES = same(
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "pad_token_id",
    "intermediate_size",
    "initializer_range",
)
POSITIONS = {"max_position_embeddings": "max_position"}
BERT_KEYS = {
    **SIZES,
    **same("hidden_act"),
    **POSITIONS,
    "hidden_dropout_prob": "dropout_rate",
    "attention_probs_dropout_prob": "attention_dropout_rate",
    "type_vocab_size": "segment_vocab_size",
    "layer_norm_eps": "layer_norm_epsilon",
}
FACTORED_KEYS = {**BERT_KEYS, **same("embedding_size")}

EPSILON = {"layer_norm_eps": 1e-12}
NO_SEGMENTS = {"type_vocab_size": 0}
NO_PADDING = {"pad_token_id": -1}
TIED = {"tie_word_embeddings": (True,)}
