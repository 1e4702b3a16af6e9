import random
import subprocess
import tempfile
from pathlib import Path

import pytest
from store_kit import git

from weft.store import objects as module
from weft.store.git import Git
from weft.store.objects import Entry, Objects, install_pack, object_id, parse_tree, write_pack


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_git_reads_our_packs(algorithm: str, tmp_path: Path) -> None:
    """Sizes around the borders of the variable-length code."""
    git(tmp_path, "init", "-q", f"--object-format={algorithm}", ".")
    made = Objects(algorithm)
    sizes = [0, 1, 15, 16, 17, 2047, 2048, 2049, 262_143, 262_144, 300_000]
    blobs = {made.add("blob", bytes(i * 37 % 251 for i in range(size))): size for size in sizes}
    tree = made.add_tree({f"f{size}": Entry("100644", oid) for oid, size in blobs.items()})
    install_pack(made, tmp_path / ".git/objects/pack")
    for oid, size in blobs.items():
        assert git(tmp_path, "cat-file", "-s", oid) == str(size)
    assert len(git(tmp_path, "ls-tree", tree).splitlines()) == len(sizes)
    (index,) = (tmp_path / ".git/objects/pack").glob("*.idx")
    git(tmp_path, "verify-pack", str(index))
    # Byte for byte the index that git makes of the same pack.
    pack = index.with_suffix(".pack")
    (tmp_path / "copy.pack").write_bytes(pack.read_bytes())
    git(tmp_path, "index-pack", "-o", "copy.idx", "copy.pack")
    assert (tmp_path / "copy.idx").read_bytes() == index.read_bytes()


def test_far_offsets_are_those_that_git_reads(tmp_path: Path) -> None:
    """No pack here is of 2 GiB, so the index alone is read back."""
    places = {
        object_id("blob", b"%d" % i, "sha1"): (offset, 7)
        for i, offset in enumerate([12, 2**31 - 1, 2**31, 2**40])
    }
    index = module._index(places, bytes(20), "sha1")
    listed = subprocess.run(["git", "show-index"], input=index, capture_output=True, check=True, cwd=tmp_path)
    rows = {line.split()[1]: int(line.split()[0]) for line in listed.stdout.decode().splitlines()}
    assert rows == {oid: offset for oid, (offset, _) in places.items()}


def test_trees_sort_as_git_sorts_them(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", ".")
    for name in ("a-b", "a.b", "a0"):
        (tmp_path / name).write_text("x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("x")
    git(tmp_path, "add", ".")
    oid = git(tmp_path, "write-tree")
    with Git(tmp_path) as opened:
        assert Objects("sha1").add_tree(opened.tree(oid, "x")) == oid


def test_packs_of_one_content_are_equal() -> None:
    outs = []
    for _ in range(2):
        made = Objects("sha1")
        made.add("blob", b"x" * 100)
        made.add("blob", b"y" * 100)
        with tempfile.TemporaryFile() as out:
            write_pack(made, out)
            out.seek(0)
            outs.append(out.read())
    assert outs[0] == outs[1]


def test_a_cut_tree_is_refused() -> None:
    whole = b"100644 a\0" + bytes(20)
    assert parse_tree(whole, 20, "x") == {"a": Entry("100644", "00" * 20)}
    for cut in (whole[:-1], whole[:8], b"100644a\0" + bytes(20)):
        with pytest.raises(ValueError, match="damaged tree"):
            parse_tree(cut, 20, "x")


def test_what_shrinks_is_deflated(tmp_path: Path) -> None:
    chance = random.Random(0)
    noise = chance.randbytes(100_000)
    halves = bytes(b for low in noise[:50_000] for b in (low, 0x3C + low % 3))
    git(tmp_path, "init", "-q", ".")
    made = Objects("sha1")
    data = {"noise": noise, "bfloat16": halves, "zeros": bytes(100_000)}
    oids = {name: made.add("blob", content) for name, content in data.items()}
    install_pack(made, tmp_path / ".git/objects/pack")
    (index,) = (tmp_path / ".git/objects/pack").glob("*.idx")
    rows = [line.split() for line in git(tmp_path, "verify-pack", "-v", str(index)).splitlines()]
    stored = {row[0]: int(row[3]) for row in rows if len(row) == 5}
    shrunk = {name for name, oid in oids.items() if stored[oid] < 0.9 * 100_000}
    assert shrunk == {"bfloat16", "zeros"}
    with Git(tmp_path) as opened:
        assert list(opened.read_all(list(oids.values()), "blob", 100_000)) == list(data.values())
