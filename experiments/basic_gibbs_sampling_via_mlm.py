"""Sentences drawn from a masked language model, by Gibbs sampling.

    python experiments/basic_gibbs_sampling_via_mlm.py --quick
    python experiments/basic_gibbs_sampling_via_mlm.py --checkpoint FOLDER
    python experiments/basic_gibbs_sampling_via_mlm.py predict 科学技术是第一生产力。 --quick

A masked language model gives each token a distribution under all others. Hiding one place after
another and drawing its token anew walks through sentences as the model believes them to be (Wang
and Cho, 2019, https://arxiv.org/abs/1902.04094; https://kexue.fm/archives/8119). The model is not
quite a distribution of whole sentences, and the walk forgets where it began only slowly.

Many walks go on at the same time: a step is one batch, of one of a few shapes, in which each walk
hides a place of its own. Scored by pseudo-perplexity, exp of the mean of −log p of each token when
it is hidden: of where the walks ended, where they began, and of tokens at random.
"""

import json
from collections.abc import Sequence

import numpy as np
from basics import arguments, padded, probabilities_at
from common import report

from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

TEXT = "科学技术是第一生产力。"
N_WALKS = 16  # from each text
N_SWEEPS = 10  # how often each place is drawn anew, on average


def ordinary(tokenizer: Tokenizer, vocab_size: int) -> np.ndarray:
    """Which tokens may be drawn: all but [PAD], [MASK] and the like."""
    tokens = map(tokenizer.id_to_token, range(vocab_size))
    return np.array([not (t.startswith("[") and t.endswith("]") and len(t) > 2) for t in tokens])


def walk(
    model: Model,
    rows: Sequence[Sequence[int]],
    mask_id: int,
    may: np.ndarray,
    n_sweeps: int,
    rng: np.random.Generator,
) -> list[list[int]]:
    """Walk from each text to others of the same length.

    Args:
        model: from token and segment ids to the probabilities of tokens.
        rows: token ids with [CLS] and [SEP], which stay.
        mask_id: the token that hides a place.
        may: (vocabulary,), which tokens may be drawn.
        n_sweeps: how many steps, times the length of the longest text.
        rng: draws places and tokens.
    """
    token_ids, index = padded(rows), np.arange(len(rows))
    lengths = np.array([len(row) for row in rows])
    for _ in range(n_sweeps * (lengths.max() - 2)):
        places = rng.integers(1, lengths - 1)
        token_ids[index, places] = mask_id
        weights = np.cumsum(
            probabilities_at(model, token_ids, places) * may, axis=1, dtype="float64"
        )
        drawn = rng.random(len(rows)) * weights[:, -1]
        token_ids[index, places] = (weights <= drawn[:, None]).sum(axis=1)
    return [ids[:n].tolist() for ids, n in zip(token_ids, lengths, strict=True)]


def pseudo_perplexity(model: Model, rows: Sequence[Sequence[int]], mask_id: int) -> float:
    """How surprising the tokens of texts are, each hidden in turn."""
    token_ids, index, surprise = padded(rows), np.arange(len(rows)), []
    lengths = np.array([len(row) for row in rows])
    for place in range(1, lengths.max() - 1):
        hidden = token_ids.copy()
        hidden[:, place] = mask_id
        found = probabilities_at(model, hidden, np.full(len(rows), place))
        right = found[index, token_ids[:, place]]
        surprise.append(-np.log(np.maximum(right, 1e-30))[place < lengths - 1])
    return float(np.exp(np.concatenate(surprise).mean()))


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, argv)
    tokenizer, rng = args.tokenizer, np.random.default_rng(args.seed)
    model = build_transformer_model(args.files.config, args.files.checkpoint, with_mlm=True)
    texts, mask_id = args.texts or [TEXT], tokenizer._token_mask_id
    may = ordinary(tokenizer, tokenizer._vocab_size)
    starts = [tokenizer.encode(text)[0] for text in texts for _ in range(N_WALKS)]
    ends = walk(model, starts, mask_id, may, N_SWEEPS, rng)
    for i, text in enumerate(texts):
        reached = [tokenizer.decode(ids) for ids in ends[i * N_WALKS : (i + 1) * N_WALKS]]
        print(json.dumps({"text": text, "samples": reached}, ensure_ascii=False))
    if args.texts is not None:
        return None
    drawn = [[row[0], *rng.choice(np.nonzero(may)[0], len(row) - 2), row[-1]] for row in starts]
    scores = {
        f"perplexity_{name}": round(pseudo_perplexity(model, rows, mask_id), 2)
        for name, rows in (("end", ends), ("start", starts), ("random", drawn))
    }
    return report(args, f"{N_WALKS} walks, {N_SWEEPS} sweeps", scores)


if __name__ == "__main__":
    main()
