"""All state is in commits, so whatever plain git does to them leaves a store that verifies."""

from pathlib import Path

import pytest
from store_kit import CONFIG, commit_tree, contents, git, is_clean, key, lora, tensor, write_folder

from weft.store import Store
from weft.store.git import GitError


@pytest.fixture
def versions(root: Path, tmp_path: Path) -> dict[str, Path]:
    """Three commits on main: version 1 of `a`, version 2 (another layer 1), and `b`."""
    made = {
        "a1": write_folder(tmp_path / "a1", lora(), {"format": "pt"}),
        "a2": write_folder(tmp_path / "a2", lora() | {key(1): tensor(50, 2, 4)}, {"format": "pt"}),
        "b": write_folder(tmp_path / "b", lora(9)),
    }
    with Store(root) as store:
        store.add(made["a1"], "a", message="a, first")
        store.add(made["a2"], "a", message="a, second")
        store.add(made["b"], "b", message="b")
    return made


def check(root: Path, expected: dict[str, Path], tmp_path: Path, rev: str = "HEAD") -> None:
    with Store(root) as store:
        assert store.verify().problems == ()
        assert [row.name for row in store.list(rev=rev)] == sorted(expected)
        for name, folder in expected.items():
            store.checkout(name, tmp_path / "checked", rev=rev)
            assert contents(tmp_path / "checked") == contents(folder)


def test_rebase(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(root, "switch", "-qc", "topic", "HEAD~2")
    with Store(root) as store:
        store.add(versions["b"], "c", message="c on the old base")
    git(root, "rebase", "-q", "main")
    check(root, {"a": versions["a2"], "b": versions["b"], "c": versions["b"]}, tmp_path)
    assert is_clean(root)


def test_amend(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(versions["a1"], "b")
    git(root, "commit", "-q", "--amend", "-m", "b is a")
    check(root, {"a": versions["a2"], "b": versions["a1"]}, tmp_path)


def test_squash(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(root, "reset", "-q", "--soft", "HEAD~3")
    git(root, "commit", "-qm", "all at once")
    check(root, {"a": versions["a2"], "b": versions["b"]}, tmp_path)


def test_cherry_pick(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(root, "switch", "-qc", "picked", "HEAD~3")
    git(root, "cherry-pick", "main")
    check(root, {"b": versions["b"]}, tmp_path)


def test_shallow_clone(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{root}", "shallow")
    check(tmp_path / "shallow", {"a": versions["a2"], "b": versions["b"]}, tmp_path)
    with Store(tmp_path / "shallow") as store:
        assert store.add(versions["a1"], "a", message="back").written == 1
    git(tmp_path / "shallow", "push", "-q", "origin", "HEAD:topic")
    check(root, {"a": versions["a1"], "b": versions["b"]}, tmp_path, rev="topic")


def test_partial_clone_fetches_one_adapter(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(root, "config", "uploadpack.allowFilter", "true")
    git(root, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", f"file://{root}", "partial")
    clone = tmp_path / "partial"
    with Store(clone) as store:
        assert [row.name for row in store.list()] == ["a", "b"]
        assert len(store.diff("HEAD~1", "HEAD")) == 8
        before = store.verify()
        assert before.problems == ()
        packs = set((clone / ".git/objects/pack").glob("*.pack"))
        store.checkout("b", tmp_path / "out")
        after = store.verify()
    assert contents(tmp_path / "out") == contents(versions["b"])
    assert after.problems == ()
    # Its six tensors, manifest and config came, in one request; what `a` has alone stayed away.
    assert before.missing - after.missing == 8
    assert after.missing > 0
    # One pack for the store file, which `checkout` reads first, was there from `list`.
    assert len(set((clone / ".git/objects/pack").glob("*.pack")) - packs) == 1


def test_gc(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(root, "reflog", "expire", "--expire=now", "--all")
    git(root, "gc", "-q", "--prune=now", "--aggressive")
    assert git(root, "count-objects") == "0 objects, 0 kilobytes"
    check(root, {"a": versions["a2"], "b": versions["b"]}, tmp_path)
    check(root, {"a": versions["a1"]}, tmp_path, rev="HEAD~2")


def test_worktree(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(root, "worktree", "add", "-q", "-b", "topic", str(tmp_path / "tree"), "HEAD~1")
    with Store(tmp_path / "tree") as store:
        store.add(versions["b"], "c", message="c")
    assert is_clean(tmp_path / "tree")
    assert is_clean(root)
    check(tmp_path / "tree", {"a": versions["a2"], "c": versions["b"]}, tmp_path)
    check(root, {"a": versions["a2"], "b": versions["b"]}, tmp_path)


def test_a_folder_inside_the_store_and_the_environment_of_a_hook(
    root: Path, versions: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "elsewhere" / "index"))
    with Store(root / "adapters" / "a") as store:
        assert store.root == root
        store.add(versions["b"], "c", message="c")
    monkeypatch.undo()
    assert is_clean(root)


@pytest.mark.parametrize("driverless", ["merge", "rebase"])
def test_disjoint_edits_merge_with_plain_git(
    driverless: str, root: Path, versions: dict[str, Path], tmp_path: Path
) -> None:
    layer0, layer2 = tensor(60, 2, 4), tensor(61, 4, 2)
    second = lora() | {key(1): tensor(50, 2, 4)}
    with Store(root) as store:
        git(root, "switch", "-qc", "theirs")
        store.add(
            write_folder(tmp_path / "t", second | {key(0): layer0}, {"format": "pt"}), "a", message="layer 0"
        )
        git(root, "switch", "-q", "main")
        store.add(
            write_folder(tmp_path / "m", second | {key(2, "B"): layer2}, {"format": "pt"}),
            "a",
            message="layer 2",
        )
    git(root, *(["merge", "-q", "--no-edit"] if driverless == "merge" else ["rebase", "-q"]), "theirs")
    both = write_folder(tmp_path / "both", second | {key(0): layer0, key(2, "B"): layer2}, {"format": "pt"})
    check(root, {"a": both, "b": versions["b"]}, tmp_path)


def test_edits_of_one_tensor_conflict_and_name_it(
    root: Path, versions: dict[str, Path], tmp_path: Path
) -> None:
    with Store(root) as store:
        git(root, "switch", "-qc", "theirs")
        store.add(
            write_folder(tmp_path / "t", lora() | {key(1): tensor(1, 2, 4)}, {"format": "pt"}),
            "a",
            message="x",
        )
        git(root, "switch", "-q", "main")
        store.add(
            write_folder(tmp_path / "m", lora() | {key(1): tensor(3, 2, 4)}, {"format": "pt"}),
            "a",
            message="y",
        )
        git(root, "merge", "-q", "theirs", check=False)
        assert (
            git(root, "diff", "--name-only", "--diff-filter=U") == f"adapters/a/tensors/{key(1)}.safetensors"
        )
        with pytest.raises(ValueError, match="finish"):
            store.add(versions["a1"], "a", message="in the middle")
        with pytest.raises(ValueError, match="unmerged"):
            store.add(versions["a1"], "a")
        git(root, "checkout", "-q", "--theirs", ".")
        git(root, "add", ".")
        with pytest.raises(ValueError, match="middle of a merge"):
            store.add(versions["a1"], "a", message="in the middle")
        git(root, "commit", "-qm", "theirs")
    check(root, {"a": tmp_path / "t", "b": versions["b"]}, tmp_path)


def test_a_commit_made_by_plain_git(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    """`cp`, `git add`, `git commit`: no hook is missed, because there is none."""
    git(root, "mv", "adapters/b", "adapters/c")
    source = root / f"adapters/a/tensors/{key(0)}.safetensors"
    (root / f"adapters/c/tensors/{key(0)}.safetensors").write_bytes(source.read_bytes())
    git(root, "add", ".")
    git(root, "commit", "-qm", "by hand")
    expected = write_folder(tmp_path / "expected", lora(9) | {key(0): lora()[key(0)]})
    check(root, {"a": versions["a2"], "c": expected}, tmp_path)


def test_line_ends_and_filters_of_the_user_change_nothing(root: Path, tmp_path: Path, home: Path) -> None:
    git(root, "config", "--global", "core.autocrlf", "true")
    git(root, "config", "--global", "filter.evil.smudge", f"touch {tmp_path}/ran; cat")
    git(root, "config", "--global", "filter.evil.clean", f"touch {tmp_path}/ran; cat")
    git(root, "config", "--global", "filter.evil.required", "true")
    commit_tree(root, {(".gitattributes",): b"* filter=evil\n"})
    git(root, "update-index", "-q", "--refresh")
    folder = write_folder(tmp_path / "in", lora(), card=b"one\r\ntwo\n", config=b'{"r":\r\n2}\n')
    git(root, "checkout", "-q", "-f", "HEAD")
    assert (tmp_path / "ran").exists()  # plain git runs it
    (tmp_path / "ran").unlink()
    with Store(root) as store:
        store.add(folder, "a", message="x")
        store.checkout("a", tmp_path / "out")
        (problem, *_) = store.verify().problems
        assert "filter=evil" in problem
    assert contents(tmp_path / "out") == contents(folder)
    assert not (tmp_path / "ran").exists()


def test_hooks_are_not_run(root: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("pre-commit", "post-commit", "post-checkout", "reference-transaction", "post-index-change"):
        hook = root / ".git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        hook.chmod(0o755)
    git(root, "config", "core.fsmonitor", f"touch {tmp_path}/ran")
    with Store(root) as store:
        store.add(folder, "a", message="x")
        store.verify()
    assert not (tmp_path / "ran").exists()


def test_a_bare_repository(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(root), "bare")
    with Store(tmp_path / "bare") as store:
        store.add(versions["a1"], "a", message="back to the first")
        with pytest.raises(ValueError, match="bare"):
            store.add(versions["a2"], "a")
        rows = store.diff("HEAD~1:a", "HEAD:a")
        assert [(row.what, row.change) for row in rows] == [(key(1), "changed")]
    check(tmp_path / "bare", {"a": versions["a1"], "b": versions["b"]}, tmp_path)


def test_diff_of_adapters_and_revisions(root: Path, versions: dict[str, Path], tmp_path: Path) -> None:
    x = "base_model.model.x.lora_"
    wider = {**lora(), f"{x}A.weight": tensor(0, 2, 4), f"{x}B.weight": tensor(1, 4, 2)}
    with Store(root) as store:
        store.add(write_folder(tmp_path / "w", wider, config=b"{}"), "b", message="wider")
        assert {(r.what, r.change) for r in store.diff("a", "b") if not r.layer} == {
            ("adapter.json", "changed"),
            ("adapter_config.json", "changed"),
        }
        assert ("a -> b", "x", "base_model.model.x.lora_A.weight", "added") in store.diff("a", "b")
        assert {row.adapter for row in store.diff("HEAD~3", "main")} == {"a", "b"}
        assert store.diff("HEAD", "main") == []
        with pytest.raises(KeyError, match="neither an adapter"):
            store.diff("HEAD", "nothing")
        with pytest.raises(KeyError, match="name HEAD:NAME"):
            store.diff("a", "HEAD")
        with pytest.raises(KeyError, match="no adapter"):
            store.diff("HEAD:a", "HEAD:nothing")


def test_values_are_those_of_the_dense_difference(root: Path, tmp_path: Path) -> None:
    """Norm and rank against explicit matrices in float64."""
    import numpy as np

    def random(seed: int, rank: int) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
        chance = np.random.default_rng(seed)
        made = {}
        for layer in range(2):
            for half, shape in (("A", (rank, 6)), ("B", (5, rank))):
                made[key(layer, half)] = "F32", shape, chance.standard_normal(shape).astype("f4").tobytes()
        return made

    def delta(
        tensors: dict[str, tuple[str, tuple[int, ...], bytes]], layer: int, scaling: float
    ) -> np.ndarray:
        a, b = (
            np.frombuffer(tensors[key(layer, half)][2], "f4").reshape(tensors[key(layer, half)][1])
            for half in "AB"
        )
        return scaling * b.astype("f8") @ a.astype("f8")

    old, new = random(0, 2), random(1, 1)
    config = lambda rank, alpha: str(CONFIG | {"r": rank, "lora_alpha": alpha}).replace("'", '"').encode()  # noqa: E731
    with Store(root) as store:
        store.add(write_folder(tmp_path / "1", old, config=config(2, 4)), "a", message="one")
        store.add(write_folder(tmp_path / "2", new, config=config(1, 3)), "a", message="two")
        rows = {row.layer: row for row in store.diff_values("HEAD~1", "HEAD")}
        assert store.diff_values("HEAD", "HEAD") == []
        added = store.diff_values("HEAD~2", "HEAD~1")
    for layer in range(2):
        before = delta(old, layer, 2.0)
        change = delta(new, layer, 3.0) - before
        row = rows[f"layers.{layer}.q_proj"]
        assert row.norm == pytest.approx(np.linalg.norm(change), rel=1e-9)
        assert row.relative == pytest.approx(np.linalg.norm(change) / np.linalg.norm(before), rel=1e-9)
        assert row.rank == np.linalg.matrix_rank(change) == 3
    assert [(row.rank, row.relative) for row in added] == [(2, None), (2, None)]


def test_export_writes_a_card_that_the_hub_reads(root: Path, tmp_path: Path) -> None:
    import yaml

    plain = write_folder(
        tmp_path / "plain", lora(), config=b'{"base_model_name_or_path": "org/base: x", "r": 2}'
    )
    carded = write_folder(tmp_path / "carded", lora(), card=b"# mine\n")
    with Store(root) as store:
        store.add(plain, "a", message="a", lineage={"licence": "mit", "author": "Ada"})
        store.add(carded, "b", message="b")
        assert store.export("a", tmp_path / "out-a") is True
        assert store.export("b", tmp_path / "out-b") is False
    assert contents(tmp_path / "out-b") == contents(carded)
    out = contents(tmp_path / "out-a")
    card = out.pop("README.md").decode()
    assert out == contents(plain)
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "library_name": "peft", "tags": ["lora", "weft"], "base_model": "org/base: x", "license": "mit"
    }  # fmt: skip
    assert '"author": "Ada"' in card


def test_signatures_are_shown(root: Path, folder: Path, tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    key_file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key_file)], check=True)
    allowed = tmp_path / "allowed"
    allowed.write_text("ada@example.org " + key_file.with_suffix(".pub").read_text())
    for name, value in {
        "gpg.format": "ssh", "user.signingkey": str(key_file), "commit.gpgsign": "true",
        "gpg.ssh.allowedSignersFile": str(allowed), "user.email": "ada@example.org", "user.name": "Ada",
    }.items():  # fmt: skip
        git(root, "config", name, value)
    with Store(root) as store:
        store.add(folder, "a", message="signed")
        git(root, "tag", "-s", "-m", "signed", "v1")
        git(root, "tag", "-a", "-m", "not signed", "--no-sign", "v0")
        assert [row.signature for row in store.log()] == ["good", "none"]
        found = store.verify()
        assert found.signatures == {"good": 1, "none": 1}
        assert found.tags == {"v0": "none", "v1": "good"}
        assert found.problems == ()
        # The same signature over another message.
        raw = git(root, "cat-file", "commit", "HEAD").replace("\n\nsigned", "\n\nforged") + "\n"
        forged = subprocess.run(
            ["git", "hash-object", "-t", "commit", "-w", "--stdin"],
            cwd=root, input=raw, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        git(root, "branch", "forged", forged)
        assert [row.signature for row in store.log(rev="forged")] == ["bad", "none"]
        assert store.verify().problems == (f"{forged[:12]}: the signature is bad",)


def test_a_signature_that_cannot_be_made_is_told_in_a_line(root: Path, folder: Path, tmp_path: Path) -> None:
    settings = {"gpg.format": "ssh", "user.signingkey": str(tmp_path / "none.pub"), "commit.gpgsign": "true"}
    for name, value in settings.items():
        git(root, "config", name, value)
    with Store(root) as store, pytest.raises(GitError, match="no signed commit could be made") as refused:
        store.add(folder, "a", message="x")
    assert "git config commit.gpgsign false" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    git(root, "config", "commit.gpgsign", "false")
    with Store(root) as store:
        store.add(folder, "a", message="x")


def test_a_signing_program_of_the_repository_is_not_run(root: Path, folder: Path, tmp_path: Path) -> None:
    git(root, "config", "gpg.program", f"{tmp_path}/evil")
    (tmp_path / "evil").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "evil").chmod(0o755)
    with Store(root) as store:
        store.add(folder, "a", message="x")
        raw = git(root, "cat-file", "commit", "HEAD").split("\n\n", 1)
        signed = (
            raw[0]
            + "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n"
            + raw[1]
        )
        (tmp_path / "commit").write_text(signed + "\n")
        oid = git(root, "hash-object", "-t", "commit", "-w", str(tmp_path / "commit"))
        assert store.log(rev=oid)[0].signature != "good"
        assert not (tmp_path / "ran").exists()
    git(root, "log", "-1", "--format=%G?", oid)
    assert (tmp_path / "ran").exists()  # plain git would have run it
