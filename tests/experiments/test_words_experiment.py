"""The measurements of facts among idle lines, on the embedded base with a network of a few steps."""

import pytest

from weft.experiments.dynamic.recipe import DynamicRecipe
from weft.experiments.dynamic.table import Line
from weft.experiments.dynamic.words import (
    HOPS,
    KNOWN,
    LEFT,
    STAYS,
    WordsComparison,
    curves,
    follow_two_hops,
    measure_words,
)
from weft.hyper import ContextNetwork

RECIPE = {
    "run": {"max_steps": 2, "logging_steps": 1, "eval_steps": 2, "save_steps": 2},
    "base": "weft/letters",
    "attn_implementation": "eager",
    "data": {"kind": "words", "words": [1], "idle": 2, "documents": 8, "validation_documents": 2},
    "network": {
        "reader": {"kind": "accumulator", "rank": 4, "latent": 16},
        "chunk": 16,
        "ends": [200],
        "gate": 8,
    },
    "target_modules": r"model\.layers\.5\.mlp\.down_proj",
    "curriculum": [{"until": 1.0, "category_shares": {"words-1-idle": 2}, "silence": 0.1, "unrelated": 2}],
    "rows_per_document": 1,
    "distillation": 0.0,
    "completion": 1.0,
    "unrelated": {"kind": "letters", "train_tasks": 4, "validation_tasks": 0},
}


@pytest.fixture
def comparison(tmp_path):
    run = {**RECIPE["run"], "output_dir": str(tmp_path)}
    values = {
        "recipe": {**RECIPE, "run": run},
        "lines": 2,
        "times": [1, 3],
        "needles": [1],
        "documents": 3,
        "windowed": 2,
        "unrelated": RECIPE["unrelated"],
        "questions": 4,
    }
    return DynamicRecipe.model_validate({"words": values}).words


def test_every_line_is_measured_and_what_cannot_fail_holds(comparison):
    lines = {(line.what, line.who): line.values for line in measure_words(comparison)}
    assert lines["the old document taken out", "logits as if it had never been there, bit for bit"] == (1.0,)
    for times, count in ((1, 2), (3, 6)):
        (known,) = lines[f"1 of 1 facts in {times}x, {count} lines", KNOWN]
        assert 0 <= known <= 1
    through = {key: values for key, values in lines.items() if "through a window" in key[0]}
    assert set(through) == {
        ("1 of 1 facts in 1x, through a window of 24 tokens", STAYS),  # two lines: nothing leaves
        ("1 of 1 facts in 3x, through a window of 24 tokens", LEFT),
    }
    (ratio,) = lines["peak memory", "3x / 1x"]
    assert 0.8 < ratio < 1.3
    (mib,) = lines["peak memory of the process that reads, MiB", "1x"]
    assert mib > 50
    assert len([who for what, who in lines if what == HOPS]) == 4
    # two steps teach no silence: every fact is heard
    assert lines["lines that are heard", "facts"] == (1.0,)


def test_a_curve_is_the_lines_of_one_way_in_order_of_length(comparison: WordsComparison):
    lines = [
        Line("1 of 1 facts in 3x, 6 lines", KNOWN, (0.5, 0.7)),
        Line("2 of 2 facts in 1x, 2 lines", KNOWN, (0.1, 0.1)),
        Line("1 of 1 facts in 1x, 2 lines", KNOWN, (0.9, 0.9)),
        Line("1 of 1 facts in 1x, 2 lines", "the document in the prompt, no adapter", (0.0, 0.0)),
    ]
    assert [line.mean for line in curves(comparison, lines)[KNOWN]] == pytest.approx([0.9, 0.6])
    assert lines[0].half == pytest.approx(12.71 * 0.1)
    assert Line("a", "b", (1.0,)).half == 0


def test_a_fact_beside_a_hop_is_told_and_is_no_answer_to_the_first_name(comparison: WordsComparison):
    network = ContextNetwork.from_pretrained("weft/letters-words")
    found = follow_two_hops(network, comparison.model_copy(update={"documents": 12}))
    assert found[HOPS, "cab, asked for L"] > 0.8
    assert found[HOPS, "cab, asked for K (one call)"] < 0.5
