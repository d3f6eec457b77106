"""What a model is trained on: batches of each task, from prepared examples.

    roberta     masked tokens (Liu et al., 2019)
    electra     masked tokens for a generator, replaced tokens for a discriminator (Clark et al.,
                2020)
    bert        masked tokens, and whether two segments belong together (Devlin et al., 2018) or are
                in order (Lan et al., 2019)
    gpt         the next token (Radford et al., 2018)
    unilm       the second part of a text from the first (Dong et al., 2019)

A batch is a function of the seed and the number of the step alone: training that is taken up again
at some step needs nothing but its number. All batches have the same shape.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from data_utils import LAYOUTS, SPECIAL_TOKENS, checksum
from records import DamagedRecordsError, RecordFile, decoded

from bert4keras.tokenizers import Tokenizer, load_vocab

MASKED_SHARE = 0.15  # Devlin et al., 2018
MASKINGS = ("token", "word", "span")
PAIRS = ("nsp", "sop")
# SpanBERT (Joshi et al., 2020): lengths of spans are geometric with p = 0.2, cut off at 10.
SPAN_LENGTHS = np.arange(1, 11)
SPAN_SHARES = 0.8**SPAN_LENGTHS / (0.8**SPAN_LENGTHS).sum()


Text = tuple[np.ndarray, np.ndarray]
"""Token ids, and for each whether a word begins."""


class Examples:
    """The examples of a folder that `data_utils.py` has written.

    Args:
        folder: the folder.

    Raises:
        SystemExit: there is no complete data set in it.
        DamagedRecordsError: a shard is not what was written.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "dataset.json"
        if not path.is_file():
            raise SystemExit(
                f"there is no complete data set in {folder} (no dataset.json): run data_utils.py"
            )
        self.manifest = json.loads(path.read_text(encoding="utf-8"))
        if checksum(folder / "vocab.txt") != self.manifest["vocabulary"]:
            raise SystemExit(f"{folder}/vocab.txt is not the one the data were prepared with")
        self.fingerprint = checksum(path)
        self.length = self.manifest["length"]
        self.token_dict = load_vocab(folder / "vocab.txt")
        self.files = [
            opened(folder / name, shard) for name, shard in self.manifest["shards"].items()
        ]
        self.starts = np.cumsum([0, *map(len, self.files)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, indices: np.ndarray) -> dict[str, list[np.ndarray]]:
        """The features of some examples, a list for each feature."""
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        places = indices - self.starts[shards]
        return decoded([self.files[s][int(i)] for s, i in zip(shards, places, strict=True)])


def opened(path: Path, shard: dict) -> RecordFile:
    """A shard that holds what `dataset.json` says."""
    if not path.is_file():
        raise SystemExit(f"the shard {path} is missing: prepare the data again")
    file = RecordFile(path)
    if (len(file), int(file.offsets[-1])) != (shard["examples"], shard["bytes"]):
        raise DamagedRecordsError(
            f"{path} ends at byte {file.offsets[-1]} after {len(file)} records, and dataset.json "
            f"says {shard['bytes']} and {shard['examples']}. Prepare the data again"
        )
    return file


class Batches:
    """The batches of a task.

    Args:
        examples: where they come from.
        task: a key of `data_utils.LAYOUTS`.
        batch_size: examples in a batch.
        seed: of the order and of all that is drawn.
        masking: what is masked together: 'token', 'word' or 'span'.
        pairs: what pairs of segments are about: 'nsp' (is the second the next one of the text, or
            of another one) or 'sop' (are the two in order or swapped).
        masked_share: how many of the tokens are masked.
    """

    def __init__(
        self,
        examples: Examples,
        task: str,
        batch_size: int,
        seed: int,
        masking: str = "token",
        pairs: str = "nsp",
        masked_share: float = MASKED_SHARE,
    ) -> None:
        self.examples, self.task, self.batch_size = examples, task, batch_size
        self.seed, self.masking, self.pairs = seed, masking, pairs
        self.masked_share = masked_share
        layout = examples.manifest["layout"]
        if layout != LAYOUTS[task]:
            raise SystemExit(
                f"the data were prepared for {examples.manifest['task']}, and {task} needs the "
                f"layout {LAYOUTS[task]!r}, not {layout!r}: run data_utils.py --task {task}"
            )
        if masking == "word" and not examples.manifest["preparation"]["segmenter"]:
            raise SystemExit(
                "--masking word needs to know the words: prepare the data with --segmenter"
            )
        if len(examples) < batch_size:
            raise SystemExit(
                f"the data are {len(examples)} examples, less than a batch of {batch_size}: give "
                "more text or a smaller --batch-size"
            )
        if task == "bert" and pairs == "nsp" and batch_size < 2:
            raise SystemExit("--pairs nsp takes other texts from the batch: --batch-size 2 or more")
        self.length = examples.length
        self.body = self.length - SPECIAL_TOKENS[layout]
        self.n_masked = max(1, round(masked_share * self.body))
        self.tokenizer = Tokenizer(examples.token_dict)
        is_special = self.tokenizer._is_special
        self.ordinary = np.array([i for t, i in examples.token_dict.items() if not is_special(t)])
        self.per_epoch = len(examples) // batch_size
        self.shuffled: tuple[int, np.ndarray] = (-1, np.zeros(0))

    def __getitem__(self, step: int) -> tuple:
        """The batch of a step, counted from 0: inputs, targets, weights."""
        epoch, number = divmod(step, self.per_epoch)
        if self.shuffled[0] != epoch:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.examples))
            self.shuffled = epoch, order
        indices = self.shuffled[1][number * self.batch_size : (number + 1) * self.batch_size]
        return self.make(indices, np.random.default_rng([self.seed, 1, step]))

    def start_at(self, step: int) -> Iterator[tuple]:
        """All batches from a step on, without end."""
        while True:
            yield self[step]
            step += 1

    def all_once(self) -> tuple:
        """All examples as one batch of whole batches, filled up with the first examples."""
        n_batches = -(-len(self.examples) // self.batch_size)
        indices = np.resize(np.arange(len(self.examples)), n_batches * self.batch_size)
        return self.make(indices, np.random.default_rng([self.seed, 2]))

    def make(self, indices: np.ndarray, rng: np.random.Generator) -> tuple:
        return getattr(self, self.task)(self.examples[indices], rng)

    # --- tasks

    def roberta(self, examples: dict, rng: np.random.Generator) -> tuple:
        token_ids, segment_ids, words = self.rows(self.texts(examples))
        tokens, positions, targets, weights = self.masked(token_ids, words, rng)
        return (tokens, segment_ids, positions), targets, weights

    def electra(self, examples: dict, rng: np.random.Generator) -> tuple:
        token_ids, segment_ids, words = self.rows(self.texts(examples))
        tokens, positions, targets, weights = self.masked(token_ids, words, rng)
        # Which of the predicted tokens stands where, -1 for none.
        slots = np.full((len(token_ids), self.length + 1), -1, "int32")
        places = np.where(weights > 0, positions, self.length)
        np.put_along_axis(slots, places, np.arange(self.n_masked, dtype="int32")[None], axis=1)
        real = (token_ids != self.tokenizer._token_pad_id).astype("float32")
        inputs = (tokens, segment_ids, positions, token_ids, slots[:, :-1])
        # Which tokens were replaced is known when the generator has spoken.
        return inputs, (targets, np.zeros((*token_ids.shape, 1), "int32")), (weights, real)

    def bert(self, examples: dict, rng: np.random.Generator) -> tuple:
        first, second = zip(*self.split(examples, rng), strict=True)
        n = len(first)
        apart = rng.random(n) < 0.5
        if self.pairs == "sop":
            first, second = zip(
                *(
                    (b, a) if swap else (a, b)
                    for swap, a, b in zip(apart, first, second, strict=True)
                ),
                strict=True,
            )
        else:
            other = np.where(apart, np.arange(n) + rng.integers(1, n, n), np.arange(n)) % n
            room = [self.body - len(ids) for ids, _ in first]
            second = [
                (second[i][0][:size], second[i][1][:size])
                for i, size in zip(other, room, strict=True)
            ]
        token_ids, segment_ids, words = self.rows(first, second)
        tokens, positions, targets, weights = self.masked(token_ids, words, rng)
        inputs = (tokens, segment_ids, positions)
        return inputs, (apart.astype("int32"), targets), (np.ones(n, "float32"), weights)

    def gpt(self, examples: dict, rng: np.random.Generator) -> tuple:
        rows = self.rows(self.texts(examples))[0]
        # The last [SEP] is where the row ends, not the text.
        inputs, targets = rows[:, :-2], rows[:, 1:-1].copy()
        short = rows[:, -1] == self.tokenizer._token_pad_id
        ends = (rows != self.tokenizer._token_pad_id).sum(axis=1) - 2
        targets[short, ends[short]] = self.tokenizer._token_pad_id
        return inputs, targets, (targets != self.tokenizer._token_pad_id).astype("float32")

    def unilm(self, examples: dict, rng: np.random.Generator) -> tuple:
        token_ids, segment_ids, _ = self.rows(*zip(*self.split(examples, rng), strict=True))
        inputs = (token_ids[:, :-1], segment_ids[:, :-1])
        return inputs, token_ids[:, 1:], segment_ids[:, 1:].astype("float32")

    # --- rows

    def texts(self, examples: dict) -> list[Text]:
        starts = examples.get("word_starts") or map(np.ones_like, examples["token_ids"])
        return list(zip(examples["token_ids"], starts, strict=True))

    def split(self, examples: dict, rng: np.random.Generator) -> list[tuple[Text, Text]]:
        """Cut texts in two where a sentence begins, or anywhere if there is only one."""
        pairs = []
        for (ids, starts), begins in zip(
            self.texts(examples), examples["sentence_starts"], strict=True
        ):
            at = begins[rng.integers(len(begins))] if len(begins) else rng.integers(1, len(ids))
            pairs.append(((ids[:at], starts[:at]), (ids[at:], starts[at:])))
        return pairs

    def rows(self, *segments: Sequence[Text]) -> tuple[np.ndarray, ...]:
        """Put [CLS] and [SEP] around one text or two a row.

        Args:
            *segments: the first texts of all rows, the second texts of all rows.

        Returns:
            Each (batch, length): token ids, segment ids, the number of the word that each token
            belongs to (-1 for tokens that are never masked).
        """
        shape = (len(segments[0]), self.length)
        token_ids = np.full(shape, self.tokenizer._token_pad_id, "int32")
        segment_ids, word_starts = np.zeros(shape, "int32"), np.zeros(shape, "int32")
        is_text = np.zeros(shape, bool)
        token_ids[:, 0] = self.tokenizer._token_start_id
        rows, at = np.arange(shape[0]), np.ones(shape[0], "int64")
        for segment, texts in enumerate(segments):
            sizes = np.array([len(ids) for ids, _ in texts])
            place = np.arange(self.length)
            inside = (place >= at[:, None]) & (place < (at + sizes)[:, None])
            token_ids[inside] = np.concatenate([ids for ids, _ in texts])
            word_starts[inside] = np.concatenate([starts for _, starts in texts])
            word_starts[rows, at] = 1
            segment_ids[inside] = segment_ids[rows, at + sizes] = segment
            token_ids[rows, at + sizes] = self.tokenizer._token_end_id
            is_text |= inside
            at += sizes + 1
        is_text &= token_ids != self.tokenizer._token_end_id  # where documents are joined
        return token_ids, segment_ids, np.where(is_text, word_starts.cumsum(axis=1), -1)

    # --- masks

    def masked(
        self, token_ids: np.ndarray, words: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        """Choose a share of the tokens; 80 % of them become [MASK], 10 % another token.

        Devlin et al., 2018; of a span, all become the same kind (Joshi et al., 2020).

        Returns:
            Token ids as they are shown (batch, length); then each (batch, n): the positions that
            are predicted, in order, the tokens there, and weights, 0 where there are fewer.
        """
        eligible = words >= 0
        room = np.round(self.masked_share * eligible.sum(axis=1)).astype("int64")
        room = np.clip(room, np.minimum(1, eligible.sum(axis=1)), self.n_masked)
        if self.masking == "span":
            group = np.stack([spans(*each, rng) for each in zip(words, room, strict=True)])
            chosen = group >= 0
        else:
            group = np.broadcast_to(np.arange(self.length), words.shape)
            units = words if self.masking == "word" else np.where(eligible, group, -1)
            chosen = choice(units, room, rng)
        kind = np.take_along_axis(rng.random(words.shape), np.maximum(group, 0), axis=1)
        shown = np.where(chosen & (kind < 0.8), self.tokenizer._token_mask_id, token_ids)
        replaced = chosen & (kind >= 0.9)
        shown[replaced] = rng.choice(self.ordinary, replaced.sum())
        # Chosen positions in order, then others, which get no weight.
        positions = np.argsort(~chosen, axis=1, kind="stable")[:, : self.n_masked]
        weights = np.take_along_axis(chosen, positions, axis=1).astype("float32")
        targets = np.take_along_axis(token_ids, positions, axis=1)
        return shown.astype("int32"), positions.astype("int32"), targets, weights


def choice(units: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose whole units at random, as many as there is room for.

    Args:
        units: (batch, length), the number of the unit that a token belongs to, -1 for none.
        room: (batch,), how many tokens may be chosen.

    Returns:
        (batch, length), which tokens are chosen.
    """
    chosen = np.zeros(units.shape, bool)
    for _ in range(4):  # where a long unit did not fit, shorter ones may
        left = room - chosen.sum(axis=1)
        if not left.any():
            break
        chosen |= first_units(np.where(chosen, -1, units), left, rng)
    return chosen


def first_units(units: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Choose units in a random order, up to the first that does not fit; see `choice`."""
    keys = np.take_along_axis(rng.random(units.shape), np.maximum(units, 0), axis=1)
    order = np.argsort(np.where(units >= 0, keys, 2), axis=1, kind="stable")
    ordered = np.take_along_axis(units, order, axis=1)
    # A unit counts if the place of its last token, in the new order, is within the room.
    last = np.diff(ordered, axis=1, append=-2) != 0
    fits = last & (ordered >= 0) & (np.arange(units.shape[1]) < room[:, None])
    n_chosen = np.where(fits.any(axis=1), units.shape[1] - np.argmax(fits[:, ::-1], axis=1), 0)
    chosen = np.zeros(units.shape, bool)
    np.put_along_axis(chosen, order, np.arange(units.shape[1]) < n_chosen[:, None], axis=1)
    return chosen


def spans(words: np.ndarray, room: int, rng: np.random.Generator) -> np.ndarray:
    """Choose spans of whole words: (length,), the number of the span of a token, -1 for none."""
    numbers, index, sizes = np.unique(words[words >= 0], return_inverse=True, return_counts=True)
    span_of = np.full(len(numbers), -1)
    # With little room left many spans do not fit, so that the number of draws has to end.
    n_draws = 2 * int(room)
    lengths = rng.choice(SPAN_LENGTHS, n_draws, p=SPAN_SHARES)
    starts = rng.integers(len(numbers), size=n_draws)
    for span, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if room == 0:
            break
        for i in range(start, min(start + length, len(numbers))):
            if span_of[i] >= 0 or sizes[i] > room:
                break
            span_of[i] = span
            room -= sizes[i]
    result = np.full(len(words), -1)
    result[words >= 0] = span_of[index]
    return result
