"""Training: input batches, losses, training steps, and several devices.

feed        BatchFeed, as_feed: batches for `fit`, `evaluate` and `predict`
losses      common losses of Transformers that Keras lacks
vector_losses  losses of sentence embeddings: CoSENT, SimCSE, InfoNCE, Matryoshka
steps       AdversarialTraining, GradientPenalty, VirtualAdversarialTraining, RDrop: training
            steps for `Model.compile(step=)`
gradients   gradients_of, integrated_gradients: gradients at a layer, for attribution
averages    EvaluateAverage: validate and save the moving average of the weights
evaluator   Evaluator: scores after every epoch, the best weights, early stopping
lora        add_lora, merge_lora: training small matrices beside frozen weights
trainable   TrainsAsCompiled: a model trains the weights that were trainable at `compile`
in_place    VariablesInPlace: variables keep their values while a model runs on JAX
model       TrainingModel: the methods of a model that Keras calls in a step
methods     LayerMethod: methods of layers as losses and metrics that can be saved
resuming    the training state that `keras.callbacks.BackupAndRestore` saves with the weights
distribution  data_parallel, model_parallel, layout_map: more than one device
            batch_mean: the weighted mean of the batch, in a loss layer
"""

from bert4keras.starting import starts_keras as _starts_keras

with _starts_keras():
    from bert4keras.training.averages import EvaluateAverage
from bert4keras.training.distribution.layout import layout_map
from bert4keras.training.distribution.model import DistributedModel
from bert4keras.training.distribution.parts import batch_mean
from bert4keras.training.distribution.scopes import Devices, data_parallel, model_parallel
from bert4keras.training.evaluator import Evaluator
from bert4keras.training.feed import BatchFeed, as_feed
from bert4keras.training.gradients import gradients_of, integrated_gradients
from bert4keras.training.lora import add_lora, merge_lora
from bert4keras.training.losses import (
    MultilabelCrossentropy,
    RDropCrossentropy,
    SparseCategoricalFocalCrossentropy,
    SparseMultilabelCrossentropy,
    TokenAccuracy,
    TokenCrossentropy,
    divergence,
)
from bert4keras.training.steps import (
    AdversarialTraining,
    GradientPenalty,
    RDrop,
    Step,
    VirtualAdversarialTraining,
)
from bert4keras.training.vector_losses import CoSENT, InfoNCE, Matryoshka, SimCSE

__all__ = [
    "AdversarialTraining",
    "BatchFeed",
    "CoSENT",
    "Devices",
    "DistributedModel",
    "EvaluateAverage",
    "Evaluator",
    "GradientPenalty",
    "InfoNCE",
    "Matryoshka",
    "MultilabelCrossentropy",
    "RDrop",
    "RDropCrossentropy",
    "SimCSE",
    "SparseCategoricalFocalCrossentropy",
    "SparseMultilabelCrossentropy",
    "Step",
    "TokenAccuracy",
    "TokenCrossentropy",
    "VirtualAdversarialTraining",
    "add_lora",
    "as_feed",
    "batch_mean",
    "data_parallel",
    "divergence",
    "gradients_of",
    "integrated_gradients",
    "layout_map",
    "merge_lora",
    "model_parallel",
]
