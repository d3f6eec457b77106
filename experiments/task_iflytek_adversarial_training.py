"""Adversarial training: embeddings are moved to where the loss is higher (FGM).

    python experiments/task_iflytek_adversarial_training.py --data DATA --quick
    python experiments/task_iflytek_adversarial_training.py predict 一款查询公交线路的软件

In each step the table of the token embedding is moved by ε along the gradient of the loss, and what
is minimised is the loss there (Miyato et al., 2017, https://arxiv.org/abs/1605.07725;
https://kexue.fm/archives/7234). In Keras this is one argument of `compile`: `step=`. A step takes
twice as long. `without` is the same training without it: same start, same batches.

Data: `clue/iflytek.zip`, descriptions of apps in 119 classes. `dev.json` is the test; a tenth of
`train.json`, which is that of FewCLUE, is for validation.
"""

from collections.abc import Sequence

from classification import compare, iflytek
from common import Size, arguments

from bert4keras.training import AdversarialTraining

QUICK = Size(epochs=3, batch_size=32, learning_rate=5e-4, maxlen=64)
FULL = Size(epochs=20, batch_size=32, learning_rate=2e-5, maxlen=128)
STEP = AdversarialTraining("Embedding-Token", epsilon=0.5)


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    return iflytek(args, lambda *given: compare(*given, STEP))


if __name__ == "__main__":
    main()
