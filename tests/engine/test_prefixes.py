"""Prompts that begin alike: the same text, less is read, and nothing passes between tenants or adapters."""

import pytest

from weft.engine import Loop, Sampling
from weft.engine.prefixes import Prefixes
from weft.errors import ConfigError, ShapeError
from weft.rows import Request, Share
from weft.types import Adapter, Factors

START = tuple(range(5, 30))


@pytest.fixture
def adapters(pico_bank, pico_host):
    bank = pico_bank(2, 2)
    return [
        Adapter({site: Factors(bank.a[site][k], bank.b[site][k], 1.0) for site in bank.sites}, name=f"a{k}")
        for k in range(2)
    ]


def write(host, prefixes, *asked, new=6):
    """Texts of requests in one loop, and how many tokens were reused."""
    before = 0 if prefixes is None else prefixes.reused
    loop = Loop(host, prefixes=prefixes)
    said = {}
    for i, (ids, share, tenant) in enumerate(asked):
        loop.submit(Request(str(i), ids, share, tenant), sampling=Sampling(max_new_tokens=new))
    while loop.busy:
        for spoken in loop.step():
            said.setdefault(int(spoken.id), []).append(spoken.token_id)
    return [said[i] for i in range(len(asked))], (0 if prefixes is None else prefixes.reused - before)


def test_the_text_is_the_same_and_only_the_rest_is_read(pico_host, adapters):
    prefixes = Prefixes(pico_host, tokens=500)
    share = Share.of(adapters[0])
    first, reused = write(pico_host, prefixes, (START, share, ""))
    assert reused == 0
    turn = (*START, *first[0], 7, 9)
    beside = ((1, 2, 3), Share.of(adapters[1]), "")
    want, _ = write(pico_host, None, (turn, share, ""), beside)
    got, reused = write(pico_host, prefixes, (turn, share, ""), beside)
    assert got == want
    assert reused == len(START) + len(first[0]) - 1
    again, reused = write(pico_host, prefixes, (turn, share, ""))
    assert again[0] == want[0]
    assert reused == len(turn) - 1


def test_nothing_passes_between_adapters_weights_and_tenants(pico_host, adapters):
    prefixes = Prefixes(pico_host, tokens=500)
    one, other = adapters
    write(pico_host, prefixes, (START, Share.of(one), "ann"))
    for share, tenant in (
        (Share.of(other), "ann"),
        (Share.of(one, weights=[0.5]), "ann"),
        (Share(), "ann"),
        (Share.of(one), "eva"),
    ):
        want, _ = write(pico_host, None, (START, share, tenant))
        got, reused = write(pico_host, prefixes, (START, share, tenant))
        assert (got, reused) == (want, 0)
    twin = Adapter(one.factors, name="another name")
    assert write(pico_host, prefixes, (START, Share.of(twin), "ann"))[1] == len(START) - 1


def test_a_row_that_changed_on_the_way_is_not_kept(pico_host, adapters):
    prefixes = Prefixes(pico_host, tokens=500)
    loop = Loop(pico_host, prefixes=prefixes)
    own = Share.of(adapters[0])
    for id, shares in (("away", [Share.of(adapters[1])]), ("and back", [Share.of(adapters[1]), own])):
        loop.submit(Request(id, START, own), sampling=Sampling(max_new_tokens=6))
        loop.step()
        for share in shares:
            loop.change(id, share)
            loop.step()
        while loop.busy:
            loop.step()
        assert prefixes.held == 0, id


def test_what_was_used_last_stays(pico_host):
    prefixes = Prefixes(pico_host, tokens=70, least=4)
    texts = [tuple(range(at, at + 20)) for at in (5, 25, 40)]
    for ids in texts[:2]:
        write(pico_host, prefixes, (ids, Share(), ""))
    assert prefixes.held == 50
    write(pico_host, prefixes, (texts[0], Share(), ""))
    write(pico_host, prefixes, (texts[2], Share(), ""))
    assert prefixes.held <= 70
    assert write(pico_host, prefixes, (texts[0], Share(), ""))[1] == 19
    assert write(pico_host, prefixes, (texts[1], Share(), ""))[1] == 0
    with pytest.raises(ConfigError):
        Prefixes(pico_host, tokens=0)
    cache = pico_host.new_cache()
    cache.begin([0])
    with pytest.raises(ShapeError):
        cache.trim(0, 1)
