"""The measurements of books, on the embedded base with a network of a few steps and a text of our own."""

import numpy as np
import pytest
import torch

from weft.errors import ConfigError
from weft.evaluate import bootstrap, interval
from weft.experiments.dynamic.books import (
    ALONE,
    FULL,
    NATS,
    NOTHING,
    OTHER,
    OTHERS,
    OWN,
    RETURNS,
    SHARE,
    SINKS,
    WINDOW,
    draw_passages,
    mean_adapter,
    measure_books,
    measure_ways,
    ratio,
    returning,
)
from weft.experiments.dynamic.recipe import DynamicRecipe
from weft.experiments.dynamic.table import line_of
from weft.host import Host
from weft.hyper import ContextConfig, ContextNetwork
from weft.train.context import ContextRecipe, train_context

NETWORK = {
    "reader": {"kind": "accumulator", "rank": 4, "latent": 16, "copy_tokens": "only", "topics": True},
    "chunk": 16,
}
SITES = r"model\.layers\.5\.mlp\.down_proj"
SIZES = {"pressed": 24, "window": 6, "completion": 8, "passages": 5, "averaged": 2, "more": [4]}


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    chance = np.random.default_rng(0)
    path.write_text("\n".join("".join(chance.choice(list("abcdefgh "), 30)) + "." for _ in range(60)))
    return path


def comparison_of(book, **more):
    values = {"run": str(book.parent / "run"), "base": "weft/letters", "path": str(book), **SIZES, **more}
    return DynamicRecipe.model_validate({"books": values}).books


def test_every_line_has_a_value_per_passage_and_shares_add_up(book):
    recipe = {
        "base": "weft/letters",
        "passages": {"texts": [str(book)], "per_batch": 2, "pressed": 24, "window": 6, "completion": 8},
        "raw": True,
        "network": NETWORK,
        "target_modules": SITES,
        "run": {"output_dir": str(book.parent / "run"), "max_steps": 4, "logging_steps": 1, "eval_steps": 2},
    }
    train_context(ContextRecipe.model_validate(recipe))
    lines = {(line.what, line.who): line for line in measure_books(comparison_of(book))}
    assert {who for what, who in lines if what == NATS} >= {WINDOW, FULL, OWN, OTHER, SINKS, NOTHING, ALONE}
    assert all(len(line.values) == 5 for line in lines.values())
    nats = {who: line.mean for (what, who), line in lines.items() if what == NATS}
    share = (nats[WINDOW] - nats[OWN]) / (nats[WINDOW] - nats[FULL])
    assert lines[SHARE, OWN].mean == pytest.approx(share)
    alone = (nats[NOTHING] - nats[ALONE]) / (nats[NOTHING] - nats[FULL])
    assert lines[SHARE, ALONE].mean == pytest.approx(alone)
    assert not {(SHARE, WINDOW), (SHARE, FULL), (SHARE, NOTHING)} & set(lines)
    parts = [lines["share of the tokens", kind].mean for kind in (RETURNS, OTHERS)]
    whole = sum(
        part * lines[f"{NATS}, {kind}", OWN].mean for part, kind in zip(parts, (RETURNS, OTHERS), strict=True)
    )
    assert sum(parts) == pytest.approx(1)
    assert whole == pytest.approx(nats[OWN])


def test_adapters_that_say_nothing_leave_the_window_and_what_they_say_comes_from_their_own_passage(book):
    comparison = comparison_of(book)
    host = Host.from_pretrained("weft/letters", dtype="float32", target_modules=SITES)
    torch.manual_seed(0)
    network = ContextNetwork(host, ContextConfig.model_validate(NETWORK))
    passages, others = draw_passages(host, comparison)
    assert (len(passages), len(others)) == (5, 2)
    network.fit_whitening([ids[:16] for ids in [*passages, *others]])
    nats = measure_ways(network, comparison, passages, others)
    for who in (OWN, OTHER):
        torch.testing.assert_close(nats[who], nats[WINDOW])
    assert (nats[FULL] - nats[WINDOW]).abs().max() > 1e-3
    with torch.no_grad():
        network.reader.topic_SO.fill_(0.5)
    again = measure_ways(network, comparison, passages, others)
    torch.testing.assert_close(again[FULL], nats[FULL])
    for who in (OWN, OTHER):
        assert (again[who] - nats[WINDOW]).abs().max() > 1e-3
    turned = [*passages[1:], passages[0]]
    assert (again[OWN] - again[OTHER]).abs().max() > 1e-4
    swapped = [[*one[:24], *two[24:]] for one, two in zip(turned, passages, strict=True)]
    torch.testing.assert_close(measure_ways(network, comparison, swapped, others)[OWN], again[OTHER])


def test_the_mean_of_one_adapter_twice_is_that_adapter(book):
    host = Host.from_pretrained("weft/letters", dtype="float32", target_modules=SITES)
    network = ContextNetwork(host, ContextConfig.model_validate(NETWORK))
    with torch.no_grad():
        network.reader.copy_SO.normal_()
    one = network.adapt_stream(range(5, 15))
    mean = mean_adapter(network, [one, one])
    for site, (a_RI, b_OR, scaling) in one.factors.items():
        twice = mean.factors[site]
        torch.testing.assert_close(twice.scaling * twice.b_OR @ twice.a_RI, scaling * b_OR @ a_RI)


def test_a_token_returns_if_it_has_left_and_was_not_said_since(book):
    comparison = comparison_of(book, pressed=3, window=2, completion=4)
    assert returning([[1, 2, 3, 4, 2, 1, 1, 2, 9]], comparison).tolist() == [[True, False, False, False]]


def test_a_ratio_of_sums_has_the_interval_that_a_bootstrap_gives_it():
    chance = np.random.default_rng(0)
    gap = chance.gamma(2.0, size=(60, 1))
    top = 0.3 * gap + 0.2 * chance.normal(size=(60, 1))
    line = line_of("share", "way", ratio(torch.tensor(top[:, 0]), torch.tensor(gap[:, 0])))
    assert line.mean == pytest.approx(top.sum() / gap.sum())
    drawn = bootstrap(np.stack([top, gap]), samples=4000)
    wanted = interval(line.mean, drawn[:, 0] / drawn[:, 1])
    assert line.interval.low == pytest.approx(wanted.low, abs=0.2 * line.half)
    assert line.interval.high == pytest.approx(wanted.high, abs=0.2 * line.half)


def test_too_short_a_text_is_refused(book):
    host = Host.from_pretrained("weft/letters", dtype="float32", target_modules=SITES)
    with pytest.raises(ConfigError, match=r"a passage takes .* tokens, the base reads 256 at most"):
        draw_passages(host, comparison_of(book, pressed=4000))
    with pytest.raises(ConfigError, match=r"too short: part 1 of \d+ of its lines"):
        draw_passages(host, comparison_of(book, passages=5000))
