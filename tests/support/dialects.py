"""The dialect of a file of Hugging Face, told from its `model_type` alone."""

from bert4keras.checkpoints.names import RULE, Dialect
from bert4keras.models.registry import architecture_classes


def dialect_of(model_type: str) -> Dialect:
    """Return the dialect of a model type of Hugging Face: the rule alone where there is none."""
    for architecture in architecture_classes():
        if any(family.model_type == model_type for family in architecture.families):
            return architecture.dialect
    return RULE
