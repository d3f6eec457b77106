"""Training steps whose objective involves gradients, or several passes through the model.

`model.compile(optimizer, loss, step=AdversarialTraining("Embedding-Token", 0.5))`. A step defines
the objective as a function of the weights; everything else (optimizer, metrics, loss scaling,
gradient accumulation, compilation) is done by Keras.

steps           AdversarialTraining GradientPenalty VirtualAdversarialTraining RDrop
for your own    Step Batch Pass
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from bert4keras import keras_private
from bert4keras.backend.gradients import pure_scope, value_and_gradients
from bert4keras.backend.saving import registered
from bert4keras.backend.tensors import Tensor
from bert4keras.training.distribution.parts import (
    LossOfBatch,
    loss_of_batch,
    parts,
    sum_over_parts,
)
from bert4keras.training.gradients import (
    find_layer,
    forward_hook,
    has_table,
    layers_of,
    outputs_of,
)
from bert4keras.training.losses import Float32Loss, divergence

Weights = Sequence[Tensor]
"""Values of the trainable variables: tensors, or the Keras variables themselves."""

# === Building blocks of a step ===


class State(NamedTuple):
    """State that a pass changes."""

    values: list[Tensor]
    """Values of the non-trainable variables, such as dropout seeds, or the variables themselves."""
    generator: Any
    """State of PyTorch's random number generators, None on other backends."""


class Pass(NamedTuple):
    """Results of a pass through the model."""

    loss: Tensor
    """The loss of `compile` plus the losses that layers add, a scalar."""
    predictions: Any
    """The outputs of the model, from which metrics are computed."""
    state: State
    """The state after the pass."""
    metrics: list[Tensor]
    """Values of the metric variables, which track the losses of several outputs."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """A training batch, with pure functions of the weights.

    None of its methods changes a variable: of all passes in a step, only the one that the step
    returns has an effect.

    Attributes:
        model: the model.
        x: inputs, as Keras passes them to a model.
        y: targets, or None.
        sample_weight: weights of the samples, or None.
        state: the state before the batch.
        metrics: values of the metric variables before the batch.
        loss_scale: factor of the loss that keeps gradients in float16 from vanishing.
    """

    model: keras.Model
    x: Any
    y: Any
    sample_weight: Any
    state: State
    metrics: list[Tensor]
    loss_scale: Tensor | float

    def run(
        self,
        weights: Weights,
        replaced: Sequence[tuple[keras.Variable, Tensor]] = (),
        state: State | None = None,
        training: bool = True,
    ) -> Pass:
        """Run the model and compute the loss.

        Args:
            weights: values of the trainable variables.
            replaced: pairs of a variable and its value in this pass, which override all others.
            state: the initial state, by default that before the batch: all passes have the same
                dropout masks, unless one starts from the state after another.
            training: whether the model runs in training mode.
        """
        model, state = self.model, state or self.state
        mapping = [
            *zip(model.trainable_variables, weights, strict=True),
            *zip(model.non_trainable_variables, state.values, strict=True),
            *zip(model.metrics_variables, self.metrics, strict=True),
            *replaced,
        ]
        set_generator(state.generator)
        with pure_scope(mapping) as scope:
            data = self.x, self.y, self.sample_weight
            predictions, loss = predictions_and_loss(model, *data, training)
        values = values_after(scope, model.non_trainable_variables, state.values)
        metrics = values_after(scope, model.metrics_variables, self.metrics)
        return Pass(loss, predictions, State(values, generator_state()), metrics)

    def gradients(
        self, function: Callable, at: Sequence[Tensor], second_order: bool = False
    ) -> tuple[Any, list[Tensor]]:
        """Compute the gradients of a loss.

        Args:
            function: takes a list of tensors, returns a scalar and auxiliary output.
            at: where to differentiate.
            second_order: the result is differentiated again, with respect to the weights; if not,
                `function` uses `frozen` weights.

        Returns:
            The auxiliary output, and the gradients, float32; zeros where there are none.
        """

        # Gradients of weights, which add up over a batch, need the whole loss scale. Here its root
        # is applied: second-order gradients contain it twice.
        scale = ops.sqrt(ops.cast(self.loss_scale, "float32"))

        def scaled(tensors: list[Tensor]) -> tuple[Tensor, Any]:
            value, aux = function(tensors)
            return value * ops.cast(scale, value.dtype), aux

        _, aux, gradients = value_and_gradients(scaled, at, second_order)
        gradients = [
            ops.zeros_like(x) if g is None else g for x, g in zip(at, gradients, strict=True)
        ]
        return aux, [ops.cast(g, "float32") / scale for g in gradients]

    def value(self, variable: keras.Variable, weights: Weights) -> Tensor:
        """Return the value of a variable in a pass, trainable or not."""
        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        values = [*weights, *self.state.values]
        return next(
            ops.convert_to_tensor(value)
            for known, value in zip(variables, values, strict=True)
            if known is variable
        )


def values_after(scope: keras.StatelessScope, variables: list, before: list) -> list[Tensor]:
    """Return the values of variables after a scope, which may be those before it."""
    after = map(scope.get_current_value, variables)
    return [old if new is None else new for new, old in zip(after, before, strict=True)]


def frozen(weights: Weights) -> Weights:
    """Return weights for passes through which no gradients flow to the weights."""
    if keras.backend.backend() == "torch":
        # Recomputation in the backward pass needs the weights of the forward pass, and inner
        # gradients are not accumulated in the weights here.
        return weights
    return [ops.stop_gradient(weight) for weight in weights]


def generator_state() -> Any:
    """Return the state of PyTorch's random number generators, from which dropout draws."""
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def set_generator(state: Any) -> None:
    """Restore a state that `generator_state` returned."""
    if state is not None:
        import torch

        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state_all(state[1])


def norm(x: Tensor) -> Tensor:
    """Euclidean norm of all elements."""
    return ops.sqrt(ops.sum(ops.square(x)))


def normalized(x: Tensor) -> Tensor:
    """Divide by the Euclidean norm of all elements; zeros remain zeros."""
    return x / (norm(x) + 1e-8)


def project_onto_ball(x: Tensor, radius: float) -> Tensor:
    """Project a point onto a ball around 0."""
    return x * ops.minimum(1.0, radius / ops.maximum(norm(x), 1e-30))


def find_table(model: keras.Model, layer: str) -> keras.Variable:
    """Return the embedding table of a layer.

    Raises:
        ValueError: there is no such layer, or it has no embedding table.
    """
    found = find_layer(model, layer)
    if not has_table(found):
        tables = [each.name for each in layers_of(model) if has_table(each)]
        raise ValueError(
            f"the layer {layer!r} ({type(found).__name__}) has no embedding table to perturb: in "
            f"the model {model.name!r}, name one of {tables}"
        )
    return found.embeddings


def check_positive(step: Any, *names: str) -> None:
    """Raise a ValueError if one of a step's arguments is not positive and finite."""
    for name in names:
        value = getattr(step, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise ValueError(
                f"{type(step).__name__} takes a positive finite number as {name}, not {value!r}"
            )


def check_count(step: Any, name: str) -> None:
    """Raise a ValueError if an argument of a step is not a positive integer."""
    value = getattr(step, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{type(step).__name__} takes an integer from 1 as {name}, not {value!r}")


class Step:
    """Base of the training steps, which define the objective that is minimised.

    To define your own, write a frozen dataclass, registered for saving, with `objective`.

    Attributes:
        draws: whether it draws random numbers, by `random_numbers`.
    """

    draws: ClassVar[bool] = False

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Compute the objective for one batch.

        Args:
            batch: the batch.
            weights: values of the trainable variables, with respect to which the result is
                differentiated.

        Returns:
            A pass of the model, with the objective in place of its loss. Under `tf.distribute` the
            losses of all replicas are summed.
        """
        raise NotImplementedError(f"{type(self).__name__} must define objective()")

    def check(self, model: keras.Model) -> None:
        """Raise a ValueError if the step does not fit a built model."""

    def get_config(self) -> dict:
        """Return the arguments of the constructor.

        Raises:
            NotImplementedError: the class is not a dataclass, so that they are not known.
        """
        if not dataclasses.is_dataclass(self):
            raise NotImplementedError(
                f"{type(self).__name__} cannot be saved with a model, as its arguments are not "
                "known: write @dataclasses.dataclass(frozen=True) above it, or define get_config()"
            )
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict) -> "Step":
        """Create a step from its arguments."""
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})


# === The steps ===


@registered
@dataclasses.dataclass(frozen=True)
class AdversarialTraining(Step):
    """Train on embeddings that are perturbed to increase the loss.

    With one step this is the fast gradient method (Miyato et al., 2017,
    https://arxiv.org/abs/1605.07725), δ = ε · g / |g| with the gradient g of the loss. With more
    steps it is projected gradient descent (Madry et al., 2018, https://arxiv.org/abs/1706.06083):
    each step has the length `step_size` and is followed by a projection onto the ball of radius ε.
    The embedding table is perturbed, so that a token has the same perturbation at every position,
    and |g| is the norm over the whole table, and thus over all samples of the batch
    (https://kexue.fm/archives/7234). Loss and gradient are those of the batch. If the table is also
    the output projection, that is perturbed too.

    All passes of a batch use the same dropout masks. Metrics are computed from the pass without δ;
    the reported loss is the objective.

    Args:
        layer: name of the embedding.
        epsilon: ε, the maximal norm of δ.
        steps: number of gradient steps; each takes a forward and a backward pass, in addition to
            those of training.
        step_size: norm of a step: by default ε for one step, and 2.5 · ε / steps for more.
        add_clean_loss: minimise the sum of the losses with and without δ, as many PyTorch scripts
            do, rather than the one with δ.

    Raises:
        ValueError: a number is out of range.
    """

    layer: str = "Embedding-Token"
    epsilon: float = 1.0
    steps: int = 1
    step_size: float | None = None
    add_clean_loss: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "epsilon", *([] if self.step_size is None else ["step_size"]))
        check_count(self, "steps")

    def check(self, model: keras.Model) -> None:
        """Raise a ValueError if there is no such embedding table."""
        find_table(model, self.layer)

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Return the pass without δ, with the loss with δ."""
        table = find_table(batch.model, self.layer)
        step_size = self.step_size or self.epsilon * (2.5 / self.steps if self.steps > 1 else 1)
        constant = frozen(weights)
        values = ops.stop_gradient(batch.value(table, constant))

        def loss(at: list[Tensor]) -> tuple[Tensor, Pass]:
            perturbed = batch.run(constant, [(table, values + at[0])])
            return perturbed.loss, perturbed

        passes, delta = [], ops.zeros_like(values)
        for _ in range(self.steps):
            perturbed, (gradient,) = batch.gradients(loss, [delta])
            gradient = sum_over_parts(gradient)
            delta = project_onto_ball(delta + step_size * normalized(gradient), self.epsilon)
            passes.append(perturbed)
        delta = ops.stop_gradient(delta)
        trained = batch.run(weights, [(table, batch.value(table, weights) + delta)])
        if self.add_clean_loss:
            clean = batch.run(weights)
            return clean._replace(loss=clean.loss + trained.loss)
        return passes[0]._replace(loss=trained.loss)


@registered
@dataclasses.dataclass(frozen=True)
class GradientPenalty(Step):
    """Train with a penalty on the gradient of the loss: loss + ε/2 · Σ |∂loss/∂v|².

    v are the output vectors of a layer, one for each position of each sample. To first order this
    is `AdversarialTraining` with a gradient that is not normalised (https://kexue.fm/archives/7234;
    Ross and Doshi-Velez, 2018, https://arxiv.org/abs/1711.09404). The loss is that of the batch,
    usually a mean over samples, so that the penalty falls with the batch size: ε must be rather
    large, and be adapted to the batch size.

    A step differentiates twice. PyTorch then computes attention without its fused kernels. Layers
    with `recompute` can be differentiated twice only on JAX.

    Args:
        layer: name of the layer.
        epsilon: ε.

    Raises:
        ValueError: `epsilon` is out of range.
    """

    layer: str = "Embedding-Token"
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        check_positive(self, "epsilon")

    def check(self, model: keras.Model) -> None:
        """Raise a ValueError if there is no such layer, or recomputation prevents the penalty."""
        find_layer(model, self.layer)
        recomputed = any(
            getattr(layer, "recompute", False) for layer in keras_private.layers_within(model)
        )
        if recomputed and keras.backend.backend() != "jax":
            raise ValueError(
                "GradientPenalty differentiates twice, which layers with recompute=True do not "
                f"support on {keras.backend.backend()}: set it to False (unset RECOMPUTE), or use "
                "JAX"
            )

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Return the pass with the penalty added to its loss."""
        layer = find_layer(batch.model, self.layer)
        constant = frozen(weights)
        vectors = outputs_of(layer, lambda: batch.run(constant))

        def loss(shifts: list[Tensor]) -> tuple[Tensor, Pass]:
            remaining = iter(shifts)
            with forward_hook(layer, lambda output: output + next(remaining)):
                result = batch.run(weights)
            return result.loss, result

        shifts = [ops.zeros_like(each) for each in vectors]
        result, gradients = batch.gradients(loss, shifts, second_order=True)
        penalty = sum(ops.sum(ops.square(gradient)) for gradient in gradients)
        penalty = loss_of_batch(penalty, 1, add=True) if parts() > 1 else penalty
        return result._replace(loss=result.loss + 0.5 * self.epsilon * penalty)


Difference = str | Callable[[Tensor, Tensor], Tensor]


@registered
class Divergence(Float32Loss):
    """Mean divergence of predictions over samples, and over positions that are not masked.

    Args:
        difference: 'probabilities' or 'logits', from which the Kullback-Leibler divergence is
            computed, or a function.
    """

    def __init__(self, difference: Difference) -> None:
        super().__init__()
        self.difference = difference

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the difference of each prediction."""
        if callable(self.difference):
            return self.difference(y_true, y_pred)
        return divergence(y_true, y_pred, from_logits=self.difference == "logits")

    def get_config(self) -> dict:
        """Return the argument of the constructor."""
        return {"difference": self.difference}

    @classmethod
    def from_config(cls, config: dict) -> "Divergence":
        """Create a loss from its argument."""
        return cls(keras.saving.deserialize_keras_object(config["difference"]))


def mean_divergence(difference: Difference, targets: Any, predictions: Any) -> Tensor:
    """Compute the mean divergence of two predictions of a model, summed over its outputs."""
    loss = Divergence(difference)
    loss = LossOfBatch(loss) if parts() > 1 else loss
    pairs = zip(keras.tree.flatten(targets), keras.tree.flatten(predictions), strict=True)
    return sum(loss(target, prediction) for target, prediction in pairs)


def check_difference(step: Any) -> None:
    """Raise a ValueError if `mean_divergence` does not know the divergence of a step."""
    known = ("probabilities", "logits")
    if not callable(step.divergence) and step.divergence not in known:
        raise ValueError(
            f"{type(step).__name__} takes as divergence a function or one of {known}, whichever "
            f"the outputs of the model are, not {step.divergence!r}"
        )


@registered
@dataclasses.dataclass(frozen=True)
class VirtualAdversarialTraining(Step):
    """Train for predictions that are robust to the perturbation of embeddings that changes them
    most.

    loss + KL(p ‖ p(δ)) with the prediction p, held constant, and δ = ε · d (Miyato et al., 2018,
    https://arxiv.org/abs/1704.03976; 2017, https://arxiv.org/abs/1605.07725). The direction d is
    random at first; in each iteration it becomes the normalised gradient of KL(p ‖ p(ξ · d)). The
    embedding table is perturbed, as in `AdversarialTraining`.

    The divergence needs no labels and weights all samples equally; sample weights apply only to the
    loss. A batch may therefore contain unlabelled samples: give them weight 0 and any label. All
    passes of a batch use the same dropout masks.

    Args:
        layer: name of the embedding.
        epsilon: ε, the norm of δ.
        xi: ξ, the norm at which the direction is searched. It is a norm over the whole table, of
            which a batch uses only some embeddings, and should therefore not be small.
        iterations: number of updates of the direction, each a forward and a backward pass.
        divergence: 'probabilities' or 'logits', whichever the outputs of the model are; or a
            function, registered for saving, from two outputs of the model to (batch, ...).
        add_loss: whether to minimise the loss as well; False if no batch has labels, whose values
            then do not matter.

    Raises:
        ValueError: an argument is out of range.
    """

    layer: str = "Embedding-Token"
    epsilon: float = 1.0
    xi: float = 10.0
    iterations: int = 1
    divergence: Difference = "probabilities"
    add_loss: bool = True
    draws = True

    def __post_init__(self) -> None:
        check_positive(self, "epsilon", "xi")
        check_count(self, "iterations")
        check_difference(self)

    def check(self, model: keras.Model) -> None:
        """Raise a ValueError if there is no such embedding table."""
        find_table(model, self.layer)

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Return the pass without δ, with the divergence added to its loss."""
        table = find_table(batch.model, self.layer)
        constant = frozen(weights)
        values = ops.stop_gradient(batch.value(table, constant))
        clean = batch.run(weights)
        targets = keras.tree.map_structure(ops.stop_gradient, clean.predictions)

        def change(at: list[Tensor]) -> tuple[Tensor, None]:
            perturbed = batch.run(constant, [(table, values + self.xi * at[0])])
            return mean_divergence(self.divergence, targets, perturbed.predictions), None

        noise, state = random_numbers(batch.model, clean.state, tuple(table.shape))
        direction = normalized(noise)
        for _ in range(self.iterations):
            _, (gradient,) = batch.gradients(change, [direction])
            direction = normalized(sum_over_parts(gradient))
        delta = self.epsilon * ops.stop_gradient(direction)
        perturbed = batch.run(weights, [(table, batch.value(table, weights) + delta)])
        difference = mean_divergence(self.divergence, targets, perturbed.predictions)
        loss = clean.loss + difference if self.add_loss else difference
        return clean._replace(loss=loss, state=state)


def random_numbers(model: keras.Model, state: State, shape: Sequence[int]) -> tuple[Tensor, State]:
    """Draw from the standard normal distribution; also return the state after that."""
    variables = model.non_trainable_variables
    with pure_scope(zip(variables, state.values, strict=True)) as scope:
        numbers = keras.random.normal(shape, dtype="float32", seed=model.step_seeds)
    return numbers, state._replace(values=values_after(scope, variables, state.values))


@registered
@dataclasses.dataclass(frozen=True)
class RDrop(Step):
    """Train for the same predictions under different dropout masks (Wu et al., 2021).

    (L₁ + L₂) / 2 + α/4 · (KL(p‖q) + KL(q‖p)), for the losses and the predictions of two passes with
    different dropout masks. This is half of formula 4 of https://arxiv.org/abs/2106.14448, which
    adds the losses and averages the divergences: α is that of the paper, and the loss is as large
    as without the divergence; https://kexue.fm/archives/8496 does the same. (Common code for the
    paper averages the losses but has α/2: its α is half of this one.)

    The divergence weights all samples equally; sample weights apply only to the loss. Metrics are
    computed from the first pass.

    Args:
        alpha: α.
        divergence: as in `VirtualAdversarialTraining`.

    Raises:
        ValueError: an argument is out of range; or, at the first step, the model has no dropout.
    """

    alpha: float = 4.0
    divergence: Difference = "probabilities"

    def __post_init__(self) -> None:
        check_positive(self, "alpha")
        check_difference(self)

    def check(self, model: keras.Model) -> None:
        """Raise a ValueError if the model has no dropout."""
        if not any(
            isinstance(layer, keras.layers.Dropout) and layer.rate > 0
            for layer in keras_private.layers_within(model)
        ):
            raise ValueError(
                f"RDrop compares two passes with different dropout masks, but the model "
                f"{model.name!r} has no dropout: build it with a rate above 0, such as "
                "build_transformer_model(..., dropout_rate=0.1)"
            )

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Return the first pass, with the loss of both and the state after both."""
        first = batch.run(weights)
        second = batch.run(weights, state=first.state)
        p, q = first.predictions, second.predictions
        both = mean_divergence(self.divergence, p, q) + mean_divergence(self.divergence, q, p)
        loss = (first.loss + second.loss) / 2 + self.alpha / 4 * both
        return first._replace(loss=loss, state=second.state)


# === What Keras calls ===


def loss_and_updates(
    model: keras.Model,
    step: Step,
    weights: Weights,
    state: State,
    metrics: list[Tensor],
    data: tuple[Any, Any, Any],
    loss_scale: Tensor | float,
) -> tuple[Tensor, Pass]:
    """Compute the objective, multiplied by the loss scale, and the pass that goes with it."""
    x, y, sample_weight = data
    step.check(model)
    batch = Batch(model, x, y, sample_weight, state, metrics, loss_scale)
    result = step.objective(batch, weights)
    return result.loss * ops.cast(loss_scale, result.loss.dtype), result


def train_step(model: keras.Model, step: Step, data: Any) -> dict:
    """Take a training step on TensorFlow or PyTorch, where variables are updated in place."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    variables = model.trainable_variables
    if not variables:
        raise ValueError(f"the model {model.name!r} has no trainable weights, nothing to train")
    compiled_loss = keras_private.compiled_loss(model)
    if compiled_loss is not None and not compiled_loss.built:
        # Otherwise it would create its metrics within a pass, which does not change variables.
        keras_private.build_on_batch(model, (x, y, sample_weight))
    others, metrics = model.non_trainable_variables, model.metrics_variables
    state = State(others, generator_state())
    loss_scale = model.optimizer.scale_loss(1.0)

    def function(weights: Weights) -> tuple[Tensor, Pass]:
        data = x, y, sample_weight
        return loss_and_updates(model, step, weights, state, metrics, data, loss_scale)

    _, result, gradients = value_and_gradients(function, variables)
    after = [*result.state.values, *result.metrics]
    for variable, value in zip([*others, *metrics], after, strict=True):
        if value is not variable:
            variable.assign(value)
    set_generator(result.state.generator)
    track_loss(model, result.loss, x)
    with without_graph():
        model.optimizer.apply(gradients, variables)
    return model.compute_metrics(x, y, result.predictions, sample_weight=sample_weight)


def plain_train_step(model: keras.Model, data: Any) -> dict:
    """Take a training step that minimises the loss, on TensorFlow.

    It is that of Keras, except that gradients of embeddings are dense. Keras passes sparse ones to
    the optimizer, with a row for each token: Adam would square these rows before it adds up those
    of equal tokens, and would do so differently on several devices.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    variables = model.trainable_variables

    def function(weights: Weights) -> tuple[Tensor, Any]:
        predictions, loss = predictions_and_loss(model, x, y, sample_weight)
        track_loss(model, loss, x)
        return model.optimizer.scale_loss(loss), predictions

    _, predictions, gradients = value_and_gradients(function, variables)
    model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
    return model.compute_metrics(x, y, predictions, sample_weight=sample_weight)


def predictions_and_loss(
    model: keras.Model, x: Any, y: Any, sample_weight: Any, training: bool = True
) -> tuple[Any, Tensor]:
    """Run a model, in training mode or not; compute the loss, those that layers add included."""
    mode = {"training": training} if keras_private.takes_training(model) else {}
    predictions = model(x, **mode)
    loss = keras_private.batch_loss(
        model, x=x, y=y, y_pred=predictions, sample_weight=sample_weight, training=training
    )
    return predictions, loss


def track_loss(model: keras.Model, loss: Tensor, x: Any) -> None:
    """Update the mean loss that Keras reports with the loss of a batch."""
    keras_private.loss_tracker(model).update_state(
        # Keras on TensorFlow divides the loss by the number of replicas, but reports it undivided.
        keras_private.unscaled_loss(loss),
        sample_weight=ops.shape(next(i for i in keras.tree.flatten(x) if i is not None))[0],
    )


def without_graph() -> Any:
    """Return a context in which PyTorch records no gradients."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def stateless_loss_and_updates(
    model: keras.Model,
    step: Step,
    variables: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]],
    data: tuple[Any, Any, Any],
) -> tuple[Tensor, tuple]:
    """Compute the objective for the trainer on JAX, from the values of all variables."""
    weights, others, metrics, optimizer_values = variables
    mapping = zip(model.optimizer.variables, optimizer_values, strict=True)
    with keras.StatelessScope(mapping):
        loss_scale = model.optimizer.scale_loss(1.0)
    scaled, result = loss_and_updates(
        model, step, weights, State(others, None), metrics, data, loss_scale
    )
    return scaled, (result.loss, result.predictions, result.state.values, result.metrics)


def layers_track_metrics(model: keras.Model) -> bool:
    """Tell whether metrics are updated where the model is called, not only by `compile`."""
    layers = keras_private.layers_within(model, include_self=False)
    return any(layer.metrics_variables for layer in layers)


def stateless_plain_updates(
    model: keras.Model,
    variables: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor] | None],
    data: tuple[Any, Any, Any],
    training: bool,
) -> tuple[Tensor, tuple]:
    """Compute the loss for the trainer on JAX, from the values of all variables.

    It is what Keras computes, except that updates of the metrics of layers are kept, too.
    """
    weights, others, metrics, optimizer_values = variables
    batch = Batch(model, *data, State(others, None), metrics, 1.0)
    result = batch.run(weights, training=training)
    scaled = result.loss
    if training and optimizer_values is not None:
        with keras.StatelessScope(zip(model.optimizer.variables, optimizer_values, strict=True)):
            scaled = model.optimizer.scale_loss(result.loss)
    return scaled, (result.loss, result.predictions, result.state.values, result.metrics)
