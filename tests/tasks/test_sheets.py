"""Fact sheets in plain English: what they say, what is held out, and rows as plain texts."""

import pytest

from weft.errors import ConfigError
from weft.host import Host
from weft.tasks import Row, render_raw
from weft.tasks.facts.known import KNOWN
from weft.tasks.facts.sheets import KINDS, sheet_task
from weft.tasks.facts.values import VALUES
from weft.tasks.source import SheetsSource, load_splits


def test_a_sheet_and_its_questions_say_the_same():
    task = sheet_task("0/2/0", facts=2, split="train")
    assert task == sheet_task("0/2/0", facts=2, split="train")
    assert task.category == "facts-2"
    for row in task.test:
        claim = row.prompt.split("? ")[1]
        assert f"{claim}{row.completion}" in task.descriptions[0]


def test_alike_facts_differ_in_name_and_value_alone_and_others_are_asked_about_too():
    for number in range(40):
        task = sheet_task(f"{number}", facts=3, split="train", alike=True)
        assert task.category == "facts-3-alike"
        names = [row.prompt.split("? ")[1].split()[0] for row in task.train]
        assert len(set(names)) == len({row.completion for row in task.train}) == 3
        assert all(name in task.descriptions[0] for name in names)
        plain = {row.prompt.replace(name, "_") for row, name in zip(task.train, names, strict=True)}
        assert len(plain) == 1
        for row, strange in zip(task.train, task.unanswered, strict=True):
            other = strange.prompt.split("? ")[1].split()[0]
            assert strange.completion == row.completion
            assert other not in names
            assert strange.prompt.replace(other, "_") in plain


def test_the_validation_shares_neither_names_nor_values_with_the_training():
    splits = load_splits(SheetsSource(kind="sheets", facts=(1,), documents=400, validation_documents=100))
    said = {
        split: [task.descriptions[0].rstrip(".").split() for task in tasks] for split, tasks in splits.items()
    }
    names = {split: {words[0] for words in sheets} for split, sheets in said.items()}
    assert not names["train"] & names["validation"]
    # a value is held out of its own list: two kinds of the same verb would mix lists, and there are none
    assert len({kind.verb for kind in KINDS.values()}) == len(KINDS)
    for kind in KINDS.values():
        values = {
            split: {
                text.split(f"{kind.verb} ")[1] for text in map(" ".join, sheets) if f" {kind.verb} " in text
            }
            for split, sheets in said.items()
        }
        assert values["train"]
        assert not values["train"] & values["validation"]


def test_no_list_holds_a_value_twice():
    assert all(len(set(values)) == len(values) for values in VALUES.values())
    assert len({row.prompt for row in KNOWN}) == len(KNOWN) == 50


def test_a_raw_row_goes_on_and_has_no_end():
    tokenizer = Host.from_pretrained("weft/letters").tokenizer
    row = Row("Who? Ana is", " a baker.")
    encoded = render_raw(tokenizer, row, description="Ana is a baker.")
    assert tokenizer.decode(encoded.ids) == "Ana is a baker.\nWho? Ana is a baker."
    assert tokenizer.decode(encoded.completion_ids) == " a baker."


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"facts": 0}, "one fact or more"),
        ({"facts": 1, "kinds": ["hat"]}, "no kind of fact 'hat'"),
        ({"facts": 1000, "alike": True, "kinds": ["pet"]}, "1000 facts of the kind pet have"),
    ],
)
def test_impossible_sheets_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        sheet_task("0", split="train", **options)
