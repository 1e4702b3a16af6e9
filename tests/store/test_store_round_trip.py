import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_kit import BITS, Tensors, contents, git, is_clean, key, lora, tensor, write_folder

from weft.errors import AdapterFormatError, BaseMismatchError, ConfigError, SaveError, UnknownNameError
from weft.store import Store
from weft.store.layout import file_of, layer_of, tensor_of
from weft.tensor_file import split

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=300
).filter(lambda n: n != "__metadata__")


@st.composite
def adapters(draw: st.DrawFn) -> tuple[Tensors, str]:
    """Tensors of any type and shape, and a header with its keys, spaces and metadata in any order."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique_by=str.casefold))
    tensors = {}
    for name in names:
        dtype = draw(st.sampled_from(sorted(BITS)))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        if math.prod(shape) * BITS[dtype] % 8:
            shape = (*shape, 2)
        tensors[name] = tensor(draw(st.integers(0, 9)), *shape, dtype=dtype)
    fields = {}
    at = 0
    for name, (dtype, shape, raw) in tensors.items():
        spec = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + len(raw)]}
        fields[name] = {k: spec[k] for k in draw(st.permutations(sorted(spec)))}
        at += len(raw)
    metadata = draw(st.none() | st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
    if metadata is not None:
        fields["__metadata__"] = metadata
    ordered = {name: fields[name] for name in draw(st.permutations(list(fields)))}
    ascii_only, indent = draw(st.booleans()), draw(st.sampled_from([None, 0, 2]))
    text = json.dumps(ordered, ensure_ascii=ascii_only, indent=indent) + " " * draw(st.integers(0, 9))
    return tensors, text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    made=adapters(), card=st.none() | st.binary(max_size=40), config_end=st.sampled_from(["", "\n", "\r\n "])
)
def test_what_comes_out_is_what_went_in(
    made: tuple[Tensors, str], card: bytes | None, config_end: str, shared: Path
) -> None:
    tensors, text = made
    with tempfile.TemporaryDirectory(dir=shared) as place:
        config = ('{"r": 2,  "peft_type": "LORA"}' + config_end).encode()
        source = write_folder(Path(place) / "in", tensors, text=text, card=card, config=config)
        root = shared / "store"
        if not root.exists():
            Store.init(root).close()
        with Store(root) as store:
            store.add(source, "a", message="x")
            store.checkout("a", Path(place) / "out")
        assert contents(Path(place) / "out") == contents(source)
        assert is_clean(root)


def test_a_whole_history_of_odd_adapters_verifies(shared: Path) -> None:
    with Store(shared / "store") as store:  # made by the test above
        found = store.verify()
        assert found.problems == ()
        assert found.commits == len(store.log())
        assert found.adapters > 5


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layer=st.integers(0, 2), half=st.sampled_from("AB"), at=st.integers(0, 7), bit=st.integers(0, 7))
def test_every_flipped_bit_is_seen(layer: int, half: str, at: int, bit: int, shared: Path) -> None:
    tensors = lora()
    name = key(layer, half)
    dtype, shape, raw = tensors[name]
    root = shared / "bits"
    with tempfile.TemporaryDirectory(dir=shared) as place:
        if not root.exists():
            Store.init(root).close()
        with Store(root) as store:
            before = write_folder(Path(place) / "before", tensors)
            store.add(before, "a", message="before")
            # The lowest byte of a value: one unit in the last place for bit 0.
            flipped = bytearray(raw)
            flipped[4 * at] ^= 1 << bit
            after = write_folder(Path(place) / "after", tensors | {name: (dtype, shape, bytes(flipped))})
            added = store.add(after, "a", message="after")
            assert added.written <= 1  # 0 when an earlier example stored the same tensor
            (row,) = store.diff("HEAD~1", "HEAD")
            assert row == ("a", f"layers.{layer}.q_proj", name, "changed")


def test_an_unchanged_adapter_makes_no_commit(root: Path, folder: Path) -> None:
    with Store(root) as store:
        first = store.add(folder, "a", message="one")
        assert (first.tensors, first.written, first.left_out) == (6, 6, ())
        head = git(root, "rev-parse", "HEAD")
        assert first.commit == head
        again = store.add(folder, "a", message="two")
        assert again.commit is None
        assert again.written == 0
        assert git(root, "rev-parse", "HEAD") == head


def test_equal_tensors_are_one_blob(root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="a")
        assert store.add(folder, "b", message="b").written == 0
        listed = store.list()
        assert [row.name for row in listed] == ["a", "b"]
        assert listed[0].tree == listed[1].tree
        assert store.diff("a", "b") == []


def test_a_change_of_numbers_changes_the_files_of_those_tensors_alone(root: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(write_folder(tmp_path / "1", lora()), "a", message="one")
        store.add(write_folder(tmp_path / "2", lora() | {key(1): tensor(77, 2, 4)}), "a", message="two")
    assert git(root, "diff", "--name-only", "HEAD~1").splitlines() == [
        f"adapters/a/tensors/{key(1)}.safetensors"
    ]


def test_a_header_of_other_shapes_is_written_as_the_library_does(root: Path, tmp_path: Path) -> None:
    """After a merge the old text no longer fits; what comes out is then a usual file of the new tensors."""
    first = lora()
    with Store(root) as store:
        store.add(write_folder(tmp_path / "1", first), "a", message="one")
        wide = {key(1): tensor(5, 3, 4), key(1, "B"): tensor(6, 4, 3)}
        store.add(write_folder(tmp_path / "2", first | wide), "b", message="two")
        for name in map(file_of, wide):
            moved = git(root, "rev-parse", f"HEAD:adapters/b/tensors/{name}")
            git(root, "update-index", "--cacheinfo", f"100644,{moved},adapters/a/tensors/{name}")
        git(root, "commit", "-qm", "take one layer over")
        store.checkout("a", tmp_path / "out")
        header = split((tmp_path / "out" / "adapter_model.safetensors").read_bytes(), "out")
        assert {s.name: s.shape for s in header.specs}[key(1)] == (3, 4)
        assert [s.name for s in header.specs] == sorted(first)


def test_other_files_are_named_and_left_out(root: Path, folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"pickle")
    with Store(root) as store:
        assert store.add(folder, "a", message="a").left_out == ("training_args.bin",)


def test_one_file_is_enough_of_an_address(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder / "adapter_model.safetensors", "a", message="a")
        store.checkout("a", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


def test_staging_keeps_what_others_staged(root: Path, folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", lora(9))
    with Store(root) as store:
        assert store.add(folder, "a").commit is None
        assert store.add(other, "a").commit is None  # twice, without a commit between
        store.add(folder, "b", message="b alone")
        assert [row.name for row in store.list()] == ["b"]
        assert set(git(root, "diff", "--cached", "--name-only").split()) == {
            f"adapters/a/{name}"
            for name in ("adapter.json", "adapter_config.json", *(f"tensors/{n}.safetensors" for n in lora()))
        }
        git(root, "commit", "-qm", "a too")
        assert is_clean(root)
        store.checkout("a", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(other)


def test_edits_in_the_working_folder_are_not_lost(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="one")
        card = root / "adapters/a/README.md"
        card.write_text("my edit")
        other = write_folder(tmp_path / "other", lora(9), card=b"theirs")
        head = git(root, "rev-parse", "HEAD")
        with pytest.raises(OSError, match=r"README\.md"):
            store.add(other, "a", message="two")
        assert card.read_text() == "my edit"
        assert git(root, "rev-parse", "HEAD") == head
        # A file that was merely touched is no edit.
        git(root, "checkout", "--", ".")
        card.touch()
        store.add(other, "a", message="two")
    assert is_clean(root)


def test_lineage_stays_until_another_is_given(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="one", lineage={"author": "Ada", "metrics": {"exact match": 0.5}})
        store.add(write_folder(tmp_path / "2", lora(3)), "a", message="two")
        assert store.show("a").lineage == {"author": "Ada", "metrics": {"exact match": 0.5}}
        store.add(folder, "a", message="three", lineage={"licence": "mit"})
        assert store.show("a").lineage == {"licence": "mit"}
        with pytest.raises(ConfigError, match=r"'license' \(did you mean licence\?\)"):
            store.add(folder, "a", message="four", lineage={"license": "mit"})
        with pytest.raises(ConfigError, match="JSON"):
            store.add(folder, "a", message="four", lineage={"metrics": float("nan")})


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    mine = write_folder(tmp_path / "mine", lora(), {"weft_base": "weft1-1111"})
    other = write_folder(tmp_path / "other", lora(), {"weft_base": "weft1-2222"})
    nameless = write_folder(tmp_path / "nameless", lora())
    with Store.init(tmp_path / "store", base="weft1-1111") as store:
        store.add(mine, "a", message="a")
        store.add(nameless, "b", message="b")
        assert store.show("b").base == "weft1-1111"
        with pytest.raises(BaseMismatchError, match="weft1-2222"):
            store.add(other, "c", message="c")
        assert store.verify().problems == ()


def test_removal_keeps_history(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="one")
        store.remove("a", message="gone")
        assert store.list() == []
        assert is_clean(root)
        assert not (root / "adapters").exists()
        with pytest.raises(UnknownNameError, match="no adapter a"):
            store.checkout("a", tmp_path / "out")
        store.checkout("a", tmp_path / "out", rev="HEAD~1")
        assert [row.message for row in store.log("a")] == ["gone", "one"]
        with pytest.raises(UnknownNameError):
            store.remove("a", message="again")
    assert contents(tmp_path / "out") == contents(folder)


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".git", "-x", "a b", "x" * 101, "a.", "ä", "a\n"])
def test_names_that_could_be_paths_are_refused(name: str, root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        with pytest.raises(ConfigError, match="no name for an adapter"):
            store.add(folder, name, message="x")
        with pytest.raises(ConfigError, match="no name for an adapter"):
            store.checkout(name, tmp_path / "out")
        with pytest.raises(ConfigError, match="no name for an adapter"):
            store.log(name)
    assert not (tmp_path / "out").exists()


def test_names_that_differ_in_case_alone_are_refused(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
        with pytest.raises(AdapterFormatError, match="case"):
            store.add(folder, "A", message="x")
        twice = write_folder(tmp_path / "twice", {"x": tensor(0, 1), "X": tensor(0, 1)})
        with pytest.raises(AdapterFormatError, match="case"):
            store.add(twice, "b", message="x")


def test_checkout_replaces_an_adapter_and_nothing_else(root: Path, folder: Path, tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", lora(5))
    with Store(root) as store:
        store.add(folder, "a", message="x")
        store.checkout("a", out)
        assert contents(out) == contents(folder)
        (out / "notes.txt").write_text("mine")
        with pytest.raises(SaveError, match=r"notes\.txt"):
            store.checkout("a", out)
        (tmp_path / "link").symlink_to(folder)
        with pytest.raises(SaveError, match="is a file"):
            store.checkout("a", tmp_path / "link")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_store_in_an_older_repository(tmp_path: Path, folder: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "README").write_text("hello")
    git(tmp_path, "add", "README")
    git(tmp_path, "commit", "-qm", "older")
    with Store.init(tmp_path) as store:
        store.add(folder, "a", message="x")
        assert store.verify().problems == ()
        assert len(store.log()) == 3
    with pytest.raises(ConfigError, match="already"):
        Store.init(tmp_path)
    assert git(tmp_path, "ls-files", "README") == "README"


def test_a_sha256_repository(tmp_path: Path, folder: Path) -> None:
    git(tmp_path, "init", "-q", "--object-format=sha256", "store")
    with Store.init(tmp_path / "store") as store:
        store.add(folder, "a", message="x")
        many = {f"t{i}": tensor(i % 7, 1 + i) for i in range(120)}  # a pack of its own
        big = write_folder(tmp_path / "big", many)
        store.add(big, "b", message="x")
        store.checkout("b", tmp_path / "out")
        assert store.verify().problems == ()
    assert contents(tmp_path / "out") == contents(big)


@given(NAMES)
def test_file_names_are_safe_and_tell_the_tensor(name: str) -> None:
    file = file_of(name)
    assert len(file) < 220
    assert file.isascii()
    assert not set(file) & set('/\\:*?"<>| \n\0')
    assert file[0] not in ".-"
    if "%~" not in file:
        assert tensor_of(file) == name


def test_file_names_of_long_tensors_differ() -> None:
    assert file_of("x" * 300) != file_of("x" * 299 + "y")
    assert file_of(key(0)) == key(0) + ".safetensors"


def test_layers() -> None:
    assert layer_of(key(3)) == "layers.3.q_proj"
    assert layer_of("base_model.model.x.lora_magnitude_vector") == "x"
    assert layer_of("odd") == "odd"
