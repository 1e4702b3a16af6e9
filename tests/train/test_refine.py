"""A few examples more: an adapter that goes on from where it was made, or from zero."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_training import tiny_host, write_tasks

from weft.errors import NotFiniteError
from weft.host import Host
from weft.tasks import Encoded, load_tasks, render
from weft.train.refine import refine
from weft.types import Adapter, Factors


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def host(tasks: Path) -> Host:
    return tiny_host(tasks)


@pytest.fixture(scope="module")
def rows(tasks: Path, host: Host) -> tuple[list[Encoded], list[Encoded]]:
    [task] = [task for task in load_tasks(tasks) if task.name == "upper"]
    return [render(host.tokenizer, row) for row in task.train], [render(host.tokenizer, r) for r in task.test]


def some(host: Host, rank: int = 3, scaling: float = 0.5) -> Adapter:
    chance = torch.Generator().manual_seed(1)
    factors = {
        site: Factors(
            torch.randn(rank, site.in_features, generator=chance) * 0.1,
            torch.randn(site.out_features, rank, generator=chance) * 0.1,
            scaling * (1 + site.layer),
        )
        for site in host.sites
    }
    return Adapter(factors, base=host.fingerprint, name="start")


def same(one: Adapter, other: Adapter) -> bool:
    return all(
        torch.allclose(
            one.factors[s].b_OR @ one.factors[s].a_RI * one.factors[s].scaling,
            other.factors[s].b_OR @ other.factors[s].a_RI * other.factors[s].scaling,
            atol=1e-6,
        )
        for s in one.sites
    )


def test_it_learns_from_zero(host: Host, rows: tuple[Sequence[Encoded], Sequence[Encoded]]) -> None:
    heard = []
    made = refine(
        host,
        None,
        *rows,
        steps=15,
        learning_rate=5e-3,
        r=4,
        provenance={"seed": 0},
        progress=lambda *told: heard.append(told),
    )
    before = refine(host, None, *rows, steps=0, r=4, provenance={}).loss
    assert before is not None
    assert made.loss is not None
    assert made.loss < before - 0.2
    assert [step for step, _ in heard] == list(range(1, made.steps + 1))
    assert (made.adapter.rank, made.adapter.base, len(made.adapter.sites)) == (4, host.fingerprint, 14)
    assert dict(made.adapter.provenance) == {"seed": 0}


def test_it_goes_on_from_what_it_is_given(host: Host, rows: tuple[list[Encoded], list[Encoded]]) -> None:
    start = some(host)
    made = refine(host, start, *rows, steps=0, provenance={})
    assert same(made.adapter, start)
    assert (made.steps, made.kept_step) == (0, 0)
    further = refine(host, start, *rows, steps=10, provenance={})
    assert not same(further.adapter, start)
    assert further.adapter.rank == start.rank
    assert further.loss is not None
    assert made.loss is not None
    assert further.loss < made.loss


def test_what_makes_held_out_rows_worse_is_not_kept(
    host: Host, rows: tuple[list[Encoded], list[Encoded]]
) -> None:
    """The start knows the held-out rows, and the examples say otherwise."""
    good = refine(host, None, rows[1], rows[1], steps=15, learning_rate=5e-3, provenance={}).adapter
    wrong = [Encoded(row.prompt_ids, row.completion_ids[::-1]) for row in rows[1]]
    made = refine(host, good, wrong, rows[1], steps=20, learning_rate=5e-3, provenance={})
    assert made.steps < 20
    assert made.kept_step == 0
    assert same(made.adapter, good)


def test_without_held_out_rows_all_steps_are_taken(
    host: Host, rows: tuple[list[Encoded], list[Encoded]]
) -> None:
    made = refine(host, None, rows[0], [], steps=7, provenance={})
    assert (made.steps, made.kept_step, made.loss) == (7, 7, None)
    assert not any(bool((f.b_OR == 0).all()) for f in made.adapter.factors.values())


def test_the_same_seed_gives_the_same_adapter(host: Host, rows: tuple[list[Encoded], list[Encoded]]) -> None:
    one, other, third = (refine(host, None, *rows, steps=5, seed=s, provenance={}) for s in (1, 1, 2))
    assert same(one.adapter, other.adapter)
    assert not same(one.adapter, third.adapter)


def test_a_loss_that_is_no_number_ends_it(host: Host, rows: tuple[list[Encoded], list[Encoded]]) -> None:
    start = some(host)
    start.factors[host.sites[0]].a_RI.fill_(math.nan)
    with pytest.raises(NotFiniteError, match="the loss of step 1 is nan"):
        refine(host, start, *rows, steps=3, provenance={})
