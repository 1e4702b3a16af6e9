"""Merges of branches: what is joined without reading numbers, and what each policy makes of conflicts."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_kit import contents, git, is_clean, key, lora, tensor, write_folder

import weft
from weft.errors import BaseMismatchError, ConfigError, UnknownNameError, WeftError
from weft.store import Store
from weft.store.merge import Merged
from weft.store.three_way import alive

Tensors = Mapping[str, tuple[str, tuple[int, ...], bytes]]


def numbers(seed: int, *shape: int) -> tuple[str, tuple[int, ...], bytes]:
    return "F32", shape, np.random.default_rng(seed).normal(size=shape).astype("<f4").tobytes()


def random_lora(seed: int, layers: int = 3, rank: int = 2, width: int = 6) -> dict[str, Any]:
    found = {}
    for layer in range(layers):
        found[key(layer, "A")] = numbers(seed + layer, rank, width)
        found[key(layer, "B")] = numbers(seed + layer + 100, width, rank)
    return found


def config(rank: int = 2, alpha: int = 4) -> bytes:
    return json.dumps(
        {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"]}
    ).encode()


@pytest.fixture
def branch(root: Path, tmp_path: Path) -> Callable[..., str]:
    """Commit adapters on a branch that leaves `main` as it is now; the working folder ends on main."""

    def make(name: str, adapters: Mapping[str, Tensors], **options: Any) -> str:
        lineage = options.pop("lineage", None)
        if name != "main":
            git(root, "checkout", "-q", "-B", name, options.pop("start", "main"))
        with Store(root) as store:
            for adapter, tensors in adapters.items():
                folder = write_folder(tmp_path / f"in-{name}-{adapter}", tensors, **options)
                store.add(folder, adapter, message=f"{name}: {adapter}", lineage=lineage)
        commit = git(root, "rev-parse", "HEAD")
        git(root, "checkout", "-q", "main")
        return commit

    return make


def run(root: Path, *revisions: str, **options: Any) -> Merged:
    with Store(root) as store:
        return store.merge(*revisions, **options)


def out(root: Path, tmp_path: Path, name: str = "a", rev: str = "HEAD") -> Path:
    with Store(root) as store:
        store.checkout(name, tmp_path / "out", rev=rev)
        assert store.verify().problems == ()
    return tmp_path / "out"


def delta(tensors: Tensors, layer: int, scaling: float = 2.0) -> np.ndarray:
    a, b = (
        np.frombuffer(raw, "<f4").reshape(shape).astype(float)
        for _, shape, raw in (tensors[key(layer, half)] for half in "AB")
    )
    return scaling * b @ a


def merged_delta(folder: Path, layer: int) -> np.ndarray:
    adapter = weft.load(folder)
    site = next(s for s in adapter.sites if s.path == f"layers.{layer}.q_proj")
    a, b, scaling = adapter.factors[site]
    return scaling * b.double().numpy() @ a.double().numpy()


def parents(root: Path) -> list[str]:
    return git(root, "show", "-s", "--format=%P", "HEAD").split()


def test_edits_of_different_tensors_merge_unread(
    root: Path, tmp_path: Path, branch: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = lora()
    branch("main", {"a": start, "b": start})
    one = branch("one", {"a": start | {key(0): tensor(50, 2, 4)}}, lineage={"author": "Ada"})
    two = branch("two", {"a": start | {key(1): tensor(67, 2, 4)}}, lineage={"licence": "mit"})
    three = branch("three", {"a": start | {key(2, "B"): tensor(70, 4, 2)}, "c": lora(9)})
    (root / "notes.txt").write_text("kept")
    head = branch("main", {"b": lora(5)})

    def never(*words: object) -> None:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("weft.store.sides.read_tensor", never)
    done = run(root, "one", "two", "three")
    assert parents(root) == [head, one, two, three]
    assert (done.commit, done.adapters, done.decided) == (git(root, "rev-parse", "HEAD"), ("a", "c"), ())
    monkeypatch.undo()
    expected = start | {key(0): tensor(50, 2, 4), key(1): tensor(67, 2, 4), key(2, "B"): tensor(70, 4, 2)}
    assert contents(out(root, tmp_path)) == contents(write_folder(tmp_path / "want", expected))
    with Store(root) as store:
        assert store.show("a").lineage == {"author": "Ada", "licence": "mit"}
        assert [row.name for row in store.list()] == ["a", "b", "c"]
    assert git(root, "status", "--porcelain") == "?? notes.txt"
    assert run(root, "one", "two").commit is None


def test_plain_git_agrees(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    start = lora()
    branch("main", {"a": start, "b": start})
    branch("one", {"a": start | {key(0): tensor(50, 2, 4)}, "c": start})
    branch("main", {"a": lora(layers=2) | {key(1): tensor(67, 2, 4)}})
    git(root, "checkout", "-q", "-b", "git")
    git(root, "merge", "-q", "-m", "by git", "one")
    tree = git(root, "rev-parse", "HEAD^{tree}")
    git(root, "checkout", "-q", "main")
    run(root, "one")
    assert git(root, "rev-parse", "HEAD^{tree}") == tree
    assert is_clean(root)


def test_a_branch_that_is_behind_moves_forward(root: Path, branch: Callable[..., str]) -> None:
    branch("main", {"a": lora()})
    tip = branch("one", {"a": lora(3), "b": lora()})
    done = run(root, "one")
    assert done.commit == tip == git(root, "rev-parse", "HEAD")
    assert done.adapters == ("a", "b")
    assert is_clean(root)


def test_a_conflict_is_named_and_changes_nothing(root: Path, branch: Callable[..., str]) -> None:
    start = lora()
    branch("main", {"a": start})
    branch("one", {"a": start | {key(0): tensor(50, 2, 4), key(1): tensor(51, 2, 4)}})
    head = branch("main", {"a": start | {key(0): tensor(67, 2, 4), key(2): tensor(69, 2, 4)}})
    with pytest.raises(ConfigError) as found:
        run(root, "one")
    assert str(found.value).startswith(f"1 conflict, nothing was merged: a: {key(0)}; --on-conflict")
    assert git(root, "rev-parse", "HEAD") == head
    assert is_clean(root)


@pytest.mark.parametrize(("policy", "kept"), [("ours", 67), ("theirs", 50)])
def test_one_side_wins_conflicts_alone(
    policy: str, kept: int, root: Path, tmp_path: Path, branch: Callable[..., str]
) -> None:
    start = lora()
    branch("main", {"a": start, "gone": start})
    one = branch(
        "one", {"a": start | {key(0): tensor(50, 2, 4), key(1): tensor(51, 2, 4)}}, lineage={"data": "one"}
    )
    git(root, "checkout", "-q", "one")
    with Store(root) as store:
        store.remove("gone", message="x")
    one = git(root, "rev-parse", "HEAD")
    git(root, "checkout", "-q", "main")
    mine = start | {key(0): tensor(67, 2, 4), key(2): tensor(69, 2, 4)}
    head = branch("main", {"a": mine, "gone": lora(8)}, lineage={"data": "main"})
    done = run(root, "one", on_conflict=policy)
    assert set(done.decided) == {f"a: {key(0)}", "a: adapter.json lineage.data", "adapters/gone"}
    expected = start | {key(0): tensor(kept, 2, 4), key(1): tensor(51, 2, 4), key(2): tensor(69, 2, 4)}
    assert contents(out(root, tmp_path)) == contents(write_folder(tmp_path / "want", expected))
    with Store(root) as store:
        assert store.show("a").lineage == {"data": "main" if policy == "ours" else "one"}
        assert ("gone" in [row.name for row in store.list()]) == (policy == "ours")
    assert parents(root) == [head, one]


@pytest.mark.parametrize("sides", [2, 3])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "concat", "svd", "ties"])
def test_methods_equal_a_float64_reference(
    method: str, sides: int, root: Path, tmp_path: Path, branch: Callable[..., str]
) -> None:
    """Layer 0 was changed by all sides, layer 1 by the first alone, layer 2 by none."""
    start = random_lora(0)
    versions = []
    branch("main", {"a": start})
    for side in range(sides):
        new = random_lora(1000 * (side + 1))
        layers = (0, 1) if side == 0 else (0,)
        versions.append(start | {k: new[k] for k in new if any(f".{n}." in k for n in layers)})
    for side in range(1, sides):
        branch(f"side-{side}", {"a": versions[side]})
    branch("main", {"a": versions[0]})
    options: dict[str, Any] = {"svd": {"rank": 4}, "ties": {"density": 1.0, "rank": 6}}.get(method, {})
    weights = [0.5 + 0.25 * k for k in range(sides)]
    done = run(
        root, *(f"side-{k}" for k in range(1, sides)), on_conflict=method, options=options, weights=weights
    )
    deltas = [delta(v, 0) for v in versions]
    exact = np.sum([w * d for w, d in zip(weights, deltas, strict=True)], axis=0)
    if method == "task_arithmetic":
        origin = delta(start, 0)
        expected = origin + sum(w * (d - origin) for w, d in zip(weights, deltas, strict=True))
    elif method == "svd":
        u, s, v = np.linalg.svd(exact)
        expected = u[:, :4] * s[:4] @ v[:4]
        error = np.linalg.norm(expected - exact) / np.linalg.norm(exact)
        assert abs(done.lost - error) < 1e-6
        assert (error > 0.01) == (sides == 3)
    elif method == "ties":
        expected = np.zeros_like(exact)
        for at in np.ndindex(exact.shape):
            sign = np.sign(sum(w * d[at] for w, d in zip(weights, deltas, strict=True)))
            chosen = [(w, d[at]) for w, d in zip(weights, deltas, strict=True) if np.sign(d[at]) == sign]
            expected[at] = sum(w * x for w, x in chosen) / sum(w for w, _ in chosen)
    else:
        expected = exact
    folder = out(root, tmp_path)
    assert np.abs(merged_delta(folder, 0) - expected).max() < 2e-6 * max(1.0, np.abs(expected).max())
    adapter = weft.load(folder)
    for layer, version in ((1, versions[0]), (2, start)):
        site = next(s for s in adapter.sites if s.path == f"layers.{layer}.q_proj")
        a, b, scaling = adapter.factors[site]
        assert scaling == 2.0
        assert (a.numpy().tobytes(), b.numpy().tobytes()) == tuple(version[key(layer, h)][2] for h in "AB")
    assert {row.split(": ")[1] for row in done.decided} == {key(0, "A"), key(0, "B")}


def test_concat_keeps_every_number(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    """The numbers of both sides, side by side: equal weights stay outside of the factors."""
    one, two = random_lora(1, layers=1), random_lora(2, layers=1)
    branch("main", {"a": random_lora(0, layers=1)})
    branch("one", {"a": one})
    branch("main", {"a": two})
    run(root, "one", on_conflict="concat", weights=[1.0, 1.0])
    (factors,) = weft.load(out(root, tmp_path)).factors.values()
    assert factors.scaling == 2.0
    a = b"".join(v[key(0, "A")][2] for v in (two, one))
    assert factors.a_RI.numpy().tobytes() == a
    b = [np.frombuffer(v[key(0, "B")][2], "<f4").reshape(6, 2) for v in (two, one)]
    assert np.array_equal(factors.b_OR.numpy(), np.concatenate(b, 1))


def test_ranks_and_scalings_may_differ(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    one, two = random_lora(1, rank=3), random_lora(2)
    start = random_lora(0)
    branch("main", {"a": start})
    branch("one", {"a": one}, config=config(rank=3, alpha=3))
    branch("main", {"a": start | {k: two[k] for k in (key(0), key(0, "B"))}})
    run(root, "one", on_conflict="linear")
    folder = out(root, tmp_path)
    assert np.allclose(merged_delta(folder, 0), (delta(two, 0) + delta(one, 0, 1.0)) / 2, atol=1e-6)
    for layer in (1, 2):  # one side's alone
        assert np.allclose(merged_delta(folder, layer), delta(one, layer, 1.0), atol=1e-6)


def test_ranks_that_do_not_fit_are_not_mixed(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    start = random_lora(0)
    branch("main", {"a": start})
    branch("one", {"a": random_lora(1, rank=3)}, config=config(rank=3))
    head = branch("main", {"a": start | {key(3): numbers(9, 2, 6), key(3, "B"): numbers(10, 6, 2)}})
    for policy in ("fail", "ours", "theirs"):
        with pytest.raises(ConfigError, match=r"a: layers\.3\.q_proj would have lora_A of rank 2"):
            run(root, "one", on_conflict=policy)
    assert git(root, "rev-parse", "HEAD") == head
    run(root, "one", on_conflict="concat")
    adapter = weft.load(out(root, tmp_path))
    assert [adapter.factors[site].a_RI.shape[0] for site in adapter.sites] == [3, 3, 3, 2]


def test_the_recipe_is_kept(root: Path, branch: Callable[..., str]) -> None:
    branch("main", {"a": random_lora(0)})
    one = branch("one", {"a": random_lora(1)}, lineage={"author": "Ada", "metrics": {"loss": 1}})
    head = branch("main", {"a": random_lora(2)}, lineage={"author": "Bob", "licence": "mit"})
    run(root, "one", on_conflict="ties", options={"density": 0.5})
    with Store(root) as store:
        lineage = store.show("a").lineage
    recipe = lineage["recipe"]
    assert (recipe["merge"], recipe["options"], recipe["commits"]) == ("ties", {"density": 0.5}, [head, one])
    assert set(recipe) >= {"weft", "torch", "weights", "adapter"}
    assert lineage["parents"] == [head, one]
    assert (lineage["author"], lineage["licence"]) == (["Bob", "Ada"], "mit")
    assert "metrics" not in lineage


def test_different_bases_are_refused(root: Path, branch: Callable[..., str]) -> None:
    branch("main", {"a": lora()})
    branch("one", {"a": lora(1)}, metadata={"weft_base": "weft1-1111111111111111"})
    head = branch("main", {"a": lora(2)}, metadata={"weft_base": "weft1-2222222222222222"})
    for policy in ("fail", "ours", "theirs", "linear"):
        with pytest.raises(BaseMismatchError, match="a belongs to different bases"):
            run(root, "one", on_conflict=policy)
    assert git(root, "rev-parse", "HEAD") == head
    assert is_clean(root)


def test_one_adapter_of_a_branch(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    """The rest of the branch is not merged, so the commit must not say so: a later merge brings it."""
    branch("main", {"a": lora(), "b": lora()})
    one = branch("one", {"a": lora(1), "b": lora(1)})
    head = branch("main", {"c": lora()})
    assert run(root, "one", name="a").adapters == ("a",)
    assert parents(root) == [head]
    assert contents(out(root, tmp_path)) == contents(out(root, tmp_path / "x", rev=one))
    assert run(root, "one").adapters == ("b",)
    assert run(root, "one", name="a").commit is None


def test_wrong_usage(root: Path, branch: Callable[..., str]) -> None:
    branch("main", {"a": random_lora(0)})
    branch("one", {"a": random_lora(1)})
    branch("main", {"a": random_lora(2)})
    for wrong, error, match in (
        ({"on_conflict": "linear", "weights": [1.0, 2.0, 3.0]}, ConfigError, "3 weights for 2 parents"),
        ({"on_conflict": "tiess"}, UnknownNameError, "no merge method tiess"),
        ({"message": " "}, ConfigError, "cannot be empty"),
        ({"on_conflict": "task_arithmetic", "options": {"scaling": 0.0}}, ConfigError, "scaling is 0"),
        ({"name": "../a"}, ConfigError, "no name for an adapter"),
    ):
        with pytest.raises(error, match=match):
            run(root, "one", **wrong)
    with pytest.raises(UnknownNameError, match="no revision"):
        run(root, "nowhere")
    with pytest.raises(ConfigError, match="name a revision"):
        run(root)


@settings(max_examples=200, deadline=None)
@given(base=st.integers(0, 2), values=st.lists(st.integers(0, 2), min_size=2, max_size=4))
def test_the_rule_for_one_ancestor(base: int, values: list[int]) -> None:
    """Who kept the ancestor's gives way to who did not; without such, all agree."""
    pairs = {(i, j): (base,) for i in range(len(values)) for j in range(i + 1, len(values))}
    changed = {v for v in values if v != base}
    assert {values[k] for k in alive(values, pairs)} == (changed or {base})


def test_each_pair_has_its_own_ancestor(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    """B kept what A began from, C what the trunk has: A's later change is no conflict."""
    branch("main", {"a": lora()})
    branch("c", {"b": lora()})
    branch("shared", {"a": lora() | {key(0): tensor(50, 2, 4)}})
    branch("a", {"a": lora() | {key(0): tensor(51, 2, 4)}}, start="shared")
    branch("b", {"d": lora()}, start="shared")
    git(root, "checkout", "-q", "c")
    run(root, "a", "b")
    want = write_folder(tmp_path / "want", lora() | {key(0): tensor(51, 2, 4)})
    assert contents(out(root, tmp_path)) == contents(want)


def test_a_module_that_one_side_removed_counts_as_zero(
    root: Path, tmp_path: Path, branch: Callable[..., str]
) -> None:
    start, one = random_lora(0), random_lora(1)
    branch("main", {"a": start})
    branch("one", {"a": start | {k: one[k] for k in (key(0), key(0, "B"), key(1), key(1, "B"))}})
    less = {k: v for k, v in start.items() if ".0." not in k and ".2." not in k}
    branch("main", {"a": less})
    with pytest.raises(ConfigError, match="2 conflicts"):
        run(root, "one")
    run(root, "one", on_conflict="linear", weights=[0.25, 0.75])
    folder = out(root, tmp_path)
    assert [site.path for site in weft.load(folder).sites] == ["layers.0.q_proj", "layers.1.q_proj"]
    assert np.allclose(merged_delta(folder, 0), 0.75 * delta(one, 0), atol=1e-6)
    assert np.array_equal(merged_delta(folder, 1), delta(one, 1))


def test_task_arithmetic_without_an_ancestor_adds(
    root: Path, tmp_path: Path, branch: Callable[..., str]
) -> None:
    one, two = random_lora(1, layers=1), random_lora(2, layers=1)
    branch("one", {"a": one})
    branch("main", {"a": two})
    run(root, "one", on_conflict="task_arithmetic", options={"scaling": 0.5})
    folder = out(root, tmp_path)
    assert np.allclose(merged_delta(folder, 0), 0.5 * (delta(one, 0) + delta(two, 0)), atol=1e-6)


def test_task_arithmetic_scales_what_was_learned_alone(
    root: Path, tmp_path: Path, branch: Callable[..., str]
) -> None:
    start, one, two = (random_lora(k, layers=1) for k in range(3))
    branch("main", {"a": start})
    branch("one", {"a": one})
    branch("main", {"a": two})
    run(root, "one", on_conflict="task_arithmetic", options={"scaling": 0.5})
    origin = delta(start, 0)
    expected = origin + 0.5 * (delta(one, 0) - origin) + 0.5 * (delta(two, 0) - origin)
    assert np.allclose(merged_delta(out(root, tmp_path), 0), expected, atol=2e-6)


def test_histories_that_cross(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    """Each branch merged the other once; what one of them changed since then is no conflict."""
    branch("main", {"a": lora()})
    branch("one", {"a": lora() | {key(0): tensor(7, 2, 4)}})
    branch("main", {"a": lora() | {key(1): tensor(9, 2, 4)}})
    git(root, "branch", "aside")
    git(root, "merge", "-q", "-m", "x", "one")
    git(root, "checkout", "-q", "one")
    git(root, "merge", "-q", "-m", "y", "aside")
    later = lora() | {key(0): tensor(11, 2, 4), key(1): tensor(9, 2, 4)}
    with Store(root) as store:
        store.add(write_folder(tmp_path / "later", later), "a", message="later")
    git(root, "checkout", "-q", "main")
    branch("main", {"b": lora()})
    assert len(git(root, "merge-base", "--all", "main", "one").split()) == 2
    run(root, "one")
    assert contents(out(root, tmp_path)) == contents(tmp_path / "later")


def test_unrelated_histories(root: Path, tmp_path: Path, branch: Callable[..., str]) -> None:
    branch("main", {"a": lora(), "b": lora()})
    git(root, "checkout", "-q", "--orphan", "one")
    git(root, "commit", "-q", "-m", "an orphan")
    with Store(root) as store:
        store.add(write_folder(tmp_path / "x", lora(1)), "a", message="one")
    git(root, "checkout", "-q", "main")
    branch("main", {"c": lora(2)})
    with pytest.raises(ConfigError, match="6 conflicts"):
        run(root, "one")
    run(root, "one", on_conflict="theirs")
    assert contents(out(root, tmp_path)) == contents(tmp_path / "x")


def test_a_conflict_elsewhere_is_for_no_method(root: Path, branch: Callable[..., str]) -> None:
    branch("main", {"a": lora()})
    for side in ("one", "main"):
        git(root, "checkout", "-q", *(["-b", "one"] if side == "one" else ["main"]))
        (root / "NOTES").write_text(side)
        git(root, "add", "NOTES")
        git(root, "commit", "-q", "-m", side)
    with pytest.raises(ConfigError, match=r"nothing was merged: NOTES; linear merges numbers"):
        run(root, "one", on_conflict="linear")
    run(root, "one", on_conflict="theirs")
    assert (root / "NOTES").read_text() == "one"


def test_names_that_differ_in_case_alone_are_refused(root: Path, branch: Callable[..., str]) -> None:
    branch("main", {"x": lora()})
    branch("one", {"a": lora()})
    branch("main", {"A": lora()})
    with pytest.raises(WeftError, match="differ in case alone"):
        run(root, "one")
    assert is_clean(root)
