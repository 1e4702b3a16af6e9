"""The bench of the engine at a small size: every side runs, and those that should say the same do."""

import sys
from pathlib import Path

import pytest
import torch

from weft.host import Host
from weft.rows import Share

# PEFT asks for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from bench import engine

    yield engine
    sys.modules.pop("bench.engine", None)


def test_every_side_runs_on_a_small_base(bench, monkeypatch):
    monkeypatch.setattr(bench, "NEW", 3)
    monkeypatch.setattr(bench, "MANY", 20)
    small = {"vocab_size": 64, "hidden_size": 36, "intermediate_size": 32, "num_hidden_layers": 2}
    module = bench.random_llama(**small)
    rows = bench.lines("pico", module, 1, compiled=False)
    assert len(rows) == 10
    assert all(row["tokens/s"] > 0 for row in rows)


@pytest.mark.parametrize("rank", [4, 8])
def test_peft_and_weft_hold_the_same_adapters(bench, rank):
    module = bench.random_llama(vocab_size=64, hidden_size=36, intermediate_size=32, num_hidden_layers=2)
    host = Host(module, target_modules=list(bench.TARGETS))
    adapters = [bench._adapter(host, k, rank) for k in range(3)]
    twin = bench._peft(module, adapters, bench.TARGETS)
    ids = torch.randint(3, 64, (3, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = twin(input_ids=ids, adapter_names=["2", "0", "1"]).logits[:, -1]
    shares = [Share.of(adapters[k]) for k in (2, 0, 1)]
    got = host.step(ids, host.new_cache(), shares).logits_BV
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
