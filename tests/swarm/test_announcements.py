"""Announced steps: what is made for them is used, and no answer depends on it."""

import random

import pytest
import torch

from swarm.faults import parts_of
from tiny_models import make_bank, make_llama
from weft.host import Host
from weft.rows import Share
from weft.swarm import LocalLink, Part, Stage, SwarmHost
from weft.swarm.message import Message
from weft.swarm.seat import Seat
from weft.swarm.things import of_adapter


@pytest.fixture
def prepared(monkeypatch):
    """The part of every call of `Part.prepare`, in order."""
    prepared, prepare = [], Part.prepare

    def counted(part, *arguments):
        prepared.append(part)
        return prepare(part, *arguments)

    monkeypatch.setattr(Part, "prepare", counted)
    return prepared


def test_what_is_announced_late_twice_or_wrongly_changes_no_step(prepared):
    """Two stages do the same; one is told of its steps before, of others, and of what is none."""
    told, twin = (Stage(parts_of(make_llama(), [0, 1, 2])[0]) for _ in range(2))
    fence = {"stage": [0, 1], "epoch": 1, "session": 1}
    rng = random.Random(0)
    # Of ever larger ranks, for which a pool grows.
    waiting, here = [of_adapter(make_bank(told.part.sites, 1, rank)[0]) for rank in range(40, 0, -1)], []

    def both(fields, tensors):
        """How often each has prepared a step."""
        before = len(prepared)
        said, want = told.answer(Message(fields, tensors)), twin.answer(Message(fields, tensors))
        assert "error" not in want.fields
        assert said.fields == want.fields
        for name, tensor in want.tensors.items():
            assert torch.equal(said.tensors[name], tensor)
        return [prepared[before:].count(stage.part) for stage in (told, twin)]

    def without_rows(kind, fields, tensors):
        done = told._sessions[0].done if 0 in told._sessions else 0
        both({**fence, "session": 0, "position": done, "kind": kind, **fields}, tensors)

    def put():
        thing = waiting.pop()
        without_rows(
            "put", {"sort": "adapter", "key": thing.key, "fields": dict(thing.fields)}, thing.tensors
        )
        here.append(thing.key)

    def share():
        return [[[rng.choice(here), rng.uniform(-1, 1)]] if rng.random() < 0.7 else [], []]

    both({"kind": "begin", "stage": [0, 1], "epoch": 1}, {})
    put()
    step = {**fence, "kind": "step", "live": [1]}
    ids = torch.tensor([[5, 6, 7], [8, 9, 0]])
    first = {"position": 0, "counts": [3, 2], "starts": [0, 4], "shares": [share(), share()]}
    both({**step, **first}, {"ids": ids})
    used, grown = [], 0
    for position in range(1, 100):
        call = {**step, "position": position, "counts": [1, rng.randrange(2)], "shares": [share(), share()]}
        last = None
        for _ in range(rng.randrange(4)):
            wrong = (
                {"counts": [1, 1]},
                {"counts": [1]},
                {"counts": [2, 1]},
                {"position": position - 1},
                {"epoch": 2},
                {"session": 2},
                {"shares": None},
                {"shares": [share(), share()]},
                {"shares": [[[["no key", 1.0]], []]] * 2},
                {"stage": [1, 2]},
            )
            last = call | rng.choice(({}, rng.choice(wrong)))
            assert told.answer(Message(last | {"kind": "soon"})) is None
        ready = last == call
        assert not ready or told._soon is not None
        tokens = rng.choice((1, 1, 2))
        between = rng.choice((None, None, None, None, "put", "drop"))
        if between == "put":
            size = told.pool.slots, told.pool.r
            put()
            grown += ready and tokens == 1 and size != (told.pool.slots, told.pool.r)
        if between == "drop":
            without_rows("drop", {"key": "none"}, {})
        used.append(ready and between is None and tokens == 1)
        assert both(call, {"ids": torch.tensor([[5, 6], [8, 9]])[:, :tokens]}) == [int(not used[-1]), 1]
    assert sum(used) > 10
    assert grown > 2


def test_every_stage_is_ready_for_every_step_but_the_first(prepared, monkeypatch):
    """Three stages that are reached through links: nothing is left to make when the states come."""
    model = make_llama(num_hidden_layers=3)
    bank = make_bank(Host(model).sites, 2, 2)
    made, step = [], Stage._step

    def watched(stage, *arguments):
        before = len(prepared)
        answer = step(stage, *arguments)
        made.append((stage.part.first, len(prepared) - before))
        return answer

    monkeypatch.setattr(Stage, "_step", watched)

    def logits():
        links = [LocalLink(Stage(part)) for part in parts_of(model, [0, 1, 2, 3])]
        host = SwarmHost([lambda failed, link=link: link for link in links], announce=True)
        shares = [Share.of(bank[0]), Share.of(bank[0], bank[1], weights=[0.5, -0.5])]
        for share in shares:
            host.hold(share)
        cache = host.new_cache()
        said = [host.step(torch.tensor([[5, 6], [7, 8]]), cache, shares).logits_BV]
        said += [host.step(torch.tensor([[i], [i + 1]]), cache, shares).logits_BV for i in range(9, 14)]
        host.close()
        return torch.stack(said)

    told = logits()
    # The prompt, and the first step after it, of which the first stage was not told.
    assert made == [(0, 1), (1, 1), (2, 1), (0, 1), (1, 0), (2, 0), *[(0, 0), (1, 0), (2, 0)] * 4]
    made.clear()
    monkeypatch.setattr(Seat, "announce", lambda *arguments: None)
    assert torch.equal(logits(), told)
    assert made == [(0, 1), (1, 1), (2, 1)] * 6
