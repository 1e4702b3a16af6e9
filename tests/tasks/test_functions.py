"""The functions world: its size, what it holds out, and that its functions do what they say."""

import json
import re
from collections import defaultdict
from dataclasses import replace

import pytest

from weft.errors import ConfigError, UnknownNameError
from weft.tasks import Task, hash_tasks
from weft.tasks.functions.inputs import SHAPE_NAMES, SHAPES
from weft.tasks.functions.world import KINDS, World
from weft.tasks.source import FunctionsSource, load_splits


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def trained(world: World) -> list[Task]:
    return world.train(1500)


def test_it_is_as_large_as_it_says(trained: list[Task]) -> None:
    assert len(KINDS) >= 120
    assert len({task.name for task in trained}) == 1500
    for task in trained:
        assert len(task.descriptions) >= 16
        assert len(task.unseen_descriptions) >= 4
        assert len(task.train) >= 8
        assert not {row.prompt for row in task.train} & {row.prompt for row in task.test}
        # The longest row has some 60 tokens: three characters to one, more in words.
        assert max(len(row.prompt) for row in task.train) <= 130


def test_kinds_have_phrases_for_their_parameters() -> None:
    for kind in KINDS.values():
        assert kind.reads in SHAPES
        assert kind.reads in SHAPE_NAMES
        assert len(kind.do) == 4
        assert len(kind.what) == 3
        assert len(set(kind.do + kind.what)) == 7
        for parameters in (*kind.parameters, *kind.unseen_parameters):
            named = {name for phrase in kind.do for name in re.findall(r"{(\w+)}", phrase)} - {"it"}
            assert named <= parameters.keys(), kind.name
            if len(kind.parameters) > 1:
                assert named, f"{kind.name} has parameters that no phrase tells"


def test_the_description_alone_tells_the_function(world: World) -> None:
    """Functions of one shape of input contradict each other: most answers to one input differ."""
    shapes = defaultdict(set)
    for kind in KINDS.values():
        if kind.reads in ("date", "record", "name", "words"):
            text = {"date": "2024-03-17", "record": "Anna; Lisbon; nurse; 42", "name": "Anna Keller",
                    "words": "pear, apple, fig"}[kind.reads]  # fmt: skip
            shapes[kind.reads].add(kind.apply(text, kind.parameters[0]))
    assert {shape: len(answers) >= 9 for shape, answers in shapes.items()} == dict.fromkeys(shapes, True)
    descriptions = defaultdict(set)
    for task in world.train(300):
        for text in task.descriptions:
            descriptions[text].add(task.name)
    shared = [names for names in descriptions.values() if len(names) > 1]
    # Nouns and lists may both be asked for "the last word"; that is rare.
    assert len(shared) < 0.02 * len(descriptions)


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("field_2", "Anna; Lisbon; nurse; 42", "Lisbon"),
        ("pair_value_1+upper", "city: Rome, name: Leo, age: 30", "LEO"),
        ("pair_json", "name: Leo, age: 30", '{"name": "Leo", "age": "30"}'),
        ("note_email", "On 2001-02-03 Leo paid 42 euros in Rome (leo.k@mail.com)", "leo.k@mail.com"),
        ("note_number", "On 2001-02-03 Leo paid 42 euros in Rome (leo9@mail.com)", "42"),
        ("date_long_us", "2024-03-07", "March 7, 2024"),
        ("date_quarter", "2024-10-07", "Q4"),
        ("name_initials_2", "Anna Keller", "A.K."),
        ("url_host", "http://www.acme.de/jobs/faq", "www.acme.de"),
        ("time_12", "00:05", "12:05 am"),
        ("time_12", "12:05", "12:05 pm"),
        ("words_spoken", "pear, apple, fig", "pear, apple and fig"),
        ("numbers_range", "7, 30, 12", "7 to 30"),
        ("noun_article", "hour", "an hour"),
        ("verb_he_2", "watch", "she watches"),
        ("verb_he_2", "study", "she studies"),
        ("message_topic", "hi, where is the parcel with my lamp?", "delivery"),
        ("table_1", "", ""),
        ("tidy_sentence", "Apple   PEAR  fig", "Apple pear fig."),
    ],
)
def test_functions_do_what_they_say(name: str, prompt: str, answer: str) -> None:
    steps = World()._steps_of(name)
    if name.startswith("table"):
        key, answer = next(iter(steps[0][1]["table"].items()))
        prompt = f"{key} please"
        assert f"{key} is {answer}" in World().find(name).descriptions[0]
    for kind, parameters in steps:
        prompt = kind.apply(prompt, parameters) or ""
    assert prompt == answer


def test_what_is_held_out_is_in_no_training_function(world: World, trained: list[Task]) -> None:
    parts = {part for task in trained for part in task.name.split("+")}
    used = {re.sub(r"_\d+$", "", part) for part in parts}
    for task in world.unseen_kinds():
        assert re.sub(r"_\d+$", "", task.name) not in used
    for task in world.unseen_parameters():
        assert task.name not in parts
    names = {task.name for task in trained}
    assert len(world.unseen_compositions()) == 60
    for task in world.unseen_compositions():
        assert task.name not in names
        assert set(task.name.split("+")) <= parts  # of known functions only
    for task in trained[:300]:
        assert not set(task.unseen_descriptions) & set(task.descriptions)


def test_a_seed_decides_everything() -> None:
    first, again, other = World(seed=3), World(seed=3), World(seed=4)
    assert hash_tasks(first.train(320)) == hash_tasks(again.train(320))
    assert hash_tasks(first.unseen_compositions()) == hash_tasks(again.unseen_compositions())
    assert {t.name for t in first.unseen_kinds()} != {t.name for t in other.unseen_kinds()}


def test_no_answer_stands_for_most_rows(world: World) -> None:
    for task in world.train(260):
        answers = [row.completion for row in (*task.train, *task.test)]
        assert max(answers.count(a) for a in set(answers)) <= 0.62 * len(answers) + 2, task.name


def test_json_is_json(world: World) -> None:
    for row in world.find("pair_json").train:
        assert json.loads(row.completion)


def test_unknown_names_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="no function 'fields_2'"):
        world.find("fields_2")
    with pytest.raises(ConfigError, match="training functions, 100000 were asked for"):
        world.train(100000)


def test_splits_of_a_recipe() -> None:
    source = FunctionsSource(kind="functions", train_tasks=50, validation_tasks=5, train_rows=6, test_rows=2)
    splits = load_splits(source)
    assert {name: len(tasks) for name, tasks in splits.items() if name in ("train", "validation")} == {
        "train": 50,
        "validation": 5,
    }
    assert all(splits[name] for name in ("unseen_kinds", "unseen_parameters", "unseen_compositions"))
    assert len(splits["train"][0].train) == 6
    some = load_splits(source.model_copy(update={"reads": ("date", "name"), "train_tasks": 243}))
    assert {task.category for task in some["train"]} == {"date", "name"}
    assert "date_dmy_3" in {task.name for task in some["unseen_parameters"]}
    assert {task.name.split("_")[0] for task in some["unseen_compositions"]} <= {"date", "name"}
    with pytest.raises(UnknownNameError, match=r"no shape of input 'dates' \(did you mean date\?\)"):
        load_splits(source.model_copy(update={"reads": ("dates",)}))


def test_manners_add_descriptions_and_change_nothing_else() -> None:
    plain, more = World().train(20), World(mannered=8).train(20)
    for one, other in zip(plain, more, strict=True):
        assert other.descriptions[: len(one.descriptions)] == one.descriptions
        assert 6 <= len(other.descriptions) - len(one.descriptions) <= 8
        assert replace(other, descriptions=one.descriptions) == one


def test_more_rows_change_nothing_else() -> None:
    plain, more = World().train(20), World(more_rows=60).train(20)
    for one, other in zip(plain, more, strict=True):
        assert other.train[: len(one.train)] == one.train
        assert replace(other, train=one.train) == one
        prompts = [row.prompt for row in (*other.test, *other.train)]
        assert len(set(prompts)) == len(prompts)
    assert max(len(task.train) for task in more) == 100


def test_answers_of_a_function_by_its_name(world: World) -> None:
    assert world.answer("name_last+upper", "Rosa Novak") == "NOVAK"
    assert world.answer("words_longest", "fig, kiwi, plum") is None
    with pytest.raises(ConfigError, match="no function 'name_lost'"):
        world.answer("name_lost", "Rosa Novak")
