from collections import Counter
from dataclasses import replace

import pytest
import torch

from forked import elsewhere
from weft.errors import ConfigError, ShapeError
from weft.tasks import IGNORE, Encoded, Row, Task, TaskSampler, collate

ENCODED = [Encoded([5, 6], [7]), Encoded([], [8, 9]), Encoded([1, 2, 3], [])]


def make_tasks(*sizes: int) -> list[Task]:
    return [
        Task(
            f"t{i}", tuple(f"wording {j}" for j in range(5)), tuple(Row(f"{i}/{j}", "x") for j in range(size))
        )
        for i, size in enumerate(sizes)
    ]


def test_collate_right():
    batch = collate(ENCODED, pad_id=0)
    assert batch.ids_BT.tolist() == [[5, 6, 7], [8, 9, 0], [1, 2, 3]]
    assert batch.mask_BT.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 1]]
    assert batch.labels_BT.tolist() == [[IGNORE, IGNORE, 7], [8, 9, IGNORE], [IGNORE] * 3]
    assert all(tensor.dtype == torch.long for tensor in batch)


def test_left_padding_moves_the_rows_and_changes_nothing_else():
    right, left = collate(ENCODED, pad_id=0), collate(ENCODED, pad_id=0, side="left")
    assert left.ids_BT.tolist() == [[5, 6, 7], [0, 8, 9], [1, 2, 3]]
    for a, b in zip(right, left, strict=True):
        for i in range(3):
            assert a[i][right.mask_BT[i] == 1].tolist() == b[i][left.mask_BT[i] == 1].tolist()
    assert (left.labels_BT[left.mask_BT == 0] == IGNORE).all()


def test_an_empty_batch_is_refused():
    with pytest.raises(ShapeError, match="at least one row"):
        collate([], pad_id=0)


def test_every_task_and_every_row_is_met_equally_often():
    tasks = make_tasks(6, 3, 4, 12, 2)
    sampler = TaskSampler(tasks, tasks_per_batch=3, rows_per_task=4, seed=1)
    draws = [draw for step in range(20) for draw in sampler.draw(step)]
    assert Counter(draw.task.name for draw in draws) == {f"t{i}": 12 for i in range(5)}
    for i, task in enumerate(tasks):
        rows = Counter(row for draw in draws if draw.task_index == i for row in draw.rows)
        assert rows == {row: 48 // len(task.train) for row in task.train}


def test_each_round_holds_every_task_once_in_its_own_order():
    sampler = TaskSampler(make_tasks(*[2] * 8), tasks_per_batch=4, rows_per_task=2, seed=0)
    rounds = [[d.task_index for step in (2 * r, 2 * r + 1) for d in sampler.draw(step)] for r in range(6)]
    assert all(sorted(order) == list(range(8)) for order in rounds)
    assert len({tuple(order) for order in rounds}) == 6


def test_a_step_does_not_depend_on_the_steps_before_it():
    tasks = make_tasks(6, 3, 4, 12, 2)
    first = TaskSampler(tasks, tasks_per_batch=3, rows_per_task=4, seed=1)
    steps = [first.draw(step) for step in range(9)]
    resumed = TaskSampler(tasks, tasks_per_batch=3, rows_per_task=4, seed=1)
    assert resumed.draw(7) == steps[7]
    assert resumed.draw(2) == steps[2]
    assert TaskSampler(tasks, tasks_per_batch=3, rows_per_task=4, seed=2).draw(7) != steps[7]


def test_descriptions_are_drawn_afresh_and_evenly():
    tasks = [replace(task, unseen_descriptions=("unseen",)) for task in make_tasks(4)]
    sampler = TaskSampler(tasks, tasks_per_batch=1, rows_per_task=1, seed=0)
    seen = Counter(sampler.draw(step)[0].description for step in range(1000))
    assert set(seen) == set(tasks[0].descriptions)
    assert min(seen.values()) > 150


def test_a_batch_may_be_larger_than_the_tasks():
    sampler = TaskSampler(make_tasks(4, 4), tasks_per_batch=5, rows_per_task=2, seed=0)
    draws = sampler.draw(0)
    assert [d.task_index for d in draws].count(0) in (2, 3)
    rows = [row for d in draws[:4] for row in d.rows]
    assert len(set(rows)) == 8


@pytest.mark.parametrize(
    ("tasks", "sizes", "message"),
    [
        ([], (1, 1), "no tasks"),
        (make_tasks(2) * 2, (1, 1), "two tasks are called t0"),
        ([Task("t", ("d",), test=(Row("a", "b"),))], (1, 1), "t has no train rows"),
        (make_tasks(2), (0, 1), "1 task and 1 row or more, got 0 and 1"),
    ],
)
def test_bad_samplers_are_refused(tasks, sizes, message):
    with pytest.raises(ConfigError, match=message):
        TaskSampler(tasks, tasks_per_batch=sizes[0], rows_per_task=sizes[1], seed=0)


def print_draws():
    sampler = TaskSampler(make_tasks(6, 3, 4), tasks_per_batch=2, rows_per_task=2, seed=3)
    draws = [[d.task.data_hash, d.description, *d.rows] for step in range(4) for d in sampler.draw(step)]
    print(draws, end="")


def test_other_processes_draw_the_same(tmp_path, capsys):
    print_draws()
    assert capsys.readouterr().out == elsewhere(print_draws, said=tmp_path / "said.txt")
