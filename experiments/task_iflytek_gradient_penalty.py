"""Gradient penalty: what the loss may depend on single embeddings is kept small.

    python experiments/task_iflytek_gradient_penalty.py --data DATA --quick
    python experiments/task_iflytek_gradient_penalty.py predict 一款查询公交线路的软件

ε/2 times the squared gradient of the loss at the token vectors is added to the loss, which is what
adversarial training amounts to in the first order (https://kexue.fm/archives/7234). The penalty is
itself differentiated: a step goes back through a forward and a backward pass. `without` is the same
training without it: same start, same batches.

The loss is a mean over the batch, so the penalty falls with its size, and ε belongs to a size of
batches and to a checkpoint: the shorter its vectors, the larger their gradients.

Data: `clue/iflytek.zip`, descriptions of apps in 119 classes. `dev.json` is the test; a tenth of
`train.json`, which is that of FewCLUE, is for validation.
"""

from collections.abc import Sequence

from classification import compare, iflytek
from common import Size, arguments

from bert4keras.training import GradientPenalty

QUICK = Size(epochs=3, batch_size=32, learning_rate=5e-4, maxlen=64)
FULL = Size(epochs=20, batch_size=32, learning_rate=2e-5, maxlen=128)
STEP = GradientPenalty("Embedding-Token", epsilon=1.0)


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    return iflytek(args, lambda *given: compare(*given, STEP))


if __name__ == "__main__":
    main()
