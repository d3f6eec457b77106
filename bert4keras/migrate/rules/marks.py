"""Places that have to be changed by hand, as tables."""

from dataclasses import dataclass

from bert4keras.migrate.rules.spelling import K, spelled_out


@dataclass(frozen=True)
class Mark:
    """A comment on code that cannot be rewritten.

    Attributes:
        kind: the kind of the change, a key of `KINDS`.
        advice: the code to use instead.
    """

    kind: str
    advice: str


KINDS = {
    "gradients": "gradients inside of Keras 2 become `compile(step=…)` or `gradients_of`",
    "devices": "sessions are deleted, copies on several GPUs become `with data_parallel():`",
    "graph": "values out of the graph become outputs of a model, metrics or layers",
    "names": "what has no counterpart is replaced by something else",
}
"""The kinds of changes by hand."""

STEP = Mark(
    "gradients",
    "compile(step=AdversarialTraining('Embedding-Token', 0.5)) in place of this, or another step "
    "of bert4keras.training: GradientPenalty, VirtualAdversarialTraining",
)
_SESSION = Mark("devices", "delete this: there are no sessions, graphs or phases to set")
_PARALLEL = Mark(
    "devices",
    "build, compile and fit inside `with data_parallel():` of bert4keras.training instead",
)
_VARIABLE = Mark("graph", "keras.Input for what is fed, K.variable for what is kept")
_METRIC = Mark("graph", "pass metrics=[...] to compile, or return the value as an output")


def _missing(module: str, names: str, advice: str) -> dict[str, Mark]:
    """Return marks of names that Keras 3 lacks."""
    return dict.fromkeys(spelled_out(module, names).values(), Mark("names", advice))


MARKS = {
    **_missing(K, "control_dependencies", "nothing: what is computed is computed in its order"),
    **_missing(K, "conv2d_transpose conv3d_transpose", "keras.ops.conv_transpose"),
    **_missing(
        K, "ctc_batch_cost ctc_label_dense_to_sparse", "keras.losses.CTC, where 0 is the blank"
    ),
    **_missing(K, "ctc_decode", "keras.ops.ctc_decode"),
    **_missing(K, "local_conv1d local_conv2d", "keras.ops.einsum over the windows of the input"),
    f"{K}.get_session": _SESSION,
    f"{K}.manual_variable_initialization": _SESSION,
    f"{K}.reset_uids": Mark("devices", "K.clear_session()"),
    f"{K}.set_learning_phase": Mark("devices", "delete this; pass training= to the call instead"),
    f"{K}.set_session": _SESSION,
    "bert4keras.backend.graph_mode_decorator": Mark("gradients", "tf.custom_gradient"),
    **_missing(
        "bert4keras.layers",
        "EmbeddingDense",
        "the layer Embedding itself, called with mode='dense'",
    ),
    **_missing("bert4keras.layers", "add_seq_mask", "sequence_masking of bert4keras.backend"),
    **_missing("bert4keras.models", "Bert4LM Bert4Seq2seq BertModel", "BERT of bert4keras.models"),
    "bert4keras.models.data_parallel": _PARALLEL,
    **_missing(
        "bert4keras.optimizers",
        "ExponentialMovingAverage LAMB add_weight_decay_into",
        "a class made by extend_with_exponential_moving_average, extend_with_layer_adaptation or "
        "extend_with_weight_decay",
    ),
    **_missing(
        "bert4keras.snippets",
        "BeamSearch",
        "AutoRegressiveDecoder, whose predict gives states, too",
    ),
    "bert4keras.snippets.Hook": Mark("names", "bert4keras.snippets itself, which is a module now"),
    "bert4keras.snippets.Progress": Mark("graph", "keras.utils.Progbar, or tqdm"),
    "bert4keras.snippets.get_all_attributes": Mark("graph", "vars(x)"),
    "bert4keras.tokenizers.SimpleTokenizer": Mark(
        "names",
        "Tokenizer of bert4keras.tokenizers; it splits words in pieces, not in letters",
    ),
    **_missing("keras.callbacks", "BaseLogger", "nothing: Keras reports the metrics by itself"),
    **_missing(
        "keras.layers",
        "AtrousConvolution1D AtrousConvolution2D ConvLSTM2DCell ConvRecurrent2D Highway "
        "LocallyConnected1D LocallyConnected2D MaxoutDense Recurrent ThresholdedReLU",
        "a layer of your own: Keras 3 no longer has this one",
    ),
    **_missing("keras.models", "model_from_config model_from_yaml", "keras.models.model_from_json"),
    **_missing(
        "keras.optimizers",
        "TFOptimizer",
        "an optimizer of keras.optimizers or bert4keras.optimizers",
    ),
    **_missing(
        "keras.preprocessing.image",
        "DirectoryIterator ImageDataGenerator Iterator NumpyArrayIterator random_rotation "
        "random_shift random_zoom",
        "layers such as keras.layers.RandomFlip, keras.utils.image_dataset_from_directory",
    ),
    **_missing(
        "keras.preprocessing.sequence",
        "TimeseriesGenerator make_sampling_table skipgrams",
        "keras.utils.timeseries_dataset_from_array, or a function of your own",
    ),
    "keras.preprocessing.text": Mark("graph", "keras.layers.TextVectorization"),
    **_missing(
        "keras.utils",
        "GeneratorEnqueuer H5Dict HDF5Matrix OrderedEnqueuer",
        "h5py for the file, keras.utils.PyDataset for the batches",
    ),
    **_missing("keras.utils", "convert_all_kernels_in_model", "nothing: delete this"),
    **_missing("keras.utils", "print_summary", "model.summary()"),
    "keras.utils.multi_gpu_model": _PARALLEL,
    **_missing("keras.wrappers", "scikit_learn", "keras.wrappers.SKLearnClassifier"),
    "keras_contrib": Mark("graph", "bert4keras.layers.ConditionalRandomField for the CRF"),
    **dict.fromkeys(
        spelled_out(
            "tensorflow.compat.v1",
            "ConfigProto GPUOptions InteractiveSession Session get_default_graph "
            "get_default_session global_variables_initializer initialize_all_variables "
            "local_variables_initializer",
        ).values(),
        _SESSION,
    ),
    "tensorflow.Graph": _SESSION,
    "tensorflow.compat.v1.placeholder": _VARIABLE,
    "tensorflow.contrib": Mark("names", "another function: TensorFlow 2 has no contrib"),
}
"""Marks by full name; a name covers all names in it."""

ATTRIBUTE_MARKS = {
    "_feed_sample_weights": STEP,
    "_feed_targets": STEP,
    "_make_train_function": STEP,
    "add_metric": _METRIC,
    "metrics_tensors": _METRIC,
    "total_loss": STEP,
    "train_function": STEP,
    "truncate_sequence": Mark("graph", "truncate_sequences of bert4keras.snippets"),
}
"""Marks by the name of an attribute of any object, unless a rule rewrites it."""

ARGUMENT_MARKS = {
    "first_length": Mark("graph", "sequence_padding of bert4keras.snippets pads to a length"),
    "second_length": Mark("graph", "sequence_padding of bert4keras.snippets pads to a length"),
    "save_format": Mark("graph", "model.export(path), which writes for TensorFlow Serving"),
    "target_tensors": Mark("graph", "a bert4keras.layers.Loss over model tensors"),
}
"""Marks by the name of an argument, in calls that are checked for them."""
