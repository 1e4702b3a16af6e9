"""A description for an adapter, whoever made it: tensors and config stay as they are, to the byte."""

import os
from collections.abc import Sequence
from dataclasses import replace

from weft.adapters.card import card
from weft.adapters.mlx_folder import is_mlx
from weft.adapters.peft_folder import PROVENANCE, load
from weft.adapters.provenance import provenance_text
from weft.checks import CARD, CONFIG, weights_file
from weft.errors import ConfigError, MissingFileError, UnsupportedAdapterError
from weft.files import read_json, replace_file, resolve
from weft.tensor_file import framed, header_text, split
from weft.types import Adapter


def describe(path: str | os.PathLike[str], descriptions: Sequence[str]) -> Adapter:
    """Write what an adapter does into its folder, in one description or several; the old ones go.

    They stand in the metadata of the safetensors file. A card that Weft wrote is written anew; one of
    somebody else is left alone. Returns the adapter. Raises MissingFileError, ConfigError for no description
    or a blank one and for a folder of the Hub's cache, UnsupportedAdapterError for a folder of mlx-lm, and
    what `load` raises.
    """
    if not descriptions or not all(text.strip() for text in descriptions):
        raise ConfigError("a description is a sentence that says what the adapter does; this one is empty")
    folder = resolve(path)
    if folder is None:
        raise MissingFileError(f"no adapter folder at {os.fspath(path)}")
    if is_mlx(read_json(folder / CONFIG)):
        raise UnsupportedAdapterError(f"{folder} is a folder of mlx-lm; save it as a PEFT folder first")
    old = load(folder)
    texts = descriptions[0] if len(descriptions) == 1 else list(descriptions)
    new = replace(old, provenance={**old.provenance, "description": texts})
    text = provenance_text(new.provenance, f"the provenance of {new.name}")
    file = weights_file(folder)
    if file.resolve().parent.name == "blobs":
        raise ConfigError(f"{folder} is in the Hub's cache, which stays as it came; describe a copy of it")
    content = file.read_bytes()  # once: another process may put another file here
    header = split(content, file)
    metadata = {**(header.metadata or {"format": "pt"}), PROVENANCE: text}
    replace_file(file, framed(header_text(header.specs, metadata)) + content[8 + len(header.text) :])
    readme = folder / CARD
    if readme.is_file() and readme.read_bytes() == card(old).encode():
        replace_file(readme, card(new))
    return new
