"""What clients send: the fields of OpenAI's API that are served, and which of the others are refused."""

from __future__ import annotations

import secrets
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from weft.engine import Sampling
from weft.engine.sampling import COLDEST
from weft.errors import ConfigError

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("tools", "functions", "bad_words", "logits_processors"), ([],)),
    **dict.fromkeys(
        ("include_stop_str_in_output", "use_beam_search", "return_token_ids", "return_token_strs"), (False,)
    ),
    **dict.fromkeys(("audio", "web_search_options", "prompt_logprobs", "truncate_prompt_tokens"), ()),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), ()),
    **dict.fromkeys(("structured_outputs", "allowed_token_ids", "prompt_embeds", "chat_template"), ()),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "suffix": ("",),
    "best_of": (1,),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template_kwargs": ({},),
    "documents": ([],),
    "echo": (False,),
}
"""Fields that would change the answer and are not served (vLLM's too), with what changes nothing."""


class Body(BaseModel):
    """What a client sends; null is the same as a field that is left out, as OpenAI and vLLM have it."""

    @model_validator(mode="before")
    @classmethod
    def leave_out_nulls(cls, fields: Any) -> Any:
        """The fields that say something."""
        given = isinstance(fields, dict)
        return {name: value for name, value in fields.items() if value is not None} if given else fields

    def refuse_unserved(self) -> None:
        """Raise ConfigError for a field beside those here that would change the answer."""
        for name, value in (self.model_extra or {}).items():
            if name in _NEUTRAL and value not in _NEUTRAL[name]:
                raise ConfigError(f"{name} is not served here; leave it out")


class StreamOptions(Body):
    """Whether a stream tells the usage in its last event."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """Whether every event tells it; vLLM's."""


class Drawn(Body):
    """What both kinds of completion have in common."""

    model_config = ConfigDict(extra="allow")

    model: str
    n: int = Field(1, ge=1, le=64)
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = Field(default_factory=dict, max_length=300)
    seed: int | None = None
    stop: str | list[str] = Field(default_factory=list)
    stop_token_ids: list[int] = Field(default_factory=list, max_length=1000)
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: int | None = Field(None, ge=0)
    trace: bool = False
    """Tell of every token what acted on it; ours."""
    weft: bool = False
    """Tell in `usage.weft` what acted; ours."""

    def sampling(self, new: int, vocab_size: int) -> Sampling:
        """The choices as the engine knows them; temperature is 1 unless given, as with OpenAI.

        A temperature too near to 0 to be divided by is 0.

        Raises ConfigError for a value out of range, or a field that is not served.
        """
        self.refuse_unserved()
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        if len(stop) > 16 or any(len(text) > 500 for text in stop):
            raise ConfigError("stop takes at most 16 strings of 500 characters")
        for name, tokens in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_token_ids)):
            if any(not 0 <= token < vocab_size for token in tokens):
                raise ConfigError(f"{name} names a token outside the vocabulary of {vocab_size}")
        return Sampling(
            temperature=0.0 if 0 < self.temperature < COLDEST else self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=tuple(sorted(self.logit_bias.items())),
            seed=secrets.randbits(31) if self.seed is None else self.seed % (1 << 63),
            max_new_tokens=max(new, 1),
            stop=tuple(stop),
        )

    def stop_ids(self, own: frozenset[int]) -> frozenset[int]:
        """What ends a text, where `own` are the model's ends."""
        return (frozenset() if self.ignore_eos else own) | frozenset(self.stop_token_ids)


class TextRequest(Drawn):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    add_special_tokens: Literal[True] = True


class Message(Body):
    """One turn of a chat."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] = Field(default_factory=list, max_length=0)
    """Not served, as `tools` are not."""

    def turn(self) -> dict[str, str]:
        """Role and text, for a chat template. Raises ConfigError for a role or content that is not served."""
        role = "system" if self.role == "developer" else self.role
        if role not in ("system", "user", "assistant"):
            raise ConfigError(f"no role {self.role!r:.40}; there are system, user and assistant")
        if self.content in (None, []) and role != "assistant":
            raise ConfigError(f"a turn of {role} has no content; write what it says")
        if isinstance(self.content, list):
            if any(part.get("type") != "text" for part in self.content):
                raise ConfigError("only text is served as content")
            texts = [part.get("text") for part in self.content]
            if not all(isinstance(text, str) for text in texts):
                raise ConfigError(f"a part of the content of {role} has no text; write it as a string")
            return {"role": role, "content": "".join(map(str, texts))}
        return {"role": role, "content": self.content or ""}


class ChatRequest(Drawn):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    add_special_tokens: Literal[False] = False


class TokenizeRequest(Body):
    """POST /tokenize: a text, or a chat as the model reads it."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = None
    messages: list[Message] = Field(default_factory=list, max_length=1000)
    add_special_tokens: bool | None = None
    """With a text, unless told otherwise; what a chat has of them its template writes."""


class DetokenizeRequest(Body):
    """POST /detokenize."""

    tokens: list[int] = Field(max_length=1 << 17)


class LoadRequest(Body):
    """POST /v1/load_lora_adapter, and with the name alone /v1/unload_lora_adapter; as vLLM has them."""

    lora_name: str
    lora_path: str = ""


class EmbeddingRequest(Body):
    """POST /v1/embeddings."""

    model: str
    input: str | list[str] = Field(min_length=1, max_length=2048)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
    """Not served: a vector is as long as its encoder makes it."""


class MakeRequest(Body):
    """POST /v1/adapters: an adapter from a description, from examples of prompt and completion, or a text."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str = ""
    examples: list[tuple[str, str]] = Field(default_factory=list, max_length=64)
    document: str = Field("", max_length=200_000)
