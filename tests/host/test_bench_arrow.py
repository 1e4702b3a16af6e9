"""The routing that `bench/kernels.py` times is PEFT's Arrow."""

import importlib.util
from pathlib import Path

import pytest
import torch

from weft.host import Host
from weft.types import Mixture, Term

_FILE = Path(__file__).parents[2] / "bench" / "kernels.py"


@pytest.mark.filterwarnings("ignore::FutureWarning")
@torch.no_grad()
def test_routed_logits_equal_pefts_arrow() -> None:
    spec = importlib.util.spec_from_file_location("bench_kernels", _FILE)
    assert spec is not None
    assert spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    base = bench.make_base(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    host = Host(bench.copy_of(base), target_modules=bench.ATTENTION)
    bank = bench.make_bank(host.sites, 5, rank=4)
    # Strong adapters, so that another routing would show.
    for b_KOR in bank.b.values():
        b_KOR.mul_(50)
    peer = bench.make_arrow(bench.copy_of(base), bank)
    ids_BT = torch.randint(64, (3, 7), generator=torch.Generator().manual_seed(0))
    want = peer(ids_BT, use_cache=False).logits
    prototypes = bench.prototypes_of(peer, host.sites)

    def routed(k: int) -> torch.Tensor:
        gate = bench.ArrowGate(prototypes, k=k)
        return host(ids_BT, Mixture((Term(bank, gate),))).logits

    torch.testing.assert_close(routed(bench.TOP_K), want, rtol=0, atol=bench.TOLERANCE)
    assert (routed(1) - want).abs().max() > 1e-3
    assert (host(ids_BT).logits - want).abs().max() > 1e-3
