from hypothesis import given
from hypothesis import strategies as st

from weft.evaluate import derangement, draw_wordings, gibberish
from weft.tasks import Row, Task
from weft.tasks.pictures import draw_shape


def make_task(name, answers, unseen=2, descriptions=4):
    return Task(
        name=name,
        descriptions=tuple(f"do {name} in way {i}" for i in range(descriptions)),
        unseen_descriptions=tuple(f"kindly {name} {i}" for i in range(unseen)),
        test=tuple(Row(f"q{i}", answer) for i, answer in enumerate(answers)),
    )


@given(st.integers(2, 30), st.integers(0, 1000), st.booleans())
def test_no_task_is_its_own_other(count, seed, alike):
    tasks = [make_task(f"t{i}", ["yes", "no"] if alike else [f"a{i}"]) for i in range(count)]
    other = derangement(tasks, seed)
    assert sorted(other) == list(range(count))
    assert all(i != j for i, j in enumerate(other))


@given(st.integers(0, 200))
def test_the_other_task_has_other_answers_where_possible(seed):
    kinds = [("yes", "no"), ("true", "false"), ("even", "odd")]
    tasks = [make_task(f"t{i}", kinds[i % 3]) for i in range(12)]
    assert all(i % 3 != j % 3 for i, j in enumerate(derangement(tasks, seed)))


def test_the_other_task_has_another_description():
    tasks = [make_task(f"t{i}", [f"a{i}"]) for i in range(4)]
    twin = Task(name="twin", descriptions=tasks[0].descriptions, test=(Row("q", "z"),))
    for seed in range(20):
        other = derangement([*tasks, twin], seed)
        assert other[0] != 4
        assert other[4] != 0


def test_derangements_vary_with_the_seed():
    tasks = [make_task(f"t{i}", [f"a{i}"]) for i in range(10)]
    assert len({derangement(tasks, seed) for seed in range(5)}) == 5
    assert derangement(tasks, 3) == derangement(tasks, 3)


def test_wordings_are_the_tasks_own():
    tasks = [make_task("sort", ["a"]), make_task("flip", ["b"], unseen=0), make_task("drop", ["c"])]
    drawn = [draw_wordings(tasks, seed) for seed in range(12)]
    assert draw_wordings(tasks, 0) == drawn[0]
    for n, task in enumerate(tasks):
        assert {d.seen[n] for d in drawn} == set(task.descriptions)
        assert {d.unseen[n] for d in drawn} == (set(task.unseen_descriptions) or {None})
    assert draw_wordings(tasks[:1], 0).other is None


def test_a_wording_does_not_depend_on_the_other_tasks():
    tasks = [make_task(name, ["a"]) for name in ("sort", "flip", "drop")]
    assert draw_wordings(tasks, 5).seen[1] == draw_wordings(tasks[1:], 5).seen[0]


def test_gibberish_keeps_the_shape_of_the_text():
    text = "sort the letters,  from *z* to 1\nplease"
    got = gibberish(text, "key")
    assert [c if c.isspace() else "x" for c in got] == [c if c.isspace() else "x" for c in text]
    assert not set(text.split()) & set(got.split())
    assert gibberish(text, "key") == got
    assert gibberish(text, "another key") != got


def test_pictures_are_other_ones_by_their_answers():
    tasks = [
        Task(f"t{i}", ("name it",), test=(Row("digit", str(i % 3)),), image=draw_shape("ring", "red", str(i)))
        for i in range(12)
    ]
    for seed in range(20):
        assert all(i % 3 != j % 3 for i, j in enumerate(derangement(tasks, seed)))
