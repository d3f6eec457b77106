"""Language models that continue texts: one script, and a `Family` for each kind of checkpoint.

`--quick` has no checkpoint to go on from, as there are no small ones of these kinds. It makes one:
a model of two layers learns a few lines by heart, in seconds, and is written to `RUN/small` in the
official format. From there on it is treated like any other.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from basics import arguments, padded
from common import TINY, report, write_json

from bert4keras.generation import Generator
from bert4keras.models import Model, Transformer, build_transformer_model
from bert4keras.optimizers import Adam
from bert4keras.tokenizers import TokenizerBase
from bert4keras.training import TokenCrossentropy

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "initializer_range": 0.05,
}
N_STEPS = 80
N_SAMPLES = 3


def copy_vocabulary(folder: Path, texts: Sequence[str]) -> Path:
    """Write the vocabulary of the small checkpoint to a folder."""
    path = folder / "vocab.txt"
    path.write_bytes((TINY / "vocab.txt").read_bytes())
    return path


@dataclass(frozen=True)
class Family:
    """What tells one kind of language model from another.

    Args:
        options: those of `build_transformer_model`.
        tokenizer: makes one of the path of a vocabulary.
        end: the token that ends what is written.
        maxlen: how many tokens are written at most.
        minlen: how many at least, the end included.
        prompts: what an official checkpoint is asked to continue.
        lessons: what the small model learns: beginnings, and how they go on, up to `end`.
        make_vocabulary: writes the vocabulary of the small model to a folder.
        clean: undoes in what is written what the tokenizer did to spaces.
        sampling: options of `Generator.generate`.
    """

    options: dict[str, Any]
    tokenizer: Callable[[Path], TokenizerBase]
    end: str
    maxlen: int
    minlen: int
    prompts: Sequence[str]
    lessons: Sequence[tuple[str, str]]
    make_vocabulary: Callable[[Path, Sequence[str]], Path] = copy_vocabulary
    clean: Callable[[str], str] = str
    sampling: dict[str, Any] = field(default_factory=lambda: {"topp": 0.95})


def opened(text: str, tokenizer: TokenizerBase) -> list[int]:
    """Token ids of a text that is to be continued: without an end token."""
    ids = tokenizer.encode(text)[0]
    return ids[:-1] if tokenizer._token_end else ids


def inputs_of(model: Model, token_ids: np.ndarray) -> np.ndarray | list[np.ndarray]:
    """The inputs of a model: tokens, and segments if it has them."""
    return token_ids if len(model.inputs) == 1 else [token_ids, np.zeros_like(token_ids)]


# --- the small checkpoint


def small_checkpoint(folder: Path, family: Family) -> Path:
    """Make a checkpoint of a family that knows its lessons by heart."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = family.make_vocabulary(folder, ["".join(lesson) for lesson in family.lessons])
    tokenizer = family.tokenizer(vocabulary)
    config = folder / "config.json"
    write_json(config, SMALL | {"vocab_size": tokenizer._vocab_size})
    transformer = build_transformer_model(config, return_keras_model=False, **family.options)
    learn(transformer, family, tokenizer)
    transformer.save_weights_as_checkpoint(folder / "model.ckpt")
    return folder


def learn(transformer: Transformer, family: Family, tokenizer: TokenizerBase) -> None:
    """Train a model on the lessons, all of them in every step."""
    end_id = tokenizer.token_to_id(family.end)
    rows = [
        [*opened(begin, tokenizer), *continuation(begin, rest, tokenizer), end_id]
        for begin, rest in family.lessons
    ]
    token_ids = padded(rows)
    following = np.pad(token_ids[:, 1:], ((0, 0), (0, 1)))
    model = transformer.model
    model.compile(optimizer=Adam(3e-3), loss=TokenCrossentropy(ignore=0))
    inputs = inputs_of(model, token_ids)
    for _ in range(N_STEPS):
        loss = model.train_on_batch(inputs, following)
    print(f"learnt {len(rows)} lines by heart, loss {float(loss):.4f}")


def continuation(begin: str, rest: str, tokenizer: TokenizerBase) -> list[int]:
    """Token ids of how a text goes on."""
    return opened(begin + rest, tokenizer)[len(opened(begin, tokenizer)) :]


# --- continuing


class Continuation:
    """A language model that continues texts.

    Args:
        family: what kind it is.
        files: config, checkpoint and vocabulary.
        maxlen: how many tokens are written at most, as the family says by default.
    """

    def __init__(self, family: Family, files: Any) -> None:
        self.family, self.tokenizer = family, family.tokenizer(files.vocabulary)
        self.model = build_transformer_model(files.config, files.checkpoint, **family.options)
        self.end_id = self.tokenizer.token_to_id(family.end)
        self.generator = Generator(self.model, end_id=self.end_id)

    def lengths(self, prompts: Sequence[Sequence[int]]) -> dict[str, int]:
        """How much may be written behind the longest prompt."""
        max_positions = self.generator.prompts.max_positions or np.inf
        room = max_positions + 1 - max(map(len, prompts))
        maxlen = int(min(self.family.maxlen, room))
        return {"maxlen": maxlen, "minlen": min(self.family.minlen, maxlen)}

    def text(self, ids: Sequence[int]) -> str:
        return self.family.clean(self.tokenizer.decode(ids))

    def samples(self, texts: Sequence[str], n: int, seed: int) -> list[list[str]]:
        """Draw n continuations of each text, the text included."""
        prompts = [opened(text, self.tokenizer) for text in texts]
        found = self.generator.generate(
            prompts, sample=True, n=n, seed=seed, **self.family.sampling, **self.lengths(prompts)
        )
        return [
            [self.text([*prompt, *ids]) for ids in each]
            for prompt, each in zip(prompts, found, strict=True)
        ]

    def check(self, texts: Sequence[str]) -> tuple[list[str], dict[str, float]]:
        """Continue texts by the best token each time, and compare with the whole model.

        Returns:
            What was written, without the texts; and the largest difference between a logarithm of a
            probability as it was added up token by token and as the model gives it in one pass,
            with how many tokens a second were written.
        """
        prompts = [opened(text, self.tokenizer) for text in texts]
        lengths = self.lengths(prompts)
        self.generator.generate(prompts, **lengths)  # compiles
        start = time.perf_counter()
        found, totals = self.generator.generate(prompts, scores=True, **lengths)
        seconds = time.perf_counter() - start
        found_ended = [
            [*ids, self.end_id] if len(ids) < lengths["maxlen"] else ids for ids in found
        ]
        differences = [
            abs(total - self.log_probability(prompt, ids))
            for prompt, ids, total in zip(prompts, found_ended, totals, strict=True)
        ]
        scores = {
            "difference": max(differences),
            "tokens_per_second": round(sum(map(len, found_ended)) / seconds),
        }
        return [self.text(ids) for ids in found], scores

    def log_probability(self, prompt: Sequence[int], ids: Sequence[int]) -> float:
        """The logarithm of the probability that a prompt goes on by some tokens, in one pass."""
        token_ids = padded([[*prompt, *ids]])
        found = self.model.predict_on_batch(inputs_of(self.model, token_ids))[0]
        at = np.arange(len(prompt), len(prompt) + len(ids))
        return float(np.log(found[at - 1, token_ids[0, at]]).sum())


def run(script: str, doc: str, family: Family, argv: Sequence[str] | None) -> dict | None:
    """What the scripts of all families do.

    Args:
        script: `__file__` of the script.
        doc: `__doc__` of the script.
        family: what kind of language model it is about.
        argv: the arguments; those of the process by default.
    """

    def small(args: argparse.Namespace) -> Path:
        return small_checkpoint(args.output / "small", family)

    args = arguments(script, doc, argv, small)
    continuation = Continuation(family, args.files)
    lessons = dict(family.lessons) if args.quick else {}
    texts = args.texts or list(lessons) or list(family.prompts)
    drawn = continuation.samples(texts, N_SAMPLES, args.seed)
    for text, samples in zip(texts, drawn, strict=True):
        print(json.dumps({"text": text, "continued": samples}, ensure_ascii=False))
    if args.texts is not None:
        return None
    written, scores = continuation.check(texts)
    if args.quick:
        right = [lessons[text] == found for text, found in zip(texts, written, strict=True)]
        scores = {"right": round(float(np.mean(right)), 4)} | scores
    return report(args, f"{len(texts)} beginnings", scores)
