"""Adapters whose tensors have other sizes than the base's modules."""

import json
from pathlib import Path

import pytest
from store_kit import commit_tree, file_bytes, git, header_text, is_clean, key, lora, tensor, write_folder

from weft.cli import app
from weft.errors import AdapterFormatError, ShapeError
from weft.store import Store
from weft.store.store_file import StoreFile

MODULES = {f"layers.{layer}.q_proj": (4, 4) for layer in range(3)} | {"layers.0.up_proj": (4, 6)}


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    """A store that knows the sizes of its base."""
    Store.init(tmp_path / "fitted", base="weft1-0123456789abcdef", modules=MODULES).close()
    return tmp_path / "fitted"


def test_an_adapter_that_fits(fitted: Path, folder: Path, tmp_path: Path) -> None:
    up = {
        "base_model.model.layers.0.up_proj.lora_A.weight": tensor(1, 2, 4),
        "base_model.model.layers.0.up_proj.lora_B.weight": tensor(2, 6, 2),
        # Not among the modules that the base lists: not judged.
        "base_model.model.embed.lora_A.weight": tensor(3, 2, 99),
        "base_model.model.embed.lora_B.weight": tensor(4, 7, 2),
    }
    with Store(fitted) as store:
        store.add(write_folder(tmp_path / "up", up), "up", message="x")
        store.add(folder, "a", message="x")
        assert store.verify().problems == ()


def test_another_size_is_refused(fitted: Path, tmp_path: Path) -> None:
    cases = [
        (
            lora() | {key(1): tensor(1, 2, 5)},
            r"lora_A of layers\.1\.q_proj is \[2, 5\], the base needs \[R, 4\]",
        ),
        (lora() | {key(2, "B"): tensor(1, 3, 2)}, r"lora_B of layers\.2\.q_proj is \[3, 2\].*\[4, R\]"),
        ({f"base_model.model.{name}": value for name, value in lora().items()}, "the base has no module"),
    ]
    head = git(fitted, "rev-parse", "HEAD")
    with Store(fitted) as store:
        store.add(write_folder(tmp_path / "good", lora()), "good", message="x")
        head = git(fitted, "rev-parse", "HEAD")
        for number, (tensors, said) in enumerate(cases):
            folder = write_folder(tmp_path / str(number), tensors)
            for call in (
                lambda folder=folder: store.add(folder, "bad", message="x"),
                lambda folder=folder: store.add(folder, "bad"),
                lambda folder=folder: store.stack("good", folder, "bad", message="x"),
            ):
                with pytest.raises(ShapeError, match=said) as found:
                    call()
                assert "\n" not in str(found.value)
    assert git(fitted, "rev-parse", "HEAD") == head
    assert is_clean(fitted)


def test_verify_sees_what_other_tools_committed(fitted: Path, folder: Path) -> None:
    with Store(fitted) as store:
        store.add(folder, "a", message="x")
    one = {key(1): tensor(1, 2, 5)}
    file = file_bytes(one, header_text(one))
    commit_tree(fitted, {("adapters", "a", "tensors", f"{key(1)}.safetensors"): file})
    with Store(fitted) as store:
        problems = store.verify().problems
    assert len(problems) == 1
    assert "lora_A of layers.1.q_proj is [2, 5], the base needs [R, 4]" in problems[0]


def test_sizes_that_came_later_are_held_against_the_same_adapters(fitted: Path, folder: Path) -> None:
    with Store(fitted) as store:
        store.add(folder, "a", message="x")
    values = json.loads((fitted / "weft-store.json").read_text())
    values["modules"]["layers.1.q_proj"] = [4, 8]
    (fitted / "weft-store.json").write_text(json.dumps(values))
    git(fitted, "commit", "-qam", "another base")
    with Store(fitted) as store:
        assert [line.partition(": ")[2] for line in store.verify().problems] == [
            "adapters/a: lora_B of layers.1.q_proj is [4, 2], the base needs [8, R]"
        ]


def test_what_is_not_known_is_not_judged() -> None:
    shapes = {key(0): (2, 5), "x.lora_A.weight": (1, 2, 3), "x.lora_embedding_A": (9, 9)}
    StoreFile().check_modules(shapes, "x")
    StoreFile(modules={"q": (1, 1)}).check_modules({"embed.lora_embedding_A": (9, 9)}, "x")
    with pytest.raises(ShapeError, match="no module"):
        StoreFile(modules={}).check_modules(shapes, "x")


@pytest.mark.parametrize("modules", [[], {"q": [1]}, {"q": [1, 0]}, {"q": [1, True]}, {"q": "1x2"}])
def test_wrong_sizes_are_one_line(root: Path, modules: object) -> None:
    values = {"format": 1, "base": None, "modules": modules}
    commit_tree(root, {("weft-store.json",): json.dumps(values).encode()})
    with Store(root) as store, pytest.raises(AdapterFormatError, match=r"module paths to \[in, out\]"):
        store.list()


def test_the_base_brings_its_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["store", "init", str(tmp_path / "s"), "--base", "weft/letters"]) == 0
    modules = json.loads((tmp_path / "s/weft-store.json").read_text())["modules"]
    assert modules["model.layers.0.mlp.up_proj"] == [192, 512]
    assert "lm_head" in modules
    assert app.main(["store", "init", str(tmp_path / "t"), "--base", "weft1-0123456789abcdef"]) == 0
    assert "modules" not in json.loads((tmp_path / "t/weft-store.json").read_text())
    capsys.readouterr()
