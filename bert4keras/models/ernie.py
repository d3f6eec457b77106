"""ERNIE: BERT with an embedding of the task."""

from collections.abc import Mapping
from typing import Any, ClassVar

import keras

from bert4keras.backend.tensors import Tensor
from bert4keras.checkpoints.architectures import Signature
from bert4keras.checkpoints.names import Dialect
from bert4keras.layers.embeddings import Embedding
from bert4keras.layers.merging import Add
from bert4keras.models.bert import BERT, BIAS_TWICE, HEADS, QUERY, first_block
from bert4keras.models.block import listed
from bert4keras.models.family import BERT_KEYS, EPSILON, TIED, Family, same
from bert4keras.models.names import renamed
from bert4keras.models.settings import FLAG, Allowed, whole


class ERNIE(BERT):
    """ERNIE (Sun et al., 2019) 1.0 and, with task embeddings, 3.0 (Sun et al., 2021).

    Args:
        use_task_id: add an embedding of the task to the other embeddings.
        task_type_vocab_size: number of tasks.
        custom_task_ids: take task ids (batch, length) as the last input; otherwise the task is 0.
        **kwargs: those of `BERT`.
    """

    model_type = "ernie"
    # These are names of Hugging Face, since the checkpoints come from PaddlePaddle.
    variable_names = renamed(BERT.variable_names, "bert/", "ernie/") | {
        "Embedding-Task": ["ernie/embeddings/task_type_embeddings"],
    }
    vocabulary_variables = ("ernie/embeddings/word_embeddings", "cls/predictions/output_bias")
    foreign_variables = ("ernie/embeddings/task_type_embeddings",)
    allowed_settings: ClassVar[Mapping[str, Allowed]] = {
        "use_task_id": FLAG,
        "task_type_vocab_size": whole(1, 1 << 16),
    }
    families = (
        Family(
            "ernie",
            ("ernie",),
            "Ernie",
            {**BERT_KEYS, **same("use_task_id", "task_type_vocab_size")},
            EPSILON,
            TIED,
            causal="ForCausalLM",
        ),
    )
    dialect = Dialect("ernie", HEADS, BIAS_TWICE)
    signatures = (
        Signature(
            "ernie",
            has=(
                f"(ernie/)?{QUERY}/bias",
                "(ernie/)?embeddings/task_type_embeddings(/kernel)?",
            ),
            start=first_block("ernie"),
        ),
        Signature("ernie", has=(f"ernie/{QUERY}/bias",)),
    )

    def __init__(
        self,
        max_position: int,
        use_task_id: bool = False,
        task_type_vocab_size: int = 3,
        custom_task_ids: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_position, **kwargs)
        self.use_task_id = use_task_id
        self.task_type_vocab_size = task_type_vocab_size
        self.custom_task_ids = custom_task_ids

    def get_inputs(self) -> Any:
        """Create the inputs of BERT, and with `custom_task_ids` that of task ids."""
        inputs = listed(super().get_inputs())
        if self.use_task_id and self.custom_task_ids:
            inputs.append(self.apply_input("Input-Task"))
        return self.simplify(inputs)

    def apply_position_embedding(self, x: Tensor, position_ids: Tensor | None) -> Tensor:
        """Add the embeddings of positions and of the task."""
        x = super().apply_position_embedding(x, position_ids)
        if not self.use_task_id:
            return x
        task_ids = self.layers.get(self.prefixed("Input-Task"))
        if task_ids is None:
            task_ids = keras.ops.zeros_like(x[..., 0], dtype="int32")
        task = self.apply(
            task_ids,
            Embedding,
            input_dim=self.task_type_vocab_size,
            output_dim=self.embedding_size,
            embeddings_initializer=self.table_initializer,
            name="Embedding-Task",
        )
        return self.apply([x, task], Add, name="Embedding-Position-Task")
