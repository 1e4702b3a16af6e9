"""The fuzzer in short: `make fuzz` runs 10,000 cases."""

import pytest
from fuzzer import SURFACES, damage_bytes, damage_value, run, surface


def test_damaged_inputs_are_taken_or_end_in_one_clear_line():
    for name in ("recipe", "task_folder", "rows", "prompt", "chat_row"):
        assert list(run(80, seed=1, only=name)) == []


def test_the_fuzzer_notices_what_is_wrong(monkeypatch: pytest.MonkeyPatch):
    import random

    def busy() -> None:
        while True:
            pass

    assert not list(run(1, seed=2, only="rows"))
    monkeypatch.setattr("fuzzer.SECONDS", 1)
    for name, call in {"raw": lambda: {}["x"], "slow": busy, "fine": lambda: None}.items():
        made = lambda rng, folder, call=call: call  # noqa: E731
        made.__name__ = name
        surface(made)
    try:
        found = {name: [f.what for f in run(1, only=name)] for name in ("raw", "slow", "fine")}
    finally:
        for name in ("raw", "slow", "fine"):
            del SURFACES[name]
    assert found["raw"][0].startswith("KeyError")
    assert found["slow"] == ["more than 1 s"]
    assert found["fine"] == []
    rng = random.Random(0)
    assert damage_value(rng, {"a": [1, 2]}) != {"a": [1, 2]}
    assert any(damage_bytes(random.Random(i), b"abc" * 20) != b"abc" * 20 for i in range(5))
