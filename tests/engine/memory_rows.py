"""Requests through one loop; prints the resident memory after every 500 of them.

Run by a test in a process of its own: what checks shapes in the others keeps memory too.
"""

import gc
import os
from pathlib import Path

import torch

from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.host import Host
from weft.rows import Request, Share


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    torch.set_num_threads(1)
    host = Host(make_llama())
    bank = make_bank(host.sites, 4, 4)
    adapters = [bank[k] for k in range(4)]
    loop = Loop(host, max_rows=16)
    chance = torch.Generator().manual_seed(0)
    for _ in range(3):
        for i in range(500):
            ids = torch.randint(3, 64, (1 + i % 9,), generator=chance).tolist()
            share = Share.of(adapters[i % 4], adapters[(i + 1) % 4], weights=[0.5, 0.1 * (i % 7)])
            loop.submit(Request(str(i), tuple(ids), share), sampling=Sampling(max_new_tokens=1 + i % 6))
        while loop.busy:
            loop.step()
        assert not any(adapter in host.pool and host.pool.pinned(adapter) for adapter in adapters)
        print(resident())


if __name__ == "__main__":
    main()
