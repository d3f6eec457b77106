"""Helpers in numpy alone: text, files, padding, feeding data, parallel work, decoding.

What scripts import; the code is in `text/`, `data/` and `generation/autoregressive`. Importing this
module starts no Keras, so that worker processes which only tokenize stay light.
"""

from typing import TYPE_CHECKING

from bert4keras.data.arrays import (
    ViterbiDecoder,
    as_floats,
    bucket_length,
    orthogonally_resize,
    sequence_padding,
    softmax,
    to_array,
)
from bert4keras.data.files import open
from bert4keras.data.generator import DataGenerator, sample_length
from bert4keras.data.labelled import SequenceLabelingGenerator, TextClassificationGenerator
from bert4keras.data.tags import spans_to_tags, tags_to_spans
from bert4keras.extending import delete_arguments, insert_arguments, is_one_of
from bert4keras.generation.autoregressive import AutoRegressiveDecoder
from bert4keras.parallel import parallel_apply, parallel_apply_generator
from bert4keras.text.strings import (
    convert_to_str,
    convert_to_unicode,
    is_string,
    longest_common_subsequence,
    longest_common_substring,
    lowercase_and_normalize,
    string_matching,
    strQ2B,
    text_segmentate,
    truncate_sequences,
    uniout,
)

if TYPE_CHECKING:
    from bert4keras.serving.web_serving import WebServing

__all__ = [
    "AutoRegressiveDecoder",
    "DataGenerator",
    "SequenceLabelingGenerator",
    "TextClassificationGenerator",
    "ViterbiDecoder",
    "WebServing",
    "as_floats",
    "bucket_length",
    "convert_to_str",
    "convert_to_unicode",
    "delete_arguments",
    "insert_arguments",
    "is_one_of",
    "is_string",
    "longest_common_subsequence",
    "longest_common_substring",
    "lowercase_and_normalize",
    "open",
    "orthogonally_resize",
    "parallel_apply",
    "parallel_apply_generator",
    "sample_length",
    "sequence_padding",
    "softmax",
    "spans_to_tags",
    "strQ2B",
    "string_matching",
    "tags_to_spans",
    "text_segmentate",
    "to_array",
    "truncate_sequences",
    "uniout",
]


def __getattr__(name: str) -> object:
    """Give `WebServing`; its module takes a quarter of the time that this one takes to import."""
    if name != "WebServing":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bert4keras.serving.web_serving import WebServing

    return WebServing


def __dir__() -> list[str]:
    return __all__
