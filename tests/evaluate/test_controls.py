"""Random and fixed adapters beside the generated ones."""

import pytest
import torch

from planted import Planted
from weft.adapters import delta
from weft.errors import ShapeError
from weft.evaluate import CONTROLS, Options, compare, compare_controls, mean_adapter, random_like
from weft.types import Description

OPTIONS = Options(seeds=(0, 1), rows_per_task=5, max_new_tokens=5, bootstrap_samples=100)


def test_a_random_adapter_has_the_norm_and_nothing_else(planted: Planted) -> None:
    made = random_like(planted.bank, 0)
    assert made.sites == planted.bank.sites
    for site in made.sites:
        for k in range(len(made)):
            ours, theirs = (bank.b[site][k] @ bank.a[site][k] for bank in (made, planted.bank))
            assert ours.norm() == pytest.approx(float(theirs.norm()), rel=1e-4)
            assert abs(torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)) < 0.3
    again, other = random_like(planted.bank, 0), random_like(planted.bank, 1)
    site = made.sites[0]
    assert torch.equal(again.b[site], made.b[site])
    assert (other.b[site] - made.b[site]).abs().max() > 1e-3


def test_the_fixed_adapter_is_the_mean_of_what_is_made_for_some_tasks(planted: Planted) -> None:
    chosen = [planted.tasks[0], planted.tasks[2]]
    made = planted.hyper.generate([Description(task.descriptions[0]) for task in chosen])
    fixed = mean_adapter(planted.hyper, planted.tasks, 2)
    for site in made.sites:
        wanted = (made.b[site] @ made.a[site]).mean(0)
        torch.testing.assert_close(delta(fixed.factors[site]), wanted)
    everything = mean_adapter(planted.hyper, planted.tasks, 99)
    assert everything.rank == sum(planted.bank.a[site].shape[1] for _ in planted.tasks)
    with pytest.raises(ShapeError, match="no tasks"):
        mean_adapter(planted.hyper, [], 2)


def test_controls_are_measured_on_the_rows_of_the_other_conditions(planted: Planted) -> None:
    fixed = mean_adapter(planted.hyper, planted.tasks[:1], 1)
    [found] = compare_controls(
        planted.host, {"train": planted.tasks}, hypernetwork=planted.hyper, fixed=fixed, options=OPTIONS
    )
    assert tuple(result.condition for result in found.results) == CONTROLS
    generated, random, one = found.results
    [usual] = compare(planted.host, {"train": planted.tasks}, hypernetworks=[planted.hyper], options=OPTIONS)
    same = next(result for result in usual.results if result.condition == "generated")
    assert generated == same
    assert generated.metrics["exact_match"].mean == 1
    assert random.metrics["exact_match"].mean < 0.3
    assert one.metrics["exact_match"].mean == pytest.approx(0.25)  # right for the first task alone
    by_name = {row.name: row for row in found.comparisons}
    assert set(by_name) == {"generated - random", "generated - fixed"}
    assert by_name["generated - fixed"].differences["exact_match"].mean == pytest.approx(0.75)
