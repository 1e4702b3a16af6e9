"""Adapters that begin with another one's ranks: what is stored, what comes out, what is refused."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_kit import (
    BITS,
    commit_tree,
    contents,
    file_bytes,
    git,
    header_text,
    is_clean,
    key,
    lora,
    wider,
    write_folder,
)

from weft.cli import app
from weft.errors import ConfigError, ShapeError, UnknownNameError, WeftError
from weft.store import Store
from weft.store.git import Git
from weft.store.pieces import Values, cut, join
from weft.store.stored import stored_at

Tensors = dict[str, Any]


def config(rank: int) -> bytes:
    return json.dumps(
        {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj"]}
    ).encode()


def blobs(root: Path, name: str) -> dict[str, str]:
    lines = git(root, "ls-tree", "-r", "HEAD", f"adapters/{name}/tensors").splitlines()
    return {line.split("\t")[1].rpartition("/")[2]: line.split()[2] for line in lines}


@pytest.fixture
def parent(root: Path, tmp_path: Path) -> Tensors:
    tensors = lora()
    with Store(root) as store:
        store.add(write_folder(tmp_path / "parent", tensors), "narrow", message="narrow")
    return tensors


def test_only_the_new_columns_are_stored(root: Path, tmp_path: Path, parent: Tensors) -> None:
    folder = write_folder(
        tmp_path / "wide", wider(parent, 3), {"format": "pt"}, config=config(5), card=b"# W\n"
    )
    with Store(root) as store:
        done = store.stack("narrow", folder, "wide", message="wide", lineage={"author": "Ada"})
        assert (done.tensors, done.written) == (6, 6)
        store.checkout("wide", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(folder)
        tree = next(row.tree for row in store.list() if row.name == "narrow")
        shown = store.show("wide")
        assert shown.lineage == {"author": "Ada", "parents": [{"name": "narrow", "tree": tree}]}
        assert shown.tensors == 6
        assert [row.tensors for row in store.list()] == [6, 6]
        assert [row.message for row in store.log("wide")] == ["wide"]
        assert store.verify().problems == ()
    narrow, wide = blobs(root, "narrow"), blobs(root, "wide")
    assert narrow.items() <= wide.items()
    added = sum(int(git(root, "cat-file", "-s", oid)) for file, oid in wide.items() if file not in narrow)
    assert added < 6 * (3 * 4 * 4 + 200)  # three rows or columns of four float32 and a header each
    assert is_clean(root)


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(["F64", "F32", "BF16", "F8_E4M3"]),
    half=st.sampled_from("AB"),
    ranks=st.lists(st.integers(0, 3), min_size=2, max_size=5),
    shape=st.tuples(st.integers(0, 4), st.sampled_from([(), (2,), (1, 3)])),
)
def test_what_is_cut_is_joined_again(
    dtype: str, half: str, ranks: list[int], shape: tuple[int, tuple[int, ...]]
) -> None:
    """Against numpy, also for convolutions; pieces of no rows at all too."""
    at, size = "AB".index(half), BITS[dtype] // 8
    parts, rng = [], np.random.default_rng(sum(ranks))
    for rank in ranks:
        its = [shape[0], *shape[1]]
        its.insert(at, rank)
        parts.append(rng.integers(0, 256, (*its, size), dtype=np.uint8))
    values = [Values(dtype, part.shape[:-1], part.tobytes()) for part in parts]
    whole = np.concatenate(parts, axis=at)
    expected = Values(dtype, whole.shape[:-1], whole.tobytes())
    assert join(key(0, half), values, "x") == expected
    old = join(key(0, half), values[:-1], "x")
    assert cut(key(0, half), old, expected, "x") == (values[-1] if ranks[-1] else None)


def test_a_pile_comes_back_to_the_byte(root: Path, tmp_path: Path, parent: Tensors) -> None:
    tensors = parent
    with Store(root) as store:
        store.add(tmp_path / "parent", "narrow", message="x", lineage={"licence": "mit"})
        for level in (1, 2):
            tensors = wider(tensors, level, seed=level)
            folder = write_folder(tmp_path / str(level), tensors)
            store.stack("narrow", folder, "narrow", message=str(level))  # its own next version
            store.checkout("narrow", tmp_path / "out")
            assert contents(tmp_path / "out") == contents(folder)
        assert store.show("narrow").lineage["licence"] == "mit"
        assert len(blobs(root, "narrow")) == 3 * 6
        assert store.verify().problems == ()


def test_the_parent_may_change_and_go(root: Path, tmp_path: Path, parent: Tensors) -> None:
    folder = write_folder(tmp_path / "wide", wider(parent, 2), {"format": "pt"}, config=config(4))
    with Store(root) as store:
        store.stack("narrow", folder, "wide", message="wide")
        store.add(write_folder(tmp_path / "other", lora(50)), "narrow", message="another")
        store.remove("narrow", message="gone")
    # All history squashed into one commit, and everything else swept away.
    commit = git(root, "commit-tree", "-m", "squashed", "HEAD^{tree}")
    git(root, "reset", "-q", "--hard", commit)
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "gc", "-q", "--prune=now")
    git(tmp_path, "clone", "-q", f"file://{root}", "clone")
    for place in (root, tmp_path / "clone"):
        with Store(place) as store:
            store.checkout("wide", tmp_path / "out")
            assert contents(tmp_path / "out") == contents(folder)
            assert store.verify().problems == ()


def test_new_modules_and_unchanged_ones(root: Path, tmp_path: Path, parent: Tensors) -> None:
    wide = wider(parent, 1)
    mixed = parent | {key(1, half): wide[key(1, half)] for half in "AB"}
    mixed |= {key(9, half): value for half, value in zip("AB", lora(80, layers=1).values(), strict=True)}
    folder = write_folder(tmp_path / "mixed", mixed)
    with Store(root) as store:
        assert store.stack("narrow", folder, "mixed", message="x").written == 4
        store.checkout("mixed", tmp_path / "out")
        rows = store.diff("narrow", "mixed")
    assert (tmp_path / "out/adapter_model.safetensors").stat().st_size > 0
    found = contents(tmp_path / "out")["adapter_model.safetensors"]
    assert found == contents(folder)["adapter_model.safetensors"]
    changed = {(row.layer, row.what.rpartition(".")[2], row.change) for row in rows if row.layer}
    assert changed == {("layers.1.q_proj", "weight+1", "added"), ("layers.9.q_proj", "weight", "added")}


def test_what_is_no_stack_is_refused(root: Path, tmp_path: Path, parent: Tensors) -> None:
    wide = wider(parent, 2)

    def edited(name: str, at: int) -> Tensors:
        dtype, shape, raw = wide[name]
        return wide | {name: (dtype, shape, raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])}

    other = dict(wide)
    _, shape, raw = other[key(2)]
    other[key(2)] = "F16", (shape[0], 2 * shape[1]), raw
    narrower = {name: ("F32", (1, 4) if ".lora_A." in name else (4, 1), bytes(16)) for name in parent}
    lacking = {name: value for name, value in wide.items() if name not in (key(1), key(1, "B"))}
    cases = [
        (edited(key(1, "A"), 31), r"lora_A.*its first 2 of rank differ"),
        # The second number of the last row: still the parent's, the two after it are new.
        (edited(key(1, "B"), 3 * 16 + 4), r"lora_B.*its first 2 of rank differ"),
        (lacking, r"lacks .*layers\.1\.q_proj\.lora_A"),
        (other, "F16 .* only lora_A and lora_B may grow"),
        (narrower, "only lora_A and lora_B may grow"),
        (parent, "has no new columns"),
    ]
    head = git(root, "rev-parse", "HEAD")
    with Store(root) as store:
        for number, (tensors, said) in enumerate(cases):
            folder = write_folder(tmp_path / f"bad-{number}", tensors)
            with pytest.raises(ShapeError, match=said) as found:
                store.stack("narrow", folder, "wide", message="x")
            assert "\n" not in str(found.value)
        folder = write_folder(tmp_path / "good", wide)
        with pytest.raises(UnknownNameError, match=r"no adapter narow \(did you mean narrow"):
            store.stack("narow", folder, "wide", message="x")
        with pytest.raises(ConfigError, match="cannot state parents"):
            store.stack("narrow", folder, "wide", message="x", lineage={"parents": []})
        with pytest.raises(ConfigError, match="no name for an adapter"):
            store.stack("narrow", folder, "../wide", message="x")
        assert git(root, "rev-parse", "HEAD") == head
        assert is_clean(root)
        # The last bit of the last new number is free.
        assert store.stack("narrow", write_folder(tmp_path / "e", edited(key(1, "B"), 63)), "wide").written


def test_pieces_that_do_not_fit_are_refused(root: Path, tmp_path: Path, parent: Tensors) -> None:
    with Store(root) as store:
        store.stack("narrow", write_folder(tmp_path / "wide", wider(parent, 2)), "wide", message="x")

    def piece(name: str, dtype: str, *shape: int) -> bytes:
        one = {name: (dtype, shape, bytes(math.prod(shape) * BITS[dtype] // 8))}
        return file_bytes(one, header_text(one))

    file = f"{key(1)}+1.safetensors"
    hostile: list[tuple[dict[str, bytes | None], str]] = [
        ({f"{key(1)}+3.safetensors": piece(key(1), "F32", 1, 4)}, r"\+2\.safetensors is missing"),
        ({file: piece(key(1), "F32", 2, 5)}, r"pieces of \[2, 4\] and \[2, 5\]"),
        ({file: piece(key(1), "F16", 2, 4)}, "no rows or columns of one tensor"),
        ({file: piece(key(1), "F32", 8191, 4)}, "rank 8193, at most 8192"),
        ({file: piece(key(2), "F32", 2, 4)}, "belongs into"),
        ({f"{key(1)}+01.safetensors": piece(key(1), "F32", 1, 4)}, "belongs into"),
        ({file: None}, r"lora_A\.weight is \[2, 4\], lora_B beside it \[4, 4\]: their ranks differ"),
    ]
    for change, said in hostile:
        commit_tree(root, {("adapters", "wide", "tensors", name): data for name, data in change.items()})
        with Store(root) as store:
            with pytest.raises(WeftError, match=said) as found:
                store.checkout("wide", tmp_path / "out")
            assert "\n" not in str(found.value)
            problems = store.verify().problems
        assert any(re.search(said, line) for line in problems), (said, problems)
        assert not (tmp_path / "out").exists()
        git(root, "update-ref", "HEAD", "HEAD~1")


def test_columns_of_one_branch_and_edits_of_another(root: Path, tmp_path: Path, parent: Tensors) -> None:
    git(root, "checkout", "-q", "-b", "ada")
    wide = wider(parent, 2)
    with Store(root) as store:
        store.stack("narrow", write_folder(tmp_path / "wide", wide, config=config(4)), "narrow", message="x")
    git(root, "checkout", "-q", "main")
    edit = wider(parent, 2, seed=8)[key(1)][2][: 2 * 4 * 4 - 1] + b"\x07"
    edited = parent | {key(1): ("F32", (2, 4), edit)}
    with Store(root) as store:
        store.add(write_folder(tmp_path / "edit", edited), "narrow", message="y")
        store.merge("ada")
        store.checkout("narrow", tmp_path / "out")
        assert store.verify().problems == ()
    dtype, shape, raw = wide[key(1)]
    expected = write_folder(
        tmp_path / "both", wide | {key(1): (dtype, shape, edit + raw[len(edit) :])}, config=config(4)
    )
    assert contents(tmp_path / "out") == contents(expected)


def test_a_stack_on_a_partial_clone(root: Path, tmp_path: Path, parent: Tensors) -> None:
    git(root, "config", "uploadpack.allowFilter", "true")
    git(root, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{root}", "part")
    git(tmp_path / "part", "reset", "-q")
    folder = write_folder(tmp_path / "wide", wider(parent, 1), config=config(3))
    with Store(tmp_path / "part") as store:
        store.stack("narrow", folder, "wide")
        git(tmp_path / "part", "commit", "-qm", "x")
        store.checkout("wide", tmp_path / "out")
    assert contents(tmp_path / "out")["adapter_config.json"] == config(3)
    with Git(root) as opened:
        assert stored_at(opened, opened.commit_of("HEAD"), "narrow").tensors


def test_killed_in_between(root: Path, tmp_path: Path, parent: Tensors) -> None:
    folders = [write_folder(tmp_path / f"wide-{k}", wider(parent, k), config=config(2 + k)) for k in (1, 2)]
    program = (
        "import sys\nfrom weft.store import Store\nprint('go', flush=True)\nwhile True:\n"
        "  for folder in sys.argv[2:]:\n"
        "    with Store(sys.argv[1]) as store: store.stack('narrow', folder, 'wide', message=folder)\n"
    )
    for attempt in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(root), *map(str, folders)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.07 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        time.sleep(0.1)
        (root / ".git/index.lock").unlink(missing_ok=True)
        git(root, "reset", "-q", "--hard")
        with Store(root) as store:
            assert store.verify().problems == ()
            if any(row.name == "wide" for row in store.list()):
                store.checkout("wide", tmp_path / "out")
                assert contents(tmp_path / "out") in [contents(folder) for folder in folders]


def test_the_command_line(
    root: Path, tmp_path: Path, parent: Tensors, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "wide", wider(parent, 2))
    place = ("--store", str(root))
    words = ["store", "stack", "narrow", str(folder), "--name", "wide", "-m", "x", *place]
    assert app.main(words) == 0
    head = git(root, "rev-parse", "HEAD")
    assert capsys.readouterr().out == (
        f"wide: committed as {head[:12]}, narrow with 6 new pieces in 6 tensors\n"
    )
    assert app.main(["store", "stack", "wide", str(folder), "--name", "wide", "-m", "x", *place]) == 1
    assert capsys.readouterr().err.endswith("is wide itself and has no new columns\n")
