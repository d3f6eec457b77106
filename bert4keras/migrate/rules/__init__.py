"""The changes by `python -m bert4keras.migrate`, as tables.

names       moved and renamed names
stars       names from star imports
tensorflow  names of TensorFlow 1
calls       calls and attributes
marks       changes by hand
"""

from bert4keras.migrate.rules.calls import (
    ARGUMENTS,
    ATTRIBUTES,
    LAYER_NAME,
    LAYER_NODES,
    LOSSES,
    METHODS,
    MODEL_MAKERS,
    NODE_METHODS,
    NODES,
    OPTIMIZER_ARGUMENTS,
    OPTIMIZER_WRAPPERS,
    OTHER_TOKENIZERS,
    TOKENIZER_METHODS,
    WATCHERS,
    Arguments,
    Flag,
    Method,
)
from bert4keras.migrate.rules.marks import (
    ARGUMENT_MARKS,
    ATTRIBUTE_MARKS,
    KINDS,
    MARKS,
    STEP,
    Mark,
)
from bert4keras.migrate.rules.names import (
    CALLS,
    DECORATORS,
    EXPRESSIONS,
    GONE,
    IMPORTABLE,
    KERAS_BACKEND,
    LIBRARIES,
    MODULES,
    NAMES,
    NEW,
    RESULTS,
    USELESS_CALLS,
    VALID,
)
from bert4keras.migrate.rules.spelling import K
from bert4keras.migrate.rules.stars import KERAS_LAYERS, OWN_LAYERS, STAR_IMPORTS

__all__ = [
    "ARGUMENTS",
    "ARGUMENT_MARKS",
    "ATTRIBUTES",
    "ATTRIBUTE_MARKS",
    "CALLS",
    "DECORATORS",
    "EXPRESSIONS",
    "GONE",
    "IMPORTABLE",
    "KERAS_BACKEND",
    "KERAS_LAYERS",
    "KINDS",
    "LAYER_NAME",
    "LAYER_NODES",
    "LIBRARIES",
    "LOSSES",
    "MARKS",
    "METHODS",
    "MODEL_MAKERS",
    "MODULES",
    "NAMES",
    "NEW",
    "NODES",
    "NODE_METHODS",
    "OPTIMIZER_ARGUMENTS",
    "OPTIMIZER_WRAPPERS",
    "OTHER_TOKENIZERS",
    "OWN_LAYERS",
    "RESULTS",
    "STAR_IMPORTS",
    "STEP",
    "TOKENIZER_METHODS",
    "USELESS_CALLS",
    "VALID",
    "WATCHERS",
    "Arguments",
    "Flag",
    "K",
    "Mark",
    "Method",
]
