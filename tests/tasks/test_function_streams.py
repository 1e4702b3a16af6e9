"""Streams of functions: held-out orders and inputs stay out, and answers are those of the world."""

from zlib import crc32

import pytest
from orders import follows

from weft.errors import ConfigError
from weft.tasks.functions.streams import FunctionStreams, line_task
from weft.tasks.functions.world import World
from weft.tasks.streams import answers_of, held_out_pairs

TASKS = ("mail_domain", "date_long", "name_swap", "url_page", "path_ext")


def input_of(part):
    return part.prompt.removeprefix(f"{part.lead} ").removesuffix(" >")


def test_held_out_pairs_are_in_no_training_stream_and_held_out_streams_have_no_other():
    streams = FunctionStreams(TASKS, seed=3)
    held_out = streams.pairs()
    trained = follows([s for draw in range(20) for s in streams.train(draw, 20, [2, 3])])
    tested = follows(streams.test(60, [4]))
    assert tested == held_out
    assert not trained & held_out
    assert len(trained | held_out) == len(TASKS) * (len(TASKS) - 1)


def test_answers_are_those_of_the_world_and_are_found_in_the_text():
    for stream in FunctionStreams(TASKS).test(20, [2, 4]):
        *lines, last, empty = stream.prompt.split("\n")
        assert (last, empty) == ("Answers:", "")
        assert len(lines) == len(stream.parts) in (2, 4)
        for line, part in zip(lines, stream.parts, strict=True):
            assert line == f"{part.lead} {input_of(part)}"
            assert World().answer(part.task, input_of(part)) == part.answer
        text = "".join(part.lead + part.text for part in stream.parts)
        assert answers_of(text, stream.parts) == [part.answer for part in stream.parts]
        other = text.replace(stream.parts[0].answer + "\n", "else\n", 1)
        assert answers_of(other, stream.parts)[0] == "else"


def test_a_cut_answer_stops_at_the_number_of_the_line_that_comes_next():
    streams = FunctionStreams(TASKS, cut=0.5, lines=4).train(0, 60, [2])
    for stream in streams:
        lines = stream.prompt.split("\n")[:-2]
        assert len(stream.parts) == 2
        assert 2 <= len(lines) <= 4
        assert stream.following == (lines[2].split()[0] if len(lines) > 2 else "")
    assert 15 < sum(stream.following == "" for stream in streams) < 45


def test_inputs_of_test_streams_and_test_rows_are_in_no_training():
    streams = FunctionStreams(TASKS, seed=1)
    trained = {input_of(p) for draw in range(30) for s in streams.train(draw, 10, [3]) for p in s.parts}
    tested = {input_of(p) for s in streams.test(60, [4]) for p in s.parts}
    for name in TASKS:
        task = line_task(name, seed=0, train_rows=40, test_rows=20)
        assert (len(task.train), len(task.test)) == (40, 20)
        for rows, where in ((task.train, trained), (task.test, tested)):
            for row in rows:
                number, text = row.prompt.removesuffix(" >").split(": ", 1)
                assert number in "123456789"
                assert row.completion == f" {World().answer(name, text)}\n"
                where.add(text)
    assert not trained & tested
    assert all(crc32(text.encode()) % 5 for text in trained)


def test_a_stream_says_by_its_inputs_alone_what_is_meant():
    with pytest.raises(ConfigError, match="mail_domain and mail_user both read email"):
        FunctionStreams((*TASKS, "mail_user"))
    with pytest.raises(ConfigError, match="3 functions or more, got 2"):
        FunctionStreams(TASKS[:2])
    with pytest.raises(ConfigError, match="1 to 9 lines, got 10"):
        FunctionStreams(TASKS).test(1, [10])


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_every_task_keeps_a_follower_that_is_held_out_and_one_that_is_not(share: float) -> None:
    pairs = held_out_pairs(TASKS[:3], share, seed=0)
    for task in TASKS[:3]:
        assert sum(before == task for before, _ in pairs) == 1
