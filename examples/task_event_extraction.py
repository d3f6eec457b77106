"""Events in news: their types, and who or what plays which role in them (LIC 2020).

    python examples/task_event_extraction.py --data DATA --quick
    python examples/task_event_extraction.py --data DATA --quick --head globalpointer
    python examples/task_event_extraction.py predict 2015年8月赵云文增持公司股份588,915股

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

import keras
import numpy as np
from common import (
    Batches,
    Size,
    arguments,
    bio_spans,
    bio_tags,
    fit,
    load_best,
    micro_f1,
    optimizer,
    outputs,
    read_json_lines,
    remember,
    report,
    text_span,
    token_span,
)

from bert4keras.layers import ConditionalRandomField, EfficientGlobalPointer
from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import Tokenizer
from bert4keras.training import MultilabelCrossentropy

QUICK = Size(epochs=8, batch_size=16, learning_rate=5e-4, maxlen=128)
FULL = Size(epochs=20, batch_size=32, learning_rate=2e-5, maxlen=192)
ARCHIVE = "event_fewfc/duee_format.zip"
FILES = {"train": "train_data/train", "dev": "dev_data/dev", "test": "test_data/test"}

Span = tuple[int, int, int]
"""First token, last token, kind."""


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
    tokens = tokenizer.tokenize(row["text"], maxlen=maxlen)
    mapping = tokenizer.rematch(row["text"], tokens)
    found: dict[Span, None] = {}  # in order, each once
    for event in row["event_list"]:
        for each in event["arguments"]:
            start = each["argument_start_index"]
            place = token_span(mapping, start, start + len(each["argument"]))
            if place:
                found[*place, kinds.index(f"{event['event_type']}/{each['role']}")] = None
    return tokenizer.tokens_to_ids(tokens), list(found)


# --- the two heads


class CRF:
    """BIO tags of tokens."""

    def __init__(self, kinds: list[str]) -> None:
        self.n_labels = 2 * len(kinds) + 1

    def attach(self, encoder: Model, args: argparse.Namespace) -> tuple[Model, Model]:
        # The transitions start at zero and have to get as large as the scores of the tags.
        crf = ConditionalRandomField(lr_multiplier=1 if args.quick else 1000, name="CRF")
        scores = crf(keras.layers.Dense(self.n_labels, name="Tags")(encoder.output))
        self.loss = crf.sparse_loss
        return Model(encoder.inputs, scores), Model(encoder.inputs, crf.decode(scores))

    def make(self, pad: Callable, samples: list) -> tuple:
        token_ids = pad([ids for ids, _ in samples])
        tags = [bio_tags(found, len(ids)) for ids, found in samples]
        return [token_ids, np.zeros_like(token_ids)], pad(tags)

    def spans(self, tags: np.ndarray, length: int) -> list[Span]:
        return bio_spans(tags[:length])


class GlobalPointer:
    """A score for each kind of each span."""

    loss = MultilabelCrossentropy(class_axes=2)

    def __init__(self, kinds: list[str]) -> None:
        self.n_kinds = len(kinds)

    def attach(self, encoder: Model, args: argparse.Namespace) -> tuple[Model, Model]:
        pointer = EfficientGlobalPointer(self.n_kinds, 64, name="Pointer")
        model = Model(encoder.inputs, pointer(encoder.output))
        return model, model

    def make(self, pad: Callable, samples: list) -> tuple:
        token_ids = pad([ids for ids, _ in samples])
        batch, length = token_ids.shape
        wanted = np.zeros((batch, self.n_kinds, length, length), "float32")
        for row, (_, found) in enumerate(samples):
            for first, last, kind in found:
                wanted[row, kind, first, last] = 1
        return [token_ids, np.zeros_like(token_ids)], wanted

    def spans(self, scores: np.ndarray, length: int) -> list[Span]:
        kinds, first, last = np.nonzero(scores[:, :length, :length] > 0)
        return list(zip(first.tolist(), last.tolist(), kinds.tolist(), strict=True))


HEADS = {"crf": CRF, "globalpointer": GlobalPointer}


def build(args: argparse.Namespace, head: CRF | GlobalPointer, load: bool = True) -> tuple:
    """The model that is trained and the one that predicts."""
    encoder = build_transformer_model(args.files.config, args.files.checkpoint if load else None)
    return head.attach(encoder, args)


# --- decoding


def extract(
    texts: Sequence[str],
    model: Model,
    head: CRF | GlobalPointer,
    kinds: list[str],
    tokenizer: Tokenizer,
    maxlen: int,
) -> list[set[tuple[str, str, str]]]:
    """(Event type, role, argument) of texts; arguments are slices of them."""
    tokens = [tokenizer.tokenize(text, maxlen=maxlen) for text in texts]
    samples = [(ids, [0] * len(ids)) for ids in map(tokenizer.tokens_to_ids, tokens)]
    found = []
    for text, pieces, (scores,) in zip(texts, tokens, outputs(model, samples), strict=True):
        mapping = tokenizer.rematch(text, pieces)
        found.append(
            {
                (*kinds[kind].split("/"), text_span(text, mapping, first, last))
                for first, last, kind in head.spans(scores, len(pieces))
            }
        )
    return found


# --- the experiment


def add_head(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--head", choices=HEADS, default="crf")


def main(argv: Sequence[str] | None = None) -> dict | None:
    args = arguments(__file__, __doc__, QUICK, FULL, argv, add_head)
    maxlen, tokenizer = args.size.maxlen, args.tokenizer
    if args.texts is not None:
        kinds, head = args.saved["kinds"], HEADS[args.saved["head"]](args.saved["kinds"])
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
    head = HEADS[args.head](kinds)
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
