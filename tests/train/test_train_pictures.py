"""Pictures in, adapters for a text base out: a short training, and what is measured beside it."""

from pathlib import Path

import pytest
import torch

from weft.embed import Histograms
from weft.errors import CueError
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.tasks.pictures import draw_shape
from weft.train import HyperRecipe, train_hyper


@pytest.fixture(scope="module")
def host() -> Host:
    return Host.from_pretrained("weft/letters", target_modules=r"model\.layers\.5\..*")


def recipe(output: Path, **changes: object) -> HyperRecipe:
    values: dict[str, object] = {
        "run": {"output_dir": str(output), "max_steps": 30, "logging_steps": 1, "save_steps": 30},
        "base": "weft/letters",
        "data": {"kind": "pictures", "shapes": 2},
        "encoder": {"kind": "histograms"},
        "encoder_cache": str(output / "cache"),
        "network": {"head": {"kind": "L"}, "rank": 2, "latent": 32, "head_in": 32, "dropout": 0.0},
        "target_modules": r"model\.layers\.5\..*",
        "optimizer": {"learning_rate": 0.003},
        "category_shares": {"shapes": 8},
        "rows_per_task": 2,
        "eval_tasks": 8,
    }
    values["run"] = values["run"] | {"eval_steps": 30}  # pyright: ignore[reportOperatorIssue]
    return HyperRecipe.model_validate(values | changes)


def test_a_short_training_and_adapters_that_differ_with_the_picture(host: Host, tmp_path: Path) -> None:
    folder = train_hyper(recipe(tmp_path / "run"), host=host)
    lines = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "grad" in line]
    losses = [float(line.split('"loss": ')[1].split(",")[0].rstrip("}")) for line in lines]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert not (tmp_path / "run" / "cache").exists()  # nothing is kept of what costs nothing
    hyper = HyperNetwork.from_pretrained(folder, host=host)
    assert isinstance(hyper.encoder, Histograms)
    assert "reach" not in hyper.provenance
    one, same, other = (
        hyper.adapt(draw_shape(shape, colour, "9"))
        for shape, colour in (("star", "red"), ("star", "red"), ("ring", "blue"))
    )
    site = one.sites[0]
    assert torch.equal(one.factors[site].b_OR, same.factors[site].b_OR)
    assert (one.factors[site].b_OR - other.factors[site].b_OR).abs().max() > 1e-4
    assert one.name == same.name != other.name
    assert one.provenance["description"].startswith("picture ")
    with pytest.raises(CueError, match="reads pictures, got Description"):
        hyper.adapt("a red star")


def test_an_encoder_of_texts_reads_no_picture(host: Host, tmp_path: Path) -> None:
    with pytest.raises(CueError, match="reads descriptions, got Image"):
        train_hyper(recipe(tmp_path / "run", encoder={"kind": "inputs"}), host=host)
