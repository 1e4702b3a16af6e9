"""Versions of a base as recipes, and adapters that follow them."""

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from store_kit import commit_tree, contents, git, is_clean

import weft
from tiny_models import make_bank, make_llama
from weft.adapters import concat, fingerprint
from weft.cli import app
from weft.errors import BaseMismatchError, ConfigError, SaveError, UnknownNameError, WeftError
from weft.host import Host
from weft.store import Store
from weft.types import Adapter, Mixture

IDS = torch.tensor([[1, 5, 9, 33, 7, 2]])


class World(NamedTuple):
    """A base on disk, and a store of three adapters of it."""

    root: Path
    base: Path
    host: Host
    adapters: list[Adapter]


@pytest.fixture
def world(tmp_path: Path) -> World:
    make_llama().save_pretrained(tmp_path / "base")
    host = Host.from_pretrained(tmp_path / "base")
    sites = tuple(site for site in host.sites if site.module in ("q_proj", "up_proj"))
    bank = make_bank(sites, 3, 2)
    modules = {site.path: (site.in_features, site.out_features) for site in host.sites}
    adapters = [replace(bank[k], base=host.fingerprint) for k in range(3)]
    with Store.init(tmp_path / "store", base=host.fingerprint, modules=modules) as store:
        for name, adapter in zip("abc", adapters, strict=True):
            weft.save(adapter, tmp_path / name)
            store.add(tmp_path / name, name, message=name)
    return World(tmp_path / "store", tmp_path / "base", host, adapters)


def logits(host: Host, *adapters: tuple[Adapter, float]) -> torch.Tensor:
    mixture = None
    if adapters:
        mixture = Mixture.of(concat([replace(a, base="") for a, _ in adapters], [w for _, w in adapters]))
    return host(IDS, mixture).logits.double()


def test_a_base_and_its_adapters_move_on(world: World, tmp_path: Path) -> None:
    """Two versions; the weights, and an adapter on each, against the first base with everything added up."""
    a, b, c = world.adapters
    derive = str(world.base)
    with Store(world.root) as store:
        first = store.accept("a", "b", base=derive, weights=[0.5, -1.0])
        assert store.verify().problems == ()
        store.rebase("c")
        second = store.accept("c", base=derive, weights=[0.25])
        assert store.verify().problems == ()
        assert first.parent == world.host.fingerprint
        assert second.parent == first.base
        assert store.write_base(tmp_path / "v1", derive, version=first.base) == first.base
        # From the version in between, or from the beginning.
        assert store.write_base(tmp_path / "v2", str(tmp_path / "v1")) == second.base
        store.write_base(tmp_path / "v2-again", derive)
        assert contents(tmp_path / "v2-again") == contents(tmp_path / "v2")
        v1, v2 = (Host.from_pretrained(tmp_path / version) for version in ("v1", "v2"))
        assert (v1.fingerprint, v2.fingerprint) == (first.base, second.base)
        d1 = [(a, 0.5), (b, -1.0)]
        torch.testing.assert_close(logits(v1), logits(world.host, *d1), atol=1e-5, rtol=0)
        # On the first version c is c less what was accepted, so 0.25 of it takes 0.25 of that off again.
        rest = [(a, 0.375), (b, -0.75), (c, 0.25)]
        torch.testing.assert_close(logits(v2), logits(world.host, *rest), atol=1e-5, rtol=0)
        store.rebase("b", onto=first.base)
        store.rebase("c")
        for name, host, was in (("b", v1, b), ("c", v2, c)):
            store.checkout(name, tmp_path / f"new-{name}")
            adapter = weft.load(tmp_path / f"new-{name}")
            assert adapter.base == host.fingerprint
            want = logits(world.host, (was, 1.0))
            assert (want - logits(world.host)).abs().max() > 0.1
            torch.testing.assert_close(logits(host, (adapter, 1.0)), want, atol=1e-5, rtol=0)
        # And back to where it began.
        done = store.rebase("b", onto=world.host.fingerprint)
        store.checkout("b", tmp_path / "old-b")
        back = weft.load(tmp_path / "old-b")
        torch.testing.assert_close(
            logits(world.host, (back, 1.0)), logits(world.host, (b, 1.0)), atol=1e-5, rtol=0
        )
        assert (done.before, done.base) == (first.base, world.host.fingerprint)
        assert store.verify().problems == ()


def test_a_cut_rank_is_told(world: World, tmp_path: Path) -> None:
    with Store(world.root) as store:
        head_tree = {row.name: row.tree for row in store.list()}
        new = store.accept("a", base=str(world.base))
        done = store.rebase("b", rank=3)
        recipe = store.show("b").lineage["recipe"]
        parents = store.show("b").lineage["parents"]
        store.checkout("b", tmp_path / "cut")
    cut = weft.load(tmp_path / "cut")
    assert cut.rank == 3
    lost = kept = 0.0
    for site in cut.sites:
        exact = sum(
            sign * x.factors[site].scaling * (x.factors[site].b_OR.double() @ x.factors[site].a_RI.double())
            for sign, x in ((1, world.adapters[1]), (-1, world.adapters[0]))
        )
        a_RI, b_OR, scaling = cut.factors[site]
        lost += float((exact - scaling * (b_OR.double() @ a_RI.double())).square().sum())
        kept += float(torch.as_tensor(exact).square().sum())
    assert done.lost == pytest.approx((lost / kept) ** 0.5, rel=1e-4)
    assert 0.05 < done.lost < 0.95
    assert (recipe["from"], recipe["onto"], recipe["rank"]) == (world.host.fingerprint, new.base, 3)
    assert recipe["lost"] == done.lost
    assert parents == [{"name": "b", "tree": head_tree["b"]}]


def test_the_recipe_outlives_its_adapters(world: World, tmp_path: Path) -> None:
    derive = str(world.base)
    with Store(world.root) as store:
        new = store.accept("a", "c", base=derive)
        store.add(tmp_path / "b", "a", message="another")
        store.remove("c", message="gone")
    commit = git(world.root, "commit-tree", "-m", "squashed", "HEAD^{tree}")
    git(world.root, "reset", "-q", "--hard", commit)
    git(world.root, "reflog", "expire", "--expire=now", "--all")
    git(world.root, "gc", "-q", "--prune=now")
    git(tmp_path, "clone", "-q", f"file://{world.root}", "clone")
    with Store(tmp_path / "clone") as store:
        assert store.verify().problems == ()
        assert store.write_base(tmp_path / "new", derive) == new.base
        store.rebase("a")
        assert store.verify().problems == ()


def test_what_is_not_accepted_changes_nothing(world: World, tmp_path: Path) -> None:
    derive = str(world.base)
    head, listing = git(world.root, "rev-parse", "HEAD"), sorted(tmp_path.iterdir())
    make_llama(seed=1).save_pretrained(tmp_path / "other")
    python = shlex.quote(sys.executable)
    looks = "import sys, os; sys.exit(not os.path.isfile(sys.argv[1] + '/model.safetensors'))"
    look = f"{python} -c {shlex.quote(looks)} {{}}"
    refused: list[tuple[dict[str, Any], str]] = [
        ({"names": ()}, "name the adapters"),
        ({"names": ("a", "a")}, "each once"),
        ({"names": ("a", "x")}, "no adapter x"),
        ({"weights": [1.0, 2.0]}, "1 adapters need as many finite weights"),
        ({"weights": [float("nan")]}, "finite weights"),
        ({"weights": [0.0]}, "which it had before"),
        ({"command": f"{python} -c 'raise SystemExit(3)'"}, "the new base did not pass.*exited with 3"),
        ({"command": "nothing-of-that-name"}, "cannot run nothing-of-that-name"),
        ({"command": ""}, "the command is empty"),
        ({"message": " "}, "cannot be empty"),
        ({"base": str(tmp_path / "other")}, "should be one of"),
    ]
    with Store(world.root) as store:
        for change, said in refused:
            options: dict[str, Any] = {"base": derive} | {
                key: value for key, value in change.items() if key != "names"
            }
            with pytest.raises(WeftError, match=said) as found:
                store.accept(*change.get("names", ("a",)), **options)
            assert "\n" not in str(found.value)
            assert git(world.root, "rev-parse", "HEAD") == head
            assert is_clean(world.root)
        # The evaluation is shown a model.
        assert store.accept("a", base=derive, command=look).commit
        with pytest.raises(BaseMismatchError, match="`weft store rebase` it first"):
            store.accept("b", base=derive)
        for name, onto, said in (("x", None, "no adapter x"), ("b", "weft1-0", "no version weft1-0")):
            with pytest.raises(UnknownNameError, match=said):
                store.rebase(name, onto=onto)
        with pytest.raises(ConfigError, match="already"):
            store.rebase("b", onto=world.host.fingerprint)
        with pytest.raises(ConfigError, match="at least 1"):
            store.rebase("b", rank=0)
        before = contents(tmp_path / "b")
        with pytest.raises(SaveError, match="holds something"):
            store.write_base(tmp_path / "b", derive)
        assert contents(tmp_path / "b") == before
        with pytest.raises(BaseMismatchError, match="should be one of"):
            store.write_base(tmp_path / "out", str(tmp_path / "other"))
        assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in listing} | {"other"}


def test_a_store_for_any_base_accepts_nothing(root: Path, folder: Path) -> None:
    with Store(root) as store:
        store.add(folder, "a", message="x")
        with pytest.raises(ConfigError, match="names no base"):
            store.accept("a", base=lambda steps, out: "weft1-0")


def test_a_change_meanwhile_is_noticed(world: World, tmp_path: Path) -> None:
    def slow(steps: object, out: Path) -> str:
        with Store(world.root) as other:
            other.add(tmp_path / "b", "a", message="meanwhile")
        return "weft1-new"

    with Store(world.root) as store, pytest.raises(ConfigError, match="a changed while the base was made"):
        store.accept("a", base=slow)
    with Store(world.root) as store:
        assert store.log()[0].message == "meanwhile"
        assert store.verify().problems == ()


def test_another_result_than_the_recipe_is_refused(world: World, tmp_path: Path) -> None:
    with Store(world.root) as store:
        store.accept("a", base=lambda steps, out: "weft1-0000000000000000")
        with pytest.raises(BaseMismatchError, match="folding gave weft2-"):
            store.write_base(tmp_path / "out", str(world.base))
        assert not (tmp_path / "out").exists()


def test_recipes_by_other_hands(world: World) -> None:
    with Store(world.root) as store:
        new = store.accept("a", base=lambda steps, out: "weft1-new").base
    file = json.loads((world.root / "weft-store.json").read_text())
    step = file["accepted"][0]
    part = step["adapters"][0]
    hostile = [
        ({"base": "weft1-x"}, "what was accepted leads to weft1-new"),
        ({"accepted": [step | {"parent": "weft1-y"}, step]}, "was accepted onto"),
        ({"accepted": [step | {"base": "../x"}], "base": "../x"}, "no version of a base"),
        ({"accepted": [step | {"adapters": []}]}, "no version of a base"),
        ({"accepted": [step | {"adapters": [part | {"name": "../a"}]}]}, "has name, tree and weight"),
        ({"accepted": [step | {"adapters": [part | {"weight": True}]}]}, "has name, tree and weight"),
        ({"accepted": [step | {"adapters": [part, part]}]}, "accepted twice"),
        ({"accepted": {}}, "accepted should be a list"),
        ({"accepted": [step | {"adapters": [part | {"tree": "0" * 40}]}]}, "is not the adapter that"),
    ]
    for change, said in hostile:
        commit_tree(world.root, {("weft-store.json",): json.dumps(file | change).encode()})
        with Store(world.root) as store:
            assert any(said in line for line in store.verify().problems), said
            with pytest.raises(WeftError, match=said):
                store.rebase("a")
        git(world.root, "update-ref", "HEAD", "HEAD~1")
    commit_tree(world.root, {("accepted", new, "a"): None})
    with Store(world.root) as store, pytest.raises(WeftError, match="is not the adapter that"):
        store.rebase("a")


def test_branches_across_a_version(world: World, tmp_path: Path) -> None:
    """Work on other adapters merges; an adapter that one side has rebased does not, and the line says how."""
    git(world.root, "branch", "ada")
    derive = str(world.base)
    with Store(world.root) as store:
        store.accept("a", base=derive)
        store.rebase("b")
        git(world.root, "checkout", "-q", "ada")
        store.add(tmp_path / "a", "c", message="c")
        git(world.root, "checkout", "-q", "main")
        assert store.merge("ada").adapters == ("c",)
        assert store.verify().problems == ()
        git(world.root, "checkout", "-q", "ada")
        store.add(tmp_path / "c", "b", message="b")
        git(world.root, "checkout", "-q", "main")
        with pytest.raises(BaseMismatchError, match="`weft store rebase` it first"):
            store.merge("ada", on_conflict="theirs")


def test_killed_while_a_base_is_made(world: World, tmp_path: Path) -> None:
    """The evaluation is the longest part; whoever dies there leaves nothing behind in the store."""
    head = git(world.root, "rev-parse", "HEAD")
    program = """
import sys
from weft.store import Store
def derive(steps, out):
    out.mkdir()
    return "weft1-new"
with Store(sys.argv[1]) as store:
    store.accept("a", base=derive, command="sh -c 'echo go; sleep 60'")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(world.root)], stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"go\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert git(world.root, "rev-parse", "HEAD") == head
    assert is_clean(world.root)
    with Store(world.root) as store:
        assert store.verify().problems == ()


def test_the_command_line(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--store", str(world.root))
    assert app.main(["store", "accept", "a", *place]) == 1
    assert "name a folder of it with --base" in capsys.readouterr().err
    assert app.main(["store", "accept", "a", "-w", "0.5", "--base", str(world.base), "--json", *place]) == 0
    new = json.loads(capsys.readouterr().out)["base"]
    assert app.main(["store", "rebase", "b", "-r", "2", *place]) == 0
    assert "relative error of the cut rank 0." in capsys.readouterr().out
    out = tmp_path / "v1"
    assert app.main(["store", "base", str(world.base), "-o", str(out), *place]) == 0
    assert capsys.readouterr().out == f"wrote {out}, base {new}\n"
    assert fingerprint(Host.from_pretrained(out).module) == new
    # An adapter of the first version may still come in, one of a stranger may not.
    with Store(world.root) as store:
        store.add(tmp_path / "c", "late", message="late")
        weft.save(replace(world.adapters[2], base="weft1-other"), tmp_path / "stranger")
        with pytest.raises(BaseMismatchError, match="nor to one of its 1 earlier versions"):
            store.add(tmp_path / "stranger", "stranger", message="x")
