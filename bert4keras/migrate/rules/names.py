"""Moved and renamed names, as tables.

Names are full names, such as `keras.models.Model`, for any local name in a script.
"""

from bert4keras.migrate.rules.spelling import K, spelled_out
from bert4keras.migrate.rules.stars import STAR_IMPORTS
from bert4keras.migrate.rules.tensorflow import TENSORFLOW_MODULES, TENSORFLOW_NAMES

LIBRARIES = frozenset({"bert4keras", "keras", "numpy", "tensorflow"})
"""Packages that are never searched for among the files of a project."""

# === Names ===

MODULES = {
    "bert4keras.backend.keras": "keras",
    "bert4keras.bert": "bert4keras.models",
    "bert4keras.layers.keras": "keras",
    "bert4keras.models.keras": "keras",
    "bert4keras.tokenizer": "bert4keras.tokenizers",
    "bert4keras.train": "bert4keras.optimizers",
    "bert4keras.utils": "bert4keras.tokenizers",
    "keras.backend": K,
    "keras.backend.tensorflow_backend": K,
    "keras.callbacks.callbacks": "keras.callbacks",
    "keras.engine": "keras.layers",
    "keras.engine.base_layer": "keras.layers",
    "keras.engine.input_layer": "keras.layers",
    "keras.engine.network": "keras.models",
    "keras.engine.saving": "keras.models",
    "keras.engine.sequential": "keras.models",
    "keras.engine.topology": "keras.layers",
    "keras.engine.training": "keras.models",
    "keras.layers.advanced_activations": "keras.layers",
    "keras.layers.convolutional": "keras.layers",
    "keras.layers.convolutional_recurrent": "keras.layers",
    "keras.layers.core": "keras.layers",
    "keras.layers.cudnn_recurrent": "keras.layers",
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
    "keras.utils.io_utils": "keras.utils",
    "keras.utils.layer_utils": "keras.utils",
    "keras.utils.multi_gpu_utils": "keras.utils",
    "keras.utils.np_utils": "keras.utils",
    "keras.utils.training_utils": "keras.utils",
    "keras.utils.vis_utils": "keras.utils",
    "tensorflow.compat.v1.keras": "keras",
    "tensorflow.compat.v2": "tensorflow",
    "tensorflow.keras": "keras",
    "tensorflow.python.keras": "keras",
    **TENSORFLOW_MODULES,
}
"""Modules, and objects used like modules, all of whose names have moved."""


def _renamed(module: str, names: str) -> dict[str, str]:
    """Return renamed names of a module, from words `old=new`."""
    pairs = (word.split("=") for word in names.split())
    return {f"{module}.{old}": f"{module}.{new}" for old, new in pairs}


_LOSSES = """
    MAE=mean_absolute_error MAPE=mean_absolute_percentage_error MSE=mean_squared_error
    MSLE=mean_squared_logarithmic_error mae=mean_absolute_error
    mape=mean_absolute_percentage_error mse=mean_squared_error
    msle=mean_squared_logarithmic_error kullback_leibler_divergence=kl_divergence logcosh=log_cosh
"""
"""Functions of `keras.losses` and `keras.metrics`."""

NAMES = {
    # Names that modules of bert4keras had only because they used them themselves.
    **{
        f"{module}.{name}": full
        for module, names in STAR_IMPORTS.items()
        if module.startswith("bert4keras.")
        for name, full in names.items()
        if full != f"{module}.{name}"
    },
    "bert4keras.backend.dtype": f"{K}.dtype",
    "bert4keras.backend.where": f"{K}.where",
    "bert4keras.models.GPT_OpenAI": "bert4keras.models.GPT",
    "bert4keras.models.build_bert_model": "bert4keras.models.build_transformer_model",
    "bert4keras.models.load_pretrained_model": "bert4keras.models.build_transformer_model",
    "bert4keras.models.set_gelu": "bert4keras.backend.set_gelu",
    "bert4keras.optimizers.AdaFactorBase": "bert4keras.optimizers.AdaFactor",
    "bert4keras.optimizers.GradientAccumulation": (
        "bert4keras.optimizers.extend_with_gradient_accumulation"
    ),
    "bert4keras.optimizers.LionV2": "bert4keras.optimizers.Lion",
    "bert4keras.optimizers.PiecewiseLinearLearningRate": (
        "bert4keras.optimizers.extend_with_piecewise_linear_lr"
    ),
    "bert4keras.snippets.AutoRegressiveDecoder.set_rtype": (
        "bert4keras.snippets.AutoRegressiveDecoder.wraps"
    ),
    "bert4keras.snippets.groupby": "bert4keras.legacy.groupby",
    "bert4keras.tokenizers.BasicTokenizer": "bert4keras.tokenizers.TokenizerBase",
    "bert4keras.tokenizers.SpmTokenizer": "bert4keras.tokenizers.SpTokenizer",
    "bert4keras.tokenizers.is_string": "bert4keras.snippets.is_string",
    "bert4keras.tokenizers.parallel_apply": "bert4keras.snippets.parallel_apply",
    "bert4keras.tokenizers.sequence_padding": "bert4keras.snippets.sequence_padding",
    "keras.Model": "bert4keras.models.Model",
    "keras.callbacks.ModelCheckpoint": "bert4keras.legacy.ModelCheckpoint",
    "keras.callbacks.Progbar": "keras.utils.Progbar",
    **_renamed("keras.constraints", "maxnorm=MaxNorm nonneg=NonNeg unitnorm=UnitNorm"),
    **_renamed("keras.initializers", "normal=RandomNormal one=Ones uniform=RandomUniform"),
    **_renamed("keras.initializers", "zero=Zeros"),
    "keras.layers.CuDNNGRU": "keras.layers.GRU",
    "keras.layers.CuDNNLSTM": "keras.layers.LSTM",
    "keras.layers.Deconvolution2D": "keras.layers.Conv2DTranspose",
    "keras.layers.Deconvolution3D": "keras.layers.Conv3DTranspose",
    "keras.layers.GlobalAveragePooling1D": "bert4keras.layers.GlobalAveragePooling1D",
    "keras.layers.GlobalMaxPooling1D": "bert4keras.layers.GlobalMaxPooling1D",
    "keras.layers.Lambda": "bert4keras.layers.Lambda",
    "keras.layers.Model": "bert4keras.models.Model",
    **_renamed("keras.losses", _LOSSES),
    **_renamed("keras.losses", "KLD=kl_divergence kld=kl_divergence huber_loss=huber"),
    **_renamed("keras.losses", "cosine=cosine_similarity cosine_proximity=cosine_similarity"),
    **_renamed("keras.metrics", _LOSSES),
    "keras.models.Input": "keras.layers.Input",
    "keras.models.Model": "bert4keras.models.Model",
    "keras.models.load_model": "bert4keras.models.load_model",
    **_renamed("keras.optimizers", "adadelta=Adadelta adagrad=Adagrad adam=Adam adamax=Adamax"),
    **_renamed("keras.optimizers", "nadam=Nadam rmsprop=RMSprop sgd=SGD"),
    **TENSORFLOW_NAMES,
    "tensorflow.gradients": f"{K}.gradients",
}
"""Single names that have moved or have been renamed, applied after `MODULES`."""

KERAS_BACKEND = frozenset({"is_float_dtype", "is_int_dtype", "result_type", "standardize_dtype"})
"""Names of `keras.backend` in Keras 3 that `K` lacks."""

VALID = frozenset(
    {
        *spelled_out("keras.backend", "clear_session epsilon floatx").values(),
        *spelled_out("keras.backend", "is_keras_tensor name_scope set_epsilon set_floatx").values(),
        *spelled_out("keras.backend", "backend get_uid image_data_format").values(),
        *spelled_out("keras.backend", "set_image_data_format").values(),
        *spelled_out("keras.backend", " ".join(KERAS_BACKEND)).values(),
        *spelled_out("keras.layers", "GlobalAveragePooling1D GlobalMaxPooling1D Lambda").values(),
        *spelled_out("keras.models", "Model load_model").values(),
        "keras.Model",
        "keras.callbacks.ModelCheckpoint",
        "tensorflow.gradients",
    }
)
"""Names in the tables that are nevertheless valid in scripts for Keras 3."""

NEW = frozenset(
    {
        *spelled_out("bert4keras", "checkpoints export generation serving").values(),
        *spelled_out("bert4keras", "training").values(),
        *spelled_out("keras", "KerasTensor Variable config distribution ops random").values(),
        *spelled_out("keras", "saving src tree").values(),
        "bert4keras.backend.ops",
        *spelled_out("bert4keras.models", "Model load_model").values(),
    }
)
"""Names that only scripts for Keras 3 and this library contain."""

IMPORTABLE = frozenset({"bert4keras.backend.keras", K, "bert4keras.models.keras"})
"""Names in `MODULES`, or objects, that can nevertheless be imported from their old modules."""

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
"""Names that have become constants."""

RESULTS = {"bert4keras.backend.do_recompute": "bert4keras.backend.recompute_by_default"}
"""Constants that have become results of functions."""

CALLS = {
    f"{K}.infinity": ("1e12", ()),
    "bert4keras.backend.get_available_gpus": ("{}.distribution.list_devices('gpu')", ("keras",)),
}
"""Calls without arguments: the expression that replaces them, and the names that it needs."""

DECORATORS = frozenset(
    {
        f"{K}.symbolic",
        "bert4keras.backend.symbolic",
        "bert4keras.layers.integerize_shape",
        "bert4keras.optimizers.export_to_custom_objects",
    }
)
"""Decorators that are no longer needed."""

GONE = frozenset({*EXPRESSIONS, *RESULTS, *DECORATORS, "bert4keras.backend.get_available_gpus"})
"""Names that are no longer imported, since their uses are replaced."""

USELESS_CALLS = frozenset(
    {
        f"{K}.set_infinity",
        *spelled_out(
            "tensorflow.compat.v1",
            "disable_eager_execution disable_v2_behavior enable_eager_execution enable_v2_behavior",
        ).values(),
    }
)
"""Calls that are removed if they are statements."""
