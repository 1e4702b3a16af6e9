"""The letters world: what the issue of held-out tasks rests on."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from forked import elsewhere
from weft.errors import ConfigError
from weft.tasks import hash_tasks, render
from weft.tasks.letters.operation import UNSEEN_PHRASES
from weft.tasks.letters.operations import OPERATIONS
from weft.tasks.letters.phrases import MORE_PHRASES
from weft.tasks.letters.tokenizer import build_tokenizer
from weft.tasks.letters.world import World

EXPECTED = {
    "reverse": ("cab", "bac"),
    "sort": ("cab", "abc"),
    "sort_down": ("cab", "cba"),
    "shift_up_two": ("xyz", "zab"),
    "shift_down_one": ("abc", "zab"),
    "double": ("cab", "ccaabb"),
    "repeat": ("cab", "cabcab"),
    "mirror": ("cab", "cabbac"),
    "keep_vowels": ("canoe", "aoe"),
    "drop_vowels": ("canoe", "cn"),
    "replace_a_b": ("banana", "bbnbnb"),
    "remove_a": ("banana", "bnn"),
    "first_two": ("canoe", "ca"),
    "last_three": ("canoe", "noe"),
    "drop_first_one": ("canoe", "anoe"),
    "drop_last_two": ("canoe", "can"),
    "swap_ends": ("canoe", "eanoc"),
    "rotate_left_two": ("canoe", "noeca"),
    "rotate_right_one": ("canoe", "ecano"),
    "append_z": ("cab", "cabz"),
    "prepend_z": ("cab", "zcab"),
    "surround_x": ("cab", "xcabx"),
    "dedupe": ("banana", "ban"),
    "every_other": ("canoe", "cne"),
    "swap_pairs": ("canoe", "acone"),
    "mask_vowels_star": ("canoe", "c*n**"),
    "mask_consonants_hash": ("canoe", "#a#oe"),
    "vowels_first": ("canoe", "aoecn"),
    "vowels_last": ("canoe", "cnaoe"),
    "separate_dash": ("cab", "c-a-b"),
    "upper": ("cab", "CAB"),
    "count": ("canoe", "5"),
    "count_vowels": ("canoe", "3"),
    "smallest": ("canoe", "a"),
    "largest": ("canoe", "o"),
    "list_sort": ("3,1,2", "1,2,3"),
    "list_sort_down": ("3,1,2", "3,2,1"),
    "list_reverse": ("3,1,2", "2,1,3"),
    "list_add_one": ("3,9", "4,10"),
    "list_even": ("3,4,2", "4,2"),
    "list_odd": ("3,4,1", "3,1"),
    "list_drop_first": ("3,4,1", "4,1"),
    "list_max": ("3,9,1", "9"),
    "list_min": ("3,9,1", "1"),
    "list_count": ("3,9,1", "3"),
    "reverse+first_two+append_z": ("canoe", "eoz"),
}


@pytest.fixture(scope="module")
def world() -> World:
    return World(train_rows=8, test_rows=4)


@pytest.mark.parametrize(("name", "pair"), EXPECTED.items(), ids=EXPECTED)
def test_every_operation_does_what_it_says(world: World, name: str, pair: tuple[str, str]) -> None:
    assert world.solve(name, pair[0]) == pair[1]


def test_every_operation_has_an_expectation() -> None:
    shown = {name.split("+")[0] for name in EXPECTED}
    assert all(any(name.startswith(operation) for name in shown) for operation in OPERATIONS)


def test_size(world: World) -> None:
    assert len(OPERATIONS) >= 30
    assert all(len(set(o.phrases)) >= 8 + UNSEEN_PHRASES for o in OPERATIONS.values())
    tasks = world.train(1000)
    assert {"primitive", "pair", "triple"} == {task.category for task in tasks}
    assert all(len(task.descriptions) >= 8 and task.unseen_descriptions for task in tasks)


def test_held_out_compositions_differ_in_effect_from_every_training_task(world: World) -> None:
    inputs = [row.prompt for task in world.train(86) for row in task.test]
    strings = [text for text in inputs if text.isalpha()][:60]
    lists = [text for text in inputs if "," in text][:60]

    def effect(name: str) -> tuple[str | None, ...]:
        return tuple(world.solve(name, text) for text in (lists if name.startswith("list") else strings))

    trained = {effect(task.name): task.name for task in world.train(1500)}
    names = set(trained.values())
    for task in world.unseen_compositions():
        assert task.name not in names
        assert effect(task.name) not in trained, (task.name, trained[effect(task.name)])


def test_unseen_wordings_and_parameters_are_never_trained_on(world: World) -> None:
    tasks = world.train(1000)
    trained = {text for task in tasks for text in task.descriptions}
    names = {step for task in tasks for step in task.name.split("+")}
    for task in (*tasks, *world.unseen_compositions()):
        assert not trained & set(task.unseen_descriptions)
    assert not names & {task.name for task in world.unseen_parameters()}


def test_rows_of_train_and_test_do_not_meet(world: World) -> None:
    for task in world.train(300):
        assert not {row.prompt for row in task.train} & {row.prompt for row in task.test}
        for row in (*task.train, *task.test):
            assert world.solve(task.name, row.prompt) == row.completion != row.prompt


def test_a_longer_world_begins_like_a_shorter_one(world: World) -> None:
    assert [t.data_hash for t in world.train(150)] == [t.data_hash for t in world.train(200)[:150]]


def print_hash() -> None:
    world = World(train_rows=8, test_rows=4)
    print(hash_tasks(world.train(120) + world.unseen_compositions()), end="")


def test_the_same_in_every_process(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_hash()
    assert capsys.readouterr().out == elsewhere(print_hash, said=tmp_path / "said.txt")
    assert World(seed=1).train(120)[100].name != world.train(120)[100].name


def test_unknown_names_and_too_many_tasks_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=r"reverze.*did you mean reverse"):
        world.find("reverze")
    with pytest.raises(ConfigError, match=r"fewer than .* training tasks, 1000000 were asked for"):
        world.train(10**6)


def test_tokenizer_writes_words_whole_and_data_letter_by_letter(world: World) -> None:
    tokenizer = build_tokenizer(text for task in world.train(90) for text in task.descriptions)
    encoded = render(tokenizer, world.find("reverse").train[0], description="reverse the string")
    row = world.find("reverse").train[0]
    assert len(encoded.completion_ids) == len(row.completion) + 1
    assert len(encoded.prompt_ids) == 3 + 1 + len(row.prompt) + 1
    for text in ("cab >", "the reverse of", "zzebra ÄÖ 漢字\n\t x", "  two  spaces"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_more_wordings_add_descriptions_and_change_nothing_else():
    plain, more = World().train(200), World(more_wordings=5).train(200)
    for one, other in zip(plain, more, strict=True):
        assert other.descriptions[: len(one.descriptions)] == one.descriptions
        assert len(one.descriptions) < len(other.descriptions) <= len(one.descriptions) + 5
        assert replace(other, descriptions=one.descriptions) == one


def test_manners_add_descriptions_and_change_nothing_else():
    plain, more = World().train(60), World(mannered=8).train(60)
    for one, other in zip(plain, more, strict=True):
        added = other.descriptions[len(one.descriptions) :]
        assert other.descriptions[: len(one.descriptions)] == one.descriptions
        assert 6 <= len(added) <= 8
        assert not set(added) & set(one.unseen_descriptions)
        assert replace(other, descriptions=one.descriptions) == one
    assert World(mannered=8).train(9) == World(mannered=8).train(60)[:9]


def test_no_phrase_that_is_kept_for_evaluation_is_among_more_phrases():
    kept = {phrase for operation in OPERATIONS.values() for phrase in operation.phrases[-UNSEEN_PHRASES:]}
    assert MORE_PHRASES.keys() == OPERATIONS.keys()
    for name, phrases in MORE_PHRASES.items():
        assert len(set(phrases)) == len(phrases) >= 10
        assert not kept & set(phrases)
        assert not set(OPERATIONS[name].phrases) & set(phrases)
        # Every parameter is said, or the description would fit other tasks too.
        for phrase in phrases:
            for key in OPERATIONS[name].parameters[0]:
                assert f"{{{key}}}" in phrase


def test_a_document_of_words_has_its_facts_once_among_idle_lines_of_the_kinds_asked_for():
    from weft.tasks.letters.idle import STRANGE, TRAINED
    from weft.tasks.letters.recalls import document_task

    assert not set(STRANGE) & set(TRAINED)
    for kinds in (TRAINED, STRANGE):
        for number in range(20):
            task = document_task(f"a/{number}", words=2, idle=6, kinds=kinds)
            lines = task.descriptions[0].splitlines()
            assert len(lines) == 8
            facts = [f"{row.prompt} >{row.completion}" for row in task.test]
            assert all(lines.count(fact) == 1 for fact in facts)
            others = [line for line in lines if line not in facts]
            # nothing else has the form of a fact, so a question has one answer
            assert not any(re.fullmatch(r"[A-Z] >[a-z]+", line) for line in others)
            assert task.category == "words-2-idle"
    numbers = document_task("b", words=1, idle=5, kinds=["numbers"]).descriptions[0].splitlines()
    assert sum(bool(re.fullmatch(r"[\d ]+", line)) for line in numbers) == 5
    assert document_task("c", words=2).descriptions[0].count("\n") == 2
    after = document_task("d", words=2, idle=1, after=4)
    assert after.category == "words-2-after"
    places = [
        after.descriptions[0].splitlines().index(f"{row.prompt} >{row.completion}") for row in after.test
    ]
    assert max(places) < 3
    assert after.descriptions[0].count("\n") == 7
