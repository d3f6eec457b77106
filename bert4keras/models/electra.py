"""ELECTRA: BERT that detects which tokens were replaced."""

from collections.abc import Mapping
from typing import Any, ClassVar

from bert4keras.backend.activations import activation
from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.models.bert import BERT, POSITION_TABLE, QUERY, first_block
from bert4keras.models.family import EPSILON, FACTORED_KEYS, Family
from bert4keras.models.names import dense, renamed
from bert4keras.models.transformer import chosen_activation


class ELECTRA(BERT):
    """ELECTRA (Clark et al., 2020), the discriminator.

    Args:
        with_discriminator: output (batch, length, 1), whether a token was replaced: True for a
            probability, or an activation such as 'linear'.
        **kwargs: those of `BERT`.
    """

    model_type = "electra"
    applications = ("encoder",)
    refused_arguments = ("with_pool", "with_nsp", "with_mlm", "masked_positions")
    # google-research/electra, modeling.py and run_pretraining.py
    variable_names = renamed(BERT.variable_names, "bert/", "electra/") | {
        "Embedding-Mapping": dense("electra/embeddings_project"),
        "Discriminator-Dense": dense("discriminator_predictions/dense"),
        "Discriminator-Prediction": dense("discriminator_predictions/dense_1"),
    }
    vocabulary_variables = ("electra/embeddings/word_embeddings",)
    head_layers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "Discriminator-": {"with_discriminator": "linear"}
    }
    families = (Family("electra", ("electra",), "Electra", FACTORED_KEYS, EPSILON),)
    dialect = Dialect(
        "electra",
        ((r"^discriminator_predictions/dense_1/", "discriminator_predictions/dense_prediction/"),),
    )
    signatures = (
        Signature("electra", has=(f"electra/{QUERY}/bias",), start=first_block("electra")),
        Signature("electra", (f"{QUERY}/bias", "embeddings_project/kernel", POSITION_TABLE)),
    )

    def __init__(
        self, max_position: int, with_discriminator: bool | str = False, **kwargs: Any
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.with_discriminator = with_discriminator

    def apply_final_layers(self, inputs: Tensor) -> Tensor:
        """Compute whether each token was replaced, or return the hidden states."""
        if not self.with_discriminator:
            return inputs
        function = activation(self.activations[0])
        x = self.apply_dense(inputs, self.hidden_size, "Discriminator-Dense", activation=function)
        kwargs = {
            "activation": chosen_activation(self.with_discriminator, "sigmoid"),
            "dtype": "float32",
        }
        return self.apply_dense(x, 1, "Discriminator-Prediction", **kwargs)
