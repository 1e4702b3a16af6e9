"""A text does not depend on who else is served: greedy and seeded, alone and among 15 strangers."""

import threading

import openai
import pytest
import torch
from serving import serving

import weft
from weft.engine import Engine
from weft.host import Host
from weft.serve import Scheduler, Shelf, build_app
from weft.types import Adapter, Factors

STRANGERS = ("base", "reverse", "double", "upper", "blend:0.5*sort+0.5*upper", "tree:oak", "shift:letters")


def among(client, requests, models, others, times=3):
    """The choices of requests alone, and again so many times among others that come and go."""

    def choices():
        return [[choice.text for choice in client.completions.create(**one).choices] for one in requests]

    alone = choices()
    stop = threading.Event()

    def stranger(model, number):
        while not stop.is_set():
            client.completions.create(model=model, prompt="abc" * (number % 4 + 1), max_tokens=5 + number)

    threads = [threading.Thread(target=stranger, args=(models[i % len(models)], i)) for i in range(others)]
    for thread in threads:
        thread.start()
    try:
        crowded = [choices() for _ in range(times)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return alone, crowded


def test_alone_and_among_fifteen_strangers(client):
    drawn = ({"temperature": 0}, {"temperature": 1.0, "seed": 7, "n": 2})
    requests = [{"model": "sort", "prompt": "decaf", "max_tokens": 10, **one} for one in drawn]
    alone, crowded = among(client, requests, STRANGERS, 15)
    assert [len(choices) for choices in alone] == [1, 2]
    assert crowded == [alone] * 3


@pytest.fixture
def small(smollm2):
    """SmolLM2 in float32, and four random adapters; in bfloat16 near ties fall by the shape of a batch."""
    host = Host.from_pretrained(smollm2, dtype="float32", target_modules=["q_proj", "v_proj"])
    adapters = []
    for k in range(4):
        chance = torch.Generator().manual_seed(k)
        factors = {}
        for site in host.sites:
            a_RI = torch.randn(8, site.in_features, generator=chance) * 0.03
            factors[site] = Factors(a_RI, torch.randn(site.out_features, 8, generator=chance) * 0.03, 1.0)
        adapters.append(Adapter(factors, base=host.fingerprint, name=f"a{k}"))
    return host, adapters


@pytest.mark.slow
def test_a_real_model_says_what_the_engine_says_alone_and_among_others(small):
    host, adapters = small
    shelf = Shelf(host)
    for adapter in adapters:
        shelf.put(adapter.name, adapter)
    question = [{"role": "user", "content": "Name three colours."}]
    want = {
        adapter.name: Engine(host).generate(question, mixture=weft.Mixture.of(adapter), max_new_tokens=8)
        for adapter in adapters
    }
    assert len(set(want.values())) > 1
    with serving(build_app(Scheduler(host, max_rows=8, slots=2, r=8), shelf)) as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key="any", max_retries=0)
        got = {}

        def ask(name):
            said = client.chat.completions.create(model=name, messages=question, temperature=0, max_tokens=8)
            got[name] = said.choices[0].message.content

        threads = [threading.Thread(target=ask, args=(name,)) for name in want]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == want
