"""An adapter as a folder for the hub: the checkout, with a model card where it has none."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from weft.store.checkout import contents, replace_adapter
from weft.store.git import Git
from weft.store.layout import ADAPTERS, CARD, CONFIG
from weft.store.manifest import Manifest
from weft.store.pieces import count_tensors
from weft.store.stored import manifest_of, stored_at
from weft.tensor_file import strict_json


class Upload(NamedTuple):
    """What is uploaded of one version."""

    name: str
    commit: str
    manifest: Manifest
    files: Mapping[str, list[bytes]]
    """Each as pieces to be written in turn."""
    wrote_card: bool


def export(git: Git, name: str, out: str | os.PathLike[str], rev: str = "HEAD") -> bool:
    """Write a PEFT folder that can be uploaded as it is; whether a card was written for it.

    Its files are those of `checkout`, and errors too.
    """
    made = upload(git, name, rev)
    replace_adapter(Path(out), made.files)
    return made.wrote_card


def upload(git: Git, name: str, rev: str = "HEAD") -> Upload:
    """The files of `checkout`, and a card. Errors as there."""
    commit = git.commit_of(rev)
    stored = stored_at(git, commit, name)
    files, manifest = contents(git, stored), manifest_of(git, stored)
    has_card = CARD in files
    if not has_card:
        config = strict_json(b"".join(files[CONFIG]), f"{ADAPTERS}/{name}/{CONFIG}")
        files[CARD] = [card(name, commit, manifest, config, count_tensors(stored.tensors)).encode()]
    return Upload(name, commit, manifest, files, not has_card)


def card(name: str, commit: str, manifest: Manifest, config: Mapping[str, Any], tensors: int) -> str:
    """Markdown with the front matter that the hub reads, and the lineage."""
    lineage = manifest.lineage
    front: dict[str, Any] = {
        "library_name": "peft",
        "tags": ["lora", "weft"],
        "base_model": config.get("base_model_name_or_path"),
        "license": lineage.get("licence"),
    }
    lines = [
        "---",
        # JSON is YAML, and quotes whatever a value holds.
        *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value),
        "---",
        "",
        f"# {name}",
        "",
        f"A {config.get('peft_type', 'PEFT')} adapter of rank {config.get('r', 'unknown')} "
        f"in {tensors} tensors, version `{commit}`.",
    ]
    if manifest.base:
        lines += ["", f"It belongs to the base with fingerprint `{manifest.base}`."]
    if lineage:
        lines_of_lineage = json.dumps(lineage, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
        lines += ["", "## Lineage", "", *("    " + line for line in lines_of_lineage)]
    return "\n".join(lines) + "\n"
