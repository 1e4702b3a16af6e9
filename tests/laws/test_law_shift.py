"""Laws of shifts: replayed without a cache, silent when they change nothing, each row on its own, bounded."""

import pytest
import torch

from tiny_models import make_bank, make_llama
from weft.engine import Loop, Sampling
from weft.engine.trace import trace
from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError
from weft.host import Host
from weft.host.pool import content
from weft.hyper.shift import Acting, Shift, ShiftConfig
from weft.hyper.shift_controller import ShiftController
from weft.hyper.shifter import Shifter
from weft.hyper.speaker import Speaker
from weft.hyper.t2l import HeadLConfig, HeadZConfig, T2LConfig
from weft.rows import Change, Request, Share
from weft.types import Bank, Dense, Mixture, Term

NEW = 14
CONTROL = 7


@pytest.fixture(scope="module")
def host():
    return Host(make_llama(), target_modules=["all-linear", "lm_head"])


def make_shift(host, mode="both", head=None, seed=0, decay=0.4):
    torch.manual_seed(seed)
    sites = [site for site in host.sites if site.path != "lm_head"]
    lm_head = next(site for site in host.sites if site.path == "lm_head")
    network = T2LConfig(head=head or HeadZConfig(kind="Z"), rank=2, latent=16, head_in=16, dropout=0.0)
    config = ShiftConfig(mode=mode, vector=8, hidden=16, network=network, sharpness=2.0, decay=decay)
    shift = Shift(config, sites, width=32, count=3 if mode != "generate" else 0)
    speaker = Speaker(sites, lm_head, [CONTROL], rank=2, scaling=1.0)
    for name, parameter in [*shift.named_parameters(), *speaker.named_parameters()]:
        if "linear" in name or name.startswith(("b.", "row")):
            torch.nn.init.normal_(parameter, std=0.5)  # else every delta is 0 at the start
    return shift.requires_grad_(False).eval(), speaker.requires_grad_(False)


def prompt(seed, length):
    rng = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(8, 64, (length,), generator=rng).tolist())


class Forced(ShiftController):
    """Says the control token by itself after some tokens, so that a random model shifts."""

    steps = (2, 5, 9)

    def fires(self, token_id, cached):
        return True

    def observe(self, states, events):
        told = {}
        heard = [i for i, event in enumerate(events) if event.token_id == CONTROL]
        if heard:
            answers = super().observe([states[i] for i in heard], [events[i] for i in heard])
            told = dict(zip(heard, answers, strict=True))
        answers = []
        for i, (state, event) in enumerate(zip(states, events, strict=True)):
            state, change = told.get(i, (state, None))
            length = len(event.ids) - self.prompts[event.id]
            if length in self.steps and change is None:
                change = Change(force=(CONTROL,))
            answers.append((state, change))
        return answers

    def start(self, request):
        self.__dict__.setdefault("prompts", {})[request.id] = len(request.prompt_ids)
        return super().start(request)


def run(loop, ids):
    tokens, logits, shares = {}, {}, {}
    while loop.busy:
        acting = {row.request.id: row.share for row in loop.rows}
        for spoken in loop.step():
            tokens.setdefault(spoken.id, []).append(spoken.token_id)
            logits.setdefault(spoken.id, []).append(spoken.logits_V)
            shares.setdefault(spoken.id, []).append(acting.get(spoken.id))
    assert tokens.keys() == set(ids)
    return tokens, {id: torch.stack(rows) for id, rows in logits.items()}, shares


@pytest.mark.parametrize("mode", ["blend", "generate", "both"])
def test_shifts_equal_an_uncached_replay_and_rows_shift_on_their_own(host, mode):
    library = make_bank([s for s in host.sites if s.path != "lm_head"], 3, 2)
    shift, speaker = make_shift(host, mode)
    made = Forced(*_parts(shift, speaker, library), control=CONTROL, budget=4)
    wanted = {str(seed): prompt(seed, 4 + seed) for seed in range(3)}
    tokens, logits, shares = {k: [] for k in wanted}, {k: [] for k in wanted}, {k: [] for k in wanted}
    loop = Loop(host)
    waiting = list(wanted.items())
    while loop.busy or waiting:
        if waiting:  # rows join late, and end early
            id, ids = waiting.pop(0)
            loop.submit(Request(id, ids), sampling=Sampling(max_new_tokens=NEW - int(id)), controller=made)
        acting = {row.request.id: row.share for row in loop.rows}
        for spoken in loop.step():
            tokens[spoken.id].append(spoken.token_id)
            logits[spoken.id].append(spoken.logits_V)
            shares[spoken.id].append(acting.get(spoken.id))
    for id, ids in wanted.items():
        assert tokens[id].count(CONTROL) >= 2
        # shares[t] acted when token t - 1 was read; the prompt was read under the speaker alone.
        acted = [*[speaker_share(made)] * len(ids), *shares[id][1:]]
        adapters, weight = {}, torch.zeros(1, len(ids) + len(tokens[id]) - 1, 64)
        for column, share in enumerate(acted):
            for adapter, w in share.adapters:
                weight[0, column, adapters.setdefault(adapter, len(adapters))] = w
        bank = Bank.stack(list(adapters), names=[str(k) for k in range(len(adapters))])
        assert len(bank) >= 3
        mixture = Mixture((Term(bank, Dense(weight[..., : len(bank)])),))
        with torch.no_grad():
            out = host(torch.tensor([[*ids, *tokens[id][:-1]]]), mixture)
        replay = out.logits[0, len(ids) - 1 :]
        torch.testing.assert_close(torch.stack(logits[id]), replay, atol=3e-4, rtol=1e-3)
        forced = [t for t in range(len(tokens[id])) if tokens[id][t] != CONTROL]
        assert replay.argmax(-1)[forced].tolist() == [tokens[id][t] for t in forced]
        # The schedule matters: without it the logits are others.
        with torch.no_grad():
            still = host(torch.tensor([[*ids, *tokens[id][:-1]]]), Mixture.of(made.speaker)).logits[
                0, len(ids) - 1 :
            ]
        assert (still - replay).abs().max() > 0.05


def test_rereading_puts_what_was_read_under_the_new_share(host):
    library = make_bank([s for s in host.sites if s.path != "lm_head"], 3, 2)
    made = Forced(*_parts(*make_shift(host), library), control=CONTROL, budget=4, reread=True)
    ids, loop = prompt(0, 5), Loop(host)
    loop.submit(Request("0", ids), sampling=Sampling(max_new_tokens=NEW), controller=made)
    tokens, logits, shares = run(loop, ["0"])
    (tokens,), (logits,), (shares,) = tokens.values(), logits.values(), shares.values()
    after = max(t for t, token_id in enumerate(tokens) if token_id == CONTROL) + 1
    adapters, weights = zip(*shares[-1].adapters, strict=True)
    bank = Bank.stack(adapters, names=[str(k) for k in range(len(adapters))])
    weight = torch.tensor([weights])
    with torch.no_grad():
        out = host(torch.tensor([[*ids, *tokens[:-1]]]), Mixture((Term(bank, Dense(weight)),)))
    torch.testing.assert_close(logits[after:], out.logits[0, len(ids) - 1 :][after:], atol=3e-4, rtol=1e-3)
    assert (logits[:after] - out.logits[0, len(ids) - 1 :][:after]).abs().max() > 0.05


@pytest.mark.parametrize("budget", [1, 2])
def test_no_delta_has_more_ranks_than_the_budget(host, budget):
    made = Forced(*_parts(*make_shift(host, "generate"), None), control=CONTROL, budget=budget)
    loop = Loop(host)
    loop.submit(Request("0", prompt(0, 5)), sampling=Sampling(max_new_tokens=NEW), controller=made)
    _, _, shares = run(loop, ["0"])
    ranks = [a.rank for share in shares["0"][1:] for a, _ in share.adapters if a.name == "shift"]
    assert max(ranks) == budget


def speaker_share(made):
    return Share.of(made.speaker)


def _parts(shift, speaker, library):
    return shift, speaker.adapter(), [library[k] for k in range(shift.count)]


def test_a_delta_of_zero_leaves_every_logit(host):
    library = make_bank([s for s in host.sites if s.path != "lm_head"], 3, 2)
    shift, speaker = make_shift(host, "generate")
    for linear in shift.generator.head.linear.values():
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    loop = Loop(host)
    made = Forced(*_parts(shift, speaker, library), control=CONTROL)
    loop.submit(Request("0", prompt(1, 5)), sampling=Sampling(max_new_tokens=NEW), controller=made)
    tokens, logits, shares = run(loop, ["0"])
    assert tokens["0"].count(CONTROL) >= 2
    assert all(share is shares["0"][1] for share in shares["0"][1:])  # no row was touched
    # The same tokens under the speaker alone, in the same loop of one row.
    forced = Forced(*_parts(shift, speaker, library), control=CONTROL, max_shifts=0)
    loop = Loop(host)
    loop.submit(Request("0", prompt(1, 5)), sampling=Sampling(max_new_tokens=NEW), controller=forced)
    plain, plain_logits, _ = run(loop, ["0"])
    assert plain == tokens
    assert torch.equal(plain_logits["0"], logits["0"])


def test_shifts_are_bounded_and_the_state_says_so(host):
    library = make_bank([s for s in host.sites if s.path != "lm_head"], 3, 2)
    shift, speaker = make_shift(host)
    made = Forced(*_parts(shift, speaker, library), control=CONTROL, max_shifts=1)
    (told,) = trace(host, [prompt(0, 5)], made, sampling=[Sampling(max_new_tokens=NEW)])
    assert [token.events for token in told if token.token_id == CONTROL] == [
        ("shift",),
        *[("no shift: the bound of 1 is reached",)] * 2,
    ]
    assert [token.silent for token in told] == [token.token_id == CONTROL for token in told]
    first = next(i for i, token in enumerate(told) if token.events)
    assert all(token.acting == (("speaker", 1.0),) for token in told[: first + 1])
    assert all(len(token.acting) > 1 for token in told[first + 1 :])


def test_the_rank_of_what_was_generated_stays_within_the_budget(host):
    library = make_bank([s for s in host.sites if s.path != "lm_head"], 3, 2)
    shift, speaker = make_shift(host, "generate", HeadLConfig(kind="L"), decay=0.9)
    made = Forced(*_parts(shift, speaker, library), control=CONTROL, budget=3)
    loop = Loop(host)
    loop.submit(Request("0", prompt(0, 5)), sampling=Sampling(max_new_tokens=NEW), controller=made)
    ranks = []
    while loop.busy:
        loop.step()
        ranks += [row.state.delta.rank for row in loop.rows if row.state.delta is not None]
    assert ranks[0] == 2
    assert max(ranks) == 3


def test_bad_input_is_told_in_one_line(host):
    shift, speaker = make_shift(host)
    lm_head = next(site for site in host.sites if site.path == "lm_head")
    with pytest.raises(ConfigError, match="control token 64 is not in the vocabulary of 64"):
        Speaker([], lm_head, [64], rank=2, scaling=1.0)
    with pytest.raises(ShapeError, match="states of width 32, got 31"):
        shift.vector(torch.zeros(1, 31))
    with pytest.raises(ShapeError, match="signal vector has 8 numbers here, got 9"):
        shift(torch.zeros(1, 9), shift.nothing(1))
    with pytest.raises(ConfigError, match="blends 3 adapters, got 0"):
        ShiftController(shift, speaker.adapter(), [], control=CONTROL)
    with pytest.raises(ConfigError, match="blends a library"):
        Shift(ShiftConfig(mode="blend"), host.sites, width=32, count=0)


def test_a_folder_gives_the_same_shift(host, tmp_path):
    bank = make_bank([s for s in host.sites if s.path != "lm_head"], 3, 2)
    library = [bank[k] for k in range(3)]
    shift, speaker = make_shift(host)
    made = Shifter(
        speaker, shift, tuple(a.name for a in library), tuple(map(content, library)), base=host.fingerprint
    )
    made.save_pretrained(tmp_path / "shift")
    again = Shifter.from_pretrained(tmp_path / "shift", host=host)
    vector = torch.randn(2, 8)
    acting = Acting(torch.rand(2, 3), torch.randn(2, 8))
    before, after = shift(vector, acting), again.network(vector, acting)
    assert torch.equal(before.logits_BN, after.logits_BN)
    for site, a in before.delta.a.items():
        assert torch.equal(a, after.delta.a[site])
    assert again.controller(library).control == CONTROL
    with pytest.raises(UnknownNameError, match="the library lacks adapter 'adapter-2'"):
        again.controller(library[:2])
    with pytest.raises(BaseMismatchError, match="other weights"):
        again.controller([make_bank(bank.sites, 3, 2, seed=5)[k] for k in range(3)])


def test_what_comes_next_is_told_by_the_vector_alone_where_the_network_does_not_remember(host):
    shift, _ = make_shift(host, mode="blend")
    vector_BD = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    acted = Acting(torch.tensor([[0.0, 1.0, 0.0]]).expand(2, 3), vector_BD.flip(0))
    for remembers in (True, False):
        network = Shift(shift.config.model_copy(update={"remembers": remembers}), [], width=32, count=3)
        network.load_state_dict(shift.state_dict())
        fresh, later = (network(vector_BD, acting).logits_BN for acting in (network.nothing(2), acted))
        assert bool((fresh == later).all()) != remembers
