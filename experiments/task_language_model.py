"""A language model from a BERT: lyrics of the Song dynasty.

    python experiments/task_language_model.py --data DATA --quick
    python experiments/task_language_model.py predict 浣溪沙： --output RUN

A mask under which no token sees what is behind it, and labels moved by one: that is all a masked
language model needs to become one that writes (`application="lm"`). Each text is the name of the
tune, which sets the lengths of all lines, and the lyric. Some are written at the end of a run.

Scored by perplexity, one over the geometric mean of the probabilities of the tokens, on texts that
were not trained on; beside it that of a model that only knows how frequent each token is. Rare
characters, which the vocabulary lacks, count as the one token [UNK] for both.

Data: `poetry/song_ci.json.gz`. 1,000 lyrics, drawn once, are the test, 500 others are for
validation; no two have the same text.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from common import Batches, Size, arguments, drawn_parts, fit, load_best, remember, report
from writing import (
    compile_for_tokens,
    language_model,
    log_probabilities,
    next_tokens,
    perplexity,
    probability_scores,
    read_gzip,
    scorer,
    simplified,
)

from bert4keras.generation import Generator

QUICK = Size(epochs=2, batch_size=32, learning_rate=1e-3, maxlen=96)
FULL = Size(epochs=20, batch_size=32, learning_rate=1e-4, maxlen=256)
FILE = "poetry/song_ci.json.gz"
N_TEST, N_VALID = 1000, 500
N_WRITTEN = 3  # lyrics of a run
TOPP = 0.9


def read_lyrics(args: argparse.Namespace) -> dict[str, list[str]]:
    """Tunes and lyrics, by part."""
    lyrics = {"".join(row["paragraphs"]): row for row in json.loads(read_gzip(args.data, FILE))}
    texts = [f"{row['rhythmic']}：{text}" for text, row in lyrics.items()]
    return drawn_parts(texts, N_TEST, N_VALID)


def make(pad: Callable, samples: list[tuple[list[int]]]) -> tuple:
    """Inputs of the model, and at each position the token behind it."""
    token_ids = pad([ids for (ids,) in samples])
    return [token_ids, np.zeros_like(token_ids)], next_tokens(token_ids)


def frequencies(train: Sequence[tuple], samples: Sequence[tuple], n_tokens: int) -> float:
    """The perplexity of a model that knows the frequency of each token, and nothing else."""
    counts = Counter(token for (ids,) in train for token in ids[1:])
    total = counts.total() + n_tokens
    logs = [np.log((counts[token] + 1) / total) for (ids,) in samples for token in ids[1:]]
    return perplexity(np.array([[sum(logs), len(logs)]]))


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv)
    tokenizer, keep_tokens = simplified(args)
    model = language_model(args, keep_tokens)
    generator = Generator(model, tokenizer, maxlen=args.size.maxlen)

    def write(beginnings: Sequence[str]) -> None:
        """Print texts that go on from their beginnings."""
        drawn = generator.generate(beginnings, sample=True, topp=TOPP, seed=args.seed)
        for beginning, text in zip(beginnings, drawn, strict=True):
            row = {"beginning": beginning, "text": beginning + text}
            print(json.dumps(row, ensure_ascii=False))

    if args.texts is not None:
        load_best(args, model)
        return write(args.texts)

    parts = read_lyrics(args)
    remember(args)
    # What is cut off ends without an end token.
    train, valid, test = (
        [(tokenizer.encode(text)[0][: args.size.maxlen],) for text in texts]
        for texts in parts.values()
    )
    batches = Batches(train, args.batch_size, make)
    compile_for_tokens(args, model, batches)
    scoring = scorer(model)
    fit(
        args,
        model,
        batches,
        lambda: probability_scores(log_probabilities(scoring, valid, make)),
    )
    tunes = Counter(text.split("：")[0] for text in parts["train"]).most_common(N_WRITTEN)
    write([f"{tune}：" for tune, _ in tunes])
    found = perplexity(log_probabilities(scoring, test, make))
    scores = {
        "perplexity": round(found, 2),
        "of_frequencies": round(frequencies(train, test, len(keep_tokens)), 2),
    }
    return report(args, f"song_ci, {len(test)} lyrics", scores)


if __name__ == "__main__":
    main()
