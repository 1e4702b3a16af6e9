"""The comparison of shifts: told ways answer what their adapters do, control tokens are counted by place."""

from pathlib import Path

import pytest

import weft
from weft.config import load_config
from weft.engine import Engine
from weft.engine.trace import Traced
from weft.experiments.dynamic.gates import phatgoose
from weft.experiments.dynamic.page import dynamic_page
from weft.experiments.dynamic.recipe import DynamicRecipe
from weft.experiments.dynamic.shift import _heard, measure_shift
from weft.tasks.letters.streams import LetterStreams
from weft.types import Bank, Mixture

RECIPE = Path(__file__).parents[2] / "recipes/letters/dynamic.yaml"


@pytest.fixture
def recipe(tmp_path):
    values = [
        f"shift.recipe.run.output_dir={tmp_path}",
        "shift.recipe.run.max_steps=1",
        "shift.recipe.streams_per_batch=2",
        "shift.recipe.adapters=[reverse, double]",
        "shift.recipe.data.tasks=[reverse, double, first_two]",
        "shift.streams=4",
        "shift.seeds=[0]",
        "shift.rival_steps=1",
        "shift.lengths=[2]",
    ]
    return load_config(DynamicRecipe, RECIPE, values)


def test_every_way_is_measured_and_the_told_ones_answer_what_their_adapters_do(recipe):
    lines = measure_shift(recipe.shift)
    right = {line.who: line.mean for line in lines if line.what == "answers right, streams of 2"}
    assert set(right) == set(recipe.shift.ways)
    held = {line.who: line.mean for line in lines if line.what.startswith("of tasks in the library")}
    lacking = {line.who: line.mean for line in lines if line.what.startswith("of tasks that it lacks")}
    assert held["oracle"] == held["told"] > 0.6
    assert lacking["oracle"] > lacking["told"]
    assert right["oracle"] > right["static"]
    assert right["shift"] < 0.5  # one step teaches nothing
    for gated in ("phatgoose", "arrow"):
        assert right[gated] < 0.5
    size = {line.who: line.mean for line in lines if line.what == "learned parameters"}
    assert size["shift"] <= size["multi-task"] < 1.1 * size["shift"]
    assert size["multi-task"] == size["arrow"] == size["phatgoose"]
    page = dynamic_page({"shift": lines}, command="weft experiment dynamic x.yaml")
    assert f"| answers right, streams of 2 | oracle | {right['oracle']:.3f} |" in page


def test_phatgoose_learns_to_weigh_each_adapter_where_its_task_needs_it():
    host = weft.Host.from_pretrained("weft/letters", dtype="float32")
    bank = Bank.stack([weft.load(f"weft/letters-adapters/{name}") for name in ("reverse", "upper")])
    term = phatgoose(host, bank.to(host.dtype), steps=3)
    gates = term.gate.gates
    assert gates.keys() == {site.path for site in bank.sites}
    assert all(v_KI.abs().max() > 0 for v_KI in gates.values())
    assert term.gate.top_k == 2
    text = Engine(host).generate("cab >", mixture=Mixture((term,)), raw=True, max_new_tokens=4)
    assert text


def test_a_finished_training_is_not_repeated(recipe, tmp_path):
    ways = recipe.shift.model_copy(update={"ways": ("shift", "tokens"), "rival_seeds": (1,)})
    first = measure_shift(ways)
    assert {line.who for line in first} == {"shift"}  # the rivals have another seed
    before = (tmp_path / "shift-0" / "checkpoint-1" / "model.safetensors").stat().st_mtime_ns
    assert measure_shift(ways) == first
    assert (tmp_path / "shift-0" / "checkpoint-1" / "model.safetensors").stat().st_mtime_ns == before


def test_control_tokens_count_at_their_place_alone():
    engine = Engine(weft.Host.from_pretrained("weft/letters"))
    streams = LetterStreams(("reverse", "double", "sort"), again=0.7).train(0, 50, [3])
    stream = next(s for s in streams if s.shifts == (True, False, True))

    def traced(pieces):
        ids = [
            i
            for piece in pieces
            for i in ([piece] if isinstance(piece, int) else engine.tokenizer.encode(piece))
        ]
        return [Traced(i, (), i == 300, ()) for i in [*ids, engine.tokenizer.eos_token_id]]

    one, two, three = stream.parts
    good = [one.lead, 300, one.text, two.lead, two.text, three.lead, 300, three.text]
    heard = _heard(engine, traced(good), stream, [300])
    assert heard.answers == [part.answer for part in stream.parts]
    assert heard.shifts == [True, False, True]
    assert heard.spurious == 0
    bad = [
        300,
        one.lead,
        300,
        one.text,
        two.lead,
        300,
        two.text,
        three.lead,
        three.text[:2],
        300,
        three.text[2:],
    ]
    heard = _heard(engine, traced(bad), stream, [300])
    assert heard.answers == [part.answer for part in stream.parts]
    assert heard.shifts == [True, True, False]
    assert heard.spurious == 3


def test_what_no_seed_changes_is_measured_once_and_refused_shifts_leave_the_speaker(recipe):
    ways = ("oracle", "shift", "refused")
    lines = measure_shift(recipe.shift.model_copy(update={"ways": ways, "seeds": (0, 1)}))
    right = {line.who: line for line in lines if line.what == "answers right, streams of 2"}
    assert {who: len(line.values) for who, line in right.items()} == {"oracle": 1, "shift": 2, "refused": 2}
    (share,) = (line for line in lines if line.what.startswith("right, as a share of the oracle's"))
    assert share.values == tuple(value / right["oracle"].mean for value in right["shift"].values)
