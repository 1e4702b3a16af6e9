"""The OCI layout, read as a registry would: by its documents and digests alone."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from store_kit import commit_tree, contents, git, key, lora, tensor, write_folder

from weft.cli import app
from weft.errors import ConfigError, SaveError, WeftError
from weft.store import Store


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    algorithm, _, digest = descriptor["digest"].partition(":")
    data = (layout / "blobs" / algorithm / digest).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest
    assert len(data) == descriptor["size"]
    return data


def manifest_in(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one entry of the index, and its manifest."""
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    (entry,) = index["manifests"]
    manifest = json.loads(blob(layout, entry))
    assert manifest["mediaType"] == entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == entry["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    return entry, manifest


def everything(layout: Path) -> dict[str, bytes]:
    return {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}


def test_a_layout_holds_the_files_of_the_hub(root: Path, folder: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    with Store(root) as store:
        added = store.add(folder, "a", message="x", lineage={"author": ["Ada", "Bob"], "licence": "mit"})
        digest = store.export_oci("a", layout)
        store.export("a", tmp_path / "hub")
    entry, manifest = manifest_in(layout)
    assert entry["digest"] == digest
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "a"}
    layers = manifest["layers"]
    found = {row["annotations"]["org.opencontainers.image.title"]: blob(layout, row) for row in layers}
    assert found == contents(tmp_path / "hub")
    assert {row["annotations"]["org.cncf.model.filepath"]: row["mediaType"] for row in layers} == {
        "adapter_model.safetensors": "application/vnd.cncf.model.weight.v1.raw",
        "adapter_config.json": "application/vnd.cncf.model.weight.config.v1.raw",
        "README.md": "application/vnd.cncf.model.doc.v1.raw",
    }
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert json.loads(blob(layout, manifest["config"])) == {
        "descriptor": {"name": "a", "revision": added.commit, "authors": ["Ada", "Bob"], "licenses": ["mit"]},
        "config": {"format": "safetensors"},
        "modelfs": {"type": "layers", "diffIds": [row["digest"] for row in layers]},
    }
    # Nothing but what the documents name.
    named = {row["digest"][7:] for row in (entry, manifest["config"], *layers)}
    assert {path.name for path in (layout / "blobs/sha256").iterdir()} == named


def test_one_version_has_one_digest(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
        first = store.export_oci("a", tmp_path / "one")
    git(tmp_path, "clone", "-q", str(root), "clone")
    with Store(tmp_path / "clone") as store:
        assert store.export_oci("a", tmp_path / "two") == first
        assert everything(tmp_path / "two") == everything(tmp_path / "one")
        store.add(write_folder(tmp_path / "other", lora() | {key(1): tensor(50, 2, 4)}), "a", message="y")
        # A former layout is replaced whole; the old version gives the old digest again.
        assert store.export_oci("a", tmp_path / "two") != first
        assert len(everything(tmp_path / "two")) == len(everything(tmp_path / "one"))
        assert store.export_oci("a", tmp_path / "two", rev="HEAD~1") == first
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


def test_what_is_refused_leaves_the_place_as_it_was(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
        store.export_oci("a", tmp_path / "layout")
        before = everything(tmp_path / "layout")
        commit_tree(root, {("adapters", "a", "adapter_config.json"): b"{"})
        with pytest.raises(WeftError, match="not valid JSON"):
            store.export_oci("a", tmp_path / "layout")
        assert everything(tmp_path / "layout") == before
        for name in ("../a", "/etc", "a/b"):
            with pytest.raises(ConfigError, match="no name for an adapter"):
                store.export_oci(name, tmp_path / "layout")
        for place, says in (
            (folder, "other files"),
            (tmp_path, "other files"),
            (folder / "README.md", "is a file"),
        ):
            with pytest.raises(SaveError, match=says):
                store.export_oci("a", place, rev="HEAD~1")
    assert len(contents(folder)) == 3


def test_the_verb(root: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
    place = ["--store", str(root)]
    assert app.main(["store", "export", "a", "--oci", str(tmp_path / "layout"), *place]) == 0
    entry, _ = manifest_in(tmp_path / "layout")
    assert capsys.readouterr().out == f"wrote {tmp_path}/layout, {entry['digest']}\n"
    for words in ([], ["--oci", str(tmp_path / "l"), "-o", str(tmp_path / "h")]):
        assert app.main(["store", "export", "a", *words, *place]) == 1
        assert capsys.readouterr().err.startswith("weft: say where to")
