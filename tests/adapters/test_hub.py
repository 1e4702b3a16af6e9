"""Adapters on the Hub, by a cache that holds one and a server that stands in for it."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from weft.adapters import check_copies, load, push, save, site_at
from weft.errors import AdapterFormatError, MissingFileError, SaveError
from weft.types import Adapter, Factors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    site = site_at("model.layers.0.q_proj", 6, 4)
    torch.manual_seed(0)
    factors = {site: Factors(torch.randn(2, 6), torch.randn(4, 2), 0.5)}
    save(Adapter(factors, provenance={"description": "reverse"}), tmp_path / "out")
    return tmp_path / "out"


def test_an_id_is_served_from_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    kept = tmp_path / "cache" / "models--me--reverse"
    commit = "0" * 40
    shutil.copytree(folder, kept / "snapshots" / commit)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(commit)
    adapter = load("me/reverse")
    assert adapter.name == "reverse"
    assert adapter.provenance == {"description": "reverse"}
    assert torch.equal(
        next(iter(adapter.factors.values())).a_RI, next(iter(load(folder).factors.values())).a_RI
    )
    check_copies("me/reverse", torch.nn.Linear(1, 1))
    with pytest.raises(MissingFileError, match="no adapter me/other: no folder, nor within reach on the Hub"):
        load("me/other")
    with pytest.raises(MissingFileError, match="me/reverse"):
        load("me/reverse", revision="v9")
    (kept / "snapshots" / commit / "adapter_config.json").unlink()
    with pytest.raises(MissingFileError, match="me/reverse on the Hub is no adapter"):
        load("me/reverse")


@pytest.mark.parametrize("name", ["nowhere", "../x", "/no/such", "a/b/c", "me/", "-x/y", "me/x y", ""])
def test_what_is_no_id_never_asks_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> str:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    with pytest.raises(MissingFileError, match=r"no adapter folder at|adapter_config.json"):
        load(name)


def test_a_repository_in_the_cache_is_its_main_snapshot(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--me--sort"
    shutil.copytree(folder, repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("a" * 40)
    assert load(repository).name == "sort"


def test_a_folder_of_adapters_names_them(folder: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-10", "checkpoint-20"):
        shutil.copytree(folder, tmp_path / "run" / name)
    with pytest.raises(
        MissingFileError, match=r"run is no adapter, it holds some: name .*run/checkpoint-10, .*"
    ):
        load(tmp_path / "run")


class Server:
    """What `push` says to the Hub."""

    said: list[tuple[str, dict[str, Any]]] = []
    fails: Exception | None = None

    def create_repo(self, repo_id: str, **told: Any) -> str:
        if self.fails:
            raise self.fails
        self.said.append(("create", {"repo_id": repo_id, **told}))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **told: Any) -> None:
        self.said.append(("upload", told))


def test_pushing_sends_the_adapter_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Server)
    monkeypatch.setattr(Server, "said", [])
    (folder / "optimizer.pt").write_text("state")
    assert push(folder, "me/reverse", private=True, message="first") == "https://huggingface.co/me/reverse"
    made, sent = Server.said
    assert made == ("create", {"repo_id": "me/reverse", "private": True, "exist_ok": True})
    assert sent[1]["allow_patterns"] == ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert (sent[1]["repo_id"], sent[1]["commit_message"]) == ("me/reverse", "first")
    assert sent[1]["folder_path"] == folder


def test_what_cannot_be_pushed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Server)
    monkeypatch.setattr(Server, "said", [])
    with pytest.raises(MissingFileError, match="no adapter folder"):
        push(tmp_path / "nowhere", "me/x")
    monkeypatch.setattr(Server, "fails", OSError("401 Unauthorized\nlog in"))
    with pytest.raises(SaveError, match="could not push to me/x: 401 Unauthorized log in"):
        push(folder, "me/x")
    assert issubclass(HfHubHTTPError, OSError)
    monkeypatch.setattr(Server, "fails", None)
    (folder / "adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(AdapterFormatError):
        push(folder, "me/x")
    assert Server.said == [], "nothing was sent"
