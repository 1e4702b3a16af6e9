"""Recipes run again: what cannot be is named, and what is not by its recipe is found."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_kit import (
    BASES,
    commit_tree,
    contents,
    derive,
    file_bytes,
    git,
    header_text,
    key,
    lora,
    tensor,
    wider,
    write_folder,
)

from weft.errors import ConfigError
from weft.store import Store
from weft.store.replay import Replayed


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Adapters a, b and c; a and b are accepted one after the other, c is rebased twice."""
    store = Store.init(tmp_path / "store", base=BASES[0])
    for place, name in enumerate("abc"):
        store.add(write_folder(tmp_path / name, lora(place)), name, message=name)
    store.accept("a", base=derive)
    store.rebase("b")
    store.accept("b", base=derive)
    store.rebase("c", onto=BASES[1])
    store.rebase("c", rank=2)
    yield store
    store.close()


def test_rebases_and_bases(store: Store) -> None:
    assert store.replay(base=derive) == Replayed(5, (), ())
    nothing = store.replay()
    assert (nothing.recipes, len(nothing.gone), nothing.problems) == (3, 2, ())
    assert sum(f"base {base} was folded from weights" in line for base in BASES for line in nothing.gone) == 2


def test_what_is_not_by_its_recipe(store: Store, tmp_path: Path) -> None:
    lineage = store.show("c").lineage
    store.add(tmp_path / "a", "d", message="d", lineage=lineage)
    found = store.replay(base=lambda steps, out: BASES[0])
    assert (found.recipes, found.gone, len(found.problems)) == (6, (), 3)
    assert sum(": d: 6 tensors differ from what its recipe gives" in line for line in found.problems) == 1
    assert sum(f": folding gave {BASES[0]}" in line for line in found.problems) == 2
    broken = dict(lineage, recipe={**lineage["recipe"], "onto": "weft1-ffffffffffffffff"})
    store.add(tmp_path / "a", "e", message="e", lineage=broken)
    assert "its recipe is no recipe of a rebase" in str(store.replay().problems)


def test_recipes_of_others_are_named(store: Store, tmp_path: Path) -> None:
    store.add(tmp_path / "a", "f", message="f", lineage={"recipe": {"train": "lora"}})
    store.add(tmp_path / "b", "f", message="later")  # the lineage stays, and is told once
    gone = [line for line in store.replay(base=derive).gone if ": f was made by" in line]
    assert len(gone) == 1


def grown() -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """`lora()` with one more of rank at layer 0."""
    return lora() | wider({name: lora()[name] for name in (key(0), key(0, "B"))}, 1)


def test_stacks(root: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(write_folder(tmp_path / "a", lora()), "a", message="a")
        store.stack("a", write_folder(tmp_path / "wide", grown()), "wide", message="wide")
        assert store.replay() == Replayed(1, (), ())
    name = key(1)
    other = {name: tensor(40, 2, 4)}
    path = ("adapters", "wide", "tensors", f"{name}.safetensors")
    commit_tree(root, {path: file_bytes(other, header_text(other))})
    with Store(root) as store:
        assert store.replay() == Replayed(1, (), ())  # an edit after the stack is no matter of its recipe
    git(root, "reset", "-q", "--hard")
    git(root, "reset", "-q", "--soft", "HEAD~2")
    git(root, "commit", "-qm", "squashed")
    with Store(root) as store:
        found = store.replay()
    assert found.recipes == 1
    assert (
        f"1 tensors are not those of the parent it was stacked onto, {path[-1]} is one" in found.problems[0]
    )


def test_a_parent_that_is_gone(root: Path, tmp_path: Path) -> None:
    with Store(root) as store:
        store.add(write_folder(tmp_path / "a", lora()), "a", message="a")
        store.stack("a", write_folder(tmp_path / "wide", grown()), "wide", message="wide")
        store.remove("a", message="gone")
    git(root, "checkout", "-q", "--orphan", "alone")
    git(root, "commit", "-qm", "alone")
    git(tmp_path, "clone", "-q", "--no-local", "--single-branch", str(root), "clone")
    with Store(tmp_path / "clone") as store:
        assert store.verify().problems == ()
        found = store.replay()
        assert (found.recipes, found.problems) == (0, ())
        assert "was stacked onto tree" in found.gone[0]
        assert "which is not here" in found.gone[0]
        store.checkout("wide", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(tmp_path / "wide")


def test_a_base_needs_replay(root: Path) -> None:
    from weft.cli.store.verify import verify

    with pytest.raises(ConfigError, match="give both"):
        verify(base="x", store=str(root))
