"""Text in, text out: prompts become token ids here, and nothing below sees text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor

from weft.engine.batch import batches, check_rows, part_of, shares_of
from weft.engine.loop import Loop, Spoken
from weft.engine.row import Reason
from weft.engine.sampling import Sampling
from weft.engine.score import nll
from weft.engine.stop import BROKEN, Text, cut, finish, grow, showable, stop_at
from weft.engine.trace import Traced, trace
from weft.errors import ConfigError, ShapeError
from weft.reading import check_text, shown
from weft.rows import AbstractController, AbstractHost, Request, Share
from weft.tasks import Encoded, collate, render_prompt
from weft.tasks.batch import pad_id
from weft.tasks.chat import plain_ids, stop_ids
from weft.tasks.rows import turn_of
from weft.types import Mixture

Prompt = str | list[dict[str, str]] | list[int]
"""A question, or a chat of `role` and `content`, both written by the tokenizer's template; or token ids."""
Prompts = list[str] | list[list[dict[str, str]]] | list[list[int]]
_PROMPTS = "a prompt is text, a chat, or a list of token ids (`.tolist()` of a tensor or an array)"


class Completion(NamedTuple):
    """One answer, and what it took."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    """Those that were written, the one that ended it included."""
    finish_reason: Reason
    """`stop` where it ended by itself or at a stop string, `length` where it was cut."""


class Engine:
    """Continues text over a host, under a mixture or a controller.

    Raises ConfigError when the host has no tokenizer, or ends of text that are no token ids.

    Args:
        host: The network, local or spread over machines.

    Example:
        >>> engine = weft.Engine(weft.Host.from_pretrained("weft/letters"))
        >>> "".join(engine.stream("cab", max_new_tokens=4)) == engine.generate("cab", max_new_tokens=4)
        True
    """

    def __init__(self, host: AbstractHost) -> None:
        if host.tokenizer is None:
            raise ConfigError("this host has no tokenizer, so it reads no text; give it one, or use a Loop")
        self.host = host
        self.tokenizer = host.tokenizer
        self.pad_id = pad_id(host)
        self.stop_ids = _stop_ids(host)

    @overload
    def generate(
        self,
        prompts: Prompt,
        *,
        mixture: Mixture | None = None,
        shares: Sequence[Share] | None = None,
        controller: AbstractController | None = None,
        batch_size: int = 32,
        raw: bool = False,
        **sampling: Any,
    ) -> str: ...
    @overload
    def generate(
        self,
        prompts: Prompts,
        *,
        mixture: Mixture | None = None,
        shares: Sequence[Share] | None = None,
        controller: AbstractController | None = None,
        batch_size: int = 32,
        raw: bool = False,
        **sampling: Any,
    ) -> list[str]: ...
    def generate(
        self,
        prompts: Prompt | Prompts,
        *,
        mixture: Mixture | None = None,
        shares: Sequence[Share] | None = None,
        controller: AbstractController | None = None,
        batch_size: int = 32,
        raw: bool = False,
        **sampling: Any,
    ) -> str | list[str]:
        """Answer one prompt, or each of a list; only the new text comes back.

        Raises ConfigError for an option out of range, both a mixture and shares, or what is no prompt,
        PromptTooLongError, ShapeError for an empty prompt or a mixture or shares made for another number of
        prompts.

        Args:
            prompts: Questions for the tokenizer's chat template, where it has one; chats; or token ids.
            mixture: What acts. With an assignment per row it has one row per prompt, in their order; per
                token, it speaks of a prompt's own tokens, from its first.
            shares: The same row by row, one per prompt (see `weft.engine.request`).
            controller: What changes rows while they are written; it hears of prompt i as request str(i).
            batch_size: Most rows that are written at a time, longest prompts first.
            raw: Whether a string is a text to be continued as it stands.
            sampling: The fields of `Sampling`.

        Example:
            >>> engine = weft.Engine(weft.Host.from_pretrained("weft/letters"))
            >>> adapter = weft.load("weft/letters-adapters/reverse")
            >>> engine.generate("cab", mixture=weft.Mixture.of(adapter), max_new_tokens=16)
            'bac'
        """
        one = _is_one(prompts)
        answers = self.complete(
            cast(Prompts, [prompts] if one else prompts),
            mixture=mixture,
            shares=shares,
            controller=controller,
            batch_size=batch_size,
            raw=raw,
            **sampling,
        )
        return answers[0].text if one else [answer.text for answer in answers]

    def complete(
        self,
        prompts: Prompts,
        *,
        mixture: Mixture | None = None,
        shares: Sequence[Share] | None = None,
        controller: AbstractController | None = None,
        batch_size: int = 32,
        raw: bool = False,
        **sampling: Any,
    ) -> list[Completion]:
        """As `generate`, of a list of prompts, with how many tokens each answer took and why it ended."""
        _check_list(prompts)
        options = Sampling(**sampling)
        prompt_ids = [self.prompt_ids(prompt, raw=raw) for prompt in cast("Sequence[Prompt]", prompts)]
        own = _shares(mixture, shares, len(prompt_ids))
        loop = Loop(self.host, max_rows=batch_size)
        growing = [Text() for _ in prompt_ids]

        def ends(row: int, token: int) -> bool:
            growing[row] = grow(growing[row], token, self._decode)
            return stop_at(growing[row].settled, options.stop) is not None

        for i in sorted(range(len(prompt_ids)), key=lambda i: -len(prompt_ids[i])):
            loop.submit(
                Request(str(i), tuple(prompt_ids[i]), own[i]),
                sampling=replace(options, seed=options.seed + i),
                controller=controller,
                stop_ids=self.stop_ids,
                ends=(lambda token, i=i: ends(i, token)) if options.stop else None,
            )
        new: list[list[int]] = [[] for _ in prompt_ids]
        counts = [0] * len(prompt_ids)
        reasons: list[Reason] = ["length"] * len(prompt_ids)
        for spoken in loop.run():
            counts[int(spoken.id)] += 1
            if spoken.reason is not None:
                reasons[int(spoken.id)] = spoken.reason
            if spoken.token_id not in self.stop_ids and not spoken.silent:
                new[int(spoken.id)].append(spoken.token_id)
        texts = [cut(self._decode(ids).rstrip(BROKEN), options.stop) for ids in new]
        lengths = map(len, prompt_ids)
        return [Completion(*facts) for facts in zip(texts, lengths, counts, reasons, strict=True)]

    def stream(
        self,
        prompt: Prompt,
        *,
        mixture: Mixture | None = None,
        share: Share | None = None,
        controller: AbstractController | None = None,
        raw: bool = False,
        **sampling: Any,
    ) -> Iterator[str]:
        """Answer one prompt, in pieces that together are what `generate` returns.

        A piece holds whole characters, and nothing that may turn out to begin a stop string. Raises what
        `generate` raises.
        """
        options = Sampling(**sampling)
        loop = Loop(self.host, max_rows=1)
        (own,) = _shares(mixture, None if share is None else [share], 1)
        loop.submit(
            Request("0", tuple(self.prompt_ids(prompt, raw=raw)), own),
            sampling=options,
            controller=controller,
            stop_ids=self.stop_ids,
        )
        return self._pieces(loop.run(), options.stop)

    def trace(
        self,
        prompts: Prompts,
        *,
        mixture: Mixture | None = None,
        shares: Sequence[Share] | None = None,
        controller: AbstractController | None = None,
        raw: bool = False,
        **sampling: Any,
    ) -> list[list[Traced]]:
        """Continue prompts, and tell of every token what acted on it and what happened after it.

        Raises what `generate` raises, and ConfigError for stop strings, which a trace does not look for.
        """
        _check_list(prompts)
        options = Sampling(**sampling)
        if options.stop:
            raise ConfigError("a trace ends at stop tokens or at max_new_tokens; leave stop strings out")
        return trace(
            self.host,
            [self.prompt_ids(prompt, raw=raw) for prompt in cast("Sequence[Prompt]", prompts)],
            controller,
            shares=_shares(mixture, shares, len(prompts)),
            sampling=[replace(options, seed=options.seed + i) for i in range(len(prompts))],
            stop_ids=tuple(self.stop_ids),
        )

    @torch.no_grad()
    def nll(
        self, rows: Sequence[Encoded], *, mixture: Mixture | None = None, batch_size: int = 32
    ) -> Float[Tensor, " N"]:
        """Summed negative log-likelihood of every row's completion after its prompt, in nats, on the CPU.

        Raises ShapeError when the mixture is made for another number of rows.
        """
        if mixture is not None:
            check_rows(mixture, len(rows))
        sums = torch.zeros(len(rows))
        lengths = [len(row.ids) for row in rows]
        for index in batches(lengths, batch_size):
            batch = collate([rows[i] for i in index], pad_id=self.pad_id, side="left")
            ids_BT, mask_BT, labels_BT = (t.to(self.host.device) for t in batch)
            part = part_of(mixture, index, lengths)
            sums[index] = nll(self.host, ids_BT, labels_BT, part, mask_BT=mask_BT).cpu()
        return sums

    def _pieces(self, said: Iterator[Spoken], stop: Sequence[str]) -> Iterator[str]:
        text, shown = Text(), ""
        for spoken in said:
            if spoken.token_id in self.stop_ids:
                break
            if spoken.silent:
                continue
            text = grow(text, spoken.token_id, self._decode)
            if stop_at(text.settled, stop) is not None:
                break
            ready = showable(text.settled, stop)
            if len(ready) > len(shown):
                yield ready[len(shown) :]
                shown = ready
        rest = cut(finish(text, self._decode), stop)[len(shown) :]
        if rest:
            yield rest

    def prompt_ids(self, prompt: Prompt, *, raw: bool = False) -> list[int]:
        """The token ids that a prompt stands for.

        Raises ConfigError for turns without role or content, and for what is no prompt.
        """
        if isinstance(prompt, str):
            if not raw:
                return render_prompt(self.tokenizer, prompt)
            return plain_ids(self.tokenizer, check_text(prompt, "a prompt"))
        if isinstance(prompt, Sequence) and prompt and isinstance(prompt[0], dict):
            turns = cast("list[dict[str, Any]]", prompt)
            return render_prompt(self.tokenizer, [turn_of(turn, "a chat") for turn in turns])
        _check_ids(prompt)
        return cast("list[int]", prompt)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


def _shares(mixture: Mixture | None, shares: Sequence[Share] | None, rows: int) -> Sequence[Share]:
    if shares is None:
        return shares_of(mixture, rows)
    if mixture is not None:
        raise ConfigError("give a mixture or shares, not both: each says what acts on every row")
    if len(shares) != rows:
        raise ShapeError(f"{len(shares)} shares for {rows} prompts")
    return shares


def _is_one(prompts: Any) -> bool:
    if isinstance(prompts, Mapping | bytes):  # of a tokenizer's output the names of fields would be prompts
        raise ConfigError(f"{_PROMPTS}, got a {type(prompts).__name__}")
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], dict | int))


def _check_list(prompts: object) -> None:
    """Raise ConfigError for one prompt where a list is wanted: its letters or tokens would be prompts."""
    if _is_one(prompts):
        raise ConfigError("this is one prompt where a list of them is wanted; give [prompt]")


def _check_ids(prompt: Any) -> None:
    """Raise ConfigError for what is no list of token ids."""
    listed = isinstance(prompt, Sequence) and not isinstance(prompt, bytes)
    strange = [token for token in prompt if not isinstance(token, int)][:1] if listed else [prompt]
    if strange:
        held = (
            f"a {type(prompt).__name__} of {type(strange[0]).__name__}" if listed else type(prompt).__name__
        )
        raise ConfigError(f"{_PROMPTS}, got {held}")


def _stop_ids(host: AbstractHost) -> frozenset[int]:
    """What ends an answer: by the tokenizer and its template, and by the model's generation config."""
    named: Any = None if host.generation_config is None else host.generation_config.eos_token_id
    ends = [end for end in (named if isinstance(named, list) else [named]) if end is not None]
    if any(type(end) is not int for end in ends):
        raise ConfigError(
            f"the base's eos_token_id should be a whole number or a list of them, got {shown(named)}"
        )
    return stop_ids(host.tokenizer) | frozenset(ends)
