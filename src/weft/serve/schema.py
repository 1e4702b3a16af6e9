"""What clients send: the fields of OpenAI's API that are served, and which of the others are refused."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from weft.engine import Sampling
from weft.errors import ConfigError

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "audio": (None,),
    "modalities": (None, ["text"]),
}
"""Fields that would change the answer and are not served, with the values that change nothing."""


class StreamOptions(BaseModel):
    """Whether the last event of a stream tells the usage."""

    include_usage: bool = False


class Drawn(BaseModel):
    """What both kinds of completion have in common."""

    model_config = ConfigDict(extra="allow")

    model: str
    n: int = Field(1, ge=1, le=64)
    temperature: float | None = None
    top_p: float | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = Field(None, max_length=300)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=0)
    trace: bool = False
    """Tell of every token what acted on it; ours."""
    weft: bool = False
    """Tell in `usage.weft` what acted; ours."""

    def sampling(self, new: int, vocab_size: int) -> Sampling:
        """The choices as the engine knows them; temperature is 1 unless given, as with OpenAI.

        Raises ConfigError for a value out of range, or a field that is not served.
        """
        for name, neutral in _NEUTRAL.items():
            if (self.model_extra or {}).get(name) not in neutral:
                raise ConfigError(f"{name} is not served here; leave it out")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stop) > 16 or any(len(text) > 500 for text in stop):
            raise ConfigError("stop takes at most 16 strings of 500 characters")
        bias = tuple(sorted((self.logit_bias or {}).items()))
        if any(not 0 <= token < vocab_size for token, _ in bias):
            raise ConfigError(f"logit_bias names a token outside the vocabulary of {vocab_size}")
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=bias,
            seed=secrets.randbits(31) if self.seed is None else self.seed % (1 << 63),
            max_new_tokens=max(new, 1),
            stop=tuple(stop),
        )


class TextRequest(Drawn):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)


class Message(BaseModel):
    """One turn of a chat."""

    role: str
    content: str | list[dict[str, Any]] | None = None

    def turn(self) -> tuple[str, str]:
        """Role and text. Raises ConfigError for a role or content that is not served."""
        role = "system" if self.role == "developer" else self.role
        if role not in ("system", "user", "assistant"):
            raise ConfigError(f"no role {self.role!r:.40}; there are system, user and assistant")
        if isinstance(self.content, list):
            if any(part.get("type") != "text" for part in self.content):
                raise ConfigError("only text is served as content")
            return role, "".join(str(part.get("text", "")) for part in self.content)
        return role, self.content or ""


class ChatRequest(Drawn):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)


class LoadRequest(BaseModel):
    """POST /v1/load_lora_adapter, and with the name alone /v1/unload_lora_adapter; as vLLM has them."""

    lora_name: str
    lora_path: str = ""


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings."""

    model: str
    input: str | list[str] = Field(min_length=1, max_length=2048)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
    """Not served: a vector is as long as its encoder makes it."""


class MakeRequest(BaseModel):
    """POST /v1/adapters: an adapter from a description, from examples of prompt and completion, or a text."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    examples: list[tuple[str, str]] = Field(default_factory=list, max_length=64)
    document: str = Field("", max_length=200_000)
