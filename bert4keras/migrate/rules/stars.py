"""Names from star imports, as tables."""

from bert4keras.migrate.rules.spelling import K, spelled_out

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
"""Names from `from keras.layers import *` in Keras 2.3 that have a counterpart."""

OPTIMIZERS = ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "Adamax", "Nadam")

_OWN_LAYERS = """
    Add BatchConcat BatchSplit Concatenate1D ConditionalRandomField Dense Dropout
    EfficientGlobalPointer Embedding FeedForward GatedAttentionUnit GlobalAveragePooling1D
    GlobalMaxPooling1D GlobalPointer Lambda
    LayerNormalization Loss MaximumEntropyMarkovModel MultiHeadAttention PositionEmbedding
    RelativePositionEmbedding RelativePositionEmbeddingT5 ScaleOffset SinusoidalPositionEmbedding
"""
OWN_LAYERS = frozenset(_OWN_LAYERS.split())
"""Names from `from bert4keras.layers import *` in this library."""

_EVERYWHERE = {
    "K": K,
    "is_tf_keras": "bert4keras.backend.is_tf_keras",
    "keras": "bert4keras.backend.keras",
    "np": "numpy",
    "tf": "tensorflow",
}
_LAYERS = {
    **_EVERYWHERE,
    "inspect": "inspect",
    **spelled_out("keras.layers", _KERAS_LAYERS),
    **spelled_out("bert4keras.layers", f"{_OWN_LAYERS} custom_objects integerize_shape"),
    **spelled_out("keras", "activations initializers"),
    **spelled_out(
        "bert4keras.backend",
        "align apply_rotary_position_embeddings attention_normalize recompute_grad "
        "sequence_masking sinusoidal_embeddings",
    ),
}

_INSIDE = {"K": K, "np": "numpy"}
"""Names that the modules of Keras 2 import themselves."""

STAR_IMPORTS = {
    "keras.activations": {"K": K},
    "keras.callbacks": {"K": K, **spelled_out("keras.callbacks", "ModelCheckpoint")},
    "keras.initializers": {**_INSIDE, **spelled_out("keras.initializers", "normal uniform")},
    "keras.layers": {
        **_INSIDE,
        **spelled_out("keras.layers", _KERAS_LAYERS),
        **spelled_out("keras", "activations constraints initializers regularizers"),
    },
    "keras.losses": {
        "K": K,
        **spelled_out(
            "keras.losses",
            "KLD MAE MAPE MSE MSLE cosine_proximity kld kullback_leibler_divergence logcosh mae "
            "mape mse msle",
        ),
    },
    "keras.metrics": {**_INSIDE, **spelled_out("keras.metrics", "mae mape mse msle")},
    "keras.models": {"K": K, **spelled_out("keras.models", "Input Model Sequential load_model")},
    "keras.optimizers": {**_INSIDE, **spelled_out("keras.optimizers", " ".join(OPTIMIZERS))},
    "keras.regularizers": {"K": K},
    "bert4keras.backend": {
        **spelled_out(
            "bert4keras.backend",
            "custom_objects do_recompute dtype get_available_gpus graph_mode_decorator "
            "is_tf_keras symbolic where",
        ),
        "np": "numpy",
        "os": "os",
        "sys": "sys",
        "tf": "tensorflow",
    },
    "bert4keras.layers": _LAYERS,
    "bert4keras.models": {
        **_LAYERS,
        **spelled_out(
            "bert4keras.snippets",
            "delete_arguments insert_arguments is_string orthogonally_resize string_matching",
        ),
        **spelled_out("bert4keras.models", "Model data_parallel"),
        "get_available_gpus": "bert4keras.backend.get_available_gpus",
        "json": "json",
    },
    "bert4keras.optimizers": {
        **_EVERYWHERE,
        **spelled_out(
            "bert4keras.optimizers", "AdaFactorBase LionV2 custom_objects export_to_custom_objects"
        ),
        **spelled_out("bert4keras.backend", "piecewise_linear"),
        **spelled_out(
            "bert4keras.snippets", "insert_arguments is_one_of is_string string_matching"
        ),
        "re": "re",
        "rms": "bert4keras.backend.root_mean_square",
    },
    "bert4keras.snippets": {
        **spelled_out("bert4keras.snippets", "basestring groupby is_py2"),
        **spelled_out("", "json logging os re six sys unicodedata"),
        "K": K,
        "defaultdict": "collections.defaultdict",
        "keras": "bert4keras.backend.keras",
        "np": "numpy",
        "tf": "tensorflow",
    },
    "bert4keras.tokenizers": {
        **spelled_out("bert4keras.snippets", "convert_to_unicode is_py2 open"),
        **spelled_out("", "re unicodedata"),
    },
}
"""Names from `from module import *` that this statement no longer imports."""
