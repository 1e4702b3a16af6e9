"""A loop of rows with compiled steps against one without; prints how many graphs each round has made.

Run by a test in a process of its own: what checks shapes in the others cannot be compiled.
"""

import torch
import torch._dynamo.utils

from tiny_models import make_bank, make_llama
from weft.adapters import fold
from weft.engine import Loop, Sampling
from weft.host import Host, Pool
from weft.rows import Request, Share

WEIGHED = [[0, 1, None, 2], [3, 3, 4], [2, None, 0, 4]]
APART = [[0, 1, None, 2], [3, 2, 0, 4], [2, None, None, 4], [1, 0, None, 3]]
"""Which adapter each row has; four slots, so that they are swapped."""


def said(host, bank, names, *, weighed=True):
    loop = Loop(host)
    for i, k in enumerate(names):
        rng = torch.Generator().manual_seed(i)
        ids = tuple(torch.randint(3, 64, (3 + i % 4,), generator=rng).tolist())
        share = Share() if k is None else Share.of(bank[k], weights=[1.0 + i / 8 if weighed else 1.0])
        loop.submit(Request(str(i), ids, share), sampling=Sampling(max_new_tokens=5))
    spoken = []
    while loop.busy:
        spoken += loop.step()
    return spoken


def main():
    host = Host(make_llama())
    bank = make_bank(host.sites, 5, 4)
    rounds = [*((names, True) for names in WEIGHED), *((names, False) for names in APART)]
    want = [said(host, bank, names, weighed=weighed) for names, weighed in rounds]
    host.pool = Pool(host.sites, slots=4, r=4, base=host.fingerprint)
    host.pool.put(bank[0])
    host.compile(rows=4, columns=64)
    for (names, weighed), twins in zip(rounds, want, strict=True):
        for got, twin in zip(said(host, bank, names, weighed=weighed), twins, strict=True):
            assert got[:2] == twin[:2]
            torch.testing.assert_close(got.logits_V, twin.logits_V, atol=1e-5, rtol=1e-5)
        print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    fold(host.module, bank[1])  # a graph has packed the old weights
    got = said(host, bank, WEIGHED[0])
    host.pool = Pool(host.sites, slots=4, r=4, base=host.fingerprint)
    want = said(host, bank, WEIGHED[0])
    for one, twin in zip(got, want, strict=True):
        torch.testing.assert_close(one.logits_V, twin.logits_V, atol=1e-5, rtol=1e-5)


if __name__ == "__main__":
    main()
