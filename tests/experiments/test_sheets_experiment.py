"""The measurements of fact sheets, on the embedded base with a network of a few steps."""

from weft.experiments.dynamic.recipe import DynamicRecipe
from weft.experiments.dynamic.sheets import ASIDE, SINGLE, WEIGHTS, measure_sheets
from weft.tasks.facts.sheets import KINDS
from weft.train.context import ContextRecipe, train_context

RECIPE = {
    "base": "weft/letters",
    "attn_implementation": "eager",
    "data": {"kind": "sheets", "facts": [1], "documents": 8, "validation_documents": 2},
    "raw": True,
    "network": {"reader": {"kind": "accumulator", "rank": 4, "latent": 16}, "chunk": 32},
    "target_modules": r"model\.layers\.5\.mlp\.down_proj",
    "documents_per_batch": 4,
    "rows_per_document": 1,
    "distillation": 0.0,
    "completion": 1.0,
}


def test_every_line_has_a_value_per_sheet_and_the_curve_one_per_evaluation(tmp_path):
    run = {"output_dir": str(tmp_path), "max_steps": 4, "logging_steps": 1, "eval_steps": 2}
    train_context(ContextRecipe.model_validate({**RECIPE, "run": run}))
    values = {"run": str(tmp_path), "base": "weft/letters", "documents": 6, "facts": [1, 2]}
    lines = measure_sheets(DynamicRecipe.model_validate({"sheets": values}).sheets)
    found = {(line.what, line.who): line.values for line in lines}
    for facts in (1, 2):
        for who in (
            WEIGHTS,
            "neither",
            "the weights of another sheet",
            "the sheet in the prompt, no adapter",
        ):
            assert len(found[f"{facts} of {facts} facts", who]) == 6
    assert [who for what, who in found if what == f"{SINGLE}, by steps of training"] == ["2 steps", "4 steps"]
    assert len(found["2 of 2 facts of one kind", WEIGHTS]) == 6
    assert len(found[ASIDE, "the sheet's value is said"]) == 6
    by_kind = {
        what.split(": ")[1]: values for (what, _), values in found.items() if what.startswith("by kind")
    }
    assert set(by_kind) <= set(KINDS)
    assert sum(map(len, by_kind.values())) == 6
