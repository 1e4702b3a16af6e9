"""A library that grows, and what choosing from it costs: random Llama, float32, adapters of rank 8.

Loading: PEFT folders read from disk into a running model, one after another; the time of the 200th over that
of the 2nd, a median over fresh libraries (of a few around each place). PEFT loads the same folders into the
same model in the same run. Choosing: a forward of 4 x 256 tokens in which a gate decides, over the same
forward with the decisions made before; contestants take turns. `min` and `max` are those of single turns.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from weft.adapters import load, save
from weft.host import Host
from weft.route import Arrow, LiveLibrary, Phatgoose, Top1, XLora
from weft.types import AbstractGate, Assignment, Bank, Mixture, Site, State, Term

COUNT, AROUND, RANK = 200, 5, 8
CHOICES, ROWS, COLUMNS = 16, 4, 256


class Recorded(AbstractGate):
    """A gate that has been asked before: it says again what it said at each site."""

    def __init__(self, gate: AbstractGate) -> None:
        super().__init__()
        self.gate = gate
        self.said: dict[str, Assignment] = {}

    def prepare(self, embeddings_BTH: Tensor, mask_BT: Tensor) -> State:
        return {} if self.said else self.gate.prepare(embeddings_BTH, mask_BT)

    def assign(self, x_BTI: Tensor, site: Site, state: State) -> tuple[Assignment, State]:
        if site.path not in self.said:
            self.said[site.path], state = self.gate.assign(x_BTI, site, state)
        return self.said[site.path], state


def run(*, repeats: int = 7) -> list[dict[str, Any]]:
    """One line for loading, one for each gate."""
    return [_loading(repeats), *_choosing(repeats)]


def make_base(width: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config).eval()


def make_bank(host: Host, count: int) -> Bank:
    chance = torch.Generator().manual_seed(0)
    sites = host.sites
    return Bank(
        names=tuple(f"adapter-{k}" for k in range(count)),
        a={s: torch.randn(count, RANK, s.in_features, generator=chance) * s.in_features**-0.5 for s in sites},
        b={s: torch.randn(count, s.out_features, RANK, generator=chance) * 0.02 for s in sites},
        base=host.fingerprint,
    )


def _loading(repeats: int) -> dict[str, Any]:
    base = make_base(256, 4)
    host = Host(base)
    bank = make_bank(host, AROUND)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as root:
        folders = [Path(root) / f"adapter-{k}" for k in range(AROUND)]
        for k, folder in enumerate(folders):
            save(bank[k], folder)
        for _ in range(repeats):
            library = LiveLibrary(host.sites, capacity=COUNT + AROUND, r=RANK, base=host.fingerprint)
            ours.append(_times(lambda k, library=library: _add(library, folders[k % AROUND], k)))
        peer = PeftModel.from_pretrained(base, str(folders[0]), adapter_name="0")
        theirs.append(_times(lambda k: peer.load_adapter(str(folders[k % AROUND]), adapter_name=str(k + 1))))
    turns = [late / early for early, late in ours]
    return {
        "what": f"loading adapter {COUNT} / adapter 2",
        "unit": "ms, the last",
        "weft": round(1e3 * statistics.median(late for _, late in ours), 2),
        "peer": "PEFT load_adapter",
        "peer's": round(1e3 * theirs[0][1], 2),
        "ratio": round(statistics.median(turns), 3),
        "min": round(min(turns), 2),
        "max": round(max(turns), 2),
        "goal": "<= 1.2",
        "peer's ratio": round(theirs[0][1] / theirs[0][0], 2),
        "repeats": len(turns),
    }


def _times(load_one: Any) -> tuple[float, float]:
    """Seconds of an early load and of a late one, each a median of a few: the 2nd, and the 200th."""
    seconds = []
    for k in range(COUNT + AROUND // 2):
        start = time.perf_counter()
        load_one(k)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1 : 1 + AROUND]), statistics.median(seconds[-AROUND:])


def _add(library: LiveLibrary, folder: Path, k: int) -> None:
    library.add(replace(load(folder), name=f"adapter-{k}"))


@torch.no_grad()
def _choosing(repeats: int) -> list[dict[str, Any]]:
    host = Host(make_base(1024, 2))
    bank = make_bank(host, CHOICES)
    ids_BT = torch.randint(512, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(1))
    chance = torch.Generator().manual_seed(2)
    vectors = {s: torch.randn(CHOICES, s.in_features, generator=chance) for s in bank.sites}
    gates: dict[str, AbstractGate] = {
        "Arrow, top 2": Arrow(bank, top_k=2),
        "PHATGOOSE, top 2": Phatgoose(bank, vectors, top_k=2),
        "top 1": Top1(XLora(CHOICES, 1024, layers=(0,))).eval(),
    }
    rows = []
    for name, gate in gates.items():
        known = Recorded(gate)
        pair = [Mixture((Term(bank, gate),)), Mixture((Term(bank, known),))]
        want = host(ids_BT, pair[0]).logits
        host(ids_BT, pair[1])
        torch.testing.assert_close(host(ids_BT, pair[1]).logits, want, rtol=0, atol=1e-4)
        seconds: list[list[float]] = [[], []]
        for _ in range(repeats):
            for mixture, times in zip(pair, seconds, strict=True):
                start = time.perf_counter()
                host(ids_BT, mixture)
                times.append(time.perf_counter() - start)
        turns = [x / y for x, y in zip(*seconds, strict=True)]
        rows.append(
            {
                "what": f"{name} of {CHOICES}: choosing in the forward / chosen before",
                "unit": "ms",
                "weft": round(1e3 * statistics.median(seconds[0]), 1),
                "peer": "the same, chosen before",
                "peer's": round(1e3 * statistics.median(seconds[1]), 1),
                "ratio": round(statistics.median(seconds[0]) / statistics.median(seconds[1]), 3),
                "min": round(min(turns), 2),
                "max": round(max(turns), 2),
                "goal": "<= 1.10",
                "peer's ratio": None,
                "repeats": repeats,
            }
        )
    return rows
