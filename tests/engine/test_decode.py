from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from decoding import decode
from weft.engine import Sampling
from weft.errors import PromptTooLongError, ShapeError
from weft.host import Host
from weft.rows import AbstractController, Event, Share
from weft.types import Mixture

LENGTHS = (5, 9, 1, 7)
EOS = 2


@pytest.fixture(scope="module")
def gpt2_host() -> Host:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=128)
    config.initializer_range = 0.2
    return Host(GPT2LMHeadModel(config).eval(), name="pico-gpt2")


@pytest.fixture(params=["llama", "gpt2"])
def host(request, pico_host, gpt2_host) -> Host:
    return pico_host if request.param == "llama" else gpt2_host


def prompts(lengths=LENGTHS, seed=0) -> list[list[int]]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 64, (n,), generator=rng).tolist() for n in lengths]


def left(rows):
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def run(host, rows, **kwargs) -> list[list[int]]:
    """What each row said, its last token included."""
    said = [[] for _ in rows]
    for step in decode(host, *left(rows), **kwargs):
        for row, token in enumerate(step.tokens):
            if token is not None:
                said[row].append(token)
    return said


def generate(host, rows, **kwargs) -> list[list[int]]:
    """Hugging Face's own generate, cut after the end token."""
    ids, mask = left(rows)
    out = host.module.generate(ids, attention_mask=mask, eos_token_id=EOS, pad_token_id=0, **kwargs)
    said = [row.tolist() for row in out[:, ids.shape[1] :]]
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in said]


def test_greedy_equals_generate(host):
    rows = prompts()
    want = generate(host, rows, max_new_tokens=30, do_sample=False)
    assert run(host, rows, sampling=Sampling(max_new_tokens=30), stop_ids={EOS}) == want
    assert len({tuple(row) for row in want}) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 10},
        {"temperature": 1.5, "top_p": 0.8, "repetition_penalty": 1.3},
        {"temperature": 1.0, "min_p": 0.1},
    ],
)
def test_one_sampled_row_equals_generate(host, options):
    for seed, prompt in enumerate(prompts()):
        torch.manual_seed(seed)
        off = {"top_k": 0, "top_p": 1.0} | options
        want = generate(host, [prompt], max_new_tokens=20, do_sample=True, **off)
        sampling = Sampling(max_new_tokens=20, seed=seed, **options)
        assert run(host, [prompt], sampling=sampling, stop_ids={EOS}) == want


@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 1.5}, {"temperature": 1.2, "repetition_penalty": 1.5, "top_p": 0.9}],
)
def test_a_row_does_not_depend_on_its_mates(host, pico_bank, options):
    rows = prompts()
    sampling = Sampling(max_new_tokens=15, **options)
    together = run(host, rows, sampling=sampling, stop_ids={EOS}, seeds=[3, 1, 4, 1])
    alone = [
        run(host, [row], sampling=sampling, stop_ids={EOS}, seeds=[s])[0]
        for row, s in zip(rows, [3, 1, 4, 1], strict=True)
    ]
    assert together == alone


def test_padding_is_not_a_token_seen(pico_host):
    # the padding id has a logit like any other; a penalty on tokens seen must not touch it
    row = prompts()[0]
    sampling = Sampling(max_new_tokens=6, repetition_penalty=100.0)
    (want,) = run(pico_host, [row], sampling=sampling)
    for pad_id in want:
        padded = torch.tensor([[pad_id] * 4 + row]), torch.tensor([[0] * 4 + [1] * len(row)])
        said = [step.tokens[0] for step in decode(pico_host, *padded, sampling=sampling)]
        assert said == want


def test_default_seeds_count_up_from_the_sampling_seed(pico_host):
    row = prompts()[1]
    sampling = Sampling(temperature=1.0, seed=7, max_new_tokens=12)
    said = run(pico_host, [row, row, row], sampling=sampling)
    assert said == run(pico_host, [row, row, row], sampling=sampling, seeds=[7, 8, 9])
    assert len({tuple(s) for s in said}) == 3


def test_a_row_ends_by_stop_id_or_by_ends_and_stays_silent(pico_host):
    rows = prompts()
    free = run(pico_host, rows, sampling=Sampling(max_new_tokens=8))
    stop_id, third = free[0][3], free[1][2]
    asked = []

    def ends(row, token):
        asked.append((row, token))
        return row == 1 and token == third

    said = run(pico_host, rows, sampling=Sampling(max_new_tokens=8), stop_ids={stop_id}, ends=ends)
    for row, (got, want) in enumerate(zip(said, free, strict=True)):
        cut = [i for i, t in enumerate(want) if t == stop_id or (row == 1 and t == third)]
        assert got == want[: cut[0] + 1 if cut else None]
    assert len(said[0]) < 8
    assert all(token != stop_id for _, token in asked)


def test_decoding_ends_with_the_last_row(pico_host):
    steps = list(decode(pico_host, *left(prompts()), ends=lambda row, token: True))
    assert len(steps) == 1


def test_prompt_and_new_tokens_fit_the_window_exactly_or_not_at_all(host):
    rows = prompts((100, 3))
    assert len(run(host, rows, sampling=Sampling(max_new_tokens=28))[0]) == 28
    with pytest.raises(PromptTooLongError, match=r"100 tokens and 29 new ones .* window of 128") as caught:
        decode(host, *left(rows), sampling=Sampling(max_new_tokens=29))
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused_before_the_first_step(pico_host, pico_bank):
    ids, mask = left(prompts())
    with pytest.raises(ShapeError, match="3 rows, this batch has 4"):
        decode(pico_host, ids, mask, mixture=Mixture.rows(pico_bank(2, 2), [0, 1, None]))
    with pytest.raises(ShapeError, match="2 seeds for 4 rows"):
        decode(pico_host, ids, mask, seeds=[1, 2])
    with pytest.raises(ShapeError, match="padded on the left"):
        decode(pico_host, ids, mask.flip(1))
    with pytest.raises(ShapeError, match="one token or more"):
        decode(pico_host, ids, torch.cat([mask[:3], torch.zeros_like(mask[:1])]))
    with pytest.raises(ShapeError, match="not both"):
        decode(pico_host, ids, mask, mixture=Mixture(), controller=Listener())


class Listener(AbstractController):
    """Keeps the base and writes down what it hears."""

    def __init__(self, wants_hidden=False):
        self.wants_hidden = wants_hidden
        self.events: list[Event] = []
        self.prompts = {}

    def start(self, request):
        self.prompts[request.id] = list(request.prompt_ids)
        return Share(), None

    def observe(self, states, events):
        self.events += [replace(event, ids=list(event.ids)) for event in events]
        return [(None, None)] * len(events)


def test_a_controller_hears_every_token_with_its_window_and_state(host):
    rows = prompts()
    listener = Listener(wants_hidden=True)
    said = run(host, rows, controller=listener, sampling=Sampling(max_new_tokens=6), stop_ids={EOS})
    assert listener.prompts == {str(i): row for i, row in enumerate(rows)}
    for row, (prompt, new) in enumerate(zip(rows, said, strict=True)):
        events = [e for e in listener.events if e.id == str(row)]
        assert [e.token_id for e in events] == new
        for count, event in enumerate(events):
            whole = prompt + new[: count + 1]
            assert event.ids == whole
            assert event.cached == len(whole) - 1
            assert event.position == len(whole) - 1
            out = host.module(input_ids=torch.tensor([whole[:-1]]), output_hidden_states=True)
            torch.testing.assert_close(event.hidden_H, out.hidden_states[-1][0, -1], atol=1e-4, rtol=1e-4)


def test_hidden_states_are_asked_for_only_when_wanted(pico_host, monkeypatch):
    asked = []
    step = pico_host.step
    monkeypatch.setattr(pico_host, "step", lambda *a, **k: (asked.append(k["capture"]), step(*a, **k))[1])
    listener = Listener()
    run(pico_host, prompts(), controller=listener, sampling=Sampling(max_new_tokens=3))
    assert not any(asked)
    assert all(event.hidden_H is None for event in listener.events)


def test_no_gradient_is_kept(pico_host, pico_bank):
    bank = pico_bank(1, 2)
    for a in bank.a.values():
        a.requires_grad_()
    for step in decode(
        pico_host, *left(prompts()), mixture=Mixture.of(bank), sampling=Sampling(max_new_tokens=2)
    ):
        assert not step.logits_BV.requires_grad
    assert torch.is_grad_enabled()
