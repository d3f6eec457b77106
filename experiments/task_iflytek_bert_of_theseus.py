"""BERT-of-Theseus: the layers of a model are replaced one after another by fewer new ones.

    python experiments/task_iflytek_bert_of_theseus.py --data DATA --quick
    python experiments/task_iflytek_bert_of_theseus.py predict 一款查询公交线路的软件

A large model is made small without a loss that compares the two (Xu et al., 2020,
https://arxiv.org/abs/2002.02925; https://kexue.fm/archives/7575):

1. the predecessor, all layers of the checkpoint, is fine-tuned;
2. in each step of a second training, each layer of a smaller successor stands in for a module of
   the predecessor or not, at random; only the successor learns. Between them it hands over what the
   predecessor's next layer understands;
3. the successor is fine-tuned alone.

`replaced` is the successor after the second step. `alone` is the same small model, which starts
from the first layers of the checkpoint too, fine-tuned for as many epochs as the three steps have.

Data: `clue/iflytek.zip`, descriptions of apps in 119 classes. `dev.json` is the test; a tenth of
`train.json`, which is that of FewCLUE, is for validation.
"""

import argparse
from collections.abc import Sequence

import keras
from classification import Parts, accuracy, classifier, iflytek, train, variant
from common import Size, arguments

from bert4keras.models import Model, build_transformer_model
from bert4keras.models.transformer import Transformer

QUICK = Size(epochs=3, batch_size=32, learning_rate=5e-4, maxlen=64)
FULL = Size(epochs=10, batch_size=32, learning_rate=2e-5, maxlen=128)
N_LAYERS = {True: 2, False: 3}  # of the successor, by --quick


class BinaryRandomChoice(keras.layers.Layer):
    """One of two tensors of the same shape: [old, new] → either in training, new otherwise.

    Args:
        rate: how often it is the new one; one draw is for the whole batch.
    """

    def __init__(self, rate: float = 0.5, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.seed = keras.random.SeedGenerator()

    def call(self, inputs: list, training: bool | None = None) -> keras.KerasTensor:
        old, new = inputs
        if not training:
            return new
        return keras.ops.where(keras.random.uniform((), seed=self.seed) < self.rate, new, old)

    def compute_mask(self, inputs: list, mask: list | None = None) -> keras.KerasTensor | None:
        return mask[1] if mask else None


def transformer(args: argparse.Namespace, name: str, load: bool, **options) -> Transformer:
    return build_transformer_model(
        args.files.config,
        args.files.checkpoint if load else None,
        return_keras_model=False,
        prefix=f"{name}-",
        **options,
    )


def build_successor(args: argparse.Namespace, n_labels: int, load: bool = True) -> Model:
    """The small model, which is what predicts."""
    small = transformer(args, "Successor", load, num_hidden_layers=N_LAYERS[args.quick])
    return classifier(small.model, n_labels)


def theseus(predecessor: Transformer, successor: Transformer, head: Sequence) -> Model:
    """The predecessor, each module of which may be replaced by a layer of the successor.

    Args:
        predecessor: already trained; does not learn here.
        successor: its number of layers divides that of the predecessor.
        head: the layers that go from the last vectors to the probabilities of labels.
    """
    n_old, n_new = predecessor.num_hidden_layers, successor.num_hidden_layers
    if n_old % n_new:
        raise SystemExit(f"{n_new} layers cannot replace {n_old}: give a checkpoint that divides")
    inputs = predecessor.model.inputs
    old, new = (each.apply_embeddings(inputs) for each in (predecessor, successor))
    x = BinaryRandomChoice(name="Choice-Embedding")([old, new])
    for index in range(n_new):
        old = x
        for inner in range(n_old // n_new):
            old = predecessor.apply_main_layers(old, index * (n_old // n_new) + inner)
        new = successor.apply_main_layers(x, index)
        x = BinaryRandomChoice(name=f"Choice-{index}")([old, new])
    for layer in head:
        x = layer(x)
    return Model(inputs, x)


def experiment(args: argparse.Namespace, n_labels: int, parts: Parts) -> dict[str, float]:
    samples, valid, test = parts
    scores = {}

    print("\n1. The predecessor")
    run = variant(args, "predecessor")
    predecessor = transformer(run, "Predecessor", True)
    model = classifier(predecessor.model, n_labels)
    train(run, model, samples, valid)
    scores["predecessor"] = accuracy(model, test)

    print("\n2. Layers are replaced")
    run = variant(args, "theseus")
    successor = transformer(run, "Successor", True, num_hidden_layers=N_LAYERS[args.quick])
    head = [model.get_layer(name) for name in ("First", "Dropout", "Label")]
    for layer in (*predecessor.model.layers, *head):
        layer.trainable = False
    mixed = theseus(predecessor, successor, head)
    train(run, mixed, samples, valid)
    scores["replaced"] = accuracy(mixed, test)

    print("\n3. The successor")
    run = variant(args, ".")
    small = classifier(successor.model, n_labels)
    small.get_layer("Label").set_weights(model.get_layer("Label").get_weights())
    train(run, small, samples, valid)
    scores = {"accuracy": accuracy(small, test), **scores}

    print("\nThe same small model without a predecessor")
    run = variant(args, "alone")
    run.epochs = 3 * args.epochs
    alone = build_successor(run, n_labels)
    train(run, alone, samples, valid)
    return {**scores, "alone": accuracy(alone, test)}


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    return iflytek(args, experiment, build_successor)


if __name__ == "__main__":
    main()
