"""Give a model without capitals capitals.

    python experiments/basic_make_uncased_model_cased.py --quick
    python experiments/basic_make_uncased_model_cased.py --checkpoint FOLDER
    python experiments/basic_make_uncased_model_cased.py predict "Welcome to BEIJING." --quick

The Chinese checkpoints know small letters only. Each of their tokens with letters gets up to two
sisters: the first letter large, or all of them. They are new tokens (`compound_tokens`) whose
vectors start as those of the token that they come from, so that at first the model takes a text as
it did before, where the tokens are the same; but the tokenizer keeps the case now, and what the
capitals mean can be learnt by training.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from basics import arguments, padded
from common import report

from bert4keras.models import build_transformer_model
from bert4keras.tokenizers import Tokenizer, load_vocab

TEXTS = ["Welcome to BEIJING.", "NBA 和 CBA", "我用 iPhone 看 TV。", "今天天气很好。"]


def with_capitals(token_dict: Mapping[str, int]) -> tuple[dict[str, int], list[list[int]]]:
    """Add tokens with capitals to a vocabulary.

    Returns:
        The larger vocabulary, and for each new token the list of the one that it comes from.
    """
    larger, sources = dict(token_dict), []
    for token, i in sorted(token_dict.items(), key=lambda item: item[1]):
        if token.startswith("##"):
            candidates = [f"##{token[2:].upper()}"] if token[2:].isalpha() else []
        else:
            candidates = [token[:1].upper() + token[1:], token.upper()] if token.isalpha() else []
        for candidate in candidates:
            if candidate not in larger:
                larger[candidate] = len(larger)
                sources.append([i])
    return larger, sources


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, argv)
    token_dict = load_vocab(args.files.vocabulary)
    larger, sources = with_capitals(token_dict)
    cased = Tokenizer(larger, do_lower_case=False)
    texts = args.texts or TEXTS
    for text in texts:
        row = {"text": text, "before": args.tokenizer.tokenize(text), "now": cased.tokenize(text)}
        print(json.dumps(row, ensure_ascii=False))
    if args.texts is not None:
        return None

    before = build_transformer_model(args.files.config, args.files.checkpoint)
    # The new tokens come after those of the file, of which the model may have more.
    vocabulary = {"keep_tokens": list(range(len(token_dict))), "compound_tokens": sources}
    now = build_transformer_model(args.files.config, args.files.checkpoint, **vocabulary)
    # The tokens that the new ones come from, to read the same pieces with the model of before.
    origin = np.concatenate([np.arange(len(token_dict)), np.array(sources)[:, 0]])
    token_ids = padded([cased.encode(text)[0] for text in TEXTS])
    segment_ids = np.zeros_like(token_ids)
    difference = np.abs(
        now.predict_on_batch([token_ids, segment_ids])
        - before.predict_on_batch([origin[token_ids], segment_ids])
    )
    same = [args.tokenizer.encode(t)[0] == origin[cased.encode(t)[0]].tolist() for t in TEXTS]
    scores = {
        "difference": float(difference.max()),
        "new_tokens": len(sources),
        "texts_in_the_same_pieces": sum(same),
    }
    return report(args, f"{len(TEXTS)} texts", scores)


if __name__ == "__main__":
    main()
