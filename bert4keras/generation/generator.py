"""`Generator`, the class with which scripts generate text."""

import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import numpy as np

from bert4keras.backend.engines import TRACING
from bert4keras.generation.autoregressive import AutoRegressiveDecoder
from bert4keras.generation.call import GenerationCall
from bert4keras.generation.decoding import Decoding, combined_by_vote, head_activation
from bert4keras.generation.defaults import defaults_of
from bert4keras.generation.hooks import Hooks
from bert4keras.generation.options import Options, with_options
from bert4keras.generation.prompts import Prompt, Prompts, input_kinds
from bert4keras.generation.streaming import stream_text
from bert4keras.models.masks import LM_Mask, UniLM_Mask
from bert4keras.models.transformer import Transformer
from bert4keras.text.chat import is_chat
from bert4keras.text.strings import is_string


class Generator(AutoRegressiveDecoder):
    """Generates text with a language model, a UniLM or T5.

    Prompts are run through the model once (prefill), and then one token at a time with a KV cache,
    in batches, on the device. `beam_search` and `random_sample` of `AutoRegressiveDecoder` work
    too, without writing a `predict`: they take the inputs of the model for one sample.

    Arguments that are left out, here and in `generate`, are read from `generation_config.json` in
    the folder that the model was built from, or else in that of the tokenizer.

    Args:
        model: a model of `build_transformer_model` with application='lm' or 'unilm', or T5; or its
            `Transformer`.
        tokenizer: encodes prompts and decodes results; without it both are token ids.
        start_id: token that the output begins with; it is not part of the result. The default for
            T5 is that of the folder, otherwise 0; for other models it is None, no token.
        end_id: the token, or several, that end an output, as ids or as tokens of the tokenizer; by
            default those of the folder, or without a folder those of `config.json` and the
            tokenizer.
        maxlen: largest number of tokens to generate, the end token included; 64 unless the folder
            sets it.
        minlen: smallest number of tokens to generate, the end token included; 1 unless the folder
            sets it.
        segment_id: segment of the output, for models with segments: by default 1 for UniLM,
            otherwise that of the prompt's last token.

    Raises:
        TypeError: `model` cannot generate text.
        ValueError: there is no end token, or it is unknown.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        start_id: int | None = None,
        end_id: int | str | Sequence[int | str] | None = None,
        maxlen: int | None = None,
        minlen: int | None = None,
        segment_id: int | None = None,
    ) -> None:
        self.transformer = transformer_of(model)
        self.tokenizer = tokenizer
        self.defaults = defaults_of(self.transformer, tokenizer)
        end_id = self.defaults.end_ids or None if end_id is None else end_id
        self.end_ids = end_token_ids(end_id, tokenizer, self.transformer.vocab_size)
        if start_id is None and self.transformer.encoder_and_decoder[0]:
            start_id = self.defaults.start_id
        super().__init__(
            start_id,
            self.end_ids[0],
            self.defaults.maxlen if maxlen is None else maxlen,
            self.defaults.minlen if minlen is None else minlen,
        )
        self.prompts = Prompts(self.transformer, tokenizer, start_id, self.end_ids, segment_id)
        self.decodings: dict[Any, Decoding] = {}

    @property
    def n_compilations(self) -> int:
        """The number of functions that have been compiled so far."""
        return sum(decoding.n_compilations for decoding in self.decodings.values())

    @AutoRegressiveDecoder.wraps(default_rtype="logits")
    def predict(self, inputs: list[np.ndarray], output_ids: np.ndarray, states: Any) -> np.ndarray:
        """Compute the logits of the next token with the whole model, without a KV cache.

        `beam_search` and `random_sample` call it.

        Args:
            inputs: the inputs of the model for the prompt (rows, …): tokens, segments, positions,
                …; for T5 the tokens that the encoder reads, …
            output_ids: (rows, n), the output so far.
            states: not used.

        Returns:
            (rows, vocab_size), logits, or log-probabilities if the model gives probabilities.
        """
        self.prompts.check_ids([int(np.min(inputs[0])), int(np.max(inputs[0]))], "inputs[0]")
        if self.prompts.encoder:
            inputs = [inputs[0], output_ids, *inputs[1:]]
        else:
            inputs = self.prompts.append_output(inputs, output_ids)
        outputs = self.last_token(self.transformer.model).predict(
            inputs if len(inputs) > 1 else inputs[0]
        )
        if head_activation(self.prompts.decoder) == "softmax":
            with np.errstate(divide="ignore"):
                return np.log(outputs)
        return outputs

    @with_options(Options)
    def generate(self, prompts: Any, options: Options) -> Any:
        """Generate an output for every prompt.

        Args:
            prompts: a batch of prompts of any lengths: texts, pairs of texts, chats (lists of
                messages, each a dict with `role` and `content`), lists of token ids, or pairs
                (token ids, segment ids). With `vote`, a list of groups of prompts. A single text or
                chat stands for a batch of one, and its result is returned alone.
            maxlen: largest number of tokens to generate, the end token included; by default that of
                the generator.
            minlen: smallest number of tokens to generate, the end token included; by default that
                of the generator.
            topk: width of the beam search, by default 1, which is greedy search; with `sample`, the
                number of most probable tokens to sample from (all by default).
            sample: sample tokens by their probabilities. By default the folder decides, unless an
                option of beam search, such as `topk`, is given: then nothing is sampled.
            topp: sample from the smallest set of most probable tokens that together reach this
                probability (Holtzman et al., 2019, https://arxiv.org/abs/1904.09751).
            min_p: sample from the tokens that have at least this fraction of the largest
                probability (Nguyen et al., 2024, https://arxiv.org/abs/2407.01082).
            temperature: divisor of the log-probabilities; 1 unless the folder sets it.
            seed: seed of the sampling; the same seed gives the same outputs.
            n: return a list of this many results for each prompt, best first: samples, or beams, of
                which there are at most `topk`.
            groups: number of groups that the beams are divided into, 1 by default (diverse beam
                search, Vijayakumar et al., 2018, https://arxiv.org/abs/1610.02424).
            diversity: how much the rank of a token is lowered for each time that an earlier group
                has chosen it in the same step; 0 by default.
            length_penalty: the score of a beam is divided by its number of tokens to this power; 0,
                the default unless the folder sets it, prefers short outputs.
            repetition_penalty: factor of the log-probabilities of tokens that the output already
                holds (after Keskar et al., 2019, https://arxiv.org/abs/1909.05858): above 1 makes
                them less likely, 1 changes nothing.
            no_repeat_ngram: size of the n-grams that may not occur twice in an output; 0 allows
                all.
            allowed: takes the output so far, a list of ids, and returns the ids that may follow; or
                a list of such functions, one for each prompt.
            process_probs: called in every step for every prompt as (probabilities (k, vocab_size),
                output ids (k, n so far), index of the prompt), returns the probabilities to use
                instead, which need not add up to 1.
            vote: generate one output for all prompts of a group together. In every step their
                distributions are combined by Σp² / (Σp + 1), or by a function, written with
                `keras.ops`, that takes and returns what `decoding.combined_by_vote` does. Prompts
                whose first token is an end token take no part.
            conditions: for each additional input of the model, an array with one row for each
                prompt (for each group, with `vote`).
            scores: also return the scores: the sums of the log-probabilities of the tokens, the end
                token included, after temperature and penalties.
            stream: return an iterator over pieces of the text as they are generated, which join to
                the text; for one prompt, without beam search.
            chat_arguments: further arguments of the tokenizer's `apply_chat_template`, such as
                `tools`. By default a new answer begins, or the last message is continued if it is
                the assistant's.
            batch_size: number of prompts that are decoded together.
            verbose: 1 shows a progress bar.

        Returns:
            Texts, or lists of token ids if there is no tokenizer, in the order of the prompts,
            without prompt, start and end token. With `n` a list for each prompt; with `scores` a
            pair (results, scores).

        Raises:
            ValueError: a prompt is empty or too long, an argument is invalid, or the model gives
                NaN. The message names the prompt.
            TypeError: the generator has a `predict` of its own, which is not used here.
        """
        if type(self).predict is not Generator.predict:
            raise TypeError(
                f"{type(self).__name__} has a predict() of its own, which generate() does not "
                "call: use beam_search() or random_sample(), or pass process_probs="
            )
        lengths = {"maxlen": self.maxlen, "minlen": self.minlen}
        options = self.defaults.fill_in(options, **lengths).validated()
        is_single = is_string(prompts) or is_chat(prompts)
        batch = self.check_prompts([prompts] if is_single else prompts, options)
        count = len(batch)
        call = GenerationCall(
            self.decoding_for(options),
            self.prompts,
            batch,
            self.check_conditions(options.conditions, count),
            options,
            Hooks(options.process_probs, options.allowed, count),
            np.random.SeedSequence(options.seed).spawn(count) if options.sample else [],
        )
        if options.stream:
            return self.stream_output(call)
        results = call.results(options.batch_size, options.verbose)
        n = options.n
        outputs = [[self.decode_output(ids) for ids, _ in found[: n or 1]] for found in results]
        scores = [[score for _, score in found[: n or 1]] for found in results]
        if n is None:
            outputs, scores = [x[0] for x in outputs], [x[0] for x in scores]
        if is_single:
            outputs, scores = outputs[0], scores[0]
        return (outputs, scores) if options.scores else outputs

    def decoding_for(self, options: Options) -> Decoding:
        """Return the compiled functions for these options."""
        vote = options.vote
        combine = combined_by_vote if vote is True else vote or None
        settings = options.settings(self.end_ids, self.transformer.vocab_size)
        key = settings, combine is None
        with TRACING:
            decoding = self.decodings.get(key)
            if decoding is None or decoding.vote is not combine:
                decoding = self.decodings[key] = Decoding(self.transformer, settings, combine)
        return decoding

    def check_prompts(self, prompts: Any, options: Options) -> list[list[Prompt]]:
        """Check the prompts and return them in groups that vote, by default each in its own."""
        if isinstance(prompts, Mapping | Set):
            raise ValueError(
                f"generate() got a {type(prompts).__name__}: give a text, or a list of prompts"
            )
        groups, vote = [], options.vote
        for i, group in enumerate(prompts if vote else [[given] for given in prompts]):
            if is_string(group) or not len(group):
                raise ValueError(
                    f"voting group {i} is {group!r:.100}: with vote, give a list of prompts, at "
                    "least one"
                )
            groups.append([])
            for j, given in enumerate(group):
                name = f"prompt {j} of group {i}" if vote else f"prompt {i}"
                prompt = self.prompts.make_prompt(given, name, options.chat_arguments or {})
                self.prompts.check_length(prompt, options.maxlen, name)
                groups[-1].append(prompt)
        return groups

    def check_conditions(self, conditions: Sequence | None, count: int) -> list[np.ndarray]:
        """Check the values of the additional inputs of the model and return them as arrays."""
        arrays = [np.asarray(x) for x in conditions or ()]
        names = self.prompts.additional_inputs()
        if len(arrays) != len(names) or any(len(x) != count for x in arrays):
            raise ValueError(
                f"conditions has arrays of the shapes {[x.shape for x in arrays]}: give one array "
                f"with {count} rows for each additional input of the model, which are {names}"
            )
        return arrays

    def stream_output(self, call: GenerationCall) -> Iterator[Any]:
        """Yield pieces of text as they are generated, or ids if there is no tokenizer."""
        count, n = len(call.groups), call.decoding.settings.n
        if count != 1 or n != 1 or call.options.scores:
            raise ValueError(
                f"stream=True got {count} prompts and {n} hypotheses: give one prompt, and neither "
                "topk, n nor scores"
            )
        ids = call.tokens()
        if self.tokenizer is None:
            return ids
        settled, context = (getattr(self.tokenizer, x, None) for x in ("settled", "n_context"))
        return stream_text(ids, self.decode_output, settled, context)

    def decode_output(self, ids: list[int]) -> Any:
        """Decode an output as it is returned, without ids that the tokenizer has no token for."""
        if self.tokenizer is None:
            return ids
        unknown = [i for i in ids if not has_token(self.tokenizer, i)]
        if unknown:
            warnings.warn(
                f"the model wrote {unknown[0]}, which is no token of the tokenizer and is left out "
                f"of the text: give the tokenizer that belongs to the model, which has "
                f"{self.transformer.vocab_size} tokens",
                stacklevel=3,
            )
        return self.tokenizer.decode([i for i in ids if i not in unknown])


def transformer_of(model: Any) -> Transformer:
    """Return the `Transformer` of a Keras model.

    Raises:
        TypeError: the model cannot generate text.
    """
    transformer = model if isinstance(model, Transformer) else getattr(model, "transformer", None)
    encoder, decoder = getattr(transformer, "encoder_and_decoder", (None, None))
    if not isinstance(decoder, LM_Mask | UniLM_Mask):
        kind = type(model if transformer is None else transformer).__name__
        raise TypeError(
            f"Generator got a {kind}: give what build_transformer_model returned for "
            "application='lm' or 'unilm', a decoder, or the whole T5. A model built on top of that "
            "shares its weights with it; instead of one loaded from a .keras file, build the model "
            "anew and load its weights"
        )
    if "Context" in input_kinds(decoder) and not encoder:
        raise TypeError(
            "Generator got the decoder of T5 alone: give the whole, which "
            "build_transformer_model(..., model='t5', return_keras_model=False) returns"
        )
    if decoder.attention_caches:
        raise TypeError("Generator cannot use a model that was built with attention_caches")
    if getattr(decoder, "masked_positions", False):
        raise TypeError(
            "Generator cannot use a model with masked_positions, which gives no logits elsewhere: "
            "build another one without it, with layers=transformer.layers of this one, so that "
            "they share their weights"
        )
    head_activation(decoder)
    return transformer


def token_id(token: str, tokenizer: Any) -> int | None:
    """Return the id of a token, None if the tokenizer does not know it."""
    try:
        i = tokenizer.token_to_id(token)
    except KeyError:
        return None
    return None if i == getattr(tokenizer, "_token_unk_id", None) else i


def has_token(tokenizer: Any, i: int) -> bool:
    """Tell whether a tokenizer has a token with an id."""
    if not hasattr(tokenizer, "id_to_token"):  # a tokenizer of the user's own
        return True
    try:
        return bool(tokenizer.id_to_token(i))
    except KeyError:
        return False


def end_token_ids(tokens: Any, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """Return the ids of end tokens, given as ids or tokens, one or several.

    Raises:
        ValueError: a token is unknown, or there is none.
    """
    if tokens is None:
        tokens = getattr(tokenizer, "_token_end_id", None)
    listed = [tokens] if is_string(tokens) or not isinstance(tokens, Sequence) else list(tokens)
    ids = []
    for token in listed:
        i = token_id(token, tokenizer) if tokenizer and is_string(token) else token
        if not isinstance(i, Integral) or not 0 <= i < vocab_size:
            raise ValueError(
                f"the end token {token!r} is unknown: give end_id= as a token of the tokenizer, or "
                f"as an id below {vocab_size}"
            )
        ids.append(int(i))
    if not ids:
        raise ValueError("end_id is empty: give at least one token that ends an output")
    return tuple(ids)
