"""Content that means harm is refused by name, in one line, before it is read or written anywhere."""

import json
import struct
from pathlib import Path

import pytest
from store_kit import commit_tree, contents, file_bytes, git, header_text, key, lora, tensor, write_folder

from weft import tensor_file
from weft.errors import AdapterFormatError, MissingFileError, WeftError
from weft.reading import POINTER
from weft.store import Store, stored
from weft.store import folder as folders
from weft.store.git import Git
from weft.store.layout import file_of
from weft.store.objects import FILE, TREE, Entry, Objects

A = ("adapters", "a")
T = (*A, "tensors")
FIRST = file_of(key(0))


def blob(root: Path, data: bytes, mode: str = FILE) -> Entry:
    with Git(root) as opened:
        objects = Objects(opened.algorithm)
        oid = objects.add("blob", data)
        opened.keep(objects)
    return Entry(mode, oid)


def one_tensor(
    name: str, *shape: int, raw: bytes | None = None, dtype: str = "F32", **changed: object
) -> bytes:
    dtype, shape, usual = tensor(0, *shape, dtype=dtype)
    raw = usual if raw is None else raw
    spec = {"dtype": dtype, "shape": list(shape), "data_offsets": [0, len(raw)]} | changed
    return file_bytes({name: (dtype, shape, raw)}, json.dumps({name: spec}))


NAN = struct.pack("<8f", *[1.0] * 7, float("nan"))
MANIFEST = {"format": 1, "base": None, "lineage": {}, "metadata": None}


def manifest(**changed: object) -> bytes:
    return json.dumps(MANIFEST | changed).encode()


@pytest.mark.parametrize(
    ("path", "content", "says"),
    [
        ((*T, FIRST), one_tensor(key(0), 2, 4, raw=NAN), "holds NaN"),
        ((*T, FIRST), one_tensor(key(0), 8193, 1), "rank 8193"),
        ((*T, FIRST), one_tensor(key(0), 2, 4, shape=[1 << 40, 1 << 40]), "needs"),
        ((*T, FIRST), one_tensor(key(0), 2, 4, data_offsets=[4, 36]), "begins at byte 4"),
        ((*T, FIRST), one_tensor(key(0), 2, 4, dtype_="F32"), "should have a dtype"),
        ((*T, FIRST), one_tensor(key(1), 2, 4), "belongs into"),
        ((*T, FIRST), None, "layers.0.q_proj.lora_B.weight has no lora_A beside it"),
        ((*T, file_of(key(2, "B"))), None, "layers.2.q_proj.lora_A.weight has no lora_B beside it"),
        ((*T, FIRST), (1 << 40).to_bytes(8, "little") + b"{}", "cut short"),
        ((*T, FIRST), b"\x80\x04\x95pickled.", "cut short"),
        ((*T, FIRST), file_bytes(lora(), header_text(lora())), "one tensor"),
        ((*T, "x.bin"), b"\x80\x04.", "'x.bin', which is no tensor"),
        ((*T, ".safetensors"), b"", "no tensor"),
        ((*A, "adapter_model.bin"), b"\x80\x04.", "'adapter_model.bin', which is no part"),
        ((*A, ".gitattributes"), b"* filter=x\n", "no part"),
        ((*A, "adapter.json"), b"{", "not valid JSON"),
        ((*A, "adapter.json"), b"[]", "keys and values"),
        ((*A, "adapter.json"), manifest(format=2), "format 2, this Weft reads 1"),
        ((*A, "adapter.json"), manifest(run="rm -rf"), "unknown key 'run'"),
        ((*A, "adapter.json"), manifest(lineage={"x": 1}), "lineage"),
        ((*A, "adapter.json"), manifest(lineage=[]), "lineage"),
        ((*A, "adapter.json"), manifest(metadata={"x": 1}), "texts"),
        ((*A, "adapter.json"), manifest(header=1), "header"),
        ((*A, "adapter.json"), manifest(base=1), "base"),
        ((*A, "adapter.json"), b'{"a":' * 100_000, "nested too deeply"),
        ((*A, "adapter_config.json"), b"\xff", "not valid JSON"),
        ((*A, "adapter_config.json"), None, "no adapter_config.json"),
        ((*A, "tensors"), None, "no tensors"),
        ((*A, "tensors"), b"a file", "a file, expected a folder"),
        ((*A,), b"a file", "a file, expected a folder"),
        (("weft-store.json",), b'{"format": 9}', "format 9"),
        (("weft-store.json",), b'{"format": 1, "base": 5}', "base"),
    ],
)
def test_hostile_files(
    path: tuple[str, ...], content: bytes | None, says: str, root: Path, folder: Path, tmp_path: Path
) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="honest")
        commit_tree(root, {path: content})
        out = write_folder(tmp_path / "out", lora(7))
        before = contents(out)
        with pytest.raises(WeftError, match=says) as found:
            store.checkout("a", out)
        assert "\n" not in str(found.value)
        assert len(str(found.value)) < 400
        assert contents(out) == before
        problems = store.verify().problems
        assert len(problems) == 1, problems
        assert says in problems[0] or "expected" in problems[0]
        # What came before is as good as ever.
        store.checkout("a", out, rev="HEAD~1")
        assert contents(out) == contents(folder)


@pytest.mark.parametrize("path", [(*T, FIRST), (*A, "adapter.json"), (*A, "README.md"), A, T, ("adapters",)])
@pytest.mark.parametrize(("mode", "says"), [("120000", "symbolic link"), ("160000", "submodule")])
def test_links_and_submodules(path: tuple[str, ...], mode: str, says: str, root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="honest")
        commit_tree(root, {path: blob(root, b"/etc/passwd", mode)})
        with pytest.raises(WeftError, match=f"{says}|no adapter a"):
            store.checkout("a", root.parent / "out")
        assert any(says in problem for problem in store.verify().problems)
    assert not (root.parent / "out").exists()


@pytest.mark.parametrize("name", ["..", "/etc", "a/b", ".git", "x\n"])
def test_names_of_adapters_and_tensors(name: str, root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="honest")
        tree = git(root, "rev-parse", "HEAD:adapters/a")
        for path, says in (
            (("adapters", name), "no name"),
            ((*T, name + ".safetensors"), "no tensor|no name|belongs"),
        ):
            entry = Entry(TREE, tree) if path[0:2] != A else blob(root, one_tensor(name, 1))
            commit_tree(root, {path: entry})
            with pytest.raises(WeftError, match=says):
                store.list() if path[0:2] != A else store.checkout("a", root.parent / "out")
            assert store.verify().problems
            git(root, "update-ref", "HEAD", "HEAD~1")
    assert not (root.parent / "out").exists()


def test_a_tree_that_names_a_file_twice(root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="honest")
        with Git(root) as opened:
            whole = opened.read(
                opened.commit_of("HEAD") and git(root, "rev-parse", "HEAD:adapters/a"), "tree", 9999
            )
            objects = Objects(opened.algorithm)
            oid = objects.add("tree", whole + whole)
            opened.keep(objects)
        commit_tree(root, {A: Entry(TREE, oid)})
        with pytest.raises(AdapterFormatError, match="damaged tree"):
            store.checkout("a", root.parent / "out")


def test_limits_come_before_reading(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="honest")
        for module, limit, value, says in (
            (stored, "MAX_TENSORS", 5, "6 tensors, expected 1 to 5"),
            (folders, "MAX_TEXT", 3, "at most 3 are stored"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(module, limit, value)
                with pytest.raises(AdapterFormatError, match=says):
                    store.add(folder, "b", message="x") if module is folders else store.checkout(
                        "a", tmp_path / "out"
                    )
        from weft.store import checkout, pointer

        for module, limit, value, says in (
            (pointer, "MAX_ADAPTER", 100, "bytes of tensors, at most 100"),
            (pointer, "MAX_TENSOR", 50, "at most 50 are read"),
            (checkout, "MAX_TEXT", 3, "at most 3 are read"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(module, limit, value)
                with pytest.raises(AdapterFormatError, match=says):
                    store.checkout("a", tmp_path / "out")
        store.checkout("a", tmp_path / "out")  # and all is well without them
        with monkeypatch.context() as patch:
            patch.setattr(tensor_file, "MAX_TENSORS", 5)
            with pytest.raises(AdapterFormatError, match="6 tensors"):
                store.add(folder, "b", message="x")
        with monkeypatch.context() as patch:
            patch.setattr(folders, "MAX_ADAPTER", 100)
            with pytest.raises(AdapterFormatError, match="at most 100 are stored"):
                store.add(folder, "b", message="x")


def test_a_million_tensors_are_refused_by_the_size_of_their_tree(root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="honest")
        tensor_id = bytes.fromhex(git(root, "rev-parse", f"HEAD:adapters/a/tensors/{FIRST}"))
        rows = b"".join(b"100644 %07d.safetensors\0" % i + tensor_id for i in range(1_000_000))
        with Git(root) as opened:
            objects = Objects(opened.algorithm)
            oid = objects.add("tree", rows)
            opened.keep(objects)
        commit_tree(root, {T: Entry(TREE, oid)})
        with pytest.raises(AdapterFormatError, match="bytes, at most"):
            store.checkout("a", root.parent / "out")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pointer_of_git_lfs_in_a_folder_is_named(name: str, root: Path, folder: Path) -> None:
    (folder / name).write_bytes(POINTER + b"v1\noid sha256:0\nsize 9\n")
    with Store(root) as store, pytest.raises(WeftError, match=f"{name} is a git-lfs pointer"):
        store.add(folder, "a", message="x")


def test_pickles_and_missing_files_in_a_folder(root: Path, folder: Path) -> None:
    with Store(root) as store:
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(AdapterFormatError, match="is a pickle, which can run code"):
            store.add(folder, "a", message="x")
        (folder / "adapter_model.bin").unlink()
        with pytest.raises(MissingFileError, match=r"adapter_model\.safetensors"):
            store.add(folder, "a", message="x")
        with pytest.raises(MissingFileError, match="no adapter folder"):
            store.add(folder / "nothing", "a", message="x")


@pytest.mark.parametrize("where", [0, 7, 40, -1])
def test_a_damaged_blob_is_noticed(where: int, root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
    oid = git(root, "rev-parse", f"HEAD:adapters/a/tensors/{FIRST}")
    file = root / ".git/objects" / oid[:2] / oid[2:]
    raw = bytearray(file.read_bytes())
    raw[where] ^= 0x55
    file.chmod(0o644)
    file.write_bytes(raw)
    with Store(root) as store:
        with pytest.raises(AdapterFormatError, match=oid):
            store.checkout("a", root.parent / "out")
        assert any(oid in problem for problem in store.verify().problems)


def test_another_blob_in_the_place_of_one_is_noticed(root: Path, folder: Path) -> None:
    """A whole object under a wrong id: git's reader does not notice, the hash does."""
    with Store(root) as store:
        store.add(folder, "a", message="x")
    mine, other = (git(root, "rev-parse", f"HEAD:adapters/a/tensors/{file_of(key(i))}") for i in (0, 1))
    place, source = (root / ".git/objects" / oid[:2] / oid[2:] for oid in (mine, other))
    place.chmod(0o644)
    place.write_bytes(source.read_bytes())
    with Store(root) as store:
        with pytest.raises(AdapterFormatError, match=f"{mine} is damaged"):
            store.checkout("a", root.parent / "out")
        assert store.verify().problems


def test_revisions_are_no_options(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
        for rev in ("--output=/tmp/x", "HEAD\nHEAD", "", "HEAD:adapters", "-"):
            with pytest.raises(WeftError, match="no revision"):
                store.checkout("a", tmp_path / "out", rev=rev)


def test_a_store_of_another_base_does_not_verify(root: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(write_folder(tmp_path / "in", lora(), {"weft_base": "weft1-1"}), "a", message="x")
        commit_tree(root, {("weft-store.json",): b'{"format": 1, "base": "weft1-2"}'})
        commit_tree(root, {(*A, "README.md"): b"seen anew"})
        assert any("weft1-1, this store to weft1-2" in problem for problem in store.verify().problems)


@pytest.mark.parametrize("name", ["x.lora_A.weight", "x.lora_B.weight", "x.lora_embedding_B"])
def test_half_a_lora_is_not_taken_in(name: str, root: Path, tmp_path: Path) -> None:
    half = write_folder(tmp_path / "half", {**lora(), "x.lora_B.bias": tensor(0, 4), name: tensor(1, 2, 2)})
    with Store(root) as store:
        with pytest.raises(AdapterFormatError, match=rf"{name} has no lora_[AB] beside it"):
            store.add(half, "a", message="x")
        bias = write_folder(tmp_path / "bias", {**lora(), "x.lora_B.bias": tensor(0, 4)})
        store.add(bias, "a", message="x")
        assert store.verify().problems == ()
