"""Decoding on the device: prefill of the prompts, then one token at a time with a KV cache."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from bert4keras.backend.engines import compiled, written
from bert4keras.backend.replay import replayed
from bert4keras.backend.tensors import Tensor
from bert4keras.generation.prompts import input_kinds
from bert4keras.generation.selection import NEG_INF, Settings, State, initial_state, is_end, select
from bert4keras.models.cache import Cache, call_with_cache
from bert4keras.models.transformer import Transformer, chosen_activation


def combined_by_vote(probabilities: Tensor) -> Tensor:
    """Combine the distributions of a group of prompts into Σp² / (Σp + 1), summed over the prompts.

    A prompt whose distribution is confident decides. The result is not normalised. The formula is
    that of the example task_reading_comprehension_by_seq2seq of bert4keras.

    Args:
        probabilities: (batch, prompts, n, vocab_size), zeros for prompts that take no part.

    Returns:
        (batch, n, vocab_size).
    """
    squares = ops.sum(ops.square(probabilities), axis=1)
    return squares / (ops.sum(probabilities, axis=1) + 1)


class Decoding:
    """The compiled functions of one model under one `Settings`.

    There are batch · prompts · n rows: the hypotheses of a prompt are adjacent, and so are the
    prompts of a group that votes. The state between two calls is a dict of tensors.

    Args:
        transformer: the language model, or the whole of an encoder and a decoder.
        settings: the settings that the functions are compiled for.
        vote: combines the distributions of a group as `combined_by_vote` does; None if every prompt
            is decoded on its own.

    Attributes:
        prefill: the compiled `_prefill`.
        select: the compiled `_select`.
        decode_step: the compiled `_decode_step`.
        decode: the compiled `_decode`.
        next_state: `_next_state`, a step of `_decode`; recorded on PyTorch.
        n_compilations: number of times that one of them was compiled.
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
        self.prefill = self.compile_counted(self._prefill)
        self.select = self.compile_counted(self._select)
        self.decode_step = self.compile_counted(replayed(self._decode_step, self.model))
        self.decode = self.compile_counted(self._decode)
        self.next_state = replayed(self._next_state, self.model)

    def compile_counted(self, function: Callable) -> Callable:
        """Compile a method and count how many times it is traced."""

        @functools.wraps(function)
        def counted(*args: Any) -> Any:
            self.n_compilations += keras.backend.backend() != "torch"
            return function(*args)

        return compiled(counted, self.model)

    # --- compiled functions

    def _prefill(self, prompts: Mapping[str, Any]) -> State:
        """Run the prompts through the model and compute the log-probabilities of their next tokens.

        Args:
            prompts: `token_ids` (rows, length), padded on the left; `left_padding` (rows,), the
                number of padding tokens; `prompt_mask` (batch, prompts), false for rows that only
                fill up the batch; `inputs`, the other inputs of the model by name, for all slots;
                `source_ids` (rows, source length), the input of an encoder, padded on the right;
                for sampling `uniform` (batch, n, output_capacity), random numbers above 0 and at
                most 1.

        Returns:
            The state: `token_ids` (rows, slots) of prompts and outputs; `left_padding`; `inputs`;
            `context`, outputs of the encoder; `prompt_cache` and `output_cache`, the KV cache;
            `prompt_mask`; `log_probs` (batch, n, vocab_size) of the next token;
            `has_nan`, whether the model gave NaN; and what `initial_state` returns.
        """
        settings, token_ids = self.settings, prompts["token_ids"]
        length = token_ids.shape[1]
        batch, per_group = prompts["prompt_mask"].shape
        state = {
            "token_ids": ops.pad(token_ids, [[0, 0], [0, settings.output_capacity]]),
            "left_padding": prompts["left_padding"],
            "inputs": prompts["inputs"],
        }
        context = self.encode_source(prompts) if "source_ids" in prompts else {}
        log_probs, cache = self.forward(
            state | {"context": context}, ops.zeros((), "int32"), length
        )
        if "visible" in context:
            context["visible"] = ops.repeat(context["visible"], settings.n, axis=0)
        state = keras.tree.map_structure(lambda x: ops.repeat(x, settings.n, axis=0), state)
        state |= {
            "context": context,
            "prompt_cache": cache.prompt,
            "output_cache": [self.empty_output_cache(*pair) for pair in cache.prompt],
        }
        state |= initial_state(
            settings, batch, self.decoder.vocab_size, ops.any(prompts["prompt_mask"], axis=1)
        )
        state["prompt_mask"] = prompts["prompt_mask"]
        if settings.sample:
            state["uniform"] = prompts["uniform"]
        state["has_nan"] = ops.any(ops.isnan(log_probs), axis=-1)
        log_probs = ops.reshape(log_probs, (batch, per_group, 1, log_probs.shape[-1]))
        if self.vote is not None:
            first = ops.cast(ops.argmax(log_probs[:, :, 0], axis=-1), "int32")
            has_answer = ops.all(
                first[..., None] != ops.convert_to_tensor(settings.end_ids), axis=-1
            )
            state["prompt_mask"] = ops.logical_and(state["prompt_mask"], has_answer)
        state["log_probs"] = ops.repeat(
            self.combine_votes(log_probs, state["prompt_mask"]), settings.n, axis=1
        )
        return state

    def _select(self, state: State, sampling_params: Mapping[str, Tensor]) -> State:
        """Choose the next token of every hypothesis and write it into its slot."""
        token_ids, cache = state["token_ids"], state["output_cache"]
        n_groups, per_group = state["prompt_mask"].shape
        slot = token_ids.shape[1] - self.settings.output_capacity + state["step"]
        state, tokens, parents = select(self.settings, state["log_probs"], state, sampling_params)

        def repeat_for_prompts(x: Tensor) -> Tensor:
            return ops.reshape(ops.repeat(x[:, None], per_group, axis=1), (-1,))

        if parents is not None:
            groups = ops.arange(n_groups * per_group, dtype="int32") * self.settings.n
            parents = repeat_for_prompts(parents) + ops.repeat(groups, self.settings.n)
            # The prompt is the same for all beams, so only the cache of the outputs is reordered.
            cache = keras.tree.map_structure(lambda x: ops.take(x, parents, axis=0), cache)
            token_ids = ops.take(token_ids, parents, axis=0)
        token_ids = written(token_ids, 1, slot, repeat_for_prompts(tokens)[:, None])
        return state | {"token_ids": token_ids, "output_cache": cache}

    def _decode_step(self, state: State) -> State:
        """Run the tokens that were chosen last through the model."""
        settings = self.settings
        slot = state["token_ids"].shape[1] - settings.output_capacity + state["step"] - 1
        log_probs, cache = self.forward(state, slot, 1)
        state = state | {"output_cache": cache.output}
        state["has_nan"] = ops.logical_or(
            state["has_nan"],
            ops.any(ops.reshape(ops.isnan(log_probs), (state["has_nan"].shape[0], -1)), axis=-1),
        )
        batch, per_group = state["prompt_mask"].shape
        log_probs = ops.reshape(log_probs, (batch, per_group, settings.n, log_probs.shape[-1]))
        return state | {"log_probs": self.combine_votes(log_probs, state["prompt_mask"])}

    def _decode(self, state: State, limit: Tensor, sampling_params: Mapping[str, Tensor]) -> State:
        """Decode until there are `limit` tokens or all hypotheses are finished."""
        changing = self.changing_keys(state)
        constants = {name: value for name, value in state.items() if name not in changing}

        def unfinished(loop_state: State) -> Tensor:
            return ops.logical_and(
                loop_state["step"] < limit, ops.logical_not(ops.all(loop_state["finished"]))
            )

        def body(loop_state: State) -> tuple[State]:
            return (self.next_state(constants | loop_state, sampling_params),)

        loop_state = {name: state[name] for name in changing}
        return constants | ops.while_loop(unfinished, body, (loop_state,))[0]

    def _next_state(self, state: State, sampling_params: Mapping[str, Tensor]) -> State:
        """Decode one token; return what changes of the state."""
        new = self._select(self._decode_step(state), sampling_params)
        return {name: new[name] for name in self.changing_keys(state)}

    # --- parts of them

    def changing_keys(self, state: State) -> list[str]:
        """Return the names of the state that decoding a token changes."""
        names = ("token_ids", "output_cache", "log_probs", "has_nan")
        names += ("step", "finished", "scores", "lengths", "output_ids", "seen_tokens")
        return [x for x in state if x in names or x.startswith("finished_")]

    def forward(self, state: State, start: Tensor, length: int) -> tuple[Tensor, Cache]:
        """Run `length` slots, from `start` on, through the decoder.

        Returns:
            Log-probabilities of the next token (rows, vocab_size), and the KV cache. The first call
            also puts the keys and values of the context into the state.
        """
        is_prefill = "prompt_cache" not in state
        n_slots = length if is_prefill else state["token_ids"].shape[1]
        token_ids = state["token_ids"][:, :n_slots]
        left_padding = state["left_padding"][:, None]
        slots = ops.arange(n_slots, dtype="int32")[None]
        visible = ops.logical_and(slots >= left_padding, slots < start + length)
        pad = self.decoder.pad_token_id
        if pad is not None and self.decoder.padding == "anywhere":
            # As in `Embedding`, the first token of a text is never padding, whatever its id.
            visible = ops.logical_and(
                visible, ops.logical_or(token_ids != pad, slots == left_padding)
            )
        elif pad is not None and self.decoder.padding == "everywhere":
            visible = ops.logical_and(visible, token_ids != pad)
        cache = Cache(
            start,
            length,
            visible,
            state["left_padding"],
            state.get("prompt_cache"),
            state.get("output_cache"),
            state["context"],
        )
        inputs = {"Token": token_ids, "Position": ops.maximum(slots - left_padding, 0)}
        inputs |= state["inputs"] | {"Context": state["context"].get("hidden_states")}
        new_slots = start + ops.arange(length, dtype="int32")
        all_inputs, new_inputs = [], []
        for kind, per_slot in input_kinds(self.decoder).items():
            x = inputs[kind]
            if per_slot:
                x = x[:, :n_slots]
            all_inputs.append(x)
            new_inputs.append(ops.take(x, new_slots, axis=1) if per_slot else x)
        condition, *rest = self.decoder.layer_norm_conds
        if self.condition is not None:
            condition = self.condition(all_inputs[-self.decoder.n_additional_inputs :])
        outputs = call_with_cache(self.decoder, new_inputs, all_inputs, cache, [condition, *rest])
        return self.to_log_probs(outputs[:, 0]), cache

    def empty_output_cache(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Create keys and values of an empty output, in the layout of those of its prompt."""
        rows, heads, key_size, _ = key.shape
        rows, capacity = rows * self.settings.n, self.settings.output_capacity
        return (
            ops.zeros((rows, heads, key_size, capacity), key.dtype),
            ops.zeros((rows, heads, capacity, value.shape[3]), value.dtype),
        )

    def encode_source(self, prompts: Mapping[str, Any]) -> State:
        """Return the encoder's outputs for the source, and where the source is text.

        `hidden_states` are (rows, source length, size), `visible` is (rows, source length).
        """
        source_ids, encoder = prompts["source_ids"], self.encoder
        others = [prompts["inputs"][x] for x in input_kinds(encoder) if x != "Token"]
        visible = encoder.layers[encoder.prefixed("Embedding-Token")].compute_mask(source_ids)
        hidden_states = encoder.model(encoder.simplify([source_ids, *others]), training=False)
        return {"hidden_states": hidden_states, "visible": visible}

    def to_log_probs(self, outputs: Tensor) -> Tensor:
        """Convert the outputs of the model, probabilities or logits, to log-probabilities."""
        outputs = ops.cast(outputs, "float32")
        if head_activation(self.decoder) == "softmax":
            return ops.log(outputs)
        return ops.log_softmax(outputs, axis=-1)

    def combine_votes(self, log_probs: Tensor, prompt_mask: Tensor) -> Tensor:
        """Combine the log-probabilities of the prompts of each group by the vote.

        Args:
            log_probs: (batch, prompts, n, vocab_size).
            prompt_mask: (batch, prompts), true for prompts that take part.

        Returns:
            (batch, n, vocab_size); where no prompt takes part, only an end token is possible.
        """
        if self.vote is None:
            return log_probs[:, 0]
        weights = ops.cast(prompt_mask, log_probs.dtype)[:, :, None, None]
        probabilities = ops.where(weights > 0, ops.exp(log_probs), 0.0)
        log_probs = ops.log(self.vote(probabilities) + 1e-12)
        ends = is_end(self.settings, ops.arange(log_probs.shape[-1], dtype="int32"))
        only_end = ops.where(ends, 0.0, NEG_INF)
        return ops.where(ops.sum(weights, axis=1) > 0, log_probs, only_end)


def condition_of(transformer: Transformer) -> Callable | None:
    """Return a function from the additional inputs to the condition of the layer normalisations.

    None if the model has no such condition.
    """
    condition = transformer.layer_norm_conds[0]
    if condition is None:
        return None
    n_own = len(transformer.inputs) - transformer.n_additional_inputs
    return keras.Function(transformer.inputs[n_own:], condition)


def head_activation(transformer: Transformer) -> str:
    """Return the activation of a language model's head.

    Returns:
        'softmax' if the head gives probabilities, 'linear' if it gives logits.

    Raises:
        TypeError: the model has no such head, or another activation.
    """
    has_head = getattr(transformer, "with_lm", True)
    argument = transformer.head_argument if has_head else "with_lm"
    given = getattr(transformer, argument)
    # By `serialize`, Keras would import TensorFlow on any backend, which takes seconds.
    names = {keras.activations.softmax: "softmax", keras.activations.linear: "linear"}
    head = names.get(keras.activations.get(chosen_activation(given or None, "softmax")))
    if not given or head is None:
        raise TypeError(
            f"Generator got a model with {argument}={given!r}: build it with "
            "True (probabilities) or 'linear' (logits)"
        )
    return head
