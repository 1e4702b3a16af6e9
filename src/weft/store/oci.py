"""An adapter as an OCI image layout, which `oras`, `skopeo` and any registry take as they take a container.

    oci-layout, index.json         the layout, and its one manifest, named like the adapter
    blobs/sha256/<digest>          manifest, config, and a layer for each file, neither packed nor compressed

Media types are those of ModelPack (CNCF model-spec v1); the names of files are told in its annotation and in
that of ORAS. Nothing depends on time or place: one version of an adapter gives one digest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from weft.checks import WEIGHTS
from weft.files import check_free, replace_folder
from weft.store.export import upload
from weft.store.git import Git
from weft.store.layout import CARD, CONFIG

_MODEL = "application/vnd.cncf.model"
_LAYERS = {
    WEIGHTS: f"{_MODEL}.weight.v1.raw",
    CONFIG: f"{_MODEL}.weight.config.v1.raw",
    CARD: f"{_MODEL}.doc.v1.raw",
}
_FILES = _LAYOUT, _INDEX, _BLOBS = "oci-layout", "index.json", "blobs"

Descriptor = dict[str, Any]
"""Media type, digest and size of a blob, and what is told about it."""


def export_oci(git: Git, name: str, out: str | os.PathLike[str], rev: str = "HEAD") -> str:
    """Write an adapter of a revision as an OCI image layout; digest of its manifest.

    `out` is replaced whole or not at all. Raises what `checkout` raises, and SaveError for a place that holds
    anything but such a layout.
    """
    check_free(Path(out), "a layout", _FILES if (Path(out) / _LAYOUT).exists() else ())
    made = upload(git, name, rev)
    with replace_folder(out) as folder:
        blobs = folder / _BLOBS / "sha256"
        blobs.mkdir(parents=True)
        layers = []
        for file, media in _LAYERS.items():
            layer = _blob(blobs, media, made.files[file])
            named = {"org.cncf.model.filepath": file, "org.opencontainers.image.title": file}
            layers.append(layer | {"annotations": named})
        lineage = made.manifest.lineage
        facts = {
            "name": name,
            "revision": made.commit,
            "authors": _texts(lineage.get("author")),
            "licenses": _texts(lineage.get("licence")),
        }
        model = {
            "descriptor": {key: value for key, value in facts.items() if value},
            "config": {"format": "safetensors"},
            "modelfs": {"type": "layers", "diffIds": [layer["digest"] for layer in layers]},
        }
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": f"{_MODEL}.manifest.v1+json",
            "config": _blob(blobs, f"{_MODEL}.config.v1+json", [_json(model)]),
            "layers": layers,
            "annotations": {"org.opencontainers.image.revision": made.commit},
        }
        if made.manifest.base:
            manifest["annotations"]["weft.base"] = made.manifest.base
        root = _blob(blobs, manifest["mediaType"], [_json(manifest)])
        root["artifactType"] = manifest["artifactType"]
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [root | {"annotations": {"org.opencontainers.image.ref.name": name}}],
        }
        (folder / _LAYOUT).write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
        (folder / _INDEX).write_bytes(_json(index))
    return root["digest"]


def _blob(blobs: Path, media: str, parts: Iterable[bytes]) -> Descriptor:
    """Write a blob under its digest; equal ones are one file."""
    digest, size = hashlib.sha256(), 0
    aside = blobs / "new"
    with aside.open("wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
    aside.rename(blobs / digest.hexdigest())
    return {"mediaType": media, "digest": f"sha256:{digest.hexdigest()}", "size": size}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _texts(value: object) -> list[str]:
    """What a lineage says, as a list of texts; other values are for the card."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
