"""Training steps that need gradients, or several passes through the model, inside.

`model.compile(optimizer, loss, step=AdversarialTraining("Embedding-Token", 0.5))`. A step says what
is minimised, as a function of the weights; all that is around it (optimizer, metrics, loss scaling,
gradient accumulation, compilation) is Keras' own.

steps           AdversarialTraining GradientPenalty VirtualAdversarialTraining RDrop
for new ones    Step Batch Pass
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
    has_table,
    layers_of,
    outputs_of,
    tapped,
)
from bert4keras.training.losses import Float32Loss, divergence

Weights = Sequence[Tensor]
"""Values of the trainable variables: tensors, or Keras variables that stand for themselves."""

# === What a step works with ===


class State(NamedTuple):
    """What a pass changes beside what it computes."""

    values: list[Tensor]
    """Values of the variables that are not trained, such as the seeds of dropout, or themselves."""
    generator: Any
    """State of PyTorch's generator of random numbers, None on other backends."""


class Pass(NamedTuple):
    """What a pass through the model gives."""

    loss: Tensor
    """The loss of `compile` with all that layers add, a scalar."""
    predictions: Any
    """What the model gives, which metrics are computed of."""
    state: State
    """The state after the pass."""
    metrics: list[Tensor]
    """Values of the variables of metrics, which losses of several outputs are tracked by."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch of training, as pure functions of the weights.

    Nothing in here changes a variable: of all passes that a step makes, only what it returns as its
    result stays.

    Attributes:
        model: the model.
        x: inputs, as Keras hands them to a model.
        y: targets, or None.
        sample_weight: weights of the samples, or None.
        state: the state before the batch.
        metrics: values of the variables of metrics before the batch.
        loss_scale: what a loss is multiplied by so that gradients in float16 do not vanish.
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
    ) -> Pass:
        """Run the model in training mode and compute the loss.

        Args:
            weights: values of the trainable variables.
            replaced: variables, and values for this pass that go before all others.
            state: the state to begin with, that before the batch by default; so all passes drop out
                the same, unless one goes on with the state after another.
        """
        model, state = self.model, state or self.state
        given = [
            *zip(model.trainable_variables, weights, strict=True),
            *zip(model.non_trainable_variables, state.values, strict=True),
            *zip(model.metrics_variables, self.metrics, strict=True),
            *replaced,
        ]
        set_generator(state.generator)
        with pure_scope(given) as scope:
            predictions, loss = predictions_and_loss(model, self.x, self.y, self.sample_weight)
        values = values_after(scope, model.non_trainable_variables, state.values)
        metrics = values_after(scope, model.metrics_variables, self.metrics)
        return Pass(loss, predictions, State(values, generator_state()), metrics)

    def gradients(
        self, function: Callable, at: Sequence[Tensor], second_order: bool = False
    ) -> tuple[Any, list[Tensor]]:
        """Differentiate a loss.

        Args:
            function: takes a list of tensors, returns a scalar and a nest of anything else.
            at: where to differentiate.
            second_order: the result is differentiated again, with respect to the weights; if not,
                `function` uses `fixed` weights.

        Returns:
            The nest, and the gradients, float32; zeros where there is none.
        """

        # The whole scale is for the gradients of weights, which gather over a batch. In gradients
        # of the second order its root is there twice: here, and in what they are computed from.
        scale = ops.sqrt(ops.cast(self.loss_scale, "float32"))

        def scaled(tensors: list[Tensor]) -> tuple[Tensor, Any]:
            value, rest = function(tensors)
            return value * ops.cast(scale, value.dtype), rest

        _, rest, gradients = value_and_gradients(scaled, at, second_order)
        gradients = [
            ops.zeros_like(x) if g is None else g for x, g in zip(at, gradients, strict=True)
        ]
        return rest, [ops.cast(g, "float32") / scale for g in gradients]

    def value(self, variable: keras.Variable, weights: Weights) -> Tensor:
        """The value of a variable in a pass, whether it is trained or not."""
        model = self.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        values = [*weights, *self.state.values]
        return next(
            ops.convert_to_tensor(value)
            for known, value in zip(variables, values, strict=True)
            if known is variable
        )


def values_after(scope: keras.StatelessScope, variables: list, before: list) -> list[Tensor]:
    """The values that variables have after a scope; what has not changed is what it was before."""
    after = map(scope.get_current_value, variables)
    return [old if new is None else new for new, old in zip(after, before, strict=True)]


def fixed(weights: Weights) -> Weights:
    """Weights for passes that are not trained, of which nothing is kept for gradients."""
    if keras.backend.backend() == "torch":
        # What is recomputed in the backward pass must find the weights of the pass before, and
        # inner gradients leave nothing behind here.
        return weights
    return [ops.stop_gradient(weight) for weight in weights]


def generator_state() -> Any:
    """State of the generators that dropout on PyTorch takes its numbers from."""
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch.get_rng_state(), torch.cuda.get_rng_state_all()


def set_generator(state: Any) -> None:
    """Go back to a state that `generator_state` gave."""
    if state is not None:
        import torch

        torch.set_rng_state(state[0])
        torch.cuda.set_rng_state_all(state[1])


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of all numbers."""
    return ops.sqrt(ops.sum(ops.square(x)))


def unit(x: Tensor) -> Tensor:
    """Divide by the norm of all numbers; zeros remain."""
    return x / (norm(x) + 1e-8)


def within(x: Tensor, radius: float) -> Tensor:
    """Move a point to the nearest in a ball around 0."""
    return x * ops.minimum(1.0, radius / ops.maximum(norm(x), 1e-30))


def find_table(model: keras.Model, layer: str) -> keras.Variable:
    """The table of an embedding.

    Raises:
        ValueError: there is no such layer, or it has no table.
    """
    found = find_layer(model, layer)
    if not has_table(found):
        tables = [each.name for each in layers_of(model) if has_table(each)]
        raise ValueError(
            f"the layer {layer!r} ({type(found).__name__}) has no table of vectors that could be "
            f"perturbed; in the model {model.name!r} these have one: {tables}"
        )
    return found.embeddings


def check_positive(step: Any, *names: str) -> None:
    """Raise ValueError if one of a step's numbers is not positive and finite."""
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
    """Raise ValueError if one of a step's numbers is no integer from 1."""
    value = getattr(step, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{type(step).__name__} takes an integer from 1 as {name}, not {value!r}")


class Step:
    """What a training step minimises; the base of all steps.

    A step of one's own is a frozen dataclass, registered for saving, with `objective`.

    Attributes:
        draws: whether it draws random numbers, by `random_numbers`.
    """

    draws: ClassVar[bool] = False

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Compute what is minimised for one batch.

        Args:
            batch: the batch.
            weights: values of the trainable variables, which the result is differentiated with
                respect to.

        Returns:
            A pass of the model, its loss replaced by what is minimised. Under `tf.distribute` the
            losses of all replicas add up.
        """
        raise NotImplementedError(f"{type(self).__name__} must define objective()")

    def check(self, model: keras.Model) -> None:
        """Raise ValueError if the step does not fit a model that has been built."""

    def get_config(self) -> dict:
        """Return the arguments of the constructor.

        Raises:
            NotImplementedError: the class is no dataclass, so that they are not known.
        """
        if not dataclasses.is_dataclass(self):
            raise NotImplementedError(
                f"{type(self).__name__} cannot be saved with a model, as its arguments are not "
                "known: write @dataclasses.dataclass(frozen=True) above it, or define get_config()"
            )
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_config(cls, config: dict) -> "Step":
        """Make a step of its arguments."""
        return cls(**{k: keras.saving.deserialize_keras_object(v) for k, v in config.items()})


# === The steps ===


@registered
@dataclasses.dataclass(frozen=True)
class AdversarialTraining(Step):
    """Train on embeddings that are moved to where the loss is higher.

    One step is the fast gradient method (Miyato et al., 2017, https://arxiv.org/abs/1605.07725),
    δ = ε · g / |g| with the gradient g of the loss. More steps are projected gradient descent
    (Madry et al., 2018, https://arxiv.org/abs/1706.06083), each of the length `step_size` and
    followed by a projection on the ball of the radius ε. What is moved is the table of an
    embedding, so that a token moves alike wherever it stands, and |g| is taken over the whole
    table, so over all samples of the batch (https://kexue.fm/archives/7234). The loss and its
    gradient are those of the batch; where the table is the output layer too, that moves along.

    All passes of a batch drop out the same. Metrics are computed of the pass without δ, the
    reported loss is what is minimised.

    Args:
        layer: name of the embedding.
        epsilon: ε, the largest length of δ.
        steps: number of gradients; each costs a forward and a backward pass, beside those of
            training.
        step_size: length of a step: by default ε for one step, and 2.5 · ε / steps for more.
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
        """Raise ValueError if there is no such table."""
        find_table(model, self.layer)

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Return the pass without δ, with the loss with δ."""
        table = find_table(batch.model, self.layer)
        step_size = self.step_size or self.epsilon * (2.5 / self.steps if self.steps > 1 else 1)
        constant = fixed(weights)
        values = ops.stop_gradient(batch.value(table, constant))

        def loss(at: list[Tensor]) -> tuple[Tensor, Pass]:
            moved = batch.run(constant, [(table, values + at[0])])
            return moved.loss, moved

        passes, delta = [], ops.zeros_like(values)
        for _ in range(self.steps):
            done, (gradient,) = batch.gradients(loss, [delta])
            gradient = sum_over_parts(gradient)
            delta = within(delta + step_size * unit(gradient), self.epsilon)
            passes.append(done)
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

    v are the vectors that a layer gives, one for each position of each sample. It is what
    `AdversarialTraining` with a gradient that is not divided by its length does in the first order
    (https://kexue.fm/archives/7234; Ross and Doshi-Velez, 2018, https://arxiv.org/abs/1711.09404).
    The loss is that of the batch, a mean over samples as a rule, so that the penalty falls with
    their number: ε is rather large, and belongs to a size of batches.

    A step differentiates twice. PyTorch then computes attention without its fused kernels. Layers
    with `recompute` can be differentiated twice on JAX only.

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
        """Raise ValueError if there is no such layer, or recomputation stands in the way."""
        find_layer(model, self.layer)
        recomputed = any(
            getattr(layer, "recompute", False) for layer in keras_private.layers_within(model)
        )
        if recomputed and keras.backend.backend() != "jax":
            raise ValueError(
                "GradientPenalty differentiates twice, which layers with recompute=True cannot "
                f"on {keras.backend.backend()}: set it to False (unset RECOMPUTE), or use JAX"
            )

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Return the pass with the penalty added to its loss."""
        layer = find_layer(batch.model, self.layer)
        constant = fixed(weights)
        vectors = outputs_of(layer, lambda: batch.run(constant))

        def loss(shifts: list[Tensor]) -> tuple[Tensor, Pass]:
            remaining = iter(shifts)
            with tapped(layer, lambda output: output + next(remaining)):
                done = batch.run(weights)
            return done.loss, done

        shifts = [ops.zeros_like(each) for each in vectors]
        done, gradients = batch.gradients(loss, shifts, second_order=True)
        penalty = sum(ops.sum(ops.square(gradient)) for gradient in gradients)
        penalty = loss_of_batch(penalty, 1, add=True) if parts() > 1 else penalty
        return done._replace(loss=done.loss + 0.5 * self.epsilon * penalty)


Difference = str | Callable[[Tensor, Tensor], Tensor]


@registered
class Divergence(Float32Loss):
    """How predictions differ: the mean over samples, and over positions that are not masked.

    Args:
        difference: 'probabilities' or 'logits', of which the Kullback-Leibler divergence is taken,
            or a function.
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
        """Make a loss of its argument."""
        return cls(keras.saving.deserialize_keras_object(config["difference"]))


def mean_divergence(difference: Difference, targets: Any, predictions: Any) -> Tensor:
    """The mean divergence of two outputs of a model, summed over its outputs if it has several."""
    loss = Divergence(difference)
    loss = LossOfBatch(loss) if parts() > 1 else loss
    pairs = zip(keras.tree.flatten(targets), keras.tree.flatten(predictions), strict=True)
    return sum(loss(target, prediction) for target, prediction in pairs)


def check_difference(step: Any) -> None:
    """Raise ValueError if `mean_divergence` does not know what a step compares."""
    known = ("probabilities", "logits")
    if not callable(step.divergence) and step.divergence not in known:
        raise ValueError(
            f"{type(step).__name__} takes one of {known}, which says what the model gives, or a "
            f"function as divergence, not {step.divergence!r}"
        )


@registered
@dataclasses.dataclass(frozen=True)
class VirtualAdversarialTraining(Step):
    """Train to predict the same where embeddings are moved to where predictions change most.

    loss + KL(p ‖ p(δ)) with the prediction p, held constant, and δ = ε · d (Miyato et al., 2018,
    https://arxiv.org/abs/1704.03976; 2017, https://arxiv.org/abs/1605.07725). The direction d is
    random at first; in each iteration it becomes the gradient of KL(p ‖ p(ξ · d)), divided by its
    length. What is moved is the table of an embedding, as in `AdversarialTraining`.

    The divergence needs no labels and counts for all samples alike; weights of samples are for the
    loss only. So a batch may hold samples without labels: give them the weight 0 and any label.
    All passes of a batch drop out the same.

    Args:
        layer: name of the embedding.
        epsilon: ε, the length of δ.
        xi: ξ, the length at which the direction is looked for. It is over the whole table, of
            which a batch sees few rows, so that it is not small.
        iterations: how often the direction is improved, each a forward and a backward pass.
        divergence: 'probabilities' or 'logits', what the model gives; or a function, registered for
            saving, of two outputs of the model, to (batch, ...).
        add_loss: whether the loss is minimised as well; False where no batch has labels, which may
            be anything then.

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
        """Raise ValueError if there is no such table."""
        find_table(model, self.layer)

    def objective(self, batch: Batch, weights: Weights) -> Pass:
        """Return the pass without δ, with the divergence added to its loss."""
        table = find_table(batch.model, self.layer)
        constant = fixed(weights)
        values = ops.stop_gradient(batch.value(table, constant))
        clean = batch.run(weights)
        targets = keras.tree.map_structure(ops.stop_gradient, clean.predictions)

        def change(at: list[Tensor]) -> tuple[Tensor, None]:
            moved = batch.run(constant, [(table, values + self.xi * at[0])])
            return mean_divergence(self.divergence, targets, moved.predictions), None

        noise, state = random_numbers(batch.model, clean.state, tuple(table.shape))
        direction = unit(noise)
        for _ in range(self.iterations):
            _, (gradient,) = batch.gradients(change, [direction])
            direction = unit(sum_over_parts(gradient))
        delta = self.epsilon * ops.stop_gradient(direction)
        moved = batch.run(weights, [(table, batch.value(table, weights) + delta)])
        difference = mean_divergence(self.divergence, targets, moved.predictions)
        loss = clean.loss + difference if self.add_loss else difference
        return clean._replace(loss=loss, state=state)


def random_numbers(model: keras.Model, state: State, shape: Sequence[int]) -> tuple[Tensor, State]:
    """Draw numbers of the normal distribution; also return the state after that."""
    variables = model.non_trainable_variables
    with pure_scope(zip(variables, state.values, strict=True)) as scope:
        numbers = keras.random.normal(shape, dtype="float32", seed=model.step_seeds)
    return numbers, state._replace(values=values_after(scope, variables, state.values))


@registered
@dataclasses.dataclass(frozen=True)
class RDrop(Step):
    """Train to predict the same whatever drops out (Wu et al., 2021).

    (L₁ + L₂) / 2 + α/4 · (KL(p‖q) + KL(q‖p)), for the losses and the predictions of two passes that
    drop out differently. It is half of formula 4 of https://arxiv.org/abs/2106.14448, in which both
    losses are added and the divergences averaged, so that α is that of the paper and the loss is as
    large as without; https://kexue.fm/archives/8496 has the same. (The code that goes around with
    the paper averages the losses but has α/2: its α is half of this one.)

    The divergence counts for all samples alike; weights of samples are for the loss only. Metrics
    are computed of the first pass.

    Args:
        alpha: α.
        divergence: see `VirtualAdversarialTraining`.

    Raises:
        ValueError: an argument is out of range; or, at the first step, nothing in the model drops
            out.
    """

    alpha: float = 4.0
    divergence: Difference = "probabilities"

    def __post_init__(self) -> None:
        check_positive(self, "alpha")
        check_difference(self)

    def check(self, model: keras.Model) -> None:
        """Raise ValueError if nothing drops out."""
        if not any(
            isinstance(layer, keras.layers.Dropout) and layer.rate > 0
            for layer in keras_private.layers_within(model)
        ):
            raise ValueError(
                f"RDrop compares two passes that drop out differently, but the model "
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
    """Compute what is minimised, times the scale of the loss, and the pass that goes with it."""
    x, y, sample_weight = data
    step.check(model)
    batch = Batch(model, x, y, sample_weight, state, metrics, loss_scale)
    done = step.objective(batch, weights)
    return done.loss * ops.cast(loss_scale, done.loss.dtype), done


def train_step(model: keras.Model, step: Step, data: Any) -> dict:
    """Take a training step where variables are changed in place: on TensorFlow and PyTorch."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    variables = model.trainable_variables
    if not variables:
        raise ValueError(f"the model {model.name!r} has no trainable weights, nothing to train")
    compiled_loss = keras_private.compiled_loss(model)
    if compiled_loss is not None and not compiled_loss.built:
        # It would make its metrics within a pass, which keeps all changes of variables aside.
        keras_private.build_on_batch(model, (x, y, sample_weight))
    others, metrics = model.non_trainable_variables, model.metrics_variables
    state = State(others, generator_state())
    loss_scale = model.optimizer.scale_loss(1.0)

    def function(weights: Weights) -> tuple[Tensor, Pass]:
        data = x, y, sample_weight
        return loss_and_updates(model, step, weights, state, metrics, data, loss_scale)

    _, done, gradients = value_and_gradients(function, variables)
    after = [*done.state.values, *done.metrics]
    for variable, value in zip([*others, *metrics], after, strict=True):
        if value is not variable:
            variable.assign(value)
    set_generator(done.state.generator)
    track_loss(model, done.loss, x)
    with without_graph():
        model.optimizer.apply(gradients, variables)
    return model.compute_metrics(x, y, done.predictions, sample_weight=sample_weight)


def plain_train_step(model: keras.Model, data: Any) -> dict:
    """Take a training step that minimises the loss, on TensorFlow.

    It is that of Keras, except that gradients of embeddings are whole matrices. Keras hands lists
    of rows to the optimizer, one for each token: Adam would square these before it adds up those of
    equal tokens, and differently on several devices.
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
    model: keras.Model, x: Any, y: Any, sample_weight: Any
) -> tuple[Any, Tensor]:
    """Run a model in training mode, and compute the loss of `compile` with what layers add."""
    training = {"training": True} if keras_private.takes_training(model) else {}
    predictions = model(x, **training)
    loss = keras_private.batch_loss(
        model, x=x, y=y, y_pred=predictions, sample_weight=sample_weight, training=True
    )
    return predictions, loss


def track_loss(model: keras.Model, loss: Tensor, x: Any) -> None:
    """Enter the loss of a batch into the mean that Keras reports."""
    keras_private.loss_tracker(model).update_state(
        # The trainer of TensorFlow reports the loss without the share of a replica.
        keras_private.unscaled_loss(loss),
        sample_weight=ops.shape(next(i for i in keras.tree.flatten(x) if i is not None))[0],
    )


def without_graph() -> Any:
    """On PyTorch, keep nothing for gradients in a `with` block."""
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
    """What the JAX trainer differentiates, with values of all variables; see `Model`."""
    weights, others, metrics, optimizer_values = variables
    mapping = zip(model.optimizer.variables, optimizer_values, strict=True)
    with keras.StatelessScope(mapping):
        loss_scale = model.optimizer.scale_loss(1.0)
    scaled, done = loss_and_updates(
        model, step, weights, State(others, None), metrics, data, loss_scale
    )
    return scaled, (done.loss, done.predictions, done.state.values, done.metrics)
