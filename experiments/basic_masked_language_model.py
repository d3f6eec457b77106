"""What fits into the gaps of a text, by a masked language model.

    python experiments/basic_masked_language_model.py --quick
    python experiments/basic_masked_language_model.py --checkpoint FOLDER
    python experiments/basic_masked_language_model.py predict 科学[MASK][MASK]是第一生产力。 --quick

BERT was trained to fill in tokens that were replaced by [MASK] (Devlin et al., 2018). Each gap gets
probabilities of its own, so that two gaps side by side do not know of each other; to fill all of
them, the one that is surest is filled first, and the rest is asked again.

The scores are of some plain sentences: each of their characters is hidden in turn; `top_1` is how
often the model gives it the largest probability, `top_5` how often one of the five largest.
"""

import json
from collections.abc import Sequence

import numpy as np
from basics import arguments, encode_gaps, padded, probabilities_at
from common import report

from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer

GAPS = ["科学[MASK][MASK]是第一生产力。", "今天天[MASK]很好。", "这[MASK]书很[MASK]看。"]
SENTENCES = [
    "他在北京大学学习了三年。",
    "酒店的房间很干净，服务也很好。",
    "我们应该保护环境。",
    "这本书的内容非常有意思。",
    "公司今年的收入增长了百分之十。",
    "价格便宜，质量也不错。",
]


def gaps_of(
    model: Model, texts: Sequence[str], tokenizer: Tokenizer, n: int = 5
) -> list[list[list[tuple[str, float]]]]:
    """For each gap of each text the n tokens that fit best, with their probabilities."""
    token_ids = padded([encode_gaps(text, tokenizer) for text in texts])
    found = model.predict_on_batch([token_ids, np.zeros_like(token_ids)])
    return [
        [
            [(tokenizer.id_to_token(i), round(float(row[i]), 4)) for i in np.argsort(-row)[:n]]
            for row in probabilities[ids == tokenizer._token_mask_id]
        ]
        for ids, probabilities in zip(token_ids, found, strict=True)
    ]


def fill(model: Model, texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Fill the gaps of texts, one of each text at a time, the surest first."""
    rows = [encode_gaps(text, tokenizer) for text in texts]
    token_ids = padded(rows)
    while np.any(hidden := token_ids == tokenizer._token_mask_id):
        found = model.predict_on_batch([token_ids, np.zeros_like(token_ids)])
        sureness = np.where(hidden, found.max(axis=-1), -1)
        for i in np.nonzero(hidden.any(axis=1))[0]:
            place = sureness[i].argmax()
            # Whatever it thinks, not a mask again.
            found[i, place, tokenizer._token_mask_id] = 0
            token_ids[i, place] = found[i, place].argmax()
    return [tokenizer.decode(ids[: len(row)]) for ids, row in zip(token_ids, rows, strict=True)]


def ranks(model: Model, text: str, tokenizer: Tokenizer) -> list[int]:
    """How many tokens the model prefers to the right one, for each token when it is hidden."""
    row = tokenizer.encode(text)[0]
    places = np.arange(1, len(row) - 1)
    token_ids = padded([row] * len(places))
    token_ids[places - 1, places] = tokenizer._token_mask_id
    found = probabilities_at(model, token_ids, places)
    right = found[places - 1, np.array(row)[places]]
    return (found > right[:, None]).sum(axis=1).tolist()


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, argv)
    model = build_transformer_model(args.files.config, args.files.checkpoint, with_mlm=True)
    texts = args.texts or GAPS
    filled = fill(model, texts, args.tokenizer)
    for text, gaps, whole in zip(texts, gaps_of(model, texts, args.tokenizer), filled, strict=True):
        print(json.dumps({"text": text, "gaps": gaps, "filled": whole}, ensure_ascii=False))
    if args.texts is not None:
        return None
    found = np.concatenate([ranks(model, text, args.tokenizer) for text in SENTENCES])
    scores = {f"top_{n}": round(float(np.mean(found < n)), 4) for n in (1, 5)}
    return report(args, f"{len(SENTENCES)} sentences", scores | {"tokens": len(found)})


if __name__ == "__main__":
    main()
