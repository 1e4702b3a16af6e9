"""Per-token routes, trees, blends, switches and shifts in one batch over three stages."""

import pytest
import torch

from swarm.faults import Schedule, parts_of, spread
from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.errors import ConfigError
from weft.host import Host
from weft.route import Arrow, LayerWeights, Smear, Spectr, Top1, TreeGate, XLora, full, layers_of
from weft.rows import AbstractController, Change, Request, Share
from weft.swarm.codec import pack, unpack
from weft.types import Dense, Term, Tokens, TopK

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def model():
    return make_llama(num_hidden_layers=4)


@pytest.fixture(scope="module")
def bank(model):
    return make_bank(Host(model).sites, 8, 4)


class Shifts(AbstractController):
    """Changes a row's adapters by what the model says at its last state."""

    wants_hidden = True

    def __init__(self, bank):
        self.bank = bank

    def start(self, request):
        return Share.of(self.bank[0]), 0

    def observe(self, states, events):
        said = []
        for state, event in zip(states, events, strict=True):
            choice = int(event.hidden_H.abs().argmax()) % len(self.bank)
            weight = float(event.hidden_H.mean())
            change = Change(Share.of(self.bank[choice], weights=[weight])) if event.position % 2 else None
            said.append((state + 1, change))
        return said


def shares(bank):
    four = bank.select(torch.arange(4))
    drawn = torch.Generator().manual_seed(0)
    tokens = torch.randint(-1, 8, (1, 9), generator=drawn)
    topk = TopK(torch.randint(0, 8, (1, 9, 2), generator=drawn), torch.rand(1, 9, 2, generator=drawn))
    dense = Dense(torch.rand(1, 9, 8, generator=drawn))
    tree = TreeGate(full(2), dim=32, layers=(0, 2))
    once = TreeGate(full(2), dim=32, scope="sequence", descent="soft")
    gates = [
        Term(four, tree),
        Term(four, once),
        Term(bank, XLora(8, 32, layers=(1,), top_k=2)),
        Term(bank, Top1(XLora(8, 32, layers=(0, 3))).eval()),
        Term(bank, Smear(8, 32).eval(), "average"),
        Term(bank, LayerWeights(8, layers_of(bank))),
        Term(bank, Arrow(bank)),
        Term(bank, Spectr(bank)),
        Term(bank, Tokens(tokens)),
        Term(bank, topk),
        Term(bank, dense),
        Term(bank, dense, "average"),
    ]
    return [
        *(Share.of(bank[k]) for k in range(8)),
        Share.of(bank[0], bank[5], weights=[0.5, -0.25]),
        *(Share(terms=(term,)) for term in gates),
        Share(terms=(gates[0],)),
        Share.of(bank[3]) + Share(terms=(gates[8],)),
    ]


def write(host, bank):
    loop = Loop(host, max_rows=32)
    for i, share in enumerate(shares(bank)):
        ids = tuple(range(5 + i % 7, 9 + i % 7 + i % 3))
        loop.submit(Request(str(i), ids, share), sampling=Sampling(max_new_tokens=6))
    loop.submit(Request("shifts", (7, 8, 9)), sampling=Sampling(max_new_tokens=6), controller=Shifts(bank))
    said = {}
    while loop.busy:
        for spoken in loop.step():
            said.setdefault(spoken.id, []).append((spoken.token_id, spoken.logits_V))
    return said


def check(said, want, exact=False):
    assert said.keys() == want.keys()
    for name, tokens in said.items():
        assert [token for token, _ in tokens] == [token for token, _ in want[name]], name
        for (_, here), (_, there) in zip(tokens, want[name], strict=True):
            if exact:
                assert torch.equal(here, there)
            else:
                torch.testing.assert_close(here, there, **CLOSE)


def test_everything_in_one_batch_equals_one_process_also_under_faults(model, bank):
    want = write(Host(model), bank)
    parts = parts_of(model, [0, 1, 3, 4])
    calm = write(spread(parts)[0], bank)
    check(calm, want)
    faults = Schedule(3, 0.05)
    check(write(spread(parts, faults)[0], bank), calm, exact=True)
    assert sum(faults.counts.values()) > 5


def test_a_gate_that_stages_do_not_know_is_refused(model, bank):
    from gate_once import Once

    host, _ = spread(parts_of(model, [0, 2, 4]))
    with pytest.raises(ConfigError, match="does not run a Once"):
        host.hold(Share(terms=(Term(bank, Once(32, 8)),)))


@pytest.mark.parametrize(("codec", "most"), [("fp16", 1e-3), ("int8", 1e-2)])
def test_states_in_fewer_bytes_are_near(codec, most):
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)) * 3
    packed = pack(x, codec)
    assert sum(t.numel() * t.itemsize for t in packed.values()) < 0.55 * x.numel() * 4
    back = unpack(packed, codec, torch.float32)
    assert (back - x).norm() / x.norm() < most


@pytest.mark.parametrize("codec", ["fp16", "int8"])
def test_a_host_with_a_codec_is_near_the_exact_one(model, codec):
    parts, ids = parts_of(model, [0, 1, 3, 4]), torch.tensor([[5, 6, 7, 8]])
    said = []
    for options in ({}, {"codec": codec}):
        host, _ = spread(parts, **options)
        said.append(host.step(ids, host.new_cache(), [Share()]).logits_BV)
    assert not torch.equal(*said)
    assert (said[0] - said[1]).norm() / said[0].norm() < 0.03
