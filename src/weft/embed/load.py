"""An encoder from its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from weft.config import Config, parse_config
from weft.embed.first_token import FirstToken
from weft.embed.histograms import Histograms
from weft.embed.inputs import InputEmbedding
from weft.embed.joined import Joined
from weft.embed.learned import Learned
from weft.embed.onehot import OneHot
from weft.embed.parts import Parts
from weft.embed.sentence import SentenceEncoder
from weft.embed.states import HostStates, Pool, Template
from weft.embed.task2vec import Task2Vec
from weft.errors import ConfigError, WeightsError
from weft.files import found_near
from weft.host import Host
from weft.types import AbstractEncoder

_MOST_NUMBERS = 1 << 26


class SentenceConfig(Config):
    """A sentence-transformers model."""

    kind: Literal["sentence"]
    name: str = "minilm"
    """`minilm`, a folder, or a sentence-transformers id."""


class FirstTokenConfig(Config):
    """An encoder read at its first token, as the released Text-to-LoRA networks do."""

    kind: Literal["first_token"]
    name: str
    """A folder, or a hub id."""


class HostStatesConfig(Config):
    """Hidden states of the base."""

    kind: Literal["host_states"]
    base: str = ""
    """The base to load when no host is given."""
    layers: list[int] | None = None
    """Layers whose states are joined; the middle and the last one unless given."""
    pool: Pool = "mean+last"
    """How the states of a text's tokens become one vector."""
    template: Template = "plain"
    """Whether the text is read as it stands, or as a question of a chat."""


class InputsConfig(Config):
    """Mean input embedding of the base, of a description or of examples."""

    kind: Literal["inputs"]
    base: str = ""
    """The base to load when no host is given."""


class Task2VecConfig(Config):
    """Fisher information of the base's neurons on examples."""

    kind: Literal["task2vec"]
    base: str = ""
    """The base to load when no host is given."""
    samples: PositiveInt = 1
    """Answers drawn at each place; more make it less noisy."""
    seed: int = 0
    """Of those draws."""


class OneHotConfig(Config):
    """One dimension per task name."""

    kind: Literal["onehot"]
    names: list[str]
    """What it knows, in the order of its numbers."""


class LearnedConfig(Config):
    """A learned vector per task name."""

    kind: Literal["learned"]
    names: list[str]
    """What it knows."""
    dim: PositiveInt
    """Length of its vectors."""

    @model_validator(mode="after")
    def _holds(self) -> "LearnedConfig":
        if len(self.names) * self.dim > _MOST_NUMBERS:
            raise ValueError(f"{len(self.names)} vectors of {self.dim} numbers are more than {_MOST_NUMBERS}")
        return self


class HistogramsConfig(Config):
    """Edges and colours of a picture; no options."""

    kind: Literal["histograms"]


class JoinedConfig(Config):
    """Several encoders side by side."""

    kind: Literal["joined"]
    encoders: "list[EncoderConfig]"
    """They are put side by side in this order."""


class PartsConfig(Config):
    """A description and examples, each where it is there, by one encoder."""

    kind: Literal["parts"]
    encoder: "EncoderConfig"
    """It reads the descriptions and the examples."""


EncoderConfig = Annotated[
    SentenceConfig
    | FirstTokenConfig
    | HostStatesConfig
    | InputsConfig
    | Task2VecConfig
    | OneHotConfig
    | LearnedConfig
    | HistogramsConfig
    | JoinedConfig
    | PartsConfig,
    Field(discriminator="kind"),
]


class _Holder(Config):
    encoder: EncoderConfig


def build_encoder(
    config: Mapping[str, Any] | EncoderConfig, *, host: Host | None = None, folder: Path | None = None
) -> AbstractEncoder:
    """Make the encoder that a config describes; those that need a base take `host`, or load it.

    Raises ConfigError for an unknown kind or key, MissingFileError for a model that is not there.

    Args:
        config: Kind and options, as in a recipe; `weft list encoders` names the kinds.
        host: The base, for the kinds that read with it.
        folder: Where the config is kept, near which a base is looked for that it names by a relative path.

    Example:
        >>> from weft.embed import build_encoder
        >>> build_encoder({"kind": "onehot", "names": ["sort", "reverse"]}).dim
        2
    """
    parsed = parse_config(_Holder, {"encoder": config}, "encoder config").encoder
    match parsed:
        case SentenceConfig():
            return SentenceEncoder(parsed.name)
        case FirstTokenConfig():
            return FirstToken(parsed.name)
        case HostStatesConfig():
            base = _host(parsed, host, folder)
            return HostStates(base, layers=parsed.layers, pool=parsed.pool, template=parsed.template)
        case InputsConfig():
            return InputEmbedding(_host(parsed, host, folder))
        case Task2VecConfig():
            return Task2Vec(_host(parsed, host, folder), samples=parsed.samples, seed=parsed.seed)
        case OneHotConfig():
            return OneHot(parsed.names)
        case LearnedConfig():
            return Learned(parsed.names, parsed.dim)
        case HistogramsConfig():
            return Histograms()
        case PartsConfig():
            return Parts(build_encoder(parsed.encoder, host=host, folder=folder))
        case JoinedConfig():
            return Joined([build_encoder(part, host=host, folder=folder) for part in parsed.encoders])


def check_frozen(encoder: AbstractEncoder) -> None:
    """Raise ConfigError for an encoder that learns: a router's folder holds none of its weights."""
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        raise ConfigError("this router's encoder learns, and its folder would not hold it; use a frozen one")


def build_same_encoder(
    config: EncoderConfig, identity: str, folder: Path, host: Host | None
) -> AbstractEncoder:
    """The encoder that the network in a folder was trained with.

    Raises WeightsError where this one has another identity, and what `build_encoder` raises.
    """
    encoder = build_encoder(config, host=host, folder=folder)
    if encoder.identity != identity:
        raise WeightsError(
            f"{folder} reads vectors of {identity}, this encoder is {encoder.identity}; "
            "install or load the one that it was trained with"
        )
    return encoder


def _host(
    config: HostStatesConfig | InputsConfig | Task2VecConfig, host: Host | None, folder: Path | None
) -> Host:
    if host is None and not config.base:
        raise ConfigError(f"{config.kind} needs a host, or the name of a base to load")
    if host is None:
        return Host.from_pretrained(config.base if folder is None else found_near(config.base, folder))
    return host
