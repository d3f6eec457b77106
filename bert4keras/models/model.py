"""The Keras model that scripts train, save and load."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bert4keras.optimizers  # noqa: F401, registers them: a compiled model loads
from bert4keras import checkpoints
from bert4keras.backend import keras, registered
from bert4keras.checkpoints import CheckpointError
from bert4keras.export import check_export
from bert4keras.models import pretrained
from bert4keras.training import steps
from bert4keras.training.devices import DistributedModel
from bert4keras.training.feed import as_feed
from bert4keras.training.gradients import layers_of


@registered
class Model(DistributedModel):
    """A Keras model that takes what scripts have written for years.

    * `predict([[token_ids], [segment_ids]])`: nested Python lists, one per input;
    * `fit(generator)`: batches as lists, `None` as target, lengths that change;
    * `save_weights('best_model.weights')`: any suffix, one file format, keyed by layer name, so
      that weights of another model are refused instead of loaded by position.

    Beyond that, `compile(step=)` takes what a training step minimises, see `training.steps`.
    """

    step: steps.Step | None = None
    """What a training step minimises instead of the loss; None for the loss itself."""
    step_seeds: keras.random.SeedGenerator | None = None
    """Where a step that draws random numbers has them from; Keras finds its state in here."""
    auto_scale_loss = True
    """What `compile` was given."""

    def compile(
        self,
        optimizer: Any = "rmsprop",
        *args: Any,
        step: steps.Step | None = None,
        auto_scale_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        """Set how to train, as `keras.Model.compile` does.

        Args:
            optimizer: see `keras.Model.compile`.
            *args: see `keras.Model.compile`.
            step: what a training step minimises, such as
                `training.AdversarialTraining("Embedding-Token", 0.5)`; the loss by default.
            auto_scale_loss: put the optimizer into a `keras.optimizers.LossScaleOptimizer` if a
                layer computes in float16, where small gradients would vanish.
            **kwargs: see `keras.Model.compile`.

        Raises:
            TypeError: `step` is no step.
            ValueError: the step does not fit the model.
        """
        if step is not None and not isinstance(step, steps.Step):
            raise TypeError(
                f"compile() got step={step!r}; pass an object such as AdversarialTraining() of "
                "bert4keras.training"
            )
        if step is not None and self.built:
            step.check(self)
        if auto_scale_loss and computes_in_float16(self):
            optimizer = with_loss_scale(optimizer)
        super().compile(optimizer, *args, auto_scale_loss=auto_scale_loss, **kwargs)
        self.auto_scale_loss = auto_scale_loss
        self.step = step
        if step is not None and step.draws and self.step_seeds is None:
            self.step_seeds = keras.random.SeedGenerator()

    def get_compile_config(self) -> dict:
        """Return what the model was compiled with, for saving."""
        config = super().get_compile_config()
        if config and self.step is not None:
            config["step"] = keras.saving.serialize_keras_object(self.step)
        if config and not self.auto_scale_loss:
            config["auto_scale_loss"] = False
        return config

    def compile_from_config(self, config: dict) -> None:
        """Compile with what `get_compile_config` returned."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self._build_optimizer()

    def make_train_function(self, force: bool = False) -> Any:
        """Make what trains on a batch; the optimizer has its variables before.

        Keras would create them in the first step, which TensorFlow traces twice then.
        """
        self._build_optimizer()
        return super().make_train_function(force)

    def _build_optimizer(self) -> None:
        """Create the variables of the optimizer, if it is known what it trains."""
        if self.built and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)

    def train_step(self, *args: Any) -> Any:
        """Train on one batch; Keras compiles this."""
        if self.step is None or keras.backend.backend() == "jax":
            return super().train_step(*args)
        return self._reducible(steps.train_step(self, self.step, self.own_part(*args)))

    def compute_loss_and_updates(
        self,
        trainable_variables: list,
        non_trainable_variables: list,
        metrics_variables: list,
        x: Any,
        y: Any,
        sample_weight: Any,
        training: bool = False,
        optimizer_variables: list | None = None,
    ) -> tuple:
        """Compute what a training step on JAX differentiates; Keras calls it on JAX only."""
        values = trainable_variables, non_trainable_variables, metrics_variables
        data = x, y, sample_weight
        if self.step is None or not training:
            return super().compute_loss_and_updates(
                *values, *data, training=training, optimizer_variables=optimizer_variables
            )
        return steps.stateless_loss_and_updates(
            self, self.step, (*values, optimizer_variables), data
        )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does.

        Raises:
            ValueError: targets or class weights beside batches that bring their own: Keras would
                ignore them.
        """
        if is_stream(x) and (y is not None or kwargs.get("class_weight") is not None):
            raise ValueError(
                "fit() got batches one by one, and y= or class_weight= beside them: let each batch "
                "be (inputs, targets) or (inputs, targets, sample_weights)"
            )
        validation = kwargs.get("validation_data")
        if is_stream(validation):
            kwargs["validation_data"] = as_feed(validation)
        elif isinstance(validation, tuple | list) and validation:
            kwargs["validation_data"] = (self.as_inputs(validation[0]), *validation[1:])
        return super().fit(self.as_inputs(x), y, batch_size, epochs=epochs, **kwargs)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        **kwargs: Any,
    ) -> Any:
        """Evaluate as `keras.Model.evaluate` does."""
        return super().evaluate(self.as_inputs(x), y, batch_size, verbose=verbose, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predict as `keras.Model.predict` does."""
        return super().predict(self.as_inputs(x), *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Train on one batch as `keras.Model.train_on_batch` does."""
        return super().train_on_batch(self.as_inputs(x), *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluate on one batch as `keras.Model.test_on_batch` does."""
        return super().test_on_batch(self.as_inputs(x), *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predict one batch as `keras.Model.predict_on_batch` does."""
        return super().predict_on_batch(self.as_inputs(x))

    def as_inputs(self, x: Any) -> Any:
        """Turn nested lists into one array per input, and generators into feeds."""
        if is_stream(x):
            return as_feed(x)
        if not isinstance(x, list | tuple):
            return x
        n_inputs = len(getattr(self, "inputs", None) or [None])
        if n_inputs > 1 or (len(x) == 1 and hasattr(x[0], "shape")):
            return [as_array(each, i) for i, each in enumerate(x)]
        return as_array(x, 0)

    def save(
        self,
        filepath: str | Path,
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the whole model as `keras.Model.save` does, an older file replaced in one step.

        Raises:
            FileExistsError: the file exists and `overwrite` is false.
            CheckpointError: the folder is missing or cannot be written to, or the disk is full.
        """
        pretrained.save_model(super().save, filepath, overwrite, zipped=zipped, **kwargs)

    def save_weights(self, filepath: str | Path, overwrite: bool = True) -> None:
        """Write all weights to an HDF5 file, whatever its suffix, keyed by layer name.

        Raises:
            FileExistsError: the file exists and `overwrite` is false.
        """
        if not overwrite and Path(filepath).exists():
            raise FileExistsError(f"{filepath} exists: choose another name or pass overwrite=True")
        layers = {
            name: {weight_name(layer, weight): to_numpy(weight) for weight in layer.weights}
            for name, layer in layers_by_key(self.layers).items()
        }
        checkpoints.save_layers(filepath, layers)

    def save_pretrained(self, folder: str | Path, tokenizer: Any = None) -> None:
        """Write a folder that `transformers` loads; see `Transformer.save_pretrained`."""
        pretrained.transformer_of(self).save_pretrained(folder, tokenizer)

    def save_weights_as_checkpoint(
        self, filename: str | Path, mapping: dict[str, list[str]] | None = None, dtype: Any = None
    ) -> None:
        """Write a TensorFlow checkpoint; see `Transformer.save_weights_as_checkpoint`."""
        pretrained.transformer_of(self).save_weights_as_checkpoint(filename, mapping, dtype)

    def load_weights(
        self, filepath: str | Path, skip_mismatch: bool = False, by_name: bool = False
    ) -> None:
        """Read what `save_weights` wrote, here or in the original under Keras 2.

        Args:
            filepath: the file.
            skip_mismatch: leave out layers whose weights have other shapes.
            by_name: leave out layers that only the model or only the file has.

        Raises:
            CheckpointError: the file is damaged, of another format or of another model; no weight
                of the model has changed then.
        """
        layers = layers_by_key(self.layers)
        known = {auto_prefix(layer) for layer in self.layers}
        file = keyed_by_order(checkpoints.load_layers(filepath), known)
        file = {name: list(arrays.values()) for name, arrays in file.items() if arrays}
        missing, unexpected = layers.keys() - file.keys(), file.keys() - layers.keys()
        if (missing or unexpected) and not by_name:
            raise CheckpointError(
                f"{filepath} holds the weights of another model: {len(missing)} layers of this one "
                f"are not in it ({some(missing)}), {len(unexpected)} of its layers are not here "
                f"({some(unexpected)}). Build the model that was saved, or pass by_name=True to "
                "load the layers that both have"
            )
        pairs = []
        for name in layers.keys() & file.keys():
            weights, values = layers[name].weights, file[name]
            expected = [tuple(weight.shape) for weight in weights]
            found = [tuple(value.shape) for value in values]
            if expected == found:
                pairs += zip(weights, values, strict=True)
            elif not skip_mismatch:
                raise CheckpointError(
                    f"{filepath} holds weights of the shapes {found} for layer {name!r}, and the "
                    f"model has {expected}. Build the model as it was saved, or pass "
                    "skip_mismatch=True to leave such layers out"
                )
        assign(pairs)

    def export(self, filepath: str | Path, format: str = "tf_saved_model", **kwargs: Any) -> None:
        """Write the model for serving, as `keras.Model.export` does, with free batch and length.

        Raises:
            ValueError: this takes TensorFlow as the backend, which reads `.keras` files of all.
        """
        check_export(self, format)
        super().export(filepath, format, **kwargs)


def computes_in_float16(model: keras.Model) -> bool:
    """Tell whether a layer of a model, or of a model in it, has float16 as its compute type."""
    return any(
        layer.compute_dtype == "float16"
        for layer in layers_of(model)
        if not isinstance(layer, keras.Model)
    )


def with_loss_scale(optimizer: Any) -> Any:
    """Let an optimizer scale the loss, unless it does already or there is none."""
    optimizer = keras.optimizers.get(optimizer)
    if optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")


def is_stream(x: Any) -> bool:
    """Tell whether batches come one by one: a generator or iterator of the user's."""
    return inspect.isgenerator(x) or (isinstance(x, Iterable) and hasattr(x, "__next__"))


def as_array(values: Any, index: int) -> Any:
    """An array of nested lists; arrays and tensors are passed on as they are."""
    if hasattr(values, "shape"):
        return values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"input {index} of the model is a list whose rows differ in length: pad it with "
            "bert4keras.snippets.sequence_padding"
        ) from error
    return array.astype(keras.config.floatx()) if array.dtype == "float64" else array


def auto_prefix(layer: keras.Layer) -> str:
    """How Keras begins the name of a layer of this class if the user gave none: 'dense'."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def keyed_by_order(layers: Mapping[str, Any], auto_prefixes: set[str]) -> dict[str, Any]:
    """Number automatic names from 0: whether Keras said 'dense' or 'dense_7' depends on history."""
    counts: dict[str, int] = {}
    result = {}
    for name, value in layers.items():
        prefix = re.sub(r"_\d+$", "", name)
        if prefix in auto_prefixes:
            number = counts[prefix] = counts.get(prefix, -1) + 1
            name = f"{prefix}_{number}" if number else prefix
        result[name] = value
    return result


def layers_by_key(layers: Sequence[keras.Layer]) -> dict[str, keras.Layer]:
    """The layers that have weights, under the names that weight files use."""
    named = {layer.name: layer for layer in layers if layer.weights}
    return keyed_by_order(named, {auto_prefix(layer) for layer in layers})


def weight_name(layer: keras.Layer, weight: Any) -> str:
    """The path of a weight inside its layer: 'q_dense/kernel'."""
    return weight.path.removeprefix(f"{layer.path}/").removeprefix(f"{layer.name}/")


def to_numpy(weight: Any) -> np.ndarray:
    """The value of a Keras variable."""
    return keras.ops.convert_to_numpy(weight)


def assign(pairs: Iterable[tuple[Any, np.ndarray]]) -> None:
    """Set Keras variables to values whose shapes have been checked.

    The values may be views of a mapped file, which JAX would go on using instead of a copy.
    """
    aliasing = keras.backend.backend() == "jax"
    for weight, value in pairs:
        weight.assign(np.array(value) if aliasing else value)


def some(names: Iterable[str], limit: int = 3) -> str:
    """A few of many names, for a message."""
    names = sorted(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
