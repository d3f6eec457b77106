"""Optimizers as BERT uses them, and extensions that can be stacked on any Keras optimizer.

    AdamW = extend_with_weight_decay(Adam, name="AdamW")
    AdamWLR = extend_with_piecewise_linear_lr(AdamW, name="AdamWLR")

are ordinary optimizer classes that take the arguments of the optimizer and of all extensions.

* `algorithms` defines the optimizers: `Adam`, `AdaFactor`, `Lion`, `Muon`.
* `extensions` defines the `extend_with_*` functions and the mix-in classes that they add.
* `extending` defines how extensions are combined with an optimizer, saved and rebuilt.
* `schedules` defines learning rates by step (`warmup_cosine`) and by depth
  (`layer_wise_lr_decay`).
"""

from bert4keras.starting import starts_keras as _starts_keras

with _starts_keras():
    from bert4keras.optimizers.algorithms import AdaFactor, Adam, Lion, Muon
from bert4keras.optimizers.extensions import (
    extend_with_exponential_moving_average,
    extend_with_gradient_accumulation,
    extend_with_layer_adaptation,
    extend_with_lazy_optimization,
    extend_with_lookahead,
    extend_with_parameter_wise_lr,
    extend_with_piecewise_linear_lr,
    extend_with_weight_decay,
)
from bert4keras.optimizers.schedules import layer_wise_lr_decay, warmup_cosine

# bert4keras 0.11.5 has a second set of names for tf.keras; here both mean the same.
AdaFactorV1 = AdaFactor
AdaFactorV2 = AdaFactor
extend_with_weight_decay_v2 = extend_with_weight_decay
extend_with_layer_adaptation_v2 = extend_with_layer_adaptation
extend_with_piecewise_linear_lr_v2 = extend_with_piecewise_linear_lr
extend_with_gradient_accumulation_v2 = extend_with_gradient_accumulation
extend_with_lookahead_v2 = extend_with_lookahead
extend_with_lazy_optimization_v2 = extend_with_lazy_optimization
extend_with_exponential_moving_average_v2 = extend_with_exponential_moving_average
extend_with_parameter_wise_lr_v2 = extend_with_parameter_wise_lr

__all__ = [
    "AdaFactor",
    "AdaFactorV1",
    "AdaFactorV2",
    "Adam",
    "Lion",
    "Muon",
    "extend_with_exponential_moving_average",
    "extend_with_exponential_moving_average_v2",
    "extend_with_gradient_accumulation",
    "extend_with_gradient_accumulation_v2",
    "extend_with_layer_adaptation",
    "extend_with_layer_adaptation_v2",
    "extend_with_lazy_optimization",
    "extend_with_lazy_optimization_v2",
    "extend_with_lookahead",
    "extend_with_lookahead_v2",
    "extend_with_parameter_wise_lr",
    "extend_with_parameter_wise_lr_v2",
    "extend_with_piecewise_linear_lr",
    "extend_with_piecewise_linear_lr_v2",
    "extend_with_weight_decay",
    "extend_with_weight_decay_v2",
    "layer_wise_lr_decay",
    "warmup_cosine",
]
