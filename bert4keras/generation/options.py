"""How to write: the options of `Generator.generate`, checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from bert4keras.backend import ops
from bert4keras.data.arrays import bucket_length
from bert4keras.generation.selection import Settings


@dataclass(frozen=True)
class Options:
    """The options that concern the choice of tokens; what they mean says `Generator.generate`."""

    maxlen: int
    minlen: int
    topk: int | None
    sample: bool
    topp: float | None
    min_p: float | None
    temperature: float
    seed: int | None
    n: int | None
    groups: int
    diversity: float
    length_penalty: float
    repetition_penalty: float
    no_repeat_ngram: int

    def __post_init__(self) -> None:
        for name in ("maxlen", "topk", "n", "groups"):
            self.require_count(name, 1, optional=name in ("topk", "n"))
        self.require_count("minlen", 0)
        self.require_count("no_repeat_ngram", 0)
        if self.minlen > self.maxlen:
            raise ValueError(f"minlen={self.minlen} is larger than maxlen={self.maxlen}")
        for name in ("topp", "min_p"):
            self.require_number(name, 0, 1, optional=True)
        self.require("topp", self.topp != 0, "a number above 0 and at most 1")
        for name in ("temperature", "diversity", "length_penalty", "repetition_penalty"):
            self.require_number(name, 0)
        for name in ("temperature", "repetition_penalty"):
            self.require(name, getattr(self, name) > 0, "a number above 0")
        if self.sample:
            self.check_sampling()
        else:
            self.check_beams()

    def check_sampling(self) -> None:
        """Refuse options that only mean something without `sample`."""
        for name, default in (("groups", 1), ("diversity", 0), ("length_penalty", 0)):
            if getattr(self, name) != default:
                raise ValueError(f"{name} is for beam search: leave out {name}, or sample=True")

    def check_beams(self) -> None:
        """Refuse options that only mean something with `sample`, and numbers that do not fit."""
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
        """Refuse what is no whole number from `least` on."""
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
        """Refuse what is no finite number from `least` to `most`."""
        value = getattr(self, name)
        real = isinstance(value, Real) and not isinstance(value, bool)
        fits = real and math.isfinite(value) and least <= value <= most
        upper = "" if most == math.inf else f" and at most {most}"
        self.require(
            name,
            fits or (optional and value is None),
            f"a finite number of at least {least}{upper}",
        )

    def require(self, name: str, right: bool, wanted: str) -> None:
        """Refuse a value that is not as it should be."""
        if not right:
            raise ValueError(f"{name}={getattr(self, name)!r}: give {wanted}")

    def settings(self, ends: Sequence[int], vocab_size: int) -> Settings:
        """What the compiled code depends on."""
        if (self.topk or 1) > vocab_size:
            raise ValueError(f"topk={self.topk} is more than the {vocab_size} tokens of the model")
        return Settings(
            n=(self.n or 1) if self.sample else (self.topk or 1),
            sample=self.sample,
            beam=not self.sample and (self.topk or 1) > 1,
            groups=self.groups,
            topk=self.topk if self.sample else None,
            topp=self.topp is not None,
            min_p=self.min_p is not None,
            temperature=self.temperature != 1,
            repetition=self.repetition_penalty != 1,
            ngram=self.no_repeat_ngram,
            ends=tuple(ends),
            room=bucket_length(self.maxlen),
        )

    def numbers(self) -> dict[str, Any]:
        """The arguments of the compiled code."""
        numbers = {
            "maxlen": self.maxlen,
            "temperature": self.temperature,
            "topp": self.topp or 0,
            "min_p": self.min_p or 0,
            "diversity": self.diversity,
            "length_penalty": self.length_penalty,
            "repetition_penalty": self.repetition_penalty,
        }
        counts = {"minlen": self.minlen, "results": self.n or 1}
        tensors = {k: ops.convert_to_tensor(v, "float32") for k, v in numbers.items()}
        return tensors | {k: ops.convert_to_tensor(v, "int32") for k, v in counts.items()}
