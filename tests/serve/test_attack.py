"""Sixty hostile requests, of every kind; `make attack` sends more."""

import pytest
from attack import ATTACKS, run, under_attack


@pytest.mark.slow
def test_nothing_hostile_harms(tmp_path):
    with under_attack(tmp_path) as target:
        seen, wrong = run(target, 60, seed=1)
    assert wrong == []
    assert sum(seen.values()) == 60
    assert {what.split()[0] for what in seen} == {make.__name__ for make, _ in ATTACKS}
    assert len(seen) > 10
