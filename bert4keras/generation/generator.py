"""`Generator`: what scripts call to write text."""

import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import numpy as np

from bert4keras.backend.engines import TRACING
from bert4keras.generation.autoregressive import AutoRegressiveDecoder
from bert4keras.generation.call import Call
from bert4keras.generation.decoding import Decoding, combined_by_vote, head_of
from bert4keras.generation.defaults import defaults_of
from bert4keras.generation.hooks import Hooks
from bert4keras.generation.options import Options, taking
from bert4keras.generation.prompts import Prompt, Prompts, input_kinds
from bert4keras.generation.streaming import pieces
from bert4keras.models.masks import LM_Mask, UniLM_Mask
from bert4keras.models.transformer import Transformer
from bert4keras.text.chat import is_chat
from bert4keras.text.strings import is_string


class Generator(AutoRegressiveDecoder):
    """Writes text with a language model, a UniLM or T5.

    Prompts are run through the model once, then one token at a time against a cache of keys and
    values, in batches, on the device. `beam_search` and `random_sample` of `AutoRegressiveDecoder`
    work too, with `predict` provided: they take the inputs of the model for one sample.

    What is left out, here and in `generate`, is what `generation_config.json` says in the folder
    that the model was built from, or else in that of the tokenizer.

    Args:
        model: a model of `build_transformer_model` with application='lm' or 'unilm', or T5; or its
            `Transformer`.
        tokenizer: encodes prompts and decodes results; without it both are token ids.
        start_id: token that the output begins with: of T5 what the folder says, otherwise 0; None
            for others. It is not part of the result.
        end_id: the token, or several, that end an output, as ids or as tokens of the tokenizer; by
            default those of the folder, without one those of `config.json` and the tokenizer.
        maxlen: how many tokens are written at most, the end token included; 64 if no folder says.
        minlen: how many tokens are written at least, the end token included; 1 if no folder says.
        segment_id: segment of the output, for models with segments: by default 1 for UniLM,
            otherwise that of the prompt's last token.

    Raises:
        TypeError: `model` is nothing that generates.
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
        self.end_ids = token_ids(end_id, tokenizer, self.transformer.vocab_size)
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
        """How many functions have been compiled so far."""
        return sum(decoding.n_compilations for decoding in self.decodings.values())

    @AutoRegressiveDecoder.wraps(default_rtype="logits")
    def predict(self, inputs: list[np.ndarray], output_ids: np.ndarray, states: Any) -> np.ndarray:
        """Scores of the next token by the whole model, for `beam_search` and `random_sample`.

        Args:
            inputs: the inputs of the model (rows, …), as far as the prompt has them: tokens,
                segments, positions, …; of T5 the tokens that the encoder reads, …
            output_ids: (rows, n), the output so far.
            states: not used.
        """
        self.prompts.check_ids([int(np.min(inputs[0])), int(np.max(inputs[0]))], "inputs[0]")
        if self.prompts.encoder:
            inputs = [inputs[0], output_ids, *inputs[1:]]
        else:
            inputs = self.prompts.continued(inputs, output_ids)
        scores = self.last_token(self.transformer.model).predict(
            inputs if len(inputs) > 1 else inputs[0]
        )
        if head_of(self.prompts.decoder) == "softmax":
            with np.errstate(divide="ignore"):
                return np.log(scores)
        return scores

    @taking(Options)
    def generate(self, prompts: Any, options: Options) -> Any:
        """Write an output for every prompt.

        Args:
            prompts: a batch of prompts of any lengths: texts, pairs of texts, chats (lists of
                messages, each a dict with `role` and `content`), lists of token ids, or pairs
                (token ids, segment ids). With `vote`, a list of groups of prompts. A single text or
                chat stands for a batch of one, and its result is returned alone.
            maxlen: see the class; that of the generator by default.
            minlen: likewise.
            topk: width of the beam search, 1 by default, which is greedy; with `sample`, draw from
                so many best tokens only (all by default).
            sample: draw tokens by their probabilities. By default the folder decides, and an option
                of beam search, `topk` for one, decides against it.
            topp: draw from the most probable tokens, as few as reach this probability together
                (Holtzman et al., 2019, https://arxiv.org/abs/1904.09751).
            min_p: draw from tokens that have at least this fraction of the largest probability
                (Nguyen et al., 2024, https://arxiv.org/abs/2407.01082).
            temperature: what scores are divided by, 1 if no folder says.
            seed: of the drawing; the same seed draws the same.
            n: return a list of so many results for each prompt, best first: samples, or at most
                `topk` of the beams.
            groups: divide the beams into so many groups, 1 by default (diverse beam search,
                Vijayakumar et al., 2018, https://arxiv.org/abs/1610.02424).
            diversity: what a token loses in rank for each time an earlier group has chosen it in
                the same step, 0 by default.
            length_penalty: beams are ranked by their total over (number of tokens) to this power;
                0, the default if no folder says, prefers short outputs.
            repetition_penalty: above 1, logarithms of the probabilities of tokens that the output
                has are multiplied by it (after Keskar et al., 2019,
                https://arxiv.org/abs/1909.05858).
            no_repeat_ngram: no n-gram of this size comes twice in an output; 0 allows all.
            allowed: takes the output so far, a list of ids, and returns the ids that may follow; or
                a list of such functions, one for each prompt.
            process_probs: called in every step for every prompt as (probabilities (k, vocab_size),
                output ids (k, n so far), index of the prompt), returns the probabilities to use
                instead, which need not add up to 1.
            vote: the prompts of a group write one output together. Their distributions are
                combined in every step by Σp² / (Σp + 1), or by a function in `keras.ops` of the
                probabilities, see `decoding.combined_by_vote`. Prompts whose first token is an end
                token take no part.
            conditions: for each further input of the model, an array with one row for each prompt
                (for each group, with `vote`).
            scores: also return the scores: the sum of the logarithms of the probabilities of the
                tokens, the end token included, under temperature and penalties.
            stream: return an iterator over the pieces of the text as they are written, which join
                to the text; one prompt only, and no beams.
            chat_arguments: further arguments of the tokenizer's `apply_chat_template`, such as
                `tools`. An answer is begun; the last message, if it is the assistant's, goes on.
            batch_size: how many prompts are decoded together.
            verbose: 1 shows a progress bar.

        Returns:
            Texts, or lists of token ids if there is no tokenizer, in the order of the prompts,
            without prompt, start and end token. With `n` a list for each prompt; with `scores` a
            pair (results, scores).

        Raises:
            ValueError: a prompt is empty or too long, an argument makes no sense, or the model
                gives NaN. The message names the prompt.
        """
        if type(self).predict is not Generator.predict:
            raise TypeError(
                f"{type(self).__name__} has a predict() of its own, which generate() does not "
                "call: use beam_search() or random_sample(), or pass process_probs="
            )
        lengths = {"maxlen": self.maxlen, "minlen": self.minlen}
        options = self.defaults.completed(options, **lengths).checked()
        alone = is_string(prompts) or is_chat(prompts)
        batch = self.checked([prompts] if alone else prompts, options)
        count = len(batch)
        call = Call(
            self.decoding(options),
            self.prompts,
            batch,
            self.checked_conditions(options.conditions, count),
            options,
            Hooks(options.process_probs, options.allowed, count),
            np.random.SeedSequence(options.seed).spawn(count) if options.sample else [],
        )
        if options.stream:
            return self.streamed(call)
        results = call.results(options.batch_size, options.verbose)
        n, scores = options.n, options.scores
        written = [[self.decoded(ids) for ids, _ in found[: n or 1]] for found in results]
        totals = [[total for _, total in found[: n or 1]] for found in results]
        if n is None:
            written, totals = [x[0] for x in written], [x[0] for x in totals]
        if alone:
            written, totals = written[0], totals[0]
        return (written, totals) if scores else written

    def decoding(self, options: Options) -> Decoding:
        """The compiled functions for these options."""
        vote = options.vote
        rule = combined_by_vote if vote is True else vote or None
        settings = options.settings(self.end_ids, self.transformer.vocab_size)
        key = settings, rule is None
        with TRACING:
            decoding = self.decodings.get(key)
            if decoding is None or decoding.vote is not rule:
                decoding = self.decodings[key] = Decoding(self.transformer, settings, rule)
        return decoding

    def checked(self, prompts: Any, options: Options) -> list[list[Prompt]]:
        """Prompts in groups that vote, by default each alone."""
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
                prompt = self.prompts.prompt(given, name, options.chat_arguments or {})
                self.prompts.check_length(prompt, options.maxlen, name)
                groups[-1].append(prompt)
        return groups

    def checked_conditions(self, conditions: Sequence | None, count: int) -> list[np.ndarray]:
        """The values of further inputs as arrays."""
        arrays = [np.asarray(x) for x in conditions or ()]
        names = self.prompts.further_inputs()
        if len(arrays) != len(names) or any(len(x) != count for x in arrays):
            raise ValueError(
                f"conditions has arrays of the shapes {[x.shape for x in arrays]}: give one array "
                f"with {count} rows for each further input of the model, which are {names}"
            )
        return arrays

    def streamed(self, call: Call) -> Iterator[Any]:
        """Pieces of text as they are written, or ids if there is no tokenizer."""
        count, n = len(call.groups), call.decoding.settings.n
        if count != 1 or n != 1 or call.options.scores:
            raise ValueError(
                f"stream=True got {count} prompts and {n} hypotheses: give one prompt, and neither "
                "topk, n nor scores"
            )
        ids = call.tokens()
        if self.tokenizer is None:
            return ids
        known = (getattr(self.tokenizer, name, None) for name in ("settled", "n_context"))
        return pieces(ids, self.decoded, *known)

    def decoded(self, ids: list[int]) -> Any:
        """A result as it is returned; ids that the tokenizer has no token for are left out."""
        if self.tokenizer is None:
            return ids
        unknown = [i for i in ids if not has_token(self.tokenizer, i)]
        if unknown:
            warnings.warn(
                f"the model wrote {unknown[0]}, which is no token of the tokenizer and is left out "
                f"of the text: the model has {self.transformer.vocab_size} tokens; give the "
                "tokenizer that belongs to it",
                stacklevel=3,
            )
        return self.tokenizer.decode([i for i in ids if i not in unknown])


def transformer_of(model: Any) -> Transformer:
    """The language model behind a Keras model."""
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
            "Generator cannot use a model with masked_positions, which has no scores elsewhere: "
            "build another one without it, with layers=transformer.layers of this one, so that "
            "they share their weights"
        )
    head_of(decoder)
    return transformer


def known_id(token: str, tokenizer: Any) -> int | None:
    """The id of a token, None if the tokenizer does not know it."""
    try:
        i = tokenizer.token_to_id(token)
    except KeyError:
        return None
    return None if i == getattr(tokenizer, "_token_unk_id", None) else i


def has_token(tokenizer: Any, i: int) -> bool:
    """Tell whether a tokenizer has a token of an id."""
    if not hasattr(tokenizer, "id_to_token"):  # one of the user's
        return True
    try:
        return bool(tokenizer.id_to_token(i))
    except KeyError:
        return False


def token_ids(tokens: Any, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """The ids of end tokens, given as ids or tokens, one or several."""
    if tokens is None:
        tokens = getattr(tokenizer, "_token_end_id", None)
    listed = [tokens] if is_string(tokens) or not isinstance(tokens, Sequence) else list(tokens)
    ids = []
    for token in listed:
        i = known_id(token, tokenizer) if tokenizer and is_string(token) else token
        if not isinstance(i, Integral) or not 0 <= i < vocab_size:
            raise ValueError(
                f"the end token {token!r} is unknown: give end_id= as a token of the tokenizer, or "
                f"as an id below {vocab_size}"
            )
        ids.append(int(i))
    if not ids:
        raise ValueError("end_id is empty: give at least one token that ends an output")
    return tuple(ids)
