"""Routers that look at the request: nearest task and the blend network."""

import math

import pytest
import torch
from route_library import TASKS, Letters
from torch import nn

from tiny_models import make_bank
from weft.embed import SentenceEncoder
from weft.errors import ConfigError, ShapeError, UnknownNameError
from weft.route import Blend, Nearest
from weft.types import Bank, Dense, Description, Mixture, Rows


def cosine(x, y):
    x, y = ([float(t.count(chr(97 + i))) for i in range(26)] for t in (x, y))
    size = math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    return sum(a * b for a, b in zip(x, y, strict=True)) / size


def index(**options):
    router = Nearest(Letters(), **options)
    for name, text in TASKS.items():
        router.add(name, [text])
    return router


@pytest.fixture(scope="module")
def bank(pico_host):
    made = make_bank(pico_host.sites, 3, 2)
    return Bank(tuple(TASKS), made.a, made.b)


def test_the_nearest_task_is_taken(bank):
    request = "count the letters"
    ranked = index().rank(request)
    want = sorted(((name, cosine(request, text)) for name, text in TASKS.items()), key=lambda p: -p[1])
    assert [name for name, _ in ranked] == [name for name, _ in want]
    assert [c for _, c in ranked] == pytest.approx([c for _, c in want], abs=1e-6)
    [term] = index().route(request, bank).terms
    assert isinstance(term.gate, Rows)
    assert term.gate.index_B.tolist() == [list(TASKS).index(want[0][0])]
    [term] = index(top_k=2, temperature=0.5).route(request, bank).terms
    exps = [math.exp(c / 0.5) for _, c in want[:2]]
    got = dict(zip(TASKS, term.gate.weight[0].tolist(), strict=True))
    assert got == pytest.approx(
        {want[0][0]: exps[0] / sum(exps), want[1][0]: exps[1] / sum(exps), want[2][0]: 0}, abs=1e-6
    )


def test_several_wordings_make_one_vector():
    router = Nearest(Letters())
    router.add("both", ["aab", Description("bb")])
    unit = [2 / math.sqrt(5), 1 / math.sqrt(5) + 1]
    want = (unit[0] * 1 + 0) / math.hypot(*unit)
    assert router.rank("a")[0][1] == pytest.approx(want, abs=1e-6)


def test_adapters_come_and_go(bank):
    router = index()
    before = router.rank("abc")
    router.add("late", ["abc"])
    assert router.rank("abc")[0] == ("late", pytest.approx(1))
    assert router.rank("abc", bank.names) == before
    router.remove("late")
    assert router.rank("abc") == before
    router.remove("upper")
    assert router.names == ("reverse", "count")
    with pytest.raises(UnknownNameError, match=r"no adapter 'upper' in the index; add it first"):
        router.route("abc", bank)
    with pytest.raises(UnknownNameError, match="did you mean count"):
        router.remove("coun")
    with pytest.raises(ConfigError, match="remove it first"):
        router.add("count", ["x"])
    with pytest.raises(ShapeError, match="points nowhere"):
        router.add("silent", ["..."])
    with pytest.raises(ConfigError, match="at least one cue"):
        router.add("silent", [])
    assert router.names == ("reverse", "count")
    with pytest.raises(ShapeError, match="empty"):
        Nearest(Letters()).rank("abc")
    with pytest.raises(ConfigError, match="a bank of 3"):
        index(top_k=4).route("abc", bank)
    for options in ({"top_k": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            Nearest(Letters(), **options)


def test_a_real_encoder_finds_the_task(bank):
    router = Nearest(SentenceEncoder())
    for name, text in TASKS.items():
        router.add(name, [text])
    for request, name in (
        ("please spell this in reverse order", "reverse"),
        ("uppercase it", "upper"),
        ("what is the number of characters?", "count"),
    ):
        assert router.rank(request)[0][0] == name


def test_an_untrained_blend_is_retrieval_by_label(bank):
    blend = Blend(Letters(), TASKS, temperature=0.2)
    got = blend.weights(["count the letters", "upper"], bank.names)
    for row, request in enumerate(("count the letters", "upper")):
        exps = [math.exp(cosine(request, text) / 0.2) for text in TASKS.values()]
        assert got[row].tolist() == pytest.approx([e / sum(exps) for e in exps], abs=1e-5)


def test_a_label_may_be_several_descriptions():
    wordings = ("count the letters", "how many are there", "count")
    blend = Blend(Letters(), {"count": wordings, "upper": "upper"})
    unit = [row / row.norm() for row in Letters().encode([Description(text) for text in wordings])]
    one = Letters().encode([Description("number of letters")])[0]
    mean = sum(unit) / 3
    keys = [mean / mean.norm(), blend.encode(["upper"])[0]]
    exps = [math.exp(float(one @ key / one.norm()) / 0.1) for key in keys]
    got = blend.weights(["number of letters"], ["count", "upper"])[0].tolist()
    assert got == pytest.approx([e / sum(exps) for e in exps], abs=1e-5)
    assert dict(blend.labels) == {"count": wordings, "upper": "upper"}
    with pytest.raises(ConfigError, match="late needs at least one description"):
        blend.add("late", ())


def test_a_blend_equals_loops():
    blend = Blend(Letters(), TASKS, hidden=5, seed=1).double()
    for parameter in (blend.last.weight, blend.key.weight):
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    blend.requires_grad_(False)
    e = blend.encode(["count"])[0]
    scale = math.sqrt(26)
    hidden = [sum(w * x * scale for w, x in zip(row, e, strict=True)) + b
              for row, b in zip(blend.first.weight, blend.first.bias, strict=True)]  # fmt: skip
    hidden = [h / (1 + torch.exp(-h)) for h in hidden]
    query = [e[i] + sum(blend.last.weight[i, j] * hidden[j] for j in range(5)) / scale for i in range(26)]
    scores = []
    for label in blend.encode(list(TASKS.values())):
        moved = [sum(blend.key.weight[i, j] * label[j] for j in range(26)) / scale for i in range(26)]
        key = [x + y for x, y in zip(label, moved, strict=True)]
        product = sum(q * k for q, k in zip(query, key, strict=True))
        size = math.sqrt(sum(float(q) ** 2 for q in query) * sum(float(k) ** 2 for k in key))
        scores.append(math.exp(float(product) / size / 0.1))
    got = blend.weights(["count"], list(TASKS))[0].tolist()
    assert got == pytest.approx([s / sum(scores) for s in scores], abs=1e-6)


def test_a_blend_learns_from_the_loss_through_a_frozen_library(pico_host, bank):
    """Each request wants an adapter that its words do not name; only the loss tells which."""
    blend = Blend(Letters(), TASKS, seed=0)
    requests, wanted = ["xx yy", "zz", "qq jj"], [2, 0, 1]
    ids_BT = torch.randint(3, 64, (3, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        target = pico_host(ids_BT, Mixture.rows(bank, wanted)).logits.softmax(-1)
    optimizer = torch.optim.Adam(blend.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        weight_BK = blend.weights(requests, bank.names)
        logits = pico_host(ids_BT, Mixture.dense(bank, weight_BK)).logits
        loss = -(target * logits.log_softmax(-1)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert blend.weights(requests, bank.names).argmax(-1).tolist() == wanted
    assert losses[-1] < losses[0] - 0.05
    [term] = blend.route("zz", bank).terms
    assert isinstance(term.gate, Dense)
    assert term.gate.weight.argmax() == 0
    assert not term.gate.weight.requires_grad


def test_a_blend_takes_new_adapters_by_their_label(bank):
    blend = Blend(Letters(), dict(list(TASKS.items())[:2]))
    before = blend.weights(["abc"], list(TASKS)[:2])
    with pytest.raises(ConfigError, match="adapter count has no label"):
        blend.route("abc", bank)
    blend.add("count", TASKS["count"])
    after = blend.weights(["abc"], list(TASKS))
    torch.testing.assert_close(after[:, :2] / after[:, :2].sum(), before)
    with pytest.raises(ShapeError, match="empty"):
        blend.weights(["abc"], [])
    for options in ({"hidden": 0}, {"temperature": -1.0}):
        with pytest.raises(ConfigError):
            Blend(Letters(), TASKS, **options)
    assert all("encoder" not in name for name in blend.state_dict())
