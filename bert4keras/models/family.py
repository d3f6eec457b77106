"""`Family`: how Hugging Face describes an architecture, and tables that many families share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """How Hugging Face describes one `model_type`.

    One table translates the keys of `config.json` to our arguments and back. What a table cannot
    express is done by functions: `versions`, `read`, `write`.

    Attributes:
        model_type: its name in `config.json`.
        models: our architectures that it may be; the first one is the default without `model=`.
        name: prefix of the names of its classes.
        keys: its keys, with the arguments of ours that they correspond to.
        defaults: values of keys that a config leaves out.
        fixed: keys for which only these values are implemented.
        causal: suffix of the name of its class for language models; empty if there is none.
        gates: whether its configs can describe gated feed-forward layers.
        maps_always: whether it maps embeddings to hidden_size even if they have that size.
        in_transformers: whether `transformers` has it.
        mark: a key that identifies old files, which have neither `model_type` nor a class.
        strings: keys whose values must be strings, because the functions rely on it.
        versions: takes a config and its path, returns those of `models` that it may be, the most
            likely first.
        read: takes a config and its path, returns the config with those values converted that
            `keys` cannot convert.
        write: takes a model, returns further keys of its config; None leaves a key out.
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
    in_transformers: bool = True
    mark: str = ""
    strings: tuple[str, ...] = ()
    versions: Callable[[Mapping[str, Any], Any], Sequence[str]] | None = None
    read: Callable[[dict[str, Any], Any], dict[str, Any]] = lambda config, path: config
    write: Callable[[Any], Mapping[str, Any]] = lambda transformer: {}

    def versions_of(self, config: Mapping[str, Any], path: Any) -> Sequence[str]:
        """Return which of our architectures a config may be, the likeliest first."""
        return self.models if self.versions is None else self.versions(config, path)


def same(*keys: str) -> dict[str, str]:
    """Return a table for keys that have the same name as our arguments."""
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
