"""What `python -m bert4keras.migrate` changes, as tables.

Names are written in full, `keras.models.Model`, whatever a script imports them as. `references`
says how the tables of names are applied, `calls` and `arguments` how those of arguments are.
"""

from dataclasses import dataclass, field

K = "bert4keras.backend.K"

# === Names ===

_KERAS_LAYERS = """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D
    AveragePooling3D BatchNormalization Bidirectional Concatenate Conv1D Conv2D Conv2DTranspose
    Conv3D Conv3DTranspose ConvLSTM2D Cropping1D Cropping2D Cropping3D Dense DepthwiseConv2D Dot
    Dropout ELU Embedding Flatten GRU GRUCell GaussianDropout GaussianNoise
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D Input InputLayer InputSpec LSTM LSTMCell Lambda Layer
    LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum Multiply PReLU Permute
    RNN ReLU RepeatVector Reshape SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax
    SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells Subtract TimeDistributed
    UpSampling1D UpSampling2D UpSampling3D Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
    CuDNNGRU CuDNNLSTM add average concatenate dot maximum minimum multiply subtract
"""
KERAS_LAYERS = frozenset(_KERAS_LAYERS.split())
"""What `from keras.layers import *` brought under Keras 2.3, as far as Keras 3 has it."""

OPTIMIZERS = ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "Adamax", "Nadam")

_OWN_LAYERS = """
    Add BatchConcat BatchSplit Concatenate1D ConditionalRandomField Dense Dropout
    EfficientGlobalPointer Embedding FeedForward GatedAttentionUnit GlobalAveragePooling1D
    GlobalMaxPooling1D GlobalPointer
    LayerNormalization Loss MaximumEntropyMarkovModel MultiHeadAttention PositionEmbedding
    RelativePositionEmbedding RelativePositionEmbeddingT5 ScaleOffset SinusoidalPositionEmbedding
"""
OWN_LAYERS = frozenset(_OWN_LAYERS.split())

MODULES = {
    "bert4keras.backend.keras": "keras",
    "bert4keras.bert": "bert4keras.models",
    "bert4keras.layers.K": K,
    "bert4keras.layers.keras": "keras",
    "bert4keras.models.K": K,
    "bert4keras.models.keras": "keras",
    "bert4keras.optimizers.K": K,
    "bert4keras.optimizers.keras": "keras",
    "bert4keras.tokenizer": "bert4keras.tokenizers",
    "bert4keras.train": "bert4keras.optimizers",
    "bert4keras.utils": "bert4keras.tokenizers",
    "keras.backend": K,
    "keras.backend.tensorflow_backend": K,
    "keras.engine": "keras.layers",
    "keras.engine.base_layer": "keras.layers",
    "keras.engine.topology": "keras.layers",
    "keras.engine.training": "keras.models",
    "keras.layers.advanced_activations": "keras.layers",
    "keras.layers.convolutional": "keras.layers",
    "keras.layers.core": "keras.layers",
    "keras.layers.embeddings": "keras.layers",
    "keras.layers.merge": "keras.layers",
    "keras.layers.noise": "keras.layers",
    "keras.layers.normalization": "keras.layers",
    "keras.layers.pooling": "keras.layers",
    "keras.layers.recurrent": "keras.layers",
    "keras.layers.wrappers": "keras.layers",
    "keras.objectives": "keras.losses",
    "keras.utils.data_utils": "keras.utils",
    "keras.utils.generic_utils": "keras.utils",
    "keras.utils.np_utils": "keras.utils",
    "keras.utils.vis_utils": "keras.utils",
    "tensorflow.keras": "keras",
    "tensorflow.python.keras": "keras",
}
"""Modules, and objects used like modules, all of whose names are elsewhere now."""

NAMES = {
    "bert4keras.backend.dtype": f"{K}.dtype",
    "bert4keras.backend.where": f"{K}.where",
    "bert4keras.models.build_bert_model": "bert4keras.models.build_transformer_model",
    "bert4keras.optimizers.AdaFactorBase": "bert4keras.optimizers.AdaFactor",
    "bert4keras.optimizers.GradientAccumulation": (
        "bert4keras.optimizers.extend_with_gradient_accumulation"
    ),
    "bert4keras.optimizers.PiecewiseLinearLearningRate": (
        "bert4keras.optimizers.extend_with_piecewise_linear_lr"
    ),
    "bert4keras.optimizers.LionV2": "bert4keras.optimizers.Lion",
    "bert4keras.snippets.AutoRegressiveDecoder.set_rtype": (
        "bert4keras.snippets.AutoRegressiveDecoder.wraps"
    ),
    "bert4keras.snippets.groupby": "bert4keras.legacy.groupby",
    "bert4keras.tokenizers.BasicTokenizer": "bert4keras.tokenizers.TokenizerBase",
    "bert4keras.tokenizers.is_string": "bert4keras.snippets.is_string",
    "bert4keras.tokenizers.parallel_apply": "bert4keras.snippets.parallel_apply",
    "bert4keras.tokenizers.sequence_padding": "bert4keras.snippets.sequence_padding",
    "keras.Model": "bert4keras.models.Model",
    "keras.initializers.normal": "keras.initializers.RandomNormal",
    "keras.initializers.uniform": "keras.initializers.RandomUniform",
    "keras.layers.CuDNNGRU": "keras.layers.GRU",
    "keras.layers.CuDNNLSTM": "keras.layers.LSTM",
    "keras.layers.GlobalAveragePooling1D": "bert4keras.layers.GlobalAveragePooling1D",
    "keras.layers.GlobalMaxPooling1D": "bert4keras.layers.GlobalMaxPooling1D",
    "keras.layers.Model": "bert4keras.models.Model",
    "keras.losses.kullback_leibler_divergence": "keras.losses.kl_divergence",
    "keras.losses.logcosh": "keras.losses.log_cosh",
    "keras.models.Input": "keras.layers.Input",
    "keras.models.Model": "bert4keras.models.Model",
    "tensorflow.batch_gather": "bert4keras.backend.batch_gather",
    "tensorflow.erf": "tensorflow.math.erf",
    "tensorflow.gfile": "tensorflow.io.gfile",
    "tensorflow.log": "tensorflow.math.log",
    "tensorflow.matrix_band_part": "tensorflow.linalg.band_part",
    "tensorflow.random.set_random_seed": "tensorflow.random.set_seed",
    "tensorflow.set_random_seed": "tensorflow.random.set_seed",
}
"""Single names that are elsewhere or called otherwise now, after `MODULES`."""

IMPORTABLE = frozenset({"bert4keras.backend.keras", K, "bert4keras.models.keras"})
"""What stands in `MODULES` or is an object, and can be imported from where it is all the same."""

_EVERYWHERE = {
    "K": K,
    "is_tf_keras": "bert4keras.backend.is_tf_keras",
    "keras": "bert4keras.backend.keras",
    "np": "numpy",
    "tf": "tensorflow",
}


def _names(module: str, names: str) -> dict[str, str]:
    return {name: f"{module}.{name}".strip(".") for name in names.split()}


STAR_IMPORTS = {
    "keras.layers": _names("keras.layers", _KERAS_LAYERS),
    "keras.models": _names("keras.models", "Model Sequential load_model"),
    "keras.optimizers": _names("keras.optimizers", " ".join(OPTIMIZERS)),
    "bert4keras.backend": {
        **_names(
            "bert4keras.backend",
            "custom_objects do_recompute dtype get_available_gpus graph_mode_decorator "
            "is_tf_keras symbolic where",
        ),
        "np": "numpy",
        "os": "os",
        "sys": "sys",
        "tf": "tensorflow",
    },
    "bert4keras.layers": {
        **_EVERYWHERE,
        **_names("keras.layers", _KERAS_LAYERS),
        **_names("bert4keras.layers", f"{_OWN_LAYERS} custom_objects integerize_shape"),
        **_names("keras", "activations initializers"),
        **_names(
            "bert4keras.backend",
            "align apply_rotary_position_embeddings attention_normalize recompute_grad "
            "sequence_masking sinusoidal_embeddings",
        ),
    },
    "bert4keras.optimizers": {
        **_EVERYWHERE,
        **_names(
            "bert4keras.optimizers", "AdaFactorBase LionV2 custom_objects export_to_custom_objects"
        ),
        **_names("bert4keras.backend", "piecewise_linear"),
        **_names("bert4keras.snippets", "insert_arguments is_one_of is_string string_matching"),
        "re": "re",
    },
    "bert4keras.snippets": {
        **_names("bert4keras.snippets", "basestring groupby is_py2"),
        **_names("", "json logging os re"),
        "np": "numpy",
    },
}
"""What `from module import *` brought, as far as `from module import *` does not bring it now."""
STAR_IMPORTS["bert4keras.models"] = {
    **STAR_IMPORTS["bert4keras.layers"],
    **_names(
        "bert4keras.snippets",
        "delete_arguments insert_arguments is_string orthogonally_resize string_matching",
    ),
    **_names("bert4keras.models", "Model data_parallel"),
    "json": "json",
}

# === Expressions ===

EXPRESSIONS = {
    "bert4keras.backend.custom_objects": "{}",
    "bert4keras.layers.custom_objects": "{}",
    "bert4keras.optimizers.custom_objects": "{}",
    "bert4keras.backend.is_tf_keras": "False",
    "bert4keras.layers.is_tf_keras": "False",
    "bert4keras.optimizers.is_tf_keras": "False",
    "bert4keras.snippets.is_py2": "False",
    "bert4keras.snippets.basestring": "str",
}
"""Names that are a constant now."""

RESULTS = {"bert4keras.backend.do_recompute": "bert4keras.backend.recompute_by_default"}
"""Constants that are the result of a function now."""

CALLS = {
    f"{K}.infinity": ("1e12", ()),
    "bert4keras.backend.get_available_gpus": ("{}.distribution.list_devices('gpu')", ("keras",)),
}
"""Calls without arguments: the expression in their place, and what it needs."""

DECORATORS = frozenset(
    {
        f"{K}.symbolic",
        "bert4keras.backend.symbolic",
        "bert4keras.layers.integerize_shape",
        "bert4keras.optimizers.export_to_custom_objects",
    }
)
"""Decorators that nothing needs any more."""

GONE = frozenset({*EXPRESSIONS, *RESULTS, *DECORATORS, "bert4keras.backend.get_available_gpus"})
"""What an import leaves out; its uses are replaced."""

USELESS_CALLS = frozenset({f"{K}.set_infinity"})
"""Calls that are statements of their own and can go."""

# === Arguments ===


@dataclass(frozen=True)
class Flag:
    """An argument that was true or false, and is one of two texts now.

    Attributes:
        name: what the argument is called now.
        true: what it is for what was true.
        false: what it is for what was false, the default.
    """

    name: str
    true: str
    false: str


@dataclass(frozen=True)
class Arguments:
    """How the arguments of a call change.

    Attributes:
        renamed: old name → new name.
        dropped: names that go.
        positional: the old order of the arguments; those behind the first are given by name, if
            there is one.
        values: name (the new one) → literal → literal.
        flags: old name → the choice in its place.
        opposites: old name → the name for the opposite.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    values: dict[str, dict[str, str]] = field(default_factory=dict)
    flags: dict[str, Flag] = field(default_factory=dict)
    opposites: dict[str, str] = field(default_factory=dict)


QUEUE = ("max_queue_size", "workers", "use_multiprocessing", "pickle_safe", "max_q_size")
"""How Keras 2 filled its queue of batches."""

LOSSES = {
    "kullback_leibler_divergence": "kl_divergence",
    "cosine_proximity": "cosine_similarity",
    "logcosh": "log_cosh",
}
"""Losses by their name."""

ARGUMENTS = {
    "bert4keras.backend.search_layer": Arguments(dropped=("exclude_from",)),
    "bert4keras.models.Model": Arguments(renamed={"input": "inputs", "output": "outputs"}),
    "bert4keras.models.build_transformer_model": Arguments(
        renamed={"checkpoint_file": "checkpoint_path", "keep_words": "keep_tokens"},
        values={"application": {"seq2seq": "unilm"}},
        flags={
            "albert": Flag("model", true="albert", false="bert"),
            "seq2seq": Flag("application", true="unilm", false="encoder"),
        },
    ),
    "bert4keras.snippets.AutoRegressiveDecoder.wraps": Arguments(
        renamed={"default": "default_rtype"}
    ),
    "bert4keras.snippets.sequence_padding": Arguments(renamed={"padding": "value"}),
    "bert4keras.tokenizers.Tokenizer": Arguments(opposites={"case_sensitive": "do_lower_case"}),
    "keras.callbacks.ModelCheckpoint": Arguments(dropped=("period",)),
    "keras.layers.Embedding": Arguments(dropped=("input_length",)),
    "keras.layers.LeakyReLU": Arguments(renamed={"alpha": "negative_slope"}),
}
"""By the name of what is called, the new one."""

OPTIMIZER_ARGUMENTS = Arguments(renamed={"lr": "learning_rate"})
"""For all classes of `keras.optimizers` and what `extend_with_*` makes of them."""


@dataclass(frozen=True)
class Method:
    """A method that has another name now, with its arguments."""

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
"""Of `evaluate_generator` and `predict_generator`."""

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
    "fit": Method("fit", Arguments(dropped=QUEUE)),
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
"""By the name of the method, whatever it is called on."""

TOKENIZER_METHODS = {
    "encode": Arguments(renamed={"max_length": "maxlen"}),
    "tokenize": Arguments(renamed={"max_length": "maxlen"}),
}
"""In scripts whose tokenizers are those of bert4keras."""

NODE_METHODS = {"get_output_at": "output_at", "get_input_at": "input_at"}
"""Methods of a layer, and the functions of `bert4keras.legacy` in their place."""

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
"""Classes around an optimizer, from before 0.3: what extends its class, and the argument."""

ATTRIBUTES = {
    "_keras_shape": "shape",
    "_token_cls": "_token_start",
    "_token_cls_id": "_token_start_id",
    "_token_sep": "_token_end",
    "_token_sep_id": "_token_end_id",
}

LAYER_NAME = r"Encoder-(\d+)-((?:MultiHeadSelfAttention|FeedForward)(?:-(?:Dropout|Add|Norm))?)"
"""Layers of the Transformer until 0.5, which counted from 1; now `Transformer-0-…`."""

MODEL_MAKERS = frozenset(
    {
        "bert4keras.models.Model",
        "bert4keras.models.build_transformer_model",
        "keras.models.Sequential",
        "keras.Sequential",
        "keras.models.load_model",
    }
)
OTHER_TOKENIZERS = ("transformers", "tokenizers", "keras_bert", "sentencepiece")
"""Packages whose tokenizers have a method `encode` as well, where `max_length` is right."""

# === What a person has to change ===


@dataclass(frozen=True)
class Mark:
    """A comment above what cannot be rewritten.

    Attributes:
        kind: which of `KINDS` the change is.
        advice: what to use instead.
    """

    kind: str
    advice: str


KINDS = {
    "gradients": "gradients inside of Keras 2 become `compile(step=…)` or `gradients_of`",
    "devices": "sessions are deleted, copies on several GPUs become `with data_parallel():`",
    "graph": "values out of the graph become outputs of a model, metrics or layers",
}
"""The kinds of line edits that are left to a person."""

STEP = Mark(
    "gradients",
    "compile(step=AdversarialTraining('Embedding-Token', 0.5)) in place of this, or another step "
    "of bert4keras.training: GradientPenalty, VirtualAdversarialTraining",
)
GRADIENTS = Mark(
    "gradients",
    "a step of bert4keras.training in compile(step=...): AdversarialTraining, GradientPenalty, "
    "VirtualAdversarialTraining; for attribution gradients_of or integrated_gradients",
)
_SESSION = Mark("devices", "delete this: there are no sessions, graphs or phases to set")
_PARALLEL = Mark(
    "devices",
    "build, compile and fit inside `with data_parallel():` of bert4keras.training instead",
)
_VARIABLE = Mark("graph", "keras.Input for what is fed, K.variable for what is kept")
_METRIC = Mark("graph", "pass metrics=[...] to compile, or return the value as an output")

MARKS = {
    f"{K}.function": Mark(
        "graph", "keras.Model(inputs, outputs) and its predict_on_batch, which returns arrays"
    ),
    f"{K}.get_session": _SESSION,
    f"{K}.gradients": GRADIENTS,
    f"{K}.manual_variable_initialization": _SESSION,
    f"{K}.placeholder": _VARIABLE,
    f"{K}.set_learning_phase": Mark("devices", "delete this; pass training= to the call instead"),
    f"{K}.set_session": _SESSION,
    "bert4keras.backend.graph_mode_decorator": Mark("gradients", "tf.custom_gradient"),
    "bert4keras.models.data_parallel": _PARALLEL,
    "bert4keras.snippets.Progress": Mark("graph", "keras.utils.Progbar, or tqdm"),
    "bert4keras.snippets.get_all_attributes": Mark("graph", "vars(x)"),
    "keras.preprocessing.text": Mark("graph", "keras.layers.TextVectorization"),
    "keras.utils.multi_gpu_model": _PARALLEL,
    "keras_contrib": Mark("graph", "bert4keras.layers.ConditionalRandomField for the CRF"),
    "tensorflow.ConfigProto": _SESSION,
    "tensorflow.GPUOptions": _SESSION,
    "tensorflow.InteractiveSession": _SESSION,
    "tensorflow.Session": _SESSION,
    "tensorflow.get_default_graph": _SESSION,
    "tensorflow.global_variables_initializer": _SESSION,
    "tensorflow.placeholder": _VARIABLE,
    "tensorflow.gradients": GRADIENTS,
}
"""By name; a name covers what is inside of it."""

ATTRIBUTE_MARKS = {
    "_feed_inputs": STEP,
    "_feed_sample_weights": STEP,
    "_feed_targets": STEP,
    "_make_train_function": STEP,
    "add_metric": _METRIC,
    "metrics_tensors": _METRIC,
    "total_loss": STEP,
    "train_function": STEP,
    "truncate_sequence": Mark("graph", "truncate_sequences of bert4keras.snippets"),
}
"""By the name of an attribute, whatever it belongs to; unless a rule has taken it away."""

ARGUMENT_MARKS = {
    "first_length": Mark("graph", "sequence_padding of bert4keras.snippets pads to a length"),
    "second_length": Mark("graph", "sequence_padding of bert4keras.snippets pads to a length"),
    "target_tensors": Mark("graph", "a bert4keras.layers.Loss over model tensors"),
}
"""By the name of an argument."""
