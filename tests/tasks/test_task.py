import pytest

from weft.errors import ConfigError
from weft.tasks import Row, Task, hash_tasks


def make(**changes) -> Task:
    values = {"name": "sort", "descriptions": ("sort the letters",), "train": (Row("cab", "abc"),)}
    return Task(**{**values, **changes})


def test_three_kinds_of_row_are_one_value():
    question = Row("cab", "abc")
    chat = Row("cab", "abc", history=(("user", "ba"), ("assistant", "ab")))
    text = Row("", "once upon a time")
    assert question.messages == (("user", "cab"), ("assistant", "abc"))
    assert chat.messages[:2] == (("user", "ba"), ("assistant", "ab"))
    assert chat.messages[2:] == question.messages
    assert chat.question == chat.messages[:-1]
    assert [row.is_text for row in (question, chat, text)] == [False, False, True]


def test_answers_are_the_references_or_the_completion():
    assert Row("a", "b").answers == ("b",)
    assert Row("a", "b", ("c", "d")).answers == ("c", "d")


def test_an_answer_may_be_empty_but_not_the_whole_row():
    assert Row("xyz", "").completion == ""
    with pytest.raises(ConfigError, match="both are empty"):
        Row("", "")
    with pytest.raises(ConfigError, match="'robot'"):
        Row("a", "b", history=(("robot", "x"),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../up"}, "'../up' cannot name a task"),
        ({"name": ""}, "cannot name a task"),
        ({"descriptions": ()}, "sort has no description"),
        ({"descriptions": ("a", "  ")}, "empty description"),
        ({"descriptions": ("a", "a")}, "'a' twice"),
        ({"unseen_descriptions": ("sort the letters",)}, "'sort the letters' twice"),
        ({"train": ()}, "no rows"),
    ],
)
def test_bad_tasks_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make(**changes)


def test_a_composition_and_a_held_out_task_are_tasks():
    assert make(name="sort+reverse").name == "sort+reverse"
    assert make(train=(), test=(Row("a", "b"),)).train == ()


def test_data_hash_follows_the_content():
    same = make().data_hash
    assert same == make().data_hash
    others = [
        make(name="sort2"),
        make(descriptions=("order the letters",)),
        make(unseen_descriptions=("order",)),
        make(category="c"),
        make(labels=("x",)),
        make(train=(Row("cab", "abd"),)),
        make(train=(Row("cab", "abc", ("abc",)),)),
        make(train=(), test=(Row("cab", "abc"),)),
    ]
    hashes = {same, *(task.data_hash for task in others)}
    assert len(hashes) == 9
    assert hash_tasks([make(), others[0]]) != hash_tasks([others[0], make()])
