"""`Model`, the Keras model that scripts train, save and load."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

import bert4keras.optimizers.extensions
import bert4keras.training.vector_losses  # noqa: F401, both register, so that compiled models load
from bert4keras import keras_private
from bert4keras.backend.saving import registered
from bert4keras.checkpoints.base import CheckpointError
from bert4keras.checkpoints.hdf5 import load_layers, save_layers
from bert4keras.export import check_export, write_onnx
from bert4keras.layers.adapters import weight_name
from bert4keras.models import pretrained
from bert4keras.models.checks import Rules, check_counts
from bert4keras.models.given import (
    as_arrays,
    as_batches,
    inspectable_inputs,
    is_one_batch,
    original_errors,
    with_ranks,
    yields_batches,
)
from bert4keras.models.messages import abbreviated
from bert4keras.models.variables import assign, to_numpy
from bert4keras.models.whole import WholeModel
from bert4keras.training import lora, resuming, steps
from bert4keras.training.compiling import CompilesRarely
from bert4keras.training.distribution.choice import BuiltForDevices
from bert4keras.training.gradients import layers_of
from bert4keras.training.in_place import VariablesInPlace
from bert4keras.training.methods import with_methods_by_name
from bert4keras.training.model import TrainingModel
from bert4keras.training.trainable import TrainsAsCompiled


@registered
class Model(
    BuiltForDevices,
    WholeModel,
    lora.Adapted,
    TrainsAsCompiled,
    CompilesRarely,
    VariablesInPlace,
    TrainingModel,
):
    """A Keras model that accepts the calls of scripts written for earlier versions of Keras.

    * `predict([[token_ids], [segment_ids]])`: nested Python lists, one per input;
    * `fit(generator)`: batches as lists, `None` as target, varying lengths;
    * `save_weights('best_model.weights')`: any suffix, one file format, keyed by layer name, so
      that weights of another model are refused instead of loaded by position;
    * `save('test.model')`: any suffix, which `bert4keras.models.load_model` reads.

    In addition, `compile(step=)` takes a `training.steps.Step`, which defines what a training step
    minimises.
    """

    step_seeds: keras.random.SeedGenerator | None = None
    """The seeds of a step that draws random numbers; Keras tracks their state as an attribute."""
    auto_scale_loss = True
    """The argument of the same name that `compile` was given."""

    def compile(
        self,
        optimizer: Any = "rmsprop",
        *args: Any,
        step: steps.Step | None = None,
        auto_scale_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        """Configure training, as `keras.Model.compile` does.

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
        self.check_step(step)
        if auto_scale_loss and computes_in_float16(self):
            optimizer = with_loss_scale(optimizer)
        args, kwargs = with_methods_by_name(self, (args, kwargs))
        vars(self).pop("rules", None)
        super().compile(optimizer, *args, auto_scale_loss=auto_scale_loss, **kwargs)
        self.auto_scale_loss = auto_scale_loss
        self._set_step(step)
        if self.from_h5:
            self._build_optimizer()  # Keras would build it without any variables

    def train_with(self, step: steps.Step | None) -> None:
        """Change what a training step minimises after `compile`.

        Args:
            step: see `compile`; None for the loss itself.

        Raises:
            TypeError: `step` is no step.
            ValueError: the step does not fit the model.
        """
        self.check_step(step)
        self._set_step(step)
        self.train_function = None  # the next fit makes a new one

    def check_step(self, step: steps.Step | None) -> None:
        """Raise an error if this model cannot be trained with a step."""
        if step is not None and not isinstance(step, steps.Step):
            raise TypeError(
                f"compile() got step={step!r}; pass an object such as AdversarialTraining() of "
                "bert4keras.training"
            )
        if step is not None and self.built:
            step.check(self)

    def _set_step(self, step: steps.Step | None) -> None:
        self.step = step
        if step is not None and step.draws and self.step_seeds is None:
            self.step_seeds = keras.random.SeedGenerator()

    def get_compile_config(self) -> dict:
        """Return the arguments that the model was compiled with, for saving."""
        config = super().get_compile_config()
        if config and self.step is not None:
            config["step"] = keras.saving.serialize_keras_object(self.step)
        if config and not self.auto_scale_loss:
            config["auto_scale_loss"] = False
        if config and self.compiled_trainable.changed_indices():
            config["trainable"] = self.compiled_trainable.changed_indices()
        return config

    def compile_from_config(self, config: dict) -> None:
        """Compile with what `get_compile_config` returned."""
        config = keras.saving.deserialize_keras_object(config)
        changed = config.pop("trainable", ())
        self.compile(**config)
        self.compiled_trainable.apply_changes(changed)
        self._build_optimizer()

    def make_train_function(self, force: bool = False) -> Any:
        """Make the training function, after creating the variables of the optimizer.

        Keras would create them in the first step, which TensorFlow would then trace twice.
        """
        self._build_optimizer()
        return super().make_train_function(force)

    def _build_optimizer(self) -> None:
        """Create the variables of the optimizer, if the trainable variables are known."""
        if not self.built or self.optimizer is None or self.optimizer.built:
            return
        if not self._layers_are_built():
            self._build_layers()
        if self._layers_are_built():
            self.compiled_trainable.update()
            with self.in_use():
                self.optimizer.build(self.trainable_variables)

    def _layers_are_built(self) -> bool:
        """Tell whether all layers have created their weights."""
        return all(layer.built for layer in keras_private.layers_within(self))

    def _build_layers(self) -> None:
        """Build nested layers, some of which create their weights only when they are called."""
        if hasattr(self, "inputs"):
            with suppress(Exception):  # Keras will call them on a batch and report what is wrong
                keras_private.output_spec(self, self.input, training=False)

    def train_step(self, *args: Any) -> Any:
        """Train on one batch; Keras compiles this method."""
        with self.in_use(), self.compiled_trainable.restored():
            return super().train_step(*args)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does; a `DataGenerator` is accepted too, with its own length.

        Raises:
            ValueError: the data do not fit the model, as `models.checks` finds out; or targets or
                class weights are given in addition to batches, where Keras would ignore them.
        """
        if yields_batches(x) and (y is not None or kwargs.get("class_weight") is not None):
            raise ValueError(
                "fit() got batches one by one, and y= or class_weight= in addition: let each batch "
                "be (inputs, targets) or (inputs, targets, sample_weights)"
            )
        check_counts("fit", batch_size=batch_size)
        check_counts("fit", validation_batch_size=kwargs.get("validation_batch_size"))
        x, y = self._standardize_data("fit", x, y, kwargs)
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple | list):
            if not validation:
                raise ValueError("fit got an empty validation_data: give (x, y), or leave it out")
            parts = [*validation, None, None][:3]
            parts[:2] = self._standardize_data(
                "validation_data", *parts[:2], {"sample_weight": parts[2]}
            )
            kwargs["validation_data"] = tuple(parts[: len(validation)])
        elif validation is not None:
            kwargs["validation_data"], _ = self._standardize_data(
                "validation_data", validation, None, kwargs
            )
        with self.in_training(), original_errors(x, kwargs.get("validation_data")):
            return super().fit(x, y, batch_size, epochs=epochs, **kwargs)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        **kwargs: Any,
    ) -> Any:
        """Evaluate as `keras.Model.evaluate` does, on data as `fit` accepts them."""
        check_counts("evaluate", batch_size=batch_size)
        if not kwargs.get("_use_cached_eval_dataset"):  # data that `fit` has checked
            x, y = self._standardize_data("evaluate", x, y, kwargs)
        with self.in_use(), original_errors(x):
            return super().evaluate(x, y, batch_size, verbose=verbose, **kwargs)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Predict as `keras.Model.predict` does, on inputs as `fit` accepts them.

        `verbose="auto"` shows a bar for more than one batch: scripts predict text by text.
        """
        check_counts("predict", batch_size=batch_size)
        options = {"steps": steps}
        x, _ = self._standardize_data("predict", x, None, options)
        if verbose == "auto" and is_one_batch(x, batch_size):
            verbose = 0
        with self.in_use(), original_errors(x):
            return super().predict(
                x, batch_size=batch_size, verbose=verbose, callbacks=callbacks, **options
            )

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Train on one batch as `keras.Model.train_on_batch` does, with nested lists accepted."""
        x, y = self._standardize_data("train_on_batch", x, y, {"sample_weight": sample_weight})
        with self.in_training():
            return super().train_on_batch(x, y, sample_weight, *args, **kwargs)

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Evaluate on one batch as `keras.Model.test_on_batch` does, with nested lists accepted."""
        x, y = self._standardize_data("test_on_batch", x, y, {"sample_weight": sample_weight})
        with self.in_use():
            return super().test_on_batch(x, y, sample_weight, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predict one batch as `keras.Model.predict_on_batch` does, with nested lists accepted."""
        x, _ = self._standardize_data("predict_on_batch", x, None, {})
        with self.in_use():
            return super().predict_on_batch(x)

    def as_inputs(self, x: Any) -> Any:
        """Convert nested lists to one array per input."""
        return as_arrays(x, len(getattr(self, "inputs", None) or [None]))

    def _standardize_data(
        self, call: str, x: Any, y: Any, options: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Check inputs and targets and convert them to the form that Keras takes.

        Args:
            call: name of the method that was called, or 'validation_data' for that of `fit`.
            x: the inputs, or data that yields batches, as they were given.
            y: the targets as they were given.
            options: arguments of the call, into which the number of steps is put if it is known.
        """
        if yields_batches(x):
            return as_batches(call, x, options, partial(self._prepare_batch, call)), y
        x = self.as_inputs(x)
        return x, self._check_arrays(call, x, y, options.get("sample_weight"))

    def _prepare_batch(self, call: str, batch: tuple) -> tuple:
        """Check a batch and convert it to the form that the model takes."""
        x, *rest = batch
        y, sample_weight, *_ = [*rest, None, None]
        y = self._check_arrays(call, x, y, sample_weight)
        return (x, y, *rest[1:]) if rest else batch

    def _check_arrays(self, call: str, x: Any, y: Any, sample_weight: Any) -> Any:
        """Check arrays, and return the targets in the form that the model takes."""
        if self.rules is None or inspectable_inputs(x) is None:
            return y
        self.rules.check(call, inspectable_inputs(x), y, sample_weight)
        if y is None or keras.backend.backend() != "tensorflow":
            return y
        return with_ranks(y, self.rules.ranks)

    @cached_property
    def rules(self) -> Rules | None:
        """The rules for inputs and targets; None if the model is not a functional one."""
        return Rules(self) if hasattr(self, "inputs") else None

    def save_weights(self, filepath: str | Path, overwrite: bool = True) -> None:
        """Write all weights to an HDF5 file, whatever its suffix, keyed by layer name.

        The file of `keras.callbacks.BackupAndRestore` also gets the state of the optimizer.

        Raises:
            FileExistsError: the file exists and `overwrite` is false.
        """
        if not overwrite and Path(filepath).exists():
            raise FileExistsError(f"{filepath} exists: choose another name or pass overwrite=True")
        layers = {
            name: {weight_name(layer, weight): to_numpy(weight) for weight in layer.weights}
            for name, layer in layers_by_key(self.layers).items()
        }
        layers |= lora.alphas_entry(self)
        if resuming.is_backup(filepath) and self._trains():
            state = resuming.training_state(self)
            layers[resuming.ENTRY] = {name: to_numpy(v) for name, v in state.items()}
        save_layers(filepath, layers)

    def save_pretrained(
        self,
        folder: str | Path,
        tokenizer: Any = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a folder that `transformers` loads, as `Transformer.save_pretrained` does."""
        pretrained.transformer_of(self).save_pretrained(folder, tokenizer, card)

    def save_weights_as_checkpoint(
        self, filename: str | Path, mapping: dict[str, list[str]] | None = None, dtype: Any = None
    ) -> None:
        """Write a TensorFlow checkpoint as `Transformer.save_weights_as_checkpoint` does."""
        pretrained.transformer_of(self).save_weights_as_checkpoint(filename, mapping, dtype)

    def load_weights(
        self, filepath: str | Path, skip_mismatch: bool = False, by_name: bool = False
    ) -> None:
        """Load weights that `save_weights` wrote, here or in the original under Keras 2.

        Args:
            filepath: the file.
            skip_mismatch: leave out layers whose weights have other shapes.
            by_name: leave out layers that only the model or only the file has.

        Raises:
            CheckpointError: the file is damaged, of another format or of another model, or its
                adapters have another alpha. The weights of the model are then unchanged.
        """
        layers = layers_by_key(self.layers)
        known = {auto_prefix(layer) for layer in self.layers}
        found = load_layers(filepath)
        training = found.pop(resuming.ENTRY, None)
        lora.check_alphas(self, found.pop(lora.ENTRY, {}), filepath)
        file = number_automatic_names(found, known)
        file = {name: list(arrays.values()) for name, arrays in file.items() if arrays}
        missing, unexpected = layers.keys() - file.keys(), file.keys() - layers.keys()
        if (missing or unexpected) and not by_name:
            raise CheckpointError(
                f"{filepath} holds the weights of another model: {len(missing)} layers of this one "
                f"are not in it ({abbreviated(missing)}), {len(unexpected)} of its layers are not "
                f"here ({abbreviated(unexpected)}). Build the model that was saved, or pass "
                "by_name=True to load the layers that both have"
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
                    f"model has {expected}. Build the model as it was saved, with add_lora if it "
                    "had adapters, or pass skip_mismatch=True to leave such layers out"
                )
        if training is not None and self._trains():
            resuming.restore_training_state(self, training, filepath)
        assign(pairs)

    def _trains(self) -> bool:
        """Tell whether the model has an optimizer whose variables exist."""
        return self.compiled and self.optimizer is not None and self.optimizer.built

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error, because Keras would leave all layers of this library unquantized."""
        raise NotImplementedError(
            "quantize() of Keras knows none of the layers of bert4keras and would leave the model "
            "as it is: for eight bits use export('model.onnx', format='onnx', int8=True) on "
            "TensorFlow, or for half the memory build it with precision='bfloat16' or 'float16'"
        )

    def export(
        self,
        filepath: str | Path,
        format: str = "tf_saved_model",
        int8: bool = False,
        **kwargs: Any,
    ) -> None:
        """Write the model for serving, as `keras.Model.export` does, for any batch size and length.

        Args:
            filepath: the file or folder.
            format: see `keras.Model.export`.
            int8: for 'onnx': write kernels and tables in eight bits, see
                `bert4keras.export.write_onnx`, which compares what onnxruntime computes with the
                model, in eight bits or not.
            **kwargs: see `keras.Model.export`.

        Raises:
            ValueError: the backend is not TensorFlow, which reads `.keras` files of all backends;
                or the format cannot hold the model; or onnxruntime is missing, or computes
                something else with the file.
        """
        if int8 and format != "onnx":
            raise ValueError(f"int8=True is for format='onnx', and export() got {format!r}")
        if format == "onnx":
            examples = [] if "input_signature" in kwargs else self.examples()
            write_onnx(self, Path(filepath), examples, int8, **kwargs)
            return
        check_export(self, format)
        super().export(filepath, format, **kwargs)

    def examples(self) -> list[list[np.ndarray]]:
        """Return inputs of two shapes, drawn at random, an array for each input."""
        rules = Rules(self)
        return [rules.example(2, 9), rules.example(3, 5)]


def computes_in_float16(model: keras.Model) -> bool:
    """Tell whether a layer of a model, or of a nested model, computes in float16."""
    return any(
        layer.compute_dtype == "float16"
        for layer in layers_of(model)
        if not isinstance(layer, keras.Model)
    )


def with_loss_scale(optimizer: Any) -> Any:
    """Wrap an optimizer in a `LossScaleOptimizer`, unless it is one or there is none."""
    optimizer = keras.optimizers.get(optimizer)
    if optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")


def auto_prefix(layer: keras.Layer) -> str:
    """Return how Keras begins the automatic name of a layer: 'dense' for `Dense`."""
    name = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", type(layer).__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def number_automatic_names(layers: Mapping[str, Any], auto_prefixes: set[str]) -> dict[str, Any]:
    """Number automatic names from 0, since Keras counts all layers created so far: 'dense_7'."""
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
    """Return the layers that have weights, by the names that weight files use."""
    named = {layer.name: layer for layer in layers if layer.weights}
    return number_automatic_names(named, {auto_prefix(layer) for layer in layers})
