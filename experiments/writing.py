"""What the experiments that write text share: models, decoding, scores.

`UniLM` and `T5` learn to write a target behind a source. `scorer` and `perplexity` say how probable
a language model finds texts. ROUGE and BLEU compare what was written with what people wrote,
character by character.
"""

import argparse
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import Batches, fit, load_best, optimizer, outputs, remember, report
from keras import ops

from bert4keras.generation import Generator
from bert4keras.metrics import rouge, sentence_bleu
from bert4keras.models import Model, build_transformer_model
from bert4keras.tokenizers import SpTokenizer, Tokenizer, load_vocab
from bert4keras.training import TokenAccuracy, TokenCrossentropy

TOPK = 3  # width of the beam search
NO_LABEL = 0
SMALL_T5 = {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "attention_key_size": 32,
    "intermediate_size": 256,
    "hidden_act": ["gelu", "linear"],
    "dropout_rate": 0.1,
    "initializer_range": 0.05,
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]

Pair = tuple[str, str]
"""A source and its target."""


# --- data


def read_gzip(data: Path, name: str) -> str:
    """A compressed text file below the folder of the data sets."""
    try:
        with gzip.open(data / name, "rt", encoding="utf-8") as file:
            return file.read()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise SystemExit(f"{data / name} has to be a UTF-8 text in gzip: {error}") from error


def simplified(
    args: argparse.Namespace, special: Sequence[str] = SPECIAL
) -> tuple[Tokenizer, list[int]]:
    """A tokenizer without the tokens that no Chinese text needs, and the ids of those it has."""
    vocabulary = args.files.vocabulary
    token_dict, keep_tokens = load_vocab(vocabulary, simplified=True, startswith=special)
    return Tokenizer(token_dict, do_lower_case=True), keep_tokens


# --- from source to target


class Writer:
    """A model that writes targets after sources.

    Args:
        args: what `arguments` returned. Unless it predicts, the checkpoint is loaded.
        max_target: tokens of a target at most, the end token included.
    """

    def __init__(self, args: argparse.Namespace, max_target: int) -> None:
        self.max_target, self.max_source = max_target, args.size.maxlen - max_target
        self.tokenizer, self.model, writer = self.build(args)
        self.generator = Generator(writer, end_id=self.tokenizer._token_end_id, maxlen=max_target)

    def build(self, args: argparse.Namespace) -> tuple:
        """The tokenizer, the model that is trained, the model that writes."""
        raise NotImplementedError

    def make(self, pad: Callable, samples: list) -> tuple:
        """Inputs of the model that is trained, and labels: the tokens of the targets."""
        raise NotImplementedError

    def source(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, maxlen=self.max_source)[0]

    def target(self, text: str) -> list[int]:
        """Token ids with the end token, without a start token."""
        starts = self.tokenizer._token_start is not None
        return self.tokenizer.encode(text, maxlen=self.max_target + starts)[0][starts:]

    def sample(self, pair: Pair) -> tuple[list[int], list[int]]:
        source, target = pair
        return self.source(source), self.target(target)

    def fit(
        self, args: argparse.Namespace, pairs: Sequence[Pair], evaluate: Callable[[], dict]
    ) -> None:
        """Train on pairs; the loss is the mean over the tokens that are written."""
        batches = Batches([self.sample(pair) for pair in pairs], args.batch_size, self.make)
        compile_for_tokens(args, self.model, batches, from_logits=True)
        fit(args, self.model, batches, evaluate)

    def write(self, sources: Sequence[str], topk: int = TOPK) -> list[str]:
        """The targets that a beam search finds, many at a time."""
        found = self.generator.generate([self.source(text) for text in sources], topk=topk)
        return [self.text(ids) for ids in found]

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


class UniLM(Writer):
    """[CLS] source [SEP] target [SEP] in one BERT, whose target sees what is before it."""

    def build(self, args: argparse.Namespace) -> tuple[Tokenizer, Model, Model]:
        tokenizer, keep_tokens = simplified(args)
        return tokenizer, *unilm(args, keep_tokens=keep_tokens)

    def make(self, pad: Callable, samples: list) -> tuple:
        return unilm_batch(pad, samples, self.max_target)


def unilm(args: argparse.Namespace, **options: Any) -> tuple[Model, Model]:
    """A UniLM that is trained, and the same one that writes; both give logits.

    The first takes the positions before each token that is written as a further input and scores
    there only: most of a batch is read, and over a whole vocabulary the scores of all of it would
    take longer than a small model does. The checkpoint is loaded unless a run will be.
    """
    checkpoint = args.files.checkpoint if args.texts is None else None
    options |= {"application": "unilm", "with_mlm": "linear"}
    trained = build_transformer_model(
        args.files.config, checkpoint, masked_positions=True, return_keras_model=False, **options
    )
    writer = build_transformer_model(args.files.config, layers=trained.layers, **options)
    return trained.model, writer


def unilm_batch(
    pad: Callable, samples: Sequence[tuple[list[int], list[int]]], max_target: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Token ids, segment ids and positions of pairs of source and target; the tokens to write.

    Args:
        pad: pads rows to one of a few lengths.
        samples: token ids of each source and each target.
        max_target: tokens of a target at most.
    """
    rows = []
    for source, target in samples:
        n, m = len(source), len(target)
        positions = [*range(n - 1, n - 1 + m), *[0] * (max_target - m)]
        labels = target + [NO_LABEL] * (max_target - m)
        rows.append((source + target, [0] * n + [1] * m, positions, labels))
    token_ids, segment_ids, positions, labels = zip(*rows, strict=True)
    return [pad(token_ids), pad(segment_ids), np.array(positions)], np.array(labels)


class T5(Writer):
    """mT5: an encoder reads the source, a decoder writes the target.

    The full size takes a checkpoint with its SentencePiece model; if a file `*keep_tokens.json`
    lies beside it, this model is one cut down, and the file says which vectors are its tokens'.
    The quick size has few layers, random weights and the tokenizer of the small checkpoint.
    """

    def build(self, args: argparse.Namespace) -> tuple[SpTokenizer | Tokenizer, Model, Model]:
        kind = {"model": "mt5.1.1", "with_lm": "linear"}
        if args.quick:
            options = SMALL_T5 | {"vocab_size": args.tokenizer._vocab_size}
            model = build_transformer_model(**kind, **options)
            return args.tokenizer, model, model
        vocabulary = args.files.vocabulary
        tokenizer = SpTokenizer(vocabulary, token_start=None, token_end="</s>")
        lists = list(vocabulary.parent.glob("*keep_tokens.json"))
        keep_tokens = json.loads(lists[0].read_text(encoding="utf-8")) if lists else None
        checkpoint = args.files.checkpoint if args.texts is None else None
        model = build_transformer_model(
            args.files.config, checkpoint, keep_tokens=keep_tokens, **kind
        )
        return tokenizer, model, model

    def make(self, pad: Callable, samples: list) -> tuple:
        sources, targets = zip(*samples, strict=True)
        labels = pad(targets)
        # Each token is written after those before it; the first one after 0.
        written = np.pad(labels[:, :-1], ((0, 0), (1, 0)))
        return [pad(sources), written], labels


def language_model(args: argparse.Namespace, keep_tokens: list[int], **options: Any) -> Model:
    """The probabilities of the next token; from the checkpoint, unless a run will be loaded."""
    return build_transformer_model(
        args.files.config,
        args.files.checkpoint if args.texts is None else None,
        application="lm",
        keep_tokens=keep_tokens,
        **options,
    )


def compile_for_tokens(
    args: argparse.Namespace, model: Model, batches: Batches, from_logits: bool = False
) -> None:
    """Compile a model that gives the probabilities, or logits, of the next token."""
    model.compile(
        optimizer=optimizer(args, batches),
        loss=TokenCrossentropy(from_logits=from_logits, ignore=NO_LABEL),
        metrics=[TokenAccuracy(ignore=NO_LABEL, name="accuracy")],
    )


def write_titles(
    args: argparse.Namespace,
    writer: Writer,
    read: Callable[[argparse.Namespace], dict[str, list[Pair]]],
    data: str,
) -> dict | None:
    """The experiment of the scripts that write titles: train, score on the test, or predict.

    The title that a text begins with, if one takes its first characters for it, is scored as well.

    Args:
        args: what `arguments` returned.
        writer: the model.
        read: pairs of text and title for `train`, `valid` and `test`.
        data: what `report` calls them.
    """
    if args.texts is not None:
        load_best(args, writer.model)
        for text, title in zip(args.texts, writer.write(args.texts), strict=True):
            print(json.dumps({"title": title, "text": text}, ensure_ascii=False))
        return None
    parts = read(args)
    remember(args)

    def scored(part: str) -> dict[str, float]:
        texts, titles = zip(*parts[part], strict=True)
        return text_scores(writer.write(texts), titles)

    writer.fit(args, parts["train"], lambda: scored("valid"))
    texts, titles = zip(*parts["test"], strict=True)
    length = round(np.mean([len(title) for _, title in parts["train"]]))
    scores = scored("test")
    beginnings = text_scores([text[:length] for text in texts], titles)
    return report(
        args, data, {**scores, "titles": {"written": scores, "first characters": beginnings}}
    )


# --- language models


def next_tokens(token_ids: np.ndarray) -> np.ndarray:
    """The labels of a language model: at each position the token behind it."""
    return np.pad(token_ids[:, 1:], ((0, 0), (0, 1)), constant_values=NO_LABEL)


def scorer(model: Model) -> keras.Model:
    """What tells how probable texts are.

    Args:
        model: gives the probabilities of the next token.

    Returns:
        A model from [inputs of the model, labels (batch, length)] to the logarithm of the
        probability of all labels of a sample (batch,), and their number (batch,).
    """
    labels = keras.Input((None,), dtype="int32", name="Labels")
    counted = ops.not_equal(labels, NO_LABEL)
    found = ops.take_along_axis(model.output, ops.expand_dims(labels, -1), axis=-1)[..., 0]
    found = ops.where(counted, ops.log(ops.maximum(found, 1e-30)), 0.0)
    totals = [ops.sum(x, axis=-1) for x in (found, ops.cast(counted, "float32"))]
    return keras.Model([*model.inputs, labels], totals)


def log_probabilities(scoring: keras.Model, samples: Sequence, make: Callable) -> np.ndarray:
    """(samples, 2): logarithm of the probability and number of tokens of each sample.

    Args:
        scoring: of `scorer`.
        samples: the texts, encoded.
        make: makes inputs and labels of them, as for training.
    """

    def inputs(pad: Callable, rows: list) -> list[np.ndarray]:
        arrays, labels = make(pad, rows)
        return [*arrays, labels]

    return np.array(outputs(scoring, samples, inputs, batch_size=32))


def perplexity(totals: np.ndarray) -> float:
    """One over the geometric mean of the probabilities of all tokens: lower is better."""
    log_p, n = totals.sum(axis=0)
    return float(np.exp(-log_p / n))


def probability_scores(totals: np.ndarray) -> dict[str, float]:
    """The geometric mean of the probabilities of all tokens, and one over it, the perplexity.

    The first one is what training looks at: higher is better.
    """
    found = perplexity(totals)
    return {"probability": round(1 / found, 5), "perplexity": round(found, 2)}


# --- scores


def text_scores(found: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """ROUGE-L, ROUGE-1, ROUGE-2 and BLEU of texts, in lower case and without spaces; the means."""
    found, wanted = (["".join(text.lower().split()) for text in side] for side in (found, wanted))
    scores = rouge(found, wanted) | {"bleu": sentence_bleu(found, wanted)}
    return {name: round(scores[name], 4) for name in ("rouge_l", "rouge_1", "rouge_2", "bleu")}
