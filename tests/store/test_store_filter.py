"""A single safetensors file in the tree, as git stores and shows it."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_kit import BITS, contents, file_bytes, git, header_text, key, lora, tensor, write_folder

from weft.errors import AdapterFormatError, ConfigError, WeftError
from weft.store.lfs import filter as filters
from weft.store.lfs import listing as listings
from weft.store.lfs.filter import serve
from weft.store.lfs.listing import file_of_listing, listing_bytes, listing_of, parse_listing
from weft.store.lfs.textconv import textconv
from weft.store.pointer import Pointer, get, pointer_to, put

WEFT = f"{shlex.quote(sys.executable)} -m weft.cli store"


def packets(*parts: bytes | None) -> bytes:
    return b"".join(b"0000" if part is None else b"%04x" % (len(part) + 4) + part for part in parts)


def asking(*requests: tuple[str, str, list[bytes]]) -> bytes:
    """What git sends in the course of one command."""
    said = packets(
        b"git-filter-client\n", b"version=2\n", None,
        b"capability=clean\n", b"capability=smudge\n", b"capability=delay\n", None,
    )  # fmt: skip
    for command, path, content in requests:
        said += packets(f"command={command}\n".encode(), f"pathname={path}\n".encode(), None, *content, None)
    return said


HELLO = packets(
    b"git-filter-server\n", b"version=2\n", None, b"capability=clean\n", b"capability=smudge\n", None
)
FILTERS = {"clean": lambda data, _: [data[::-1]], "smudge": lambda data, _: [data, data]}


def answer(said: bytes, limit: int = 1 << 20) -> bytes:
    sink = io.BytesIO()
    serve(io.BytesIO(said), sink, FILTERS, limit)
    return sink.getvalue()


def test_the_protocol_word_by_word() -> None:
    ok = packets(b"status=success\n", None)
    assert answer(asking()) == HELLO
    requests = [("clean", "a b=c", [b"12", b"3"]), ("smudge", "x", []), ("smudge", "x", [b"1"])]
    assert answer(asking(*requests)) == (
        HELLO
        + ok + packets(b"321", None, None)
        + ok + packets(None, None)
        + ok + packets(b"1", b"1", None, None)
    )  # fmt: skip
    # No packet is larger than git's largest.
    large = answer(asking(("smudge", "x", [b"a" * 65516, b"b"])))
    assert large == HELLO + ok + packets(*[b"a" * 65516, b"b"] * 2, None, None)


def test_a_refused_file_is_one_line_and_the_next_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    said = asking(("clean", "large", [b"12345"] * 3), ("undo", "x", [b"1"]), ("clean", "small", [b"12"]))
    assert answer(said, limit=14) == HELLO + packets(
        b"status=error\n", None, b"status=error\n", None, b"status=success\n", None, b"21", None, None
    )
    assert capsys.readouterr().err == (
        "weft: large has more than 14 bytes\nweft: git asks for 'undo', which was not offered\n"
    )


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"hello, is anybody there?",
        packets(b"git-filter-client\n", b"version=3\n", None),
        packets(b"git-filter-client\n", b"version=2\n"),
        packets(b"git-filter-client\n") + b"0003",
        packets(b"git-filter-client\n") + b"fff1",
        packets(b"git-filter-client\n") + b"fff0" + b"a" * 100,
        packets(b"git-filter-client\n") + b"-001a",
        packets(b"git-filter-client\n") + b"+0xa",
        packets(*[b"a"] * 65),
        asking() + packets(b"command=clean\n"),
        asking() + packets(b"command=clean\n", None, b"content"),
    ],
)
def test_what_is_not_git_is_refused(said: bytes) -> None:
    with pytest.raises(ConfigError) as found:
        answer(said)
    assert "\n" not in str(found.value)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=8),
        st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 4), max_size=3)),
        max_size=4,
    ),
    st.none() | st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    st.none() | st.just(1),
)
def test_every_file_comes_back_to_the_byte(
    specs: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None, indent: int | None
) -> None:
    tensors = {
        name: tensor(at, *shape, 2, dtype=dtype) for at, (name, (dtype, shape)) in enumerate(specs.items())
    }
    whole = file_bytes(tensors, header_text(tensors, metadata, indent))
    kept: dict[str, bytes] = {}

    def keep(file: bytes) -> Pointer:
        pointer = pointer_to(file)
        kept[pointer.sha256] = file
        return pointer

    made = listing_of(whole, "x", keep)
    text = listing_bytes(made)
    read = parse_listing(text, "x")
    assert read is not None
    assert read == made
    assert b"".join(file_of_listing(read, lambda pointer, _: kept[pointer.sha256])) == whole
    assert len(text) < 2 * len(header_text(tensors, metadata, indent)) + 100 * len(tensors) + 100


def test_a_listing_is_a_line_per_tensor() -> None:
    tensors = {"b": tensor(1, 2, 3), "a": tensor(2, 4, dtype="BF16"), "c": tensor(3, dtype="I64")}
    lines = (
        listing_bytes(listing_of(file_bytes(tensors, header_text(tensors, {"format": "pt"})), "x"))
        .decode()
        .split("\n")
    )
    assert lines[0] == "weft-tensors 1"
    assert lines[1] == 'metadata {"format": "pt"}'
    assert lines[2].startswith('header "{')
    told = [re.sub("[0-9a-f]{64}", "SHA", line) for line in lines[3:-1]]
    assert told == ["BF16 [4] SHA a", "F32 [2, 3] SHA b", "I64 [] SHA c"]
    assert lines[-1] == ""


SHA = "0" * 64


@pytest.mark.parametrize(
    "rows",
    [
        "F32 [2] nothex a",
        f"F32 [2] {SHA[1:]} a",
        f"F32 [2] {SHA.replace('0', 'A')} a",
        f"F32 [2] ../{SHA[3:]} a",
        f"F32 [2] {SHA} ",
        f"F31 [2] {SHA} a",
        f"F32 [-2] {SHA} a",
        f"F32 [2,3] {SHA} a",
        f"F32 [{'1, ' * 20}1] {SHA} a",
        f"F32 [{'9' * 16}] {SHA} a",
        f"F32 [{'9' * 15}, {'9' * 15}] {SHA} a",
        f"F32 [{1 << 31}] {SHA} a",
        f"F4 [1] {SHA} a",
        f"F32 [2] {SHA} a\nF32 [2] {SHA} a",
        f"F32 [2] {SHA} \x1b[31m",
        f"F32 [2] {SHA} \ud800",
        "metadata [1]",
        'metadata {"a": 1}',
        'metadata {"a": "\\ud800"}',
        "metadata {",
        "metadata " + "[" * 100_000,
        "header 1",
        'header "{}"\nF32 [2] ' + SHA + " a",
        'metadata {"a": "b"}\nheader "{}"',
        "../../etc/passwd",
        "\n" * 200_000,
        "",
    ],
)
def test_hostile_listings(rows: str, tmp_path: Path) -> None:
    data = listings.START + (rows + "\n").encode("utf-8", "surrogatepass")
    with pytest.raises(AdapterFormatError) as found:
        parse_listing(data, "x.safetensors")
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 300


def test_a_tensor_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    """Its sha256 is right, its size too; only its header tells."""
    tensors = {"a": tensor(1, 2, 2), "b": tensor(2, 2, 2)}
    made = listing_of(file_bytes(tensors, header_text(tensors)), "x", lambda file: put(tmp_path, file))
    swapped = made._replace(sha256={"a": made.sha256["b"], "b": made.sha256["a"]})
    with pytest.raises(AdapterFormatError, match=r"is not the tensor a F32 \[2, 2\]"):
        file_of_listing(swapped, lambda pointer, name: get(tmp_path, pointer, name))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose safetensors files are filtered, and the folder of their tensors beside it."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q", "--initial-branch=main")
    (root / ".gitattributes").write_text("*.safetensors filter=weft diff=weft -text\n")
    configure(root, tmp_path / "blobs")
    return root


def configure(root: Path, blobs: Path) -> None:
    git(root, "config", "weft.blobs", str(blobs))
    git(root, "config", "filter.weft.process", f"{WEFT} filter-process")
    git(root, "config", "filter.weft.required", "true")
    git(root, "config", "diff.weft.textconv", f"{WEFT} textconv")


def test_git_with_the_filter(repository: Path, tmp_path: Path) -> None:
    first = write_folder(repository / "adapter", lora(layers=6), {"format": "pt"})
    was = contents(first)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "first")
    stored = git(repository, "show", "--no-textconv", "HEAD:adapter/adapter_model.safetensors")
    assert stored.startswith("weft-tensors 1\nmetadata")
    blobs = sorted(path for path in (tmp_path / "blobs").rglob("*") if path.is_file())
    assert len(blobs) == 12

    write_folder(first, lora(layers=6) | {key(1): tensor(50, 2, 4)}, {"format": "pt"})
    now = contents(first)
    # The working file and the listing in git tell the same, so one tensor differs.
    diff = [line for line in git(repository, "diff").splitlines() if line[0] in "+-" and line[1] not in "+-"]
    assert [line.rsplit(" ", 1)[0] for line in diff] == [f"-{key(1)} F32 [2, 4]", f"+{key(1)} F32 [2, 4]"]
    git(repository, "commit", "-qam", "second")
    assert sum(path.is_file() for path in (tmp_path / "blobs").rglob("*")) == 13
    git(repository, "checkout", "-q", "HEAD~1")
    assert contents(first) == was
    git(repository, "checkout", "-q", "main")
    assert contents(first) == now

    # Another clone: a listing until the filter is configured, then the file.
    git(tmp_path, "clone", "-q", str(repository), "clone")
    clone = tmp_path / "clone"
    assert (clone / "adapter/adapter_model.safetensors").read_bytes().startswith(b"weft-tensors 1\n")
    configure(clone, tmp_path / "blobs")
    git(clone, "rm", "-q", "--cached", "-r", ".")
    git(clone, "reset", "-q", "--hard")
    assert contents(clone / "adapter") == now

    # A damaged tensor is named, and git leaves the file alone.
    blobs[0].chmod(0o644)
    blobs[0].write_bytes(b"x" * blobs[0].stat().st_size)
    (clone / "adapter/adapter_model.safetensors").unlink()
    done = subprocess.run(
        ["git", "checkout", "-q", "HEAD~1", "--", "adapter"], cwd=clone, capture_output=True, text=True
    )
    assert done.returncode
    assert f"sha256 {blobs[0].name} is damaged" in done.stderr
    assert "adapter/adapter_model.safetensors: base_model." in done.stderr
    assert not (clone / "adapter/adapter_model.safetensors").exists()


def test_git_refuses_what_the_filter_cannot_keep(repository: Path, tmp_path: Path) -> None:
    (repository / "x.safetensors").write_bytes(b"\x80\x04 a pickle")
    done = subprocess.run(["git", "add", "-A"], cwd=repository, capture_output=True, text=True)
    assert done.returncode
    assert "weft: x.safetensors is no safetensors file" in done.stderr
    git(repository, "config", "--unset", "weft.blobs")
    write_folder(repository, lora())
    (repository / "x.safetensors").unlink()
    done = subprocess.run(["git", "add", "-A"], cwd=repository, capture_output=True, text=True)
    assert done.returncode
    assert "name it with `git config weft.blobs FOLDER`" in done.stderr


def test_a_plain_file_passes_out_and_a_listing_passes_in(repository: Path) -> None:
    whole = file_bytes(lora(), header_text(lora()))
    with filters.Git(repository) as opened:
        assert filters.smudge(opened, whole, "x") == [whole]
        (text,) = filters.clean(opened, whole, "x")
        assert filters.clean(opened, text, "x") == [text]
        assert b"".join(filters.smudge(opened, text, "x")) == whole
        with pytest.raises(WeftError, match="191 bytes of tensors"):
            filters.clean(opened, whole[:-1], "x")
        # git-lfs sees pointers alone: its prune would delete what only a listing names.
        git(repository, "config", "weft.blobs", str(repository / ".git/lfs/objects"))
        with pytest.raises(WeftError, match="would prune"):
            filters.clean(opened, whole, "x")
        assert not (repository / ".git/lfs").exists()


def test_textconv(tmp_path: Path) -> None:
    whole = write_folder(tmp_path / "a", lora(), {"format": "pt"}) / "adapter_model.safetensors"
    lines = textconv(whole).splitlines()
    assert lines[0] == "format: 'pt'"
    assert lines[1].startswith("base_model.model.layers.0.q_proj.lora_A.weight F32 [2, 4] ")
    assert len(lines) == 7
    text = tmp_path / "listing"
    text.write_bytes(listing_bytes(listing_of(whole.read_bytes(), "x")))
    assert textconv(text) == textconv(whole)
    text.write_bytes(b"\x80\x04 a pickle")
    assert textconv(text) == "cannot be read: this is no safetensors file, or cut short (11 bytes)\n"
    text.write_bytes(json.dumps({}).encode() + b" " * 100)
    assert textconv(text).startswith("cannot be read")
    with pytest.raises(WeftError, match="no such file"):
        textconv(tmp_path / "nothing")
