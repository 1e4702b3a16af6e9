"""Laws of mixes: replayed without a cache, a plain sum at the start, each row on its own, bounded."""

import pytest
import torch

from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.engine.mixing import MixController
from weft.engine.trace import trace
from weft.errors import ConfigError, ShapeError
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork, WindowController
from weft.route.mix import Mix, MixConfig, mixed, sizes, weighed
from weft.rows import Request, Share
from weft.types import Bank, Dense, Mixture, Term

EVENTS = tuple(range(3, 30))
"""So many tokens that a random model says one every few steps."""


@pytest.fixture(scope="module")
def host():
    return Host(make_llama(vocab_size=64))


def make_mix(host, sources, *, trained=True, seed=0):
    torch.manual_seed(seed)
    mix = Mix(MixConfig(vector=8, hidden=16), host.sites, width=32, sources=sources)
    if trained:
        torch.nn.init.normal_(mix.weigh.weight, std=0.7)
        torch.nn.init.normal_(mix.before_D)
    return mix.requires_grad_(False).eval()


def make_window(host):
    config = {"reader": {"kind": "accumulator", "rank": 6, "latent": 32}, "chunk": 4}
    torch.manual_seed(1)
    network = ContextNetwork(host, ContextConfig.model_validate(config))
    for parameter in network.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return WindowController(network.requires_grad_(False), window=10)


def prompt(seed, length):
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, 64, (length,), generator=rng).tolist())


def replay(host, ids, spoken):
    """One forward without a cache: every column under what acted when it was read, and what it could see."""
    whole = [*ids, *(one.token_id for one in spoken)]
    acted = [*[spoken[0].share] * len(ids), *(one.share for one in spoken[1:])]
    starts = [*[spoken[0].start] * len(ids), *(one.start for one in spoken[1:])]
    seen = torch.ones(len(acted), len(acted), dtype=torch.bool).tril()
    adapters, weights = {}, []
    for column, (share, start) in enumerate(zip(acted, starts, strict=True)):
        seen[column, : min(start, column)] = False
        weights.append({adapters.setdefault(id(a), (len(adapters), a))[0]: w for a, w in share.adapters})
    weight_1TK = torch.zeros(1, len(acted), len(adapters))
    for column, of_one in enumerate(weights):
        for k, w in of_one.items():
            weight_1TK[0, column, k] = w
    bank = Bank.stack([a for _, a in adapters.values()], names=[str(k) for k in range(len(adapters))])
    with torch.no_grad(), host.running(Mixture((Term(bank, Dense(weight_1TK)),))):
        out = host.module(input_ids=torch.tensor([whole[:-1]]), attention_mask=seen[None, None])
    return out.logits[0, len(ids) - 1 :]


@pytest.mark.parametrize("windowed", [False, True])
def test_events_equal_an_uncached_replay_in_rows_that_join_late_and_end_early(host, windowed):
    library = make_bank(host.sites, 6, 2)
    window = make_window(host) if windowed else None
    made = MixController(
        make_mix(host, 3),
        lambda request: [
            None if windowed else library[0],
            library[int(request.id)],
            library[int(request.id) + 1],
        ],
        tokens=EVENTS,
        window=window,
        speaker=library[5],
    )
    waiting = [(str(seed), prompt(seed, 6 + 9 * seed)) for seed in range(3)]
    prompts, said = dict(waiting), {id: [] for id, _ in waiting}
    loop = Loop(host)
    while loop.busy or waiting:
        if waiting:
            id, ids = waiting.pop(0)
            loop.submit(Request(id, ids), sampling=Sampling(max_new_tokens=18 - 3 * int(id)), controller=made)
        for spoken in loop.step():
            said[spoken.id].append(spoken)
    for id, spoken in said.items():
        assert len({one.share for one in spoken}) >= 3
        logits = torch.stack([one.logits_V for one in spoken])
        again = replay(host, prompts[id], spoken)
        torch.testing.assert_close(logits, again, atol=3e-4, rtol=1e-3)
        assert again.argmax(-1).tolist() == [one.token_id for one in spoken]
        still = replay(host, prompts[id], [one._replace(share=spoken[0].share) for one in spoken])
        assert (still - again).abs().max() > 0.05  # the schedule matters
        assert (max(one.start for one in spoken) > 0) == windowed


def test_a_mix_that_has_learned_nothing_is_the_plain_sum_of_its_sources(host):
    library = make_bank(host.sites, 3, 2)
    mix = make_mix(host, 3, trained=False)
    size_BJS = sizes(library, mix.sites)[None].clone()
    size_BJS[:, 1] = 0
    weight_BJS = mix(mix.vector(torch.randn(1, 32)), size_BJS)
    assert weight_BJS[0, 0].eq(1).all()
    assert weight_BJS[0, 1].eq(0).all()
    ids = torch.tensor([prompt(0, 7)])
    ones = [library.select(torch.tensor([0])), None, library.select(torch.tensor([2]))]
    with torch.no_grad():
        plain = Mixture.of(ones[0]) + Mixture.of(ones[2])
        torch.testing.assert_close(
            host(ids, mixed(ones, weight_BJS, mix.sites)).logits, host(ids, plain).logits
        )


def test_weights_of_a_row_in_the_loop_are_those_of_training(host):
    library = make_bank(host.sites, 4, 2)
    mix = make_mix(host, 2)
    banks = [library.select(torch.tensor([0, 2])), library.select(torch.tensor([3, 1]))]
    size_BJS = torch.stack([sizes(bank, mix.sites) for bank in banks], 1)
    weight_BJS = mix(mix.vector(torch.randn(2, 32)), size_BJS)
    ids = torch.tensor([prompt(0, 6), prompt(1, 6)])
    with torch.no_grad():
        together = host(ids, mixed(banks, weight_BJS, mix.sites)).logits
        for row in range(2):
            parts = [weighed(bank[row], weight_BJS[row, j], mix.sites) for j, bank in enumerate(banks)]
            alone = host(ids[row : row + 1], Mixture.of(parts[0]) + Mixture.of(parts[1])).logits
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        size_BJS[0, 0],
        torch.stack([(banks[0].b[s][0] @ banks[0].a[s][0]).norm() for s in mix.sites]),
    )


def test_gradients_reach_the_vector_the_sizes_and_the_weights(host):
    library = make_bank(host.sites, 4, 2)
    mix = make_mix(host, 2).requires_grad_(True)
    banks = [library.select(torch.tensor([0, 2])), library.select(torch.tensor([3, 1]))]
    size_BJS = torch.stack([sizes(bank, mix.sites) for bank in banks], 1)
    weight_BJS = mix(mix.vector(torch.randn(2, 32)), size_BJS)
    host(
        torch.tensor([prompt(0, 6), prompt(1, 6)]), mixed(banks, weight_BJS, mix.sites)
    ).logits.sum().backward()
    for parameter in (mix.signal[0].weight, mix.size.weight, mix.source_JD, mix.weigh.weight):
        assert parameter.grad.abs().max() > 0


def test_events_are_bounded_and_the_trace_says_so(host):
    library = make_bank(host.sites, 2, 2)
    made = MixController(
        make_mix(host, 2), lambda _: [library[0], library[1]], tokens=range(64), max_events=2
    )
    (told,) = trace(host, [prompt(0, 5)], made, sampling=[Sampling(max_new_tokens=6)])
    bounded = [one.events == ("not weighed: the bound of 2 is reached",) for one in told]
    assert bounded == [False, False, True, True, True, True]
    assert len({one.acting for one in told[2:]}) == 1


def test_bad_input_is_told_in_one_line(host):
    mix = make_mix(host, 2)
    adapter = make_bank(host.sites, 1, 2)[0]
    with pytest.raises(ConfigError, match="nothing would ever be weighed again"):
        MixController(mix, lambda _: [None, None])
    made = MixController(mix, lambda _: [None], tokens=[3])
    with pytest.raises(ConfigError, match="weighs 2 sources, request 0 has 1"):
        made.start(Request("0", (3, 4)))
    made = MixController(mix, lambda _: [adapter, None], window=make_window(host))
    with pytest.raises(ConfigError, match="source 0 is what the window presses"):
        made.start(Request("0", (3, 4)))
    with pytest.raises(ShapeError, match="states of width 32, got 31"):
        mix.vector(torch.zeros(1, 31))
    with pytest.raises(ShapeError, match="weighs 2 sources at 14 sites, got sizes of"):
        mix(mix.before(1), torch.zeros(1, 3, 14))
    with pytest.raises(ShapeError, match="which this mix has no weight for"):
        weighed(adapter, torch.ones(1), mix.sites[:1])
    assert (
        MixController(mix, lambda _: [None, None], tokens=[3]).start(Request("0", (3,)))[0].adapters
        == Share().adapters
    )
