"""Signatures travel with commits and tags, and every clone judges them by its own keys."""

import shutil
import subprocess
from pathlib import Path

import pytest
from store_kit import git, key, lora, tensor, write_folder

from weft.store import Store
from weft.store.git import Git
from weft.store.history import _tag_state

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def signer(root: Path, place: Path) -> str:
    """Make a key that signs what is done in a repository; its line in a file of trusted keys."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place)], check=True)
    trust(root, place.with_suffix(".allowed"))
    git(root, "config", "user.signingkey", str(place))
    git(root, "config", "commit.gpgsign", "true")
    return "ada@example.org " + place.with_suffix(".pub").read_text()


def trust(root: Path, allowed: Path) -> None:
    for name, value in {
        "gpg.format": "ssh", "gpg.ssh.allowedSignersFile": str(allowed),
        "user.email": "ada@example.org", "user.name": "Ada",
    }.items():  # fmt: skip
        git(root, "config", name, value)


def test_a_clone_judges_by_its_own_keys(root: Path, tmp_path: Path) -> None:
    line = signer(root, tmp_path / "key")
    (tmp_path / "key.allowed").write_text(line)
    with Store(root) as store:
        store.add(write_folder(tmp_path / "in", lora()), "a", message="signed")
        git(root, "branch", "topic")
        store.add(write_folder(tmp_path / "in", lora() | {key(1): tensor(50, 2, 4)}), "a", message="main")
        git(root, "switch", "-q", "topic")
        store.add(write_folder(tmp_path / "in", lora() | {key(2): tensor(60, 2, 4)}), "a", message="topic")
        git(root, "switch", "-q", "main")
        store.merge("topic")
        assert [row.signature for row in store.log()] == ["good"] * 4 + ["none"]
    git(root, "tag", "-s", "-m", "signed", "v1")
    tag = subprocess.run(["git", "cat-file", "tag", "v1"], cwd=root, capture_output=True, check=True).stdout
    forged = subprocess.run(
        ["git", "hash-object", "-t", "tag", "-w", "--stdin"],
        cwd=root, input=tag.replace(b"\n\nsigned\n", b"\n\nforged\n"), capture_output=True, check=True,
    ).stdout.decode().strip()  # fmt: skip
    git(root, "update-ref", "refs/tags/v2", forged)
    git(tmp_path, "clone", "-q", str(root), "clone")
    clone = tmp_path / "clone"

    expected = {
        line: ("good", "good"),
        line.replace("ada@", "bob@"): ("good", "good"),  # whose key it is, not who says so
        "": ("good, key not trusted", "good, key not trusted"),
    }
    trust(clone, tmp_path / "allowed")
    for keys, (commit, state) in expected.items():
        (tmp_path / "allowed").write_text(keys)
        with Store(clone) as store:
            found = store.verify()
        assert found.signatures == {commit: 4, "none": 1}
        assert found.tags["v1"] == state
        assert found.tags["v2"] == "bad"
        assert found.problems == ("tag v2: the signature is bad",)
    git(clone, "config", "--unset", "gpg.ssh.allowedSignersFile")
    with Store(clone) as store:
        found = store.verify()
    assert found.signatures == {"cannot be checked": 4, "none": 1} or "good" not in found.signatures
    assert found.tags["v1"] != "good"


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 0 Ada\n[GNUPG:] TRUST_FULLY 0 pgp\n", "good"),
        ("[GNUPG:] GOODSIG 0 Ada\n[GNUPG:] TRUST_UNDEFINED 0 pgp\n", "good, key not trusted"),
        ("[GNUPG:] EXPKEYSIG 0 Ada GOODSIG\n", "good, key expired"),
        ("[GNUPG:] REVKEYSIG 0 Ada\n", "good, key revoked"),
        ("[GNUPG:] EXPSIG 0 Ada\n", "good, expired"),
        ("[GNUPG:] BADSIG 0 [GNUPG:] GOODSIG\n", "bad"),
        ("[GNUPG:] ERRSIG 0 GOODSIG\n[GNUPG:] NO_PUBKEY 0\n", "cannot be checked"),
        ("error: gpg failed to run\n", "cannot be checked"),
    ],
)
def test_what_gnupg_says_of_a_tag(said: str, state: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Git, "ask", lambda *_: said)
    with Git(root) as opened:
        assert _tag_state(opened, "v1") == state
