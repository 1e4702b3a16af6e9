"""Texts in the form that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse

from weft.engine.trace import Traced, trace_values
from weft.plain import one_line
from weft.serve.scheduler import Update
from weft.serve.writing import Likely


class Choice:
    """One text of an answer, as it grows."""

    def __init__(
        self,
        index: int,
        tokenizer: Any,
        prompt_ids: list[int],
        *,
        chat: bool,
        echo: bool,
        logprobs: int | None,
        trace: bool = False,
    ) -> None:
        self.index, self.chat, self.logprobs = index, chat, logprobs
        self._tokenizer = tokenizer
        self.text = tokenizer.decode(prompt_ids, skip_special_tokens=True) if echo else ""
        self.tokens = 0
        self.reason: str | None = None
        self.likely: list[Likely] = []
        self.traced: list[Traced] | None = [] if trace else None
        self._shown = self._listed = self._traced = 0
        self._opened = self._closed = False

    def take(self, update: Update) -> bool:
        """Take in what the scheduler tells; whether it was a token."""
        if isinstance(update, list):
            self.likely += update
            return False
        assert not isinstance(update, Exception)
        self.text += update.text
        self.reason = update.reason
        if update.likely is not None:
            self.likely.append(update.likely)
        if self.traced is not None:
            self.traced += update.traced
        self.tokens += update.token_id is not None
        return update.token_id is not None

    def news(self) -> dict[str, Any] | None:
        """What a stream has not told yet; None for nothing."""
        text, likely = self.text[self._shown :], self.likely[self._listed :]
        trace = (self.traced or [])[self._traced :]
        ends = self.reason is not None and not self._closed
        if not (text or likely or trace or ends):
            return None
        offset = self._shown
        self._shown, self._listed, self._closed = len(self.text), len(self.likely), ends
        self._traced += len(trace)
        choice = self._choice(likely, offset, trace)
        if self.chat:
            role = {} if self._opened else {"role": "assistant"}
            self._opened = True
            return {**choice, "delta": {**role, "content": text}}
        return {**choice, "text": text}

    def whole(self) -> dict[str, Any]:
        """The finished choice."""
        choice = self._choice(self.likely, 0, self.traced or [])
        if self.chat:
            return {**choice, "message": {"role": "assistant", "content": self.text, "refusal": None}}
        return {**choice, "text": self.text}

    def _choice(self, likely: Sequence[Likely], offset: int, traced: Sequence[Traced]) -> dict[str, Any]:
        """A choice without its text."""
        choice: dict[str, Any] = {"index": self.index, "finish_reason": self.reason, "logprobs": None}
        if self.logprobs is not None:
            choice["logprobs"] = self._chat_likely(likely) if self.chat else self._text_likely(likely, offset)
        if self.traced is not None:
            choice["trace"] = trace_values(self._tokenizer, traced)
        return choice

    def _token(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id])

    def _text_likely(self, likely: Sequence[Likely], offset: int) -> dict[str, Any]:
        tokens, offsets = [], []
        for one in likely:
            tokens.append(self._token(one.token_id))
            offsets.append(offset)
            offset += len(tokens[-1])
        top = [
            None
            if one.logprob is None
            else {self._token(token): logprob for token, logprob in reversed(one.top)}
            for one in likely
        ]
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in likely],
            "top_logprobs": top if self.logprobs else None,
            "text_offset": offsets,
        }

    def _chat_likely(self, likely: Sequence[Likely]) -> dict[str, Any]:
        def token(token_id: int, logprob: float | None) -> dict[str, Any]:
            text = self._token(token_id)
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        content = [
            {**token(one.token_id, one.logprob), "top_logprobs": [token(*pair) for pair in one.top]}
            for one in likely
        ]
        return {"content": content, "refusal": None}


def usage(prompts: Sequence[Sequence[int]], choices: Sequence[Choice]) -> dict[str, int]:
    """Tokens read and written."""
    read, wrote = sum(map(len, prompts)), sum(choice.tokens for choice in choices)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def whole_reply(head: dict[str, Any], choices: Sequence[Choice], *, chat: bool) -> dict[str, Any]:
    """A whole answer to a chat, or a whole continuation."""
    kind = "chat.completion" if chat else "text_completion"
    return {**head, "object": kind, "choices": [choice.whole() for choice in choices]}


def chunk(
    head: dict[str, Any], news: dict[str, Any] | None, rest: dict[str, Any], *, chat: bool
) -> dict[str, Any]:
    """One event of a stream; `rest` are its fields beside the choice."""
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {**head, "object": kind, "choices": [] if news is None else [news], **rest}


def error_reply(status: int, message: str, code: str | None) -> JSONResponse:
    """Why there is no answer."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": one_line(message), "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status)
