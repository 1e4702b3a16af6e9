"""A compiled step says what the others say, and swapping adapters or rows recompiles nothing."""

import pytest
import torch
from compiled_rows import APART, WEIGHED, main

from forked import elsewhere
from tiny_models import make_llama
from weft.errors import ConfigError
from weft.host import Host, Pool
from weft.rows import Share


@pytest.mark.slow
def test_a_compiled_step_says_the_same_and_swaps_recompile_nothing(tmp_path):
    graphs = elsewhere(main, said=tmp_path / "said.txt").split()
    weighed, apart = graphs[: len(WEIGHED)], graphs[len(WEIGHED) :]
    assert len(apart) == len(APART)
    assert int(weighed[0]) > 0
    assert len(set(weighed)) == 1
    assert int(apart[0]) == 2 * int(weighed[0])
    assert len(set(apart)) == 1


def test_a_pool_that_grows_is_not_compiled():
    with pytest.raises(ConfigError, match="fixed size"):
        Host(make_llama()).compile()


def test_a_first_token_is_read_uncompiled():
    host = Host(make_llama())
    ids_BT = torch.tensor([[5]])
    want = host.step(ids_BT, host.new_cache(), [Share()]).logits_BV
    host.pool = Pool(host.sites, slots=1, r=4)
    host.compile(rows=1, columns=64)
    assert torch.equal(host.step(ids_BT, host.new_cache(), [Share()]).logits_BV, want)
