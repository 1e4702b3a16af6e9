"""What a request costs beside others, counted in steps and forwards; many adapters in few slots."""

import itertools
import threading
import time

import openai
import pytest
from serving import asked, serving

import weft
from tiny_models import make_bank
from weft.engine import Engine
from weft.serve import Scheduler, Shelf, build_app

MANY, SLOTS = 64, 16


@pytest.fixture(scope="module")
def crowd():
    """A server of 16 rows and slots with 64 adapters of several ranks, what they say alone, and its steps."""
    host = weft.Host.from_pretrained("weft/letters")
    banks = [make_bank(host.sites, MANY // 4, rank, seed=rank, scale=1.0) for rank in (1, 2, 4, 8)]
    adapters = {f"a{k}": banks[k % 4][k // 4] for k in range(MANY)}
    alone = Engine(host)
    said = {
        name: alone.generate(asked("decaf"), mixture=weft.Mixture.of(adapter), max_new_tokens=6)
        for name, adapter in adapters.items()
    }
    shelf = Shelf(host, hypernetwork=weft.HyperNetwork.from_pretrained("weft/letters-t2l", host=host))
    for name, adapter in adapters.items():
        shelf.put(name, adapter)
    scheduler = Scheduler(host, max_rows=16, slots=SLOTS, r=16)
    app = build_app(scheduler, shelf)
    with serving(app) as url, openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0) as client:
        yield client, app.state.service, said


@pytest.fixture
def counted(crowd, monkeypatch):
    """What happens on the thread of the tensors from now on, in its order."""
    _, service, _ = crowd
    scheduler, host, told = service.scheduler, service.shelf.host, []
    submit, step, forward = scheduler.submit, scheduler._loop.step, host.step

    def submitted(job):
        told.append(("asked", job.request.id))
        submit(job)

    def stepped():
        told.append(("step", None))
        spoken = step()
        told.extend(("spoken", one.id) for one in spoken)
        return spoken

    def passed(*args, **kwargs):
        told.append(("forward", None))
        return forward(*args, **kwargs)

    monkeypatch.setattr(scheduler, "submit", submitted)
    monkeypatch.setattr(scheduler._loop, "step", stepped)
    monkeypatch.setattr(host, "step", passed)
    monkeypatch.setattr(service.engine, "stop_ids", frozenset())
    return told


def waited(told, what):
    """How often something began between the last request and its first token."""
    at = max(place for place, (kind, _) in enumerate(told) if kind == "asked")
    first = told.index(("spoken", told[at][1]))
    return sum(kind == what for kind, _ in told[at:first])


@pytest.fixture
def decoding(crowd):
    """Lets fifteen texts be written, and gives control back once all of them have begun."""
    client, _, _ = crowd
    streams = []

    def begin():
        stream = client.completions.create(
            model="base", prompt="abcdef", max_tokens=110, n=15, stream=True, temperature=0
        )
        streams.append(stream)
        begun = set()
        while len(begun) < 15:
            begun |= {choice.index for choice in next(stream).choices}

    yield begin
    for stream in streams:
        stream.close()


def test_a_first_token_comes_within_a_step_while_fifteen_are_written(crowd, counted, decoding):
    """Its adapter has no slot yet; nobody misses a token for it."""
    client, _, _ = crowd
    common = {"prompt": "decaf", "max_tokens": 1, "temperature": 0}
    client.completions.create(model="a0", **common)
    assert waited(counted, "step") == 1
    decoding()
    begun = len(counted)
    client.completions.create(model="a1", **common)
    assert waited(counted, "step") <= 2  # one that the others may have begun, and its own
    deadline, steps = time.monotonic() + 20, []
    while len(steps) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
        steps = [place for place in range(begun, len(counted)) if counted[place] == ("step", None)]
    assert len(steps) >= 5
    ends = itertools.pairwise(steps[:5])
    wrote = [len({id for kind, id in counted[at:end] if kind == "spoken"}) for at, end in ends]
    assert sum(count < 15 for count in wrote) <= 1  # the step that read its prompt


def test_who_comes_at_once_is_read_at_once(crowd, monkeypatch):
    client, service, _ = crowd
    monkeypatch.setattr("weft.serve.scheduler._TOGETHER", 2.0)
    deadline = time.monotonic() + 20
    while service.scheduler.open and time.monotonic() < deadline:  # texts of the tests before
        time.sleep(0.02)
    host, read = service.shelf.host, []
    forward = host.step

    def passed(ids_BT, *args, **kwargs):
        read.append(len(ids_BT))
        return forward(ids_BT, *args, **kwargs)

    monkeypatch.setattr(host, "step", passed)
    common = {"prompt": "decaf", "max_tokens": 1, "temperature": 0}
    threads = [
        threading.Thread(target=client.completions.create, kwargs={"model": f"a{k}", **common})
        for k in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [16]  # as many as there are rows: nobody waits on


def test_a_name_never_seen_costs_an_encoding_a_step_and_its_prefill(crowd, counted, decoding, monkeypatch):
    client, service, _ = crowd
    made, adapt = [], service.shelf.hypernetwork.adapt

    def counts(cue):
        made.append(cue)
        return adapt(cue)

    monkeypatch.setattr(service.shelf.hypernetwork, "adapt", counts)
    common = {"model": "gen:double every letter", "prompt": "decaf", "max_tokens": 1, "temperature": 0}
    client.completions.create(**common)
    assert waited(counted, "forward") == 1
    assert len(made) == 1
    decoding()
    client.completions.create(**{**common, "model": "gen:turn the word around"})
    assert waited(counted, "forward") <= 2  # a step of the others, and its prefill
    assert len(made) == 2
    client.completions.create(**common)
    assert len(made) == 2


def test_sixty_four_adapters_take_turns_in_sixteen_slots(crowd):
    client, service, said = crowd
    assert len(set(said.values())) > MANY // 2
    got = {}

    def ask(first):
        for name in (f"a{(first + 16 * wave) % MANY}" for wave in (0, 1, 2, 3, 0)):
            answer = client.chat.completions.create(
                model=name, messages=asked("decaf"), temperature=0, max_tokens=6
            )
            got.setdefault(name, set()).add(answer.choices[0].message.content)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {name: {text} for name, text in said.items()}
    assert service.scheduler.resident == SLOTS
