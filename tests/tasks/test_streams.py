"""Streams of letters: what is held out stays out, and their answers are those of the world."""

import pytest
from orders import follows

from weft.errors import ConfigError
from weft.tasks.letters.streams import LetterStreams
from weft.tasks.letters.world import World
from weft.tasks.streams import answers_of

TASKS = ("reverse", "sort", "double", "upper", "first_two")


def test_held_out_pairs_are_in_no_training_stream_and_held_out_streams_have_no_other():
    streams = LetterStreams(TASKS, seed=3)
    held_out = streams.pairs()
    trained = follows([s for draw in range(20) for s in streams.train(draw, 20, [2, 3, 4])])
    tested = follows(streams.test(60, [6]))
    assert tested == held_out
    assert not trained & held_out
    assert len(trained | held_out) == len(TASKS) * (len(TASKS) - 1)


def test_answers_are_those_of_the_world_and_are_found_in_the_text():
    for stream in LetterStreams(TASKS).test(20, [2, 6]):
        lines = stream.prompt.split("\n")
        assert len(lines) - 1 == len(stream.parts) in (2, 6)
        assert lines[-1] == f"{lines[0][0]}-{lines[-2][0]} >"
        text = "".join(part.lead + part.text for part in stream.parts)
        assert answers_of(text, stream.parts) == [part.answer for part in stream.parts]
        for part in stream.parts:
            assert World().solve(part.task, part.prompt.removesuffix(" >")) == part.answer
        cut = text[: text.index("\n") - 1] + "\n"
        assert answers_of(cut, stream.parts)[0] == stream.parts[0].answer[:-1]
        assert answers_of(cut, stream.parts)[1] == ""


def test_training_prompts_hold_lines_that_are_not_asked_for_on_both_sides():
    places = set()
    for stream in (s for draw in range(30) for s in LetterStreams(TASKS).train(draw, 10, [2])):
        *lines, asked = stream.prompt.split("\n")
        first, last = asked.removesuffix(" >").split("-")
        here = [line[:2] for line in lines]
        start = next(i for i, line in enumerate(lines) if line[0] == first)
        assert int(last) == int(first) + 1
        assert stream.following == ""
        assert here[start : start + 2] == [part.lead for part in stream.parts]
        letters = "".join(line[2:] for line in lines)
        assert len(set(letters)) == len(letters)
        places.add((start, len(lines) - start - 2))
    assert len(places) == 15  # 2 to 6 lines, 2 of them asked for
    assert all(s.prompt.count("\n") == 2 for s in LetterStreams(TASKS, lines=2).train(0, 9, [2]))


def test_a_cut_answer_stops_where_the_next_part_begins_and_none_is_longer_than_asked_for():
    found = set()
    for stream in (s for draw in range(60) for s in LetterStreams(TASKS, cut=0.6).train(draw, 10, [2, 4])):
        *lines, asked = stream.prompt.split("\n")
        first, last = (int(number) for number in asked.removesuffix(" >").split("-"))
        parts = len(stream.parts)
        assert parts in (2, 4)
        if stream.following:
            assert stream.following == next(line[:2] for line in lines if int(line[0]) == first + parts)
        else:
            assert last == first + parts - 1
        found.add((parts, last - first + 1))
    assert found == {(parts, asked) for parts in (2, 4) for asked in range(parts, 7)}
    assert all(not s.following for s in LetterStreams(TASKS, cut=1.0, lines=2).train(0, 9, [2]))


def test_draws_are_equal_by_number_and_the_first_part_shifts():
    streams = LetterStreams(TASKS, again=0.5)
    assert streams.train(4, 5, [3]) == streams.train(4, 5, [3])
    assert streams.train(4, 5, [3]) != streams.train(5, 5, [3])
    some = [s.shifts for s in streams.train(0, 50, [4])]
    assert all(shifts[0] for shifts in some)
    assert any(not all(shifts) for shifts in some)


def test_too_many_tasks_and_lines_are_refused():
    with pytest.raises(ConfigError, match="3 to 26 tasks, got 1"):
        LetterStreams(("sort",))
    with pytest.raises(ConfigError, match="1 to 6 lines, got 7"):
        LetterStreams(TASKS).train(0, 1, [7])
