"""The options of `Generator.generate`: their declaration, checks and conversion to tensors."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Concatenate, ParamSpec

from keras import ops

from bert4keras.data.arrays import bucket_length
from bert4keras.generation.hooks import Allowed
from bert4keras.generation.selection import Settings


def from_folder(fallback: Any) -> Any:
    """Declare an option whose default comes from the folder of the model, or else is `fallback`."""
    return field(default=None, metadata={"fallback": fallback})


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """The options of `Generator.generate`, which documents them, in the order of its signature.

    None stands for an option that was left out; `Defaults.fill_in` replaces it.
    """

    maxlen: int | None = None
    minlen: int | None = None
    topk: int | None = from_folder(None)
    sample: bool | None = from_folder(False)
    topp: float | None = from_folder(None)
    min_p: float | None = from_folder(None)
    temperature: float | None = from_folder(1.0)
    seed: int | None = None
    n: int | None = None
    groups: int | None = from_folder(1)
    diversity: float | None = from_folder(0.0)
    length_penalty: float | None = from_folder(0.0)
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    allowed: Allowed | Sequence[Allowed] | None = None
    process_probs: Callable | None = None
    vote: bool | Callable = False
    conditions: Sequence | None = None
    scores: bool = False
    stream: bool = False
    chat_arguments: Mapping[str, Any] | None = None
    batch_size: int = 32
    verbose: int = 0

    def validated(self) -> "Options":
        """Check the options, whose defaults must have been filled in, and return them.

        Raises:
            ValueError: an option is invalid, or does not go with another one.
        """
        for name in ("maxlen", "topk", "n", "groups"):
            self.require_count(name, 1, optional=name in ("topk", "n"))
        self.require_count("minlen", 0)
        self.require_count("no_repeat_ngram", 0)
        if self.minlen > self.maxlen:
            raise ValueError(f"minlen={self.minlen} is larger than maxlen={self.maxlen}")
        self.check_ranges()
        if self.sample:
            self.check_sampling()
        else:
            self.check_beams()
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: give at least 1")
        return self

    def check_ranges(self) -> None:
        """Raise an error for numbers out of their range."""
        for name in ("topp", "min_p"):
            self.require_number(name, 0, 1, optional=True)
        self.require("topp", self.topp != 0, "a number above 0 and at most 1")
        for name in ("temperature", "diversity", "length_penalty", "repetition_penalty"):
            self.require_number(name, 0)
        for name in ("temperature", "repetition_penalty"):
            self.require(name, getattr(self, name) > 0, "a number above 0")

    def check_sampling(self) -> None:
        """Raise an error for options that are only valid without `sample`."""
        for name, default in (("groups", 1), ("diversity", 0), ("length_penalty", 0)):
            if getattr(self, name) != default:
                raise ValueError(f"{name} is for beam search: leave out {name}, or sample=True")

    def check_beams(self) -> None:
        """Raise an error for options that are only valid with `sample`, or for invalid widths."""
        for name in ("topp", "min_p", "seed"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} belongs to sampling: pass sample=True, or leave out {name}"
                )
        width = self.topk or 1
        if (self.n or 1) > width:
            raise ValueError(
                f"n={self.n} results are more than the {width} of topk: raise topk, or pass "
                "sample=True"
            )
        if width % self.groups:
            raise ValueError(f"topk={width} beams do not divide into groups={self.groups}")
        if self.diversity and self.groups == 1:
            raise ValueError("diversity is between groups of beams: pass groups= of at least 2")

    def require_count(self, name: str, least: int, optional: bool = False) -> None:
        """Raise an error unless an option is a whole number of at least `least`."""
        value = getattr(self, name)
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        self.require(
            name,
            (whole and value >= least) or (optional and value is None),
            f"a whole number of at least {least}",
        )

    def require_number(
        self, name: str, least: float, most: float = math.inf, optional: bool = False
    ) -> None:
        """Raise an error unless an option is a finite number from `least` to `most`."""
        value = getattr(self, name)
        real = isinstance(value, Real) and not isinstance(value, bool)
        fits = real and math.isfinite(value) and least <= value <= most
        upper = "" if most == math.inf else f" and at most {most}"
        self.require(
            name,
            fits or (optional and value is None),
            f"a finite number of at least {least}{upper}",
        )

    def require(self, name: str, valid: bool, wanted: str) -> None:
        """Raise an error that says what was wanted, unless the value of an option is valid."""
        if not valid:
            raise ValueError(f"{name}={getattr(self, name)!r}: give {wanted}")

    def settings(self, end_ids: Sequence[int], vocab_size: int) -> Settings:
        """Return the settings that functions are compiled for.

        Raises:
            ValueError: `topk` is larger than the vocabulary.
        """
        if (self.topk or 1) > vocab_size:
            raise ValueError(f"topk={self.topk} is more than the {vocab_size} tokens of the model")
        return Settings(
            n=(self.n or 1) if self.sample else (self.topk or 1),
            sample=self.sample,
            beam_search=not self.sample and (self.topk or 1) > 1,
            groups=self.groups,
            topk=self.topk if self.sample else None,
            use_topp=self.topp is not None,
            use_min_p=self.min_p is not None,
            use_temperature=self.temperature != 1,
            use_repetition_penalty=self.repetition_penalty != 1,
            no_repeat_ngram=self.no_repeat_ngram,
            end_ids=tuple(end_ids),
            output_capacity=bucket_length(self.maxlen),
        )

    def sampling_params(self) -> dict[str, Any]:
        """Return the numbers that the compiled functions take as arguments, as scalar tensors."""
        floats = {
            "maxlen": self.maxlen,
            "temperature": self.temperature,
            "topp": self.topp or 0,
            "min_p": self.min_p or 0,
            "diversity": self.diversity,
            "length_penalty": self.length_penalty,
            "repetition_penalty": self.repetition_penalty,
        }
        integers = {"minlen": self.minlen, "results": self.n or 1}
        tensors = {k: ops.convert_to_tensor(v, "float32") for k, v in floats.items()}
        return tensors | {k: ops.convert_to_tensor(v, "int32") for k, v in integers.items()}


FALLBACKS: Mapping[str, Any] = {
    option.name: option.metadata["fallback"]
    for option in fields(Options)
    if "fallback" in option.metadata
}
"""The options that the folder of a model may set, with their values if it does not."""

P = ParamSpec("P")
Method = Callable[[Any, Any, Options], Any]


def with_options(
    options: Callable[P, Options],
) -> Callable[[Method], Callable[Concatenate[Any, Any, P], Any]]:
    """Decorate a method of (self, prompts, options) so that it takes the options by name.

    The signature that `help` shows names each of them.

    Args:
        options: the class `Options`.
    """
    option_parameters = list(inspect.signature(options).parameters.values())
    names = {parameter.name for parameter in option_parameters}

    def decorate(method: Method) -> Callable[Concatenate[Any, Any, P], Any]:
        @functools.wraps(method)
        def wrapped(self: Any, prompts: Any, **given: Any) -> Any:
            unknown = sorted(given.keys() - names)
            if unknown:
                raise TypeError(
                    f"{method.__qualname__}() got an unexpected keyword argument {unknown[0]!r}"
                )
            return method(self, prompts, options(**given))

        own = inspect.signature(method)
        parameters = [*list(own.parameters.values())[:2], *option_parameters]
        wrapped.__signature__ = own.replace(parameters=parameters)
        return wrapped

    return decorate
