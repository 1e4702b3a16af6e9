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

ROUNDS = [[0, 1, None, 2], [3, 3, 4], [2, None, 0, 4]]
"""Which adapter each row has; three slots, so that they are swapped."""


def said(host, bank, names):
    loop = Loop(host)
    for i, k in enumerate(names):
        rng = torch.Generator().manual_seed(i)
        ids = tuple(torch.randint(3, 64, (3 + i % 4,), generator=rng).tolist())
        share = Share() if k is None else Share.of(bank[k], weights=[1.0 + i / 8])
        loop.submit(Request(str(i), ids, share), sampling=Sampling(max_new_tokens=5))
    spoken = []
    while loop.busy:
        spoken += loop.step()
    return spoken


def main():
    host = Host(make_llama())
    bank = make_bank(host.sites, 5, 4)
    want = [said(host, bank, names) for names in ROUNDS]
    host.pool = Pool(host.sites, slots=3, r=4, base=host.fingerprint)
    host.pool.put(bank[0])
    host.compile(rows=4, columns=64)
    for names, twins in zip(ROUNDS, want, strict=True):
        for got, twin in zip(said(host, bank, names), twins, strict=True):
            assert got[:2] == twin[:2]
            torch.testing.assert_close(got.logits_V, twin.logits_V, atol=1e-5, rtol=1e-5)
        print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    fold(host.module, bank[1])  # a graph has packed the old weights
    got = said(host, bank, ROUNDS[0])
    host.pool = Pool(host.sites, slots=3, r=4, base=host.fingerprint)
    want = said(host, bank, ROUNDS[0])
    for one, twin in zip(got, want, strict=True):
        torch.testing.assert_close(one.logits_V, twin.logits_V, atol=1e-5, rtol=1e-5)


if __name__ == "__main__":
    main()
