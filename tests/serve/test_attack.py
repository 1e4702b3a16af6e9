"""A few hundred hostile requests; `make attack` sends more."""

import pytest
from attack import run, under_attack


@pytest.mark.slow
def test_nothing_hostile_harms(tmp_path):
    with under_attack(tmp_path) as target:
        seen, wrong = run(target, 250, seed=1)
    assert wrong == []
    assert sum(seen.values()) == 250
    assert len(seen) > 10
