"""A partial clone of a store holds the wanted adapters, and nothing of the others."""

from pathlib import Path

import pytest
from store_kit import commit_tree, contents, git, is_clean, key, lora, tensor, write_folder

from weft.cli import app
from weft.errors import AdapterFormatError, ConfigError, MissingFileError, UnknownNameError, WeftError
from weft.store import Store
from weft.store.clone import clone
from weft.store.git import Git
from weft.store.objects import Entry

MANY = 12


@pytest.fixture
def remote(root: Path, tmp_path: Path) -> str:
    """A bare repository with many adapters, two versions of the first."""
    with Store(root) as store:
        for at in range(MANY):
            store.add(
                write_folder(tmp_path / f"in{at}", lora(10 * at), {"n": str(at)}), f"a{at}", message="x"
            )
        write_folder(tmp_path / "in0", lora() | {key(1): tensor(50, 2, 4)}, {"n": "0"})
        store.add(tmp_path / "in0", "a0", message="second")
    git(tmp_path, "clone", "-q", "--bare", str(root), "bare")
    git(tmp_path / "bare", "config", "uploadpack.allowFilter", "true")
    git(tmp_path / "bare", "config", "uploadpack.allowAnySHA1InWant", "true")
    return f"file://{tmp_path}/bare"


def blobs(root: Path) -> set[str]:
    """Ids of the contents that a repository holds by itself."""
    listed = git(root, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)")
    return {line.split(" ")[1] for line in listed.splitlines() if line.startswith("blob")}


def below(root: Path, tree: str) -> set[str]:
    rows = git(root, "ls-tree", "-r", tree).splitlines()
    return {row.split()[2] for row in rows if row}


def test_one_of_many(remote: str, root: Path, tmp_path: Path) -> None:
    made = clone(remote, tmp_path / "one", ["a0"], filter=True)
    one = tmp_path / "one"
    assert (made.adapters, made.here, made.filtered) == (MANY, ("a0",), True)
    top = {row.split()[2] for row in git(root, "ls-tree", "HEAD").splitlines() if " blob " in row}
    assert blobs(one) == below(root, "HEAD:adapters/a0") | top
    assert sorted(path.name for path in one.iterdir()) == [
        ".git",
        ".gitattributes",
        "adapters",
        "weft-store.json",
    ]
    assert [path.name for path in (one / "adapters").iterdir()] == ["a0"]
    assert is_clean(one)
    with Store(one) as store:
        store.checkout("a0", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(tmp_path / "in0")
        assert blobs(one) == below(root, "HEAD:adapters/a0") | top
        # What was left behind comes when it is asked for; new work goes back.
        store.checkout("a7", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(tmp_path / "in7")
        store.add(tmp_path / "in3", "new", message="new")
        store.add(tmp_path / "in3", "a0", message="third")
        assert [row.name for row in store.list()] == [*sorted(f"a{at}" for at in range(MANY)), "new"]
        assert store.verify().problems == ()
    assert is_clean(one)
    git(one, "push", "-q")
    with Store(tmp_path / "bare") as store:
        assert store.verify().problems == ()
        store.checkout("new", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "in3")


def test_none_and_all(remote: str, root: Path, tmp_path: Path) -> None:
    made = clone(remote, tmp_path / "none", filter=True)
    assert (made.here, made.filtered) == ((), True)
    assert len(blobs(tmp_path / "none")) == 2
    assert is_clean(tmp_path / "none")
    (tmp_path / "all").mkdir()
    made = clone(remote, tmp_path / "all")
    assert (len(made.here), made.filtered) == (MANY, False)
    assert blobs(tmp_path / "all") == blobs(root)


def test_a_server_that_does_not_filter(
    remote: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(tmp_path / "bare", "config", "uploadpack.allowFilter", "false")
    words = ["store", "clone", remote, str(tmp_path / "one"), "--filter", "--adapter", "a1", "a2"]
    assert app.main(words) == 0
    assert capsys.readouterr().out == (
        f"cloned {tmp_path}/one: 2 of {MANY} adapters are in the working folder; "
        "the server does not filter, so everything was fetched\n"
    )
    assert blobs(tmp_path / "one") == blobs(root)
    assert sorted(path.name for path in (tmp_path / "one/adapters").iterdir()) == ["a1", "a2"]


def test_two_into_one_folder(
    remote: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second is refused, and takes nothing away from the first."""
    target = tmp_path / "clone"
    plain = Git.clone

    def while_another(url: str, folder: Path, filter: bool) -> str:
        monkeypatch.undo()
        with pytest.raises(ConfigError, match="is in use"):
            clone(url, folder)
        return plain(url, folder, filter)

    monkeypatch.setattr(Git, "clone", staticmethod(while_another))
    assert clone(remote, target).here
    with Store(target) as store:
        assert not store.verify().problems


def test_what_is_refused_leaves_nothing(remote: str, root: Path, tmp_path: Path) -> None:
    target = tmp_path / "clone"
    git(tmp_path, "init", "-q", "plain")
    (tmp_path / "plain/x").write_text("x")
    git(tmp_path / "plain", "add", "x")
    git(tmp_path / "plain", "commit", "-qm", "x")
    git(tmp_path, "init", "-q", "empty")
    refused: list[tuple[str, list[str], type[WeftError], str]] = [
        (remote, ["a99"], UnknownNameError, "no adapter a99"),
        (remote, ["../x"], ConfigError, "no name for an adapter"),
        (f"file://{tmp_path}/plain", [], MissingFileError, "weft-store.json"),
        (f"file://{tmp_path}/empty", [], UnknownNameError, "no revision"),
        (f"file://{tmp_path}/nothing", [], WeftError, "git clone"),
        ("--upload-pack=touch ran", [], WeftError, "git clone"),
        ("ext::sh -c touch% ran", [], WeftError, "not allowed"),
    ]
    for url, names, kind, says in refused:
        with pytest.raises(kind, match=says) as found:
            clone(url, target, names, filter=True)
        assert "\n" not in str(found.value)
        assert not target.exists()
    target.mkdir()
    with pytest.raises(UnknownNameError):
        clone(remote, target, ["a99"], filter=True)
    assert list(target.iterdir()) == []
    (target / "mine").write_text("x")
    with pytest.raises(ConfigError, match="is in use"):
        clone(remote, target, filter=True)
    with pytest.raises(ConfigError, match="is for --filter"):
        clone(remote, tmp_path / "other", ["a0"])
    assert (target / "mine").read_text() == "x"
    assert not any(path.name == "ran" for path in tmp_path.rglob("ran"))


def test_hostile_content_is_not_checked_out(root: Path, folder: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
    oid = git(root, "rev-parse", "HEAD:adapters/a/adapter.json")
    commit_tree(root, {("adapters", "a", "tensors", "x.safetensors"): Entry("120000", oid)})
    for names in (["a"], []):
        with pytest.raises(AdapterFormatError, match="symbolic link"):
            clone(f"file://{root}", tmp_path / "clone", names, filter=bool(names))
        assert not (tmp_path / "clone").exists()
