"""How the next token is drawn: the user's choices, and the draw itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from weft.errors import ConfigError
from weft.reading import shown

COLDEST = 1e-4
"""Colder than this, logits over temperature leave the range of float32."""
_MOST = 1 << 31
_WHOLE = ("top_k", "seed", "max_new_tokens")
_REAL = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_HF_TOP_K = 50
"""Of a config that samples and does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a text is continued; the names and neutral values are those of Hugging Face's GenerationConfig.

    Raises ConfigError for a value out of range.

    Args:
        temperature: 0 takes the most likely token.
        top_k: Draw among the k most likely tokens; 0 is all of them.
        top_p: Draw among the most likely tokens that together have this probability.
        min_p: Draw among tokens at least this likely, relative to the most likely one.
        repetition_penalty: Above 1 makes tokens that occurred before, prompt included, less likely.
        presence_penalty: Taken from the logit of every token that the answer holds already; -2 to 2.
        frequency_penalty: The same, times how often it holds the token.
        logit_bias: Pairs of token ids and what is added to their logits; -100 all but forbids one. Kept as a
            tuple.
        seed: Prompt i of a list is drawn with seed + i.
        max_new_tokens: Most tokens of an answer.
        stop: Strings that end the text and are not part of it; one string, or several. Kept as a tuple.

    Example:
        >>> weft.Sampling(temperature=0.7, top_p=0.9, max_new_tokens=32).top_k
        0
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Sequence[tuple[int, float]] = ()
    seed: int = 0
    max_new_tokens: int = 64
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raise ConfigError for a value out of range."""
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        listed = isinstance(stop, Sequence) and all(isinstance(text, str) and text for text in stop)
        _check("stop", stop, listed, "strings that are not empty")
        object.__setattr__(self, "stop", tuple(stop))
        for names, kind, want in ((_WHOLE, int, "a whole number"), (_REAL, int | float, "a number")):
            for name in names:
                value = getattr(self, name)
                if not isinstance(value, kind):
                    value = value.item() if hasattr(value, "item") else value  # of numpy or torch
                    _check(name, value, isinstance(value, kind), want)
                    object.__setattr__(self, name, value)
        heat, penalty = self.temperature, self.repetition_penalty
        _check(
            "temperature", heat, heat == 0 or COLDEST <= heat < math.inf, f"0 (greedy), or {COLDEST} or more"
        )
        _check("top_k", self.top_k, 0 <= self.top_k < _MOST, "0 (off) or more, below 2**31")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0, up to 1 (off)")
        _check("min_p", self.min_p, 0 <= self.min_p <= 1, "from 0 (off) to 1")
        _check("repetition_penalty", penalty, 0 < penalty < math.inf, "above 0; 1 is off")
        _check("presence_penalty", self.presence_penalty, -2 <= self.presence_penalty <= 2, "from -2 to 2")
        _check("frequency_penalty", self.frequency_penalty, -2 <= self.frequency_penalty <= 2, "from -2 to 2")
        pairs = [] if isinstance(self.logit_bias, Mapping) else list(map(tuple, self.logit_bias))
        known = len(pairs) == len(self.logit_bias) and all(
            len(pair) == 2 and isinstance(pair[0], int) for pair in pairs
        )
        want = "pairs of a token id and a bias (of a dict, its items())"
        _check("logit_bias", self.logit_bias, known, want)
        object.__setattr__(self, "logit_bias", tuple(pairs))
        near = all(-100 <= bias <= 100 for _, bias in self.logit_bias)
        _check("logit_bias", self.logit_bias, near, "biases from -100 to 100")
        _check("seed", self.seed, 0 <= self.seed < 1 << 63, "from 0 to 2**63 - 1")
        _check(
            "max_new_tokens", self.max_new_tokens, 1 <= self.max_new_tokens < _MOST, "1 or more, below 2**31"
        )


def own_sampling(config: GenerationConfig | None, given: Mapping[str, Any] = _NOTHING) -> dict[str, Any]:
    """What a model's generation_config says of drawing, as fields of `Sampling`; nothing where it is greedy.

    As Hugging Face's `generate`: what a config that samples leaves open is 50 for `top_k` and neutral for the
    rest. Departs from it in: `max_new_tokens` stays Weft's own. What is `given` is left out, and not read: a
    value of the config that is wrong can be replaced. Raises ConfigError for a value out of range.
    """
    if config is None:
        return {}
    own: dict[str, Any] = {"repetition_penalty": config.repetition_penalty}
    if config.do_sample:
        own |= {"temperature": 1.0 if config.temperature is None else config.temperature}
        own |= {"top_k": _HF_TOP_K if config.top_k is None else config.top_k}
        own |= {"top_p": config.top_p, "min_p": config.min_p}
    if given.get("temperature", own.get("temperature")) == 0:
        own = {"repetition_penalty": config.repetition_penalty}
    own = {name: value for name, value in own.items() if value is not None and name not in given}
    try:
        for name, value in own.items():
            _check(name, value, isinstance(value, int | float), "a number")
        Sampling(**own)
    except ConfigError as error:
        raise ConfigError(f"the model's generation_config: {error}; another can be given") from error
    return {name: value for name, value in own.items() if value != getattr(Sampling(), name)}


def _check(name: str, value: object, good: bool, want: str) -> None:
    if not good:
        raise ConfigError(f"{name} should be {want}, got {shown(value)}")


def processors(sampling: Sampling) -> LogitsProcessorList:
    """Hugging Face's logits processors for these choices, in the order of its `generate`."""
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature == 0:
        return chosen
    if sampling.temperature != 1:
        chosen.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chosen.append(MinPLogitsWarper(sampling.min_p))
    return chosen


def draw(scores_BV: Float[Tensor, "B V"], streams: Sequence[torch.Generator]) -> Int[Tensor, " B"]:
    """Draw one token per row from softmax(scores), each row from its own stream.

    argmax_v p_v / e_v with e_v ~ Exp(1) takes v with probability p_v. `torch.multinomial` draws the same way,
    so a row equals it bit for bit.
    """
    race_BV = torch.empty_like(scores_BV, dtype=torch.float32)
    for row_V, stream in zip(race_BV, streams, strict=True):
        row_V.exponential_(generator=stream)
    return (scores_BV.float().softmax(-1) / race_BV).argmax(-1)
