"""Changes of calls and attributes, as tables."""

from dataclasses import dataclass, field

from bert4keras.migrate.rules.spelling import spelled_out


@dataclass(frozen=True)
class Flag:
    """An argument, true or false, that has become one of two values.

    Attributes:
        name: the new name of the argument.
        true: the value for True or 1.
        false: the value for False or 0, the default.
    """

    name: str
    true: str
    false: str | int


@dataclass(frozen=True)
class Arguments:
    """The changes of the arguments of a call.

    Attributes:
        renamed: old name → new name.
        dropped: names to be removed.
        positional: the old order of the arguments; if given, those after the first are passed by
            name.
        values: new name → old string → new string.
        flags: old name → the argument that replaces it.
        opposites: old name → the name of the argument with the opposite meaning.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    flags: dict[str, Flag] = field(default_factory=dict)
    opposites: dict[str, str] = field(default_factory=dict)


QUEUE = ("max_queue_size", "workers", "use_multiprocessing", "pickle_safe", "max_q_size")
"""Arguments of the queue of batches in Keras 2."""

LOSSES = {
    "cosine_proximity": "cosine_similarity",
    "huber_loss": "huber",
    "kullback_leibler_divergence": "kl_divergence",
    "logcosh": "log_cosh",
}
"""Old and new names of losses."""

_BUILDING = Arguments(
    renamed={"checkpoint_file": "checkpoint_path", "keep_words": "keep_tokens"},
    values={"application": {"seq2seq": "unilm"}, "model": {"gpt_openai": "gpt"}},
    flags={
        "albert": Flag("model", true="albert", false="bert"),
        "seq2seq": Flag("application", true="unilm", false="encoder"),
    },
)
_REDUCING = Arguments(renamed={"keep_dims": "keepdims", "reduction_indices": "axis"})
_OF_FILE = Arguments(renamed={"dirname": "path", "filename": "path"})
_TWO_FILES = Arguments(
    renamed={"newname": "dst", "newpath": "dst", "oldname": "src", "oldpath": "src"}
)

ARGUMENTS = {
    "bert4keras.backend.search_layer": Arguments(dropped=("exclude", "exclude_from")),
    "bert4keras.backend.sequence_masking": Arguments(
        flags={"mode": Flag("value", true="-inf", false=0)}
    ),
    "bert4keras.layers.MultiHeadAttention": Arguments(
        renamed={"scaled_dot_product": "attention_scale"}
    ),
    "bert4keras.models.Model": Arguments(renamed={"input": "inputs", "output": "outputs"}),
    "bert4keras.models.build_transformer_model": _BUILDING,
    "bert4keras.snippets.AutoRegressiveDecoder.wraps": Arguments(
        renamed={"default": "default_rtype"}
    ),
    "bert4keras.tokenizers.load_vocab": Arguments(renamed={"startwith": "startswith"}),
    "bert4keras.tokenizers.Tokenizer": Arguments(opposites={"case_sensitive": "do_lower_case"}),
    "keras.callbacks.LambdaCallback": Arguments(
        renamed={"on_batch_begin": "on_train_batch_begin", "on_batch_end": "on_train_batch_end"}
    ),
    "keras.callbacks.ReduceLROnPlateau": Arguments(renamed={"epsilon": "min_delta"}),
    "keras.callbacks.TensorBoard": Arguments(
        dropped=("batch_size", "embeddings_data", "embeddings_layer_names", "write_grads")
    ),
    "keras.layers.Embedding": Arguments(dropped=("input_length",)),
    "keras.layers.LeakyReLU": Arguments(renamed={"alpha": "negative_slope"}),
    **dict.fromkeys(
        spelled_out(
            "tensorflow",
            "reduce_all reduce_any reduce_logsumexp reduce_max reduce_mean reduce_min "
            "reduce_prod reduce_sum",
        ).values(),
        _REDUCING,
    ),
    "tensorflow.argmax": Arguments(renamed={"dimension": "axis"}),
    "tensorflow.argmin": Arguments(renamed={"dimension": "axis"}),
    "tensorflow.expand_dims": Arguments(renamed={"dim": "axis"}),
    "tensorflow.nn.log_softmax": Arguments(renamed={"dim": "axis"}),
    "tensorflow.nn.softmax": Arguments(renamed={"dim": "axis"}),
    "tensorflow.squeeze": Arguments(renamed={"squeeze_dims": "axis"}),
    **dict.fromkeys(
        spelled_out(
            "tensorflow.io.gfile", "exists isdir listdir makedirs mkdir remove rmtree stat walk"
        ).values(),
        _OF_FILE,
    ),
    "tensorflow.io.gfile.copy": _TWO_FILES,
    "tensorflow.io.gfile.glob": Arguments(renamed={"filename": "pattern"}),
    "tensorflow.io.gfile.rename": _TWO_FILES,
}
"""Changes of arguments by the new full name of the called function."""

WATCHERS = frozenset({"keras.callbacks.EarlyStopping", "keras.callbacks.ReduceLROnPlateau"})
"""Callbacks that watch a metric, `monitor`, and are told by `mode` whether more of it is better;
without it, Keras 2 goes by the name of the metric, and Keras 3 asks the metric, if it knows it."""

OPTIMIZER_ARGUMENTS = Arguments(renamed={"lr": "learning_rate"})
"""For all classes of `keras.optimizers`, also when extended by `extend_with_*`."""


@dataclass(frozen=True)
class Method:
    """The new name of a method, and the changes of its arguments."""

    name: str
    arguments: Arguments


FROM_GENERATOR = Arguments(
    renamed={"generator": "x"},
    dropped=QUEUE,
    positional=(
        "generator",
        "steps",
        "callbacks",
        "max_queue_size",
        "workers",
        "use_multiprocessing",
        "verbose",
    ),
)
"""The changes of the arguments of `evaluate_generator` and `predict_generator`."""

METHODS = {
    "fit_generator": Method(
        "fit",
        Arguments(
            renamed={"generator": "x"},
            dropped=QUEUE,
            positional=(
                "generator",
                "steps_per_epoch",
                "epochs",
                "verbose",
                "callbacks",
                "validation_data",
                "validation_steps",
                "validation_freq",
                "class_weight",
                "max_queue_size",
                "workers",
                "use_multiprocessing",
                "shuffle",
                "initial_epoch",
            ),
        ),
    ),
    "evaluate_generator": Method("evaluate", FROM_GENERATOR),
    "predict_generator": Method("predict", FROM_GENERATOR),
    "fit": Method(
        "fit",
        Arguments(
            renamed={"nb_epoch": "epochs"},
            dropped=QUEUE,
            positional=(
                "",
                "",
                "",
                "",
                "verbose",
                "callbacks",
                "validation_split",
                "validation_data",
                "shuffle",
                "class_weight",
                "sample_weight",
                "initial_epoch",
                "steps_per_epoch",
                "validation_steps",
            ),
        ),
    ),
    "evaluate": Method("evaluate", Arguments(dropped=QUEUE)),
    "predict": Method("predict", Arguments(dropped=QUEUE)),
    "compile": Method(
        "compile",
        Arguments(
            dropped=("sample_weight_mode",),
            positional=("", "", "metrics", "loss_weights", "sample_weight_mode"),
        ),
    ),
}
"""Changes of methods by name, for objects of any class."""

TOKENIZER_METHODS = {
    "encode": Arguments(renamed={"max_length": "maxlen"}),
    "tokenize": Arguments(renamed={"max_length": "maxlen"}),
}
"""Changes of methods of tokenizers, in scripts with the tokenizers of bert4keras."""

NODE_METHODS = {
    "get_input_at": "input_at",
    "get_input_mask_at": "input_mask",
    "get_input_shape_at": "input_shape_at",
    "get_output_at": "output_at",
    "get_output_mask_at": "output_mask",
    "get_output_shape_at": "output_shape_at",
}
"""Methods of layers, and the functions of `bert4keras.legacy` that replace them."""

NODES = {
    "_inbound_nodes": "inbound_nodes",
    "_outbound_nodes": "outbound_nodes",
    "inbound_nodes": "inbound_nodes",
    "outbound_nodes": "outbound_nodes",
}
"""Attributes of layers, and the functions of `bert4keras.legacy` that replace them."""

LAYER_NODES = {"input_mask": "input_mask", "output_mask": "output_mask"}
"""The same for attributes that other objects have, too."""

OPTIMIZER_WRAPPERS = {
    "bert4keras.optimizers.PiecewiseLinearLearningRate": (
        "bert4keras.optimizers.extend_with_piecewise_linear_lr",
        "schedule",
        "lr_schedule",
    ),
    "bert4keras.optimizers.GradientAccumulation": (
        "bert4keras.optimizers.extend_with_gradient_accumulation",
        "steps_per_update",
        "grad_accum_steps",
    ),
}
"""Wrappers of optimizers before 0.3: the function that extends a class, and its argument."""

ATTRIBUTES = {
    "_feed_input_names": "input_names",
    "_feed_inputs": "inputs",
    "_keras_shape": "shape",
    "_token_cls": "_token_start",
    "_token_cls_id": "_token_start_id",
    "_token_sep": "_token_end",
    "_token_sep_id": "_token_end_id",
}

LAYER_NAME = r"Encoder-(\d+)-((?:MultiHeadSelfAttention|FeedForward)(?:-(?:Dropout|Add|Norm))?)"
"""Names of Transformer layers until 0.5, counted from 1; in new versions `Transformer-0-…`."""

MODEL_MAKERS = frozenset(
    {
        "bert4keras.models.Model",
        "bert4keras.models.build_transformer_model",
        "bert4keras.models.load_model",
        "keras.models.Sequential",
        "keras.Sequential",
    }
)
OTHER_TOKENIZERS = ("transformers", "tokenizers", "keras_bert", "sentencepiece")
"""Packages whose tokenizers also have a method `encode`, for which `max_length` is correct."""
