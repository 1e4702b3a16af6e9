"""The forms in which a decode step runs adapters of the pool, each against whole forwards without a cache."""

import pytest
import torch

from tiny_models import make_bank, make_llama
from weft.host import Host
from weft.host.share import Apart, SideBySide, join
from weft.rows import Share
from weft.types import Mixture

FORMS = {
    "one": ([2, 2, 2, 2], 4, SideBySide, None),
    "in order": ([0, 1, 2, 3], 4, Apart, False),
    "in order, two rows each": ([0, 0, 1, 1], 4, Apart, False),
    "out of order, few numbers": ([1, 0, 3, 2], 4, SideBySide, None),
    "with the base, few numbers": ([0, None, 1, 2], 4, SideBySide, None),
    "out of order": ([1, 0, 3, 2], 48, Apart, True),
    "unequal numbers of rows": ([1, 0, 3, 1], 48, Apart, True),
    "with the base": ([3, None, 0, 2, None, 1], 48, Apart, True),
    "too unequal": ([3, 3, 3, 3, 0, 3], 96, SideBySide, None),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decode_step_says_what_a_forward_says(name, dtype):
    index, rank, form, sorts = FORMS[name]
    host = Host(make_llama().to(dtype))
    bank = make_bank(host.sites, 4, rank)
    for adapter in bank:
        host.pool.put(adapter)
    shares = [Share() if k is None else Share.of(bank[k]) for k in index]
    (joined,) = join(shares, host.pool, host.device)
    assert isinstance(joined.decode, form)
    if isinstance(joined.decode, Apart):
        assert (joined.decode.places is not None) == sorts
    ids = torch.randint(3, 64, (len(index), 6), generator=torch.Generator().manual_seed(0))
    cache = host.new_cache()
    host.step(ids[:, :5], cache, shares)
    got = host.step(ids[:, 5:], cache, shares).logits_BV
    with torch.no_grad():
        want = host(ids, Mixture.rows(bank, index)).logits[:, -1].float()
        base = host(ids).logits[:, -1].float()
    close = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(got, want, atol=close, rtol=close)
    changed = [row for row, k in enumerate(index) if k is not None]
    assert ((want - base)[changed].abs().amax(-1) > 2 * close).all()


def test_rows_of_the_base_do_not_feel_adapters_that_overflow():
    host = Host(make_llama())
    bank = make_bank(host.sites, 2, 96)
    for part in (bank.a, bank.b):
        for tensor in part.values():
            tensor[1] = torch.finfo(torch.float32).max
    shares = [Share(), Share.of(bank[0]), Share.of(bank[1]), Share()]
    ids = torch.randint(3, 64, (4, 5), generator=torch.Generator().manual_seed(0))
    cache, alone = host.new_cache(), host.new_cache()
    host.step(ids[:, :4], cache, [Share()] * 4)
    host.step(ids[:, :4], alone, [Share()] * 4)
    got = host.step(ids[:, 4:], cache, shares).logits_BV
    want = host.step(ids[:, 4:], alone, [Share(), shares[1], Share(), Share()]).logits_BV
    torch.testing.assert_close(got[[0, 1, 3]], want[[0, 1, 3]], atol=1e-5, rtol=1e-5)
