"""Sentiment of reviews: a softmax on the vector of the first token.

    python experiments/task_sentiment_albert.py --data DATA --quick
    python experiments/task_sentiment_albert.py --data DATA --checkpoint albert_small_zh_google
    python experiments/task_sentiment_albert.py predict 这本书太好看了 房间又小又吵

The simplest way to use a pretrained model. ALBERT (Lan et al., 2019,
https://arxiv.org/abs/1909.11942), whose layers share their weights, gave the script its name; the
config of a checkpoint says which architecture is built, and any will do.

Data: `sentiment/sentiment.zip`, `sentiment.{train,valid,test}.data`: reviews of books, hotels and
goods, negative or positive. About a third of the test stands in the training part as well:
`unseen` is the accuracy on the others. Logistic regression on characters reaches 88.2 % of all.
"""

from collections.abc import Sequence

from classification import (
    SENTIMENTS,
    accuracy,
    build,
    encoded,
    predict,
    read_sentiment,
    train,
)
from common import Size, arguments, remember, report

QUICK = Size(epochs=3, batch_size=32, learning_rate=5e-4, maxlen=128)
FULL = Size(epochs=10, batch_size=32, learning_rate=2e-5, maxlen=256)


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    if args.texts is not None:
        return predict(args, build(args, len(SENTIMENTS), load=False), SENTIMENTS)

    parts = read_sentiment(args.data)
    remember(args)
    model = build(args, len(SENTIMENTS))
    train(args, model, encoded(args, parts["train"]), encoded(args, parts["valid"]))

    known = {texts for texts, _ in parts["train"]}
    unseen = [row for row in parts["test"] if row[0] not in known]
    scores = {
        "accuracy": accuracy(model, encoded(args, parts["test"])),
        "unseen": accuracy(model, encoded(args, unseen)),
    }
    return report(args, "sentiment, test", scores)


if __name__ == "__main__":
    main()
