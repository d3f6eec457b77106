"""RoFormer and RoFormerV2: BERT with rotary positions."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.base import Dropout
from bert4keras.layers.positions import SinusoidalPositionEmbedding
from bert4keras.models.bert import BERT, QUERY, WITHOUT_POSITIONS, bert_like, first_block
from bert4keras.models.block import Block
from bert4keras.models.family import EPSILON, FACTORED_KEYS, TIED, Family


def rotary_settings(theta: float, scaling: Mapping[str, Any] | None, reach: int) -> dict[str, Any]:
    """Convert settings of Hugging Face configs to arguments of `SinusoidalPositionEmbedding`.

    Args:
        theta: `rope_theta`, unless `scaling` has one.
        scaling: `rope_scaling` or `rope_parameters`.
        reach: the length that the model was trained with, unless `scaling` gives it. For dynamic
            scaling it is always used, as in `transformers`, which ignores the key there.
    """
    scaling = dict(scaling or {})
    theta = scaling.pop("rope_theta", theta)
    if scaling.pop("partial_rotary_factor", None) not in (None, 1):
        raise ValueError(
            "the config has partial_rotary_factor in its rotary positions, which is not "
            "implemented: expected 1, or none"
        )
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return {"base": theta}
    if kind == "dynamic":
        scaling["original_max_position_embeddings"] = reach
    elif kind != "linear":
        scaling.setdefault("original_max_position_embeddings", reach)
    return {"base": theta, "scaling": scaling}


def roformer_versions(config: Mapping[str, Any], path: Any) -> Sequence[str]:
    """Return the architectures that a config of Hugging Face may describe, the likely one first."""
    versions = ("roformer", "roformer_v2")
    return versions[::-1] if config.get("norm_type") == "rms_norm" else versions


class RoFormer(BERT):
    """RoFormer (Su et al., 2021): BERT with rotary positions instead of a position table."""

    model_type = "roformer"
    block = Block(epsilon=1e-7, position_bias="rotary")
    refused_arguments = ("hierarchical_position",)
    foreign_variables = ("bert/embeddings/position_embeddings",)
    rotary: ClassVar[dict[str, Any]] = {}
    """Wavelengths: `base` and `scaling` of `SinusoidalPositionEmbedding`."""
    families = (
        Family(
            "roformer",
            ("roformer", "roformer_v2"),
            "RoFormer",
            FACTORED_KEYS,
            EPSILON,
            {"rotary_value": (False,), **TIED},
            causal="ForCausalLM",
            versions=roformer_versions,
        ),
    )
    dialect = bert_like(
        "roformer", (r"^bert/encoder/embedding_hidden_mapping_in/", "bert/embeddings_project/")
    )
    # NEZHA has the same names, except in files of Hugging Face.
    signatures = (
        Signature(
            "roformer", has=(f"roformer/{QUERY}/bias",), start=first_block("bert", "roformer")
        ),
        Signature("roformer", *WITHOUT_POSITIONS),
    )

    def compute_position_bias(self, inputs: Any = None) -> Tensor:
        """Compute the sinusoidal embeddings that rotate queries and keys, once per call."""
        if self.position_bias is None:
            name = "Embedding-Rotary-Position"
            self.position_bias = self.apply_rotary_position(inputs, name, self.rotary)
        return self.position_bias

    def apply_rotary_position(self, x: Tensor, name: str, wavelengths: dict[str, Any]) -> Tensor:
        """Compute sinusoidal embeddings of the positions, (batch or 1, length, key size)."""
        position_ids = self.layers.get(self.prefixed("Input-Position"))
        return self.apply(
            self.simplify([x, position_ids]),
            SinusoidalPositionEmbedding,
            output_dim=self.attention_key_size,
            merge_mode="zero",
            custom_position_ids=self.custom_position_ids,
            name=name,
            **wavelengths,
        )


class RoFormerV2(RoFormer):
    """RoFormerV2 (Su et al., 2022): RoFormer without biases, and with norms without parameters.

    It has no pooler and no conditional norms: as in bert4keras 0.11.5, `with_pool`, `with_nsp` and
    `layer_norm_cond` have no effect.
    """

    model_type = "roformer_v2"
    block = Block(
        epsilon=1e-7,
        zero_mean=False,
        scale=False,
        offset=False,
        position_bias="rotary",
        use_bias=False,
    )
    embedding_steps = ("dropout", "norm")
    initializer_order = 2
    variable_names: ClassVar[Mapping[str, list[str]]] = {
        layer: [name for name in names if name.endswith(("kernel", "embeddings"))]
        for layer, names in BERT.variable_names.items()
    } | {"Output-Mapping": ["bert/encoder/embedding_hidden_mapping_out/kernel"]}
    # Hugging Face has no such model: these are our own files and those of the authors.
    families = (
        Family(
            "roformer_v2",
            ("roformer_v2",),
            "RoFormerV2",
            FACTORED_KEYS,
            gates=True,
            in_transformers=False,
        ),
    )
    dialect = Dialect("bert")
    signatures = (
        Signature(
            "roformer_v2",
            has=(f"((bert|roformer)/)?{QUERY}/kernel",),
            lacks=(f".*{QUERY}/bias",),
            start=first_block("bert", "roformer"),
        ),
    )

    @property
    def standard_initializer(self) -> keras.initializers.Initializer:
        """The initializer of kernels: smaller with depth, to bound updates of post-norm models."""
        return self.scaled_initializer("fan_in")

    @property
    def table_initializer(self) -> keras.initializers.Initializer:
        """The initializer of tables: likewise, but scaled by the size of the embeddings."""
        return self.initializer if self.draws_itself else self.scaled_initializer("fan_out")

    def scaled_initializer(
        self, mode: str, order: float | None = None
    ) -> keras.initializers.Initializer:
        """Return a truncated normal with standard deviation fan^(−1/2) · blocks^(−1/order)."""
        scale = max(1, self.num_hidden_layers) ** (-2 / (order or self.initializer_order))
        return keras.initializers.VarianceScaling(scale, mode, "truncated_normal")

    def initial_values(
        self, shape: Sequence[int], dtype: Any = None, order: float | None = None, gain: float = 1.0
    ) -> Tensor:
        """Draw the values of a kernel, or of a table: fewer than 10 or more than 10 000 rows."""
        mode = "fan_in" if 10 <= shape[0] <= 10_000 else "fan_out"
        return gain * self.scaled_initializer(mode, order)(shape, dtype)

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Compute token probabilities with the embedding table, or return the hidden states."""
        if not self.with_mlm:
            return inputs
        x = self.apply_gather(inputs)
        if self.embedding_size != self.hidden_size:
            x = self.apply_dense(x, self.embedding_size, "Output-Mapping")
        x = self.apply(x, Dropout, rate=self.dropout_rate, name="Output-MLM-Dropout")
        x = self.apply_token_embedding(x, mode="dense")
        return self.apply_activation(x, self.with_mlm, "Output-MLM-Activation")
