import torch

from weft.evaluate import CONDITIONS, build_conditions, draw_wordings
from weft.tasks import Row, Task
from weft.tasks.pictures import draw_shape
from weft.types import AbstractHyperNetwork, Bank, Description, Site


def build(planted, tasks=None, seed=0, **makers):
    tasks = planted.tasks if tasks is None else tasks
    wordings = draw_wordings(tasks, seed)
    return wordings, {c.name: c for c in build_conditions(tasks, wordings, **makers)}


def test_conditions_come_in_their_order(planted):
    _, found = build(planted)
    assert tuple(found) == CONDITIONS
    assert [name for name, c in found.items() if c.described] == ["base+description"]


def test_what_is_not_given_is_not_available_and_says_why(planted):
    _, found = build(planted)
    for name in CONDITIONS[:2]:
        assert found[name].adapter_N == (-1,) * 4
        assert found[name].bank is None
    for name in CONDITIONS[2:]:
        assert found[name].adapter_N == (None,) * 4
        assert found[name].reason


def test_generated_adapters_are_those_of_their_descriptions(planted):
    wordings, found = build(planted, hyper=planted.hyper)
    said = {
        "generated": wordings.seen,
        "generated, unseen wording": wordings.unseen,
        "generated, other task's description": [wordings.seen[j] for j in wordings.other],
        "generated, gibberish": wordings.gibberish,
    }
    for name, texts in said.items():
        condition = found[name]
        want = planted.hyper.generate([Description(text) for text in texts])
        got = condition.bank.select(torch.tensor(condition.adapter_N))
        for site in want.sites:
            assert torch.equal(got.a[site], want.a[site])
            assert torch.equal(got.b[site], want.b[site])


def test_all_generated_adapters_are_one_bank(planted):
    _, found = build(planted, hyper=planted.hyper)
    assert len({id(found[name].bank) for name in CONDITIONS[4:]}) == 1


def test_oracles_serve_the_tasks_that_have_one(planted):
    adapters = {name: planted.bank[k] for k, name in enumerate(planted.bank.names)}
    _, found = build(planted, oracles={"third": adapters["third"], "first": adapters["first"]})
    condition = found["oracle"]
    assert [k is None for k in condition.adapter_N] == [False, True, False, True]
    for n in (0, 2):
        got, want = condition.bank[condition.adapter_N[n]], planted.bank[n]
        assert all(torch.equal(got.factors[s].b_OR, want.factors[s].b_OR) for s in want.sites)
    assert condition.reason == "2 of 4 tasks have an adapter of their own"
    _, found = build(planted, oracles={"elsewhere": adapters["first"]})
    assert found["oracle"].adapter_N == (None,) * 4
    assert "none of the 4 tasks" in found["oracle"].reason


def test_one_task_has_no_other(planted):
    _, found = build(planted, planted.tasks[:1], hyper=planted.hyper)
    assert found["generated, other task's description"].adapter_N == (None,)
    assert found["generated, other task's description"].reason == "there is only one task"


def test_equal_keys_stand_for_equal_adapters(planted):
    _, found = build(planted, hyper=planted.hyper, hyper_key="0", multitask=planted.bank[0])
    keys = {}
    for condition in found.values():
        if isinstance(condition.bank, Bank):
            for key, k in zip(condition.key_N, condition.adapter_N, strict=True):
                site = condition.bank.sites[0]
                assert torch.equal(keys.setdefault(key, condition.bank.b[site][k]), condition.bank.b[site][k])
    assert len(keys) == 1 + 4 + 4 + 4


class Noting(AbstractHyperNetwork):
    """Notes its cues, and gives the k-th of them an adapter that holds k."""

    def __init__(self):
        super().__init__()
        self.cues = []

    def generate(self, cues):
        self.cues = list(cues)
        site, count = Site("layer", 0, "layer", 1, 1), len(cues)
        b_KOR = torch.arange(count).view(count, 1, 1).float()
        return Bank(tuple(map(str, range(count))), {site: torch.ones(count, 1, 1)}, {site: b_KOR})


def test_what_has_a_picture_is_made_from_pictures():
    drawn = [("star", "red"), ("star", "blue"), ("ring", "green"), ("cross", "black")]
    tasks = [
        Task(
            f"{colour}-{shape}",
            ("name what is drawn",),
            test=(Row("colour", colour), Row("shape", shape)),
            image=draw_shape(shape, colour, "0"),
        )
        for shape, colour in drawn
    ]
    hyper = Noting()
    wordings = draw_wordings(tasks, 0)
    found = {c.name: c for c in build_conditions(tasks, wordings, hyper=hyper)}
    assert found["base+description"].described
    assert found["generated, unseen wording"].adapter_N == (None,) * 4

    def cues(name):
        return [hyper.cues[k] for k in found[name].adapter_N]

    assert cues("generated") == [task.image for task in tasks]
    assert cues("generated, other task's description") == [tasks[j].image for j in wordings.other]
    for nothing, task in zip(cues("generated, gibberish"), tasks, strict=True):
        assert nothing.pixels_HWC.shape == task.image.pixels_HWC.shape
        assert nothing.pixels_HWC.float().std() > 60  # all values alike often
    assert len(hyper.cues) == 8
    assert len({key for name in CONDITIONS[4:] for key in found[name].key_N if key}) == 8
    for seed in range(10):
        other = draw_wordings(tasks, seed).other
        assert all(i != j for i, j in enumerate(other))
