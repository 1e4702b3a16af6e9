import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from weft.embed import Cached, Learned, OneHot, cache
from weft.errors import ConfigError, CueError, WeightsError
from weft.types import AbstractEncoder, Cue, Description

TEXTS = ("sort", "reverse", "count")


class Counting(AbstractEncoder):
    """A text's first two letters as numbers; counts the texts that it sees."""

    def __init__(self, version: str = "1") -> None:
        super().__init__()
        self.dim = 2
        self.version = version
        self.seen: list[str] = []

    @property
    def identity(self) -> str:
        return f"counting:{self.version}"

    def config(self) -> dict[str, Any]:
        return {"kind": "counting"}

    def encode(self, cues: Sequence[Cue]) -> Tensor:
        self.seen += [cue.text for cue in cues]
        return torch.tensor([[ord(c) for c in cue.text[:2]] for cue in cues], dtype=torch.float32)


def cues(*texts: str) -> list[Description]:
    return [Description(text) for text in texts]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_each_text_is_computed_once_even_in_another_process(tmp_path: Path) -> None:
    encoder = Counting()
    cached = Cached(encoder, tmp_path)
    wanted = Counting().encode(cues("sort", "reverse", "sort"))
    assert torch.equal(cached.encode(cues("sort", "reverse", "sort")), wanted)
    assert torch.equal(cached.encode(cues("reverse", "count"))[0], wanted[1])
    assert encoder.seen == ["sort", "reverse", "count"]
    assert len(files(tmp_path)) == 2

    later = Counting()
    assert torch.equal(Cached(later, tmp_path).encode(cues("sort", "reverse", "sort")), wanted)
    assert later.seen == []
    assert cached.encode([]).shape == (0, 2)


def test_an_encoding_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopped(Counting):
        def encode(self, cues: Sequence[Cue]) -> Tensor:
            if len(self.seen) == 4:
                raise KeyboardInterrupt
            return super().encode(cues)

    monkeypatch.setattr(cache, "_AT_ONCE", 2)
    texts = [f"{letter}x" for letter in "abcdefg"]
    with pytest.raises(KeyboardInterrupt):
        Cached(Stopped(), tmp_path).encode(cues(*texts))
    later = Counting()
    assert torch.equal(Cached(later, tmp_path).encode(cues(*texts)), Counting().encode(cues(*texts)))
    assert later.seen == ["ex", "fx", "gx"]
    assert "3 texts to encode" in capsys.readouterr().err


def test_it_passes_for_the_encoder_inside(tmp_path: Path) -> None:
    cached = Cached(OneHot(TEXTS), tmp_path)
    assert (cached.identity, cached.config()) == (OneHot(TEXTS).identity, OneHot(TEXTS).config())
    assert not cached.state_dict()


def test_another_encoder_finds_nothing(tmp_path: Path) -> None:
    Cached(Counting("1"), tmp_path).encode(cues("sort"))
    other = Counting("2")
    Cached(other, tmp_path).encode(cues("sort"))
    assert other.seen == ["sort"]


def test_vectors_may_be_changed_without_changing_the_memory(tmp_path: Path) -> None:
    cached = Cached(Counting(), tmp_path)
    cached.encode(cues("sort")).zero_()
    assert cached.encode(cues("sort")).all()


@pytest.mark.parametrize("damage", ["cut", "nan", "shape"])
def test_a_damaged_file_is_named_and_may_be_deleted(tmp_path: Path, damage: str) -> None:
    Cached(Counting(), tmp_path).encode(cues("sort"))
    (file,) = files(tmp_path)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    else:
        save_file(
            {"k": torch.full((2 if damage == "nan" else 3,), float("nan" if damage == "nan" else 1))}, file
        )
    with pytest.raises(WeightsError, match=file.name) as caught:
        Cached(Counting(), tmp_path).encode(cues("sort"))
    assert "delete" in str(caught.value)
    file.unlink()
    assert Cached(Counting(), tmp_path).encode(cues("sort")).all()


def test_learning_encoders_and_blank_descriptions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="learns"):
        Cached(Learned(TEXTS, 2), tmp_path)
    with pytest.raises(CueError, match="empty"):
        Cached(Counting(), tmp_path).encode(cues(""))


def fill(folder: Path, start: int) -> None:
    cached = Cached(OneHot([f"task-{i}" for i in range(40)]), folder)
    for i in range(start, start + 30):
        assert cached.encode(cues(f"task-{i}"))[0, i] == 1


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=fill, args=(tmp_path, start)) for start in (0, 10)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0]
    names = [f"task-{i}" for i in range(40)]
    assert torch.equal(Cached(OneHot(names), tmp_path).encode(cues(*names)), torch.eye(40))
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".safetensors"]


def test_a_folder_that_cannot_be_written_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    encoder = Counting()
    cached = Cached(encoder, tmp_path / "file")
    with pytest.warns(UserWarning, match="could not write .* computed again next time"):
        vectors = cached.encode(cues("sort"))
    assert torch.equal(vectors, Counting().encode(cues("sort")))
    assert torch.equal(cached.encode(cues("sort")), vectors)
    assert encoder.seen == ["sort"]
