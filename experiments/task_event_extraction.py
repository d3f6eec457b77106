"""Events in news: their types, and who or what plays which role in them (LIC 2020).

    python experiments/task_event_extraction.py --data DATA --quick
    python experiments/task_event_extraction.py --data DATA --quick --head globalpointer
    python experiments/task_event_extraction.py predict 2015年8月赵云文增持公司股份588,915股

`--head crf` is the baseline of the contest: every pair of event type and role is a kind of span,
tokens get BIO tags of these by a conditional random field. A token has one tag, so that arguments
which overlap, or play roles in two events, are lost: the first one stays. `--head globalpointer`
scores each span for each kind (Su et al., 2022, https://arxiv.org/abs/2208.03054), and can express
all of them. Scored by (event type, role, argument), F1 over all sentences.

Data: `event_fewfc/duee_format.zip` (`ee/{train_data/train,dev_data/dev,test_data/test}.json`,
`ee/event_schema/event_schema.json`).
"""

import argparse
import json
from collections.abc import Callable, Sequence

from common import (
    Batches,
    Size,
    arguments,
    fit,
    load_best,
    micro_f1,
    optimizer,
    read_json_lines,
    remember,
    report,
)
from tagging import CRF, Head, Pointer, bio, build, find
from tagging import encode as encode_spans

from bert4keras.layers import EfficientGlobalPointer
from bert4keras.models import Model
from bert4keras.tokenizers import Tokenizer

QUICK = Size(epochs=8, batch_size=16, learning_rate=1e-3, maxlen=128)
FULL = Size(epochs=20, batch_size=32, learning_rate=2e-5, maxlen=192)
ARCHIVE = "event_fewfc/duee_format.zip"
FILES = {"train": "train_data/train", "dev": "dev_data/dev", "test": "test_data/test"}


def crf(kinds: list[str], is_quick: bool = True) -> CRF:
    # The transitions start at zero and have to get as large as the scores of the tags.
    return CRF(bio(len(kinds)), lr_multiplier=1 if is_quick else 1000)


def pointer(kinds: list[str], is_quick: bool = True) -> Pointer:
    return Pointer(EfficientGlobalPointer, len(kinds))


HEADS: dict[str, Callable[..., Head]] = {"crf": crf, "globalpointer": pointer}


# --- data


def read_kinds(schema: Sequence[dict]) -> list[str]:
    """The kinds of spans: all pairs of an event type and a role."""
    return sorted(f"{e['event_type']}/{role['role']}" for e in schema for role in e["role_list"])


def arguments_of(row: dict) -> set[tuple[str, str, str]]:
    """(Event type, role, argument) of a line of the data; argument in lower case."""
    return {
        (event["event_type"], each["role"], each["argument"].lower())
        for event in row["event_list"]
        for each in event["arguments"]
    }


def encode(row: dict, kinds: list[str], tokenizer: Tokenizer, maxlen: int) -> tuple:
    """Token ids and the spans of all arguments that were not cut off."""
    spans = []
    for event in row["event_list"]:
        for each in event["arguments"]:
            start = each["argument_start_index"]
            kind = kinds.index(f"{event['event_type']}/{each['role']}")
            spans.append((start, start + len(each["argument"]) - 1, kind))
    return encode_spans((row["text"], spans), tokenizer, maxlen)


# --- decoding


def extract(
    texts: Sequence[str],
    model: Model,
    head: Head,
    kinds: list[str],
    tokenizer: Tokenizer,
    maxlen: int,
) -> list[set[tuple[str, str, str]]]:
    """(Event type, role, argument) of texts; arguments are slices of them."""
    found = find(texts, model, head, tokenizer, maxlen)
    return [
        {(*kinds[kind].split("/"), text[first : last + 1]) for first, last, kind in spans}
        for text, spans in zip(texts, found, strict=True)
    ]


# --- the experiment


def add_head(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--head", choices=HEADS, default="crf")


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_head)
    maxlen, tokenizer = args.size.maxlen, args.tokenizer
    if args.texts is not None:
        kinds, head = (
            args.saved["kinds"],
            HEADS[args.saved["head"]](args.saved["kinds"], args.quick),
        )
        model, predictor = build(args, head, load=False)
        load_best(args, model)
        for text, found in zip(
            args.texts,
            extract(args.texts, predictor, head, kinds, tokenizer, maxlen),
            strict=True,
        ):
            print(json.dumps({"text": text, "arguments": sorted(found)}, ensure_ascii=False))
        return None

    schema = read_json_lines(args.data, ARCHIVE, "ee/event_schema/event_schema.json")
    kinds = read_kinds(schema)
    remember(args, kinds=kinds, head=args.head)
    train, valid, test = (
        read_json_lines(args.data, ARCHIVE, f"ee/{FILES[part]}.json")
        for part in ("train", "dev", "test")
    )
    head = HEADS[args.head](kinds, args.quick)
    batches = Batches(
        [encode(row, kinds, tokenizer, maxlen) for row in train], args.batch_size, head.make
    )
    model, predictor = build(args, head)
    model.compile(optimizer=optimizer(args, batches), loss=head.loss)

    def evaluate(rows: list[dict]) -> dict[str, float]:
        texts = [row["text"] for row in rows]
        found = [
            {(*kind, argument.lower()) for *kind, argument in each}
            for each in extract(texts, predictor, head, kinds, tokenizer, maxlen)
        ]
        return micro_f1(found, [arguments_of(row) for row in rows])

    fit(args, model, batches, lambda: evaluate(valid))
    return report(args, "event_fewfc, test", evaluate(test))


if __name__ == "__main__":
    main()
