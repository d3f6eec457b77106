"""Decoding on the device: the prompts once, then one token at a time with a cache."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from bert4keras.backend.engines import compiled
from bert4keras.backend.tensors import Tensor
from bert4keras.generation.prompts import input_kinds
from bert4keras.generation.selection import NOTHING, Settings, State, initial_state, is_end, select
from bert4keras.models.cache import Cache, call_on_part
from bert4keras.models.transformer import Transformer, chosen_activation


def combined_by_vote(probabilities: Tensor) -> Tensor:
    """The distribution of a group of prompts: Σp² / (Σp + 1), over the prompts.

    Where one prompt is sure, it decides; not normalised (examples of bert4keras,
    task_reading_comprehension_by_seq2seq).

    Args:
        probabilities: (batch, prompts, n, vocab_size), zeros for prompts that take no part.

    Returns:
        (batch, n, vocab_size).
    """
    squares = ops.sum(ops.square(probabilities), axis=1)
    return squares / (ops.sum(probabilities, axis=1) + 1)


class Decoding:
    """The compiled functions of one model under one `Settings`.

    Rows are batch · prompts · n: hypotheses of a prompt stand together, and so do the prompts of a
    group that votes. The state between two calls is a dict of tensors.

    Args:
        transformer: the language model; of an encoder and a decoder, the whole.
        settings: see there.
        vote: combines the distributions of a group, see `combined_by_vote`; None if every prompt is
            decoded for itself.
    """

    def __init__(
        self, transformer: Transformer, settings: Settings, vote: Callable | None = None
    ) -> None:
        self.model = transformer.model
        self.encoder, self.decoder = transformer.encoder_and_decoder
        self.settings = settings
        self.vote = vote
        self.condition = condition_of(self.decoder)
        self.n_compilations = 0
        self.begin = self.counted(self.begun)
        self.select = self.counted(self.selected)
        self.step = self.counted(self.stepped)
        self.advance = self.counted(self.advanced)

    def counted(self, function: Callable) -> Callable:
        """Compile a method, and count how many times that happens."""

        @functools.wraps(function)
        def counting(*args: Any) -> Any:
            self.n_compilations += keras.backend.backend() != "torch"
            return function(*args)

        return compiled(counting, self.model)

    # --- what is compiled

    def begun(self, prompts: Mapping[str, Any]) -> State:
        """Run the prompts through the model.

        Args:
            prompts: `tokens` (rows, length) padded on the left, `offsets` (rows,) where the text
                begins; `present` (batch, prompts), false for rows that only fill up; `inputs`, the
                other inputs of the model by name, for all slots; `source` (rows, source length),
                what an encoder reads, padded on the right; `random`, see `select`.
        """
        settings, tokens = self.settings, prompts["tokens"]
        length = tokens.shape[1]
        batch, per_group = prompts["present"].shape
        state = {
            "tokens": ops.pad(tokens, [[0, 0], [0, settings.room]]),
            "offsets": prompts["offsets"],
            "inputs": prompts["inputs"],
        }
        context = self.encoded(prompts) if "source" in prompts else {}
        logits, cache = self.forward(state | {"context": context}, ops.zeros((), "int32"), length)
        if "visible" in context:
            context["visible"] = ops.repeat(context["visible"], settings.n, axis=0)
        state = keras.tree.map_structure(lambda x: ops.repeat(x, settings.n, axis=0), state)
        state |= {
            "context": context,
            "prompt_cache": cache.prompt,
            "output_cache": [self.room_for(*pair) for pair in cache.prompt],
        }
        state |= initial_state(
            settings, batch, self.decoder.vocab_size, ops.any(prompts["present"], axis=1)
        )
        state["present"] = prompts["present"]
        if settings.sample:
            state["random"] = prompts["random"]
        state["broken"] = ops.any(ops.isnan(logits), axis=-1)
        logits = ops.reshape(logits, (batch, per_group, 1, logits.shape[-1]))
        if self.vote is not None:
            first = ops.cast(ops.argmax(logits[:, :, 0], axis=-1), "int32")
            answers = ops.all(first[..., None] != ops.convert_to_tensor(settings.ends), axis=-1)
            state["present"] = ops.logical_and(state["present"], answers)
        state["scores"] = ops.repeat(self.combined(logits, state["present"]), settings.n, axis=1)
        return state

    def selected(self, state: State, numbers: Mapping[str, Tensor]) -> State:
        """Choose a token for every hypothesis and write it behind its prompt."""
        tokens_before, cache = state["tokens"], state["output_cache"]
        n_groups, per_group = state["present"].shape
        slot = tokens_before.shape[1] - self.settings.room + state["step"]
        state, tokens, parents = select(self.settings, state["scores"], state, numbers)

        def for_rows(x: Tensor) -> Tensor:
            return ops.reshape(ops.repeat(x[:, None], per_group, axis=1), (-1,))

        if parents is not None:
            groups = ops.arange(n_groups * per_group, dtype="int32") * self.settings.n
            parents = for_rows(parents) + ops.repeat(groups, self.settings.n)
            # The prompt is the same for all beams: only what comes after it goes on from another.
            cache = keras.tree.map_structure(lambda x: ops.take(x, parents, axis=0), cache)
            tokens_before = ops.take(tokens_before, parents, axis=0)
        written = ops.slice_update(tokens_before, [0, slot], for_rows(tokens)[:, None])
        return state | {"tokens": written, "output_cache": cache}

    def stepped(self, state: State) -> State:
        """Run the token that was chosen last through the model."""
        settings = self.settings
        slot = state["tokens"].shape[1] - settings.room + state["step"] - 1
        logits, cache = self.forward(state, slot, 1)
        state = state | {"output_cache": cache.output}
        state["broken"] = ops.logical_or(
            state["broken"],
            ops.any(ops.reshape(ops.isnan(logits), (state["broken"].shape[0], -1)), axis=-1),
        )
        batch, per_group = state["present"].shape
        logits = ops.reshape(logits, (batch, per_group, settings.n, logits.shape[-1]))
        return state | {"scores": self.combined(logits, state["present"])}

    def advanced(self, state: State, limit: Tensor, numbers: Mapping[str, Tensor]) -> State:
        """Step and select until there are `limit` tokens or all hypotheses have ended."""
        changing = ("tokens", "output_cache", "scores", "broken", *self.selection_state(state))
        fixed = {name: value for name, value in state.items() if name not in changing}
        moving = {name: state[name] for name in changing}

        def unfinished(moving: State) -> Tensor:
            return ops.logical_and(
                moving["step"] < limit, ops.logical_not(ops.all(moving["finished"]))
            )

        def body(moving: State) -> tuple[State]:
            state = self.selected(self.stepped(fixed | moving), numbers)
            return ({name: state[name] for name in changing},)

        return fixed | ops.while_loop(unfinished, body, (moving,))[0]

    # --- parts of it

    def selection_state(self, state: State) -> list[str]:
        """Names of what `select` changes."""
        names = ("step", "finished", "totals", "lengths", "output", "seen")
        return [x for x in state if x in names or x.startswith("ended_")]

    def forward(self, state: State, start: Tensor, length: int) -> tuple[Tensor, Cache]:
        """Run the slots from `start` on through the decoder.

        Returns:
            Logarithms of the probabilities of the next token (rows, vocab_size), and what is
            remembered. Keys and values of the context are put into the state in the first call.
        """
        first = "prompt_cache" not in state
        reach = length if first else state["tokens"].shape[1]
        tokens, offsets = state["tokens"][:, :reach], state["offsets"][:, None]
        seen = ops.arange(reach, dtype="int32")[None]
        visible = ops.logical_and(seen >= offsets, seen < start + length)
        pad = self.decoder.pad_token_id
        if pad is not None and self.decoder.padding == "anywhere":
            # As in `Embedding`, the first token of a text is no padding, whatever it is.
            visible = ops.logical_and(visible, ops.logical_or(tokens != pad, seen == offsets))
        cache = Cache(
            start,
            length,
            visible,
            state["offsets"],
            state.get("prompt_cache"),
            state.get("output_cache"),
            state["context"],
        )
        known = {"Token": tokens, "Position": ops.maximum(seen - offsets, 0)}
        known |= state["inputs"] | {"Context": state["context"].get("vectors")}
        whole, part = [], []
        for kind, per_slot in input_kinds(self.decoder).items():
            x = known[kind]
            if per_slot:
                x = x[:, :reach]
            whole.append(x)
            part.append(ops.slice(x, [0, start], [x.shape[0], length]) if per_slot else x)
        condition, *rest = self.decoder.layer_norm_conds
        if self.condition is not None:
            condition = self.condition(whole[-self.decoder.n_additional_inputs :])
        outputs = call_on_part(self.decoder, part, whole, cache, [condition, *rest])
        return self.log_probabilities(outputs[:, 0]), cache

    def room_for(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Empty keys and values of an output, after those of its prompt; see `laid_out`."""
        rows, heads, key_size, _ = key.shape
        rows, room = rows * self.settings.n, self.settings.room
        return (
            ops.zeros((rows, heads, key_size, room), key.dtype),
            ops.zeros((rows, heads, room, value.shape[3]), value.dtype),
        )

    def encoded(self, prompts: Mapping[str, Any]) -> State:
        """What the encoder makes of the source (rows, length), and where that is text."""
        source, encoder = prompts["source"], self.encoder
        further = [prompts["inputs"][x] for x in input_kinds(encoder) if x != "Token"]
        visible = encoder.layers[encoder.prefixed("Embedding-Token")].compute_mask(source)
        vectors = encoder.model(encoder.simplify([source, *further]), training=False)
        return {"vectors": vectors, "visible": visible}

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """Logarithms of probabilities, of whatever the head of the model gives."""
        outputs = ops.cast(outputs, "float32")
        if head_of(self.decoder) == "softmax":
            return ops.log(outputs)
        return ops.log_softmax(outputs, axis=-1)

    def combined(self, scores: Tensor, present: Tensor) -> Tensor:
        """Scores (batch, n, vocab_size) of those of the prompts (batch, prompts, n, vocab_size)."""
        if self.vote is None:
            return scores[:, 0]
        present = ops.cast(present, scores.dtype)[:, :, None, None]
        probabilities = ops.where(present > 0, ops.exp(scores), 0.0)
        scores = ops.log(self.vote(probabilities) + 1e-12)
        ends = is_end(self.settings, ops.arange(scores.shape[-1], dtype="int32"))
        nobody = ops.where(ends, 0.0, NOTHING)
        return ops.where(ops.sum(present, axis=1) > 0, scores, nobody)


def condition_of(transformer: Transformer) -> Callable | None:
    """What computes the condition of the layer normalisations from the additional inputs."""
    condition = transformer.layer_norm_conds[0]
    if condition is None:
        return None
    n_own = len(transformer.inputs) - transformer.n_additional_inputs
    return keras.Function(transformer.inputs[n_own:], condition)


def head_of(transformer: Transformer) -> str:
    """What the head of a language model gives: 'softmax', probabilities, or 'linear', scores.

    Raises:
        TypeError: anything else.
    """
    has_scores = getattr(transformer, "with_lm", True)
    argument = transformer.head_argument if has_scores else "with_lm"
    given = getattr(transformer, argument)
    head = keras.activations.get(chosen_activation(given or None, "softmax"))
    head = keras.activations.serialize(head)
    if not given or head not in ("softmax", "linear"):
        raise TypeError(
            f"Generator got a model with {argument}={given!r}: build it with "
            "True (probabilities) or 'linear' (scores)"
        )
    return head
