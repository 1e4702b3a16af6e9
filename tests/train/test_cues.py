"""What a hypernetwork is shown of a task."""

import pytest
from pydantic import ValidationError

from weft.tasks import Row, Task
from weft.train.cues import CueConfig, make_cue
from weft.types import Description, Examples

TASK = Task("upper", ("write it large",), train=tuple(Row(w, w.upper()) for w in "abcdefgh"))


def cue(key: str = "0", **options: object) -> Description | Examples:
    made = make_cue(CueConfig.model_validate(options), TASK, "write it large", TASK.train[:2], key=key)
    assert isinstance(made, Description | Examples)
    return made


def test_the_description_alone_unless_asked() -> None:
    assert cue() == Description("write it large")


def test_examples_are_other_rows_than_those_to_answer() -> None:
    seen = set()
    for key in map(str, range(30)):
        made = cue(key, examples=3)
        assert isinstance(made, Examples)
        assert made.description == "write it large"
        assert len(set(made.pairs)) == 3
        seen |= set(made.pairs)
        assert made == cue(key, examples=3)
    assert seen == {(w, w.upper()) for w in "cdefgh"}
    unlabelled = cue(examples=2, labelled=False)
    assert isinstance(unlabelled, Examples)
    assert {answer for _, answer in unlabelled.pairs} == {""}
    assert cue(own_prompt=True) == Examples((("a", ""), ("b", "")), "write it large")


def test_parts_are_left_out_as_often_as_asked_and_never_both() -> None:
    kinds = {"both": 0, "description": 0, "examples": 0}
    for key in map(str, range(400)):
        made = cue(key, examples=2, description_dropout=0.5, examples_dropout=0.25)
        if isinstance(made, Description):
            kinds["description"] += 1
        else:
            kinds["both" if made.description else "examples"] += 1
    # Where chance drops both, both stay.
    assert 0.08 < kinds["description"] / 400 < 0.18
    assert 0.30 < kinds["examples"] / 400 < 0.45
    assert kinds["both"] > 120


def test_two_kinds_of_example_are_refused() -> None:
    with pytest.raises(ValidationError, match="set examples to 0"):
        CueConfig(examples=2, own_prompt=True)
