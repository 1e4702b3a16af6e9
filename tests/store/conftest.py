from pathlib import Path

import pytest
from store_kit import lora, write_folder

from weft.store import Store


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty store."""
    Store.init(tmp_path / "store").close()
    return tmp_path / "store"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter of three layers."""
    return write_folder(tmp_path / "adapter", lora(), {"format": "pt"}, card=b"# Hello\r\n")
