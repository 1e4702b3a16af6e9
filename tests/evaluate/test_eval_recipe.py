import pytest
import torch

from weft.adapters import save
from weft.config import parse_config
from weft.embed import HostStates
from weft.errors import BaseMismatchError, ConfigError, MissingFileError
from weft.evaluate import EvalRecipe, evaluate
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.tasks import hash_tasks, load_tasks, save_task


@pytest.fixture(scope="module")
def folders(planted, tmp_path_factory):
    """The planted world on disk: a base, tasks, two adapters, a hypernetwork that has learned nothing."""
    root = tmp_path_factory.mktemp("evaluate")
    planted.host.module.save_pretrained(root / "base")
    planted.host.tokenizer.save_pretrained(root / "base")
    for task in planted.tasks:
        save_task(task, root / "tasks" / task.name)
    for name in ("first", "fourth"):
        save(planted.bank[planted.bank.names.index(name)], root / "adapters" / name)
    host = Host.from_pretrained(root / "base")
    torch.manual_seed(0)
    encoder = HostStates(host, template="system")
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16), host.sites, dim=encoder.dim)
    told = {"data_hash": hash_tasks(load_tasks(root / "tasks"))}
    hyper = HyperNetwork(encoder, network, base=host.fingerprint, name="tiny", provenance=told)
    hyper.fit_normaliser(torch.randn(8, encoder.dim))
    hyper.save_pretrained(root / "hyper")
    hyper.provenance["data_hash"] = "other"
    hyper.save_pretrained(root / "hyper-of-other-tasks")
    return root


def make_recipe(root, **changes):
    values = {
        "base": str(root / "base"),
        "hypernetworks": [str(root / "hyper")],
        "multitask": str(root / "adapters" / "first"),
        "oracles": str(root / "adapters"),
        "data": {"kind": "folder", "path": str(root / "tasks")},
        "seeds": [0, 1],
        "rows_per_task": 3,
        "max_new_tokens": 5,
        "bootstrap_samples": 100,
    }
    return parse_config(EvalRecipe, values | changes, "test")


def test_a_recipe_becomes_a_report(folders, planted):
    recipe = make_recipe(folders)
    report = evaluate(recipe, command="weft eval recipe.yaml")
    found = {r.condition: r for r in report.splits[0].results}
    assert report.splits[0].name == "train"
    assert found["oracle"].tasks == 2
    assert found["oracle"].metrics["exact_match"].mean == 1.0
    assert found["multitask"].metrics["exact_match"].mean == pytest.approx(0.25)
    # B starts at zero, so an untrained hypernetwork is the base.
    for metric, value in found["base"].by_seed.items():
        assert found["generated"].by_seed[metric] == pytest.approx(value, abs=1e-5)
    assert report.base == recipe.base
    assert report.fingerprint == planted.host.fingerprint
    assert report.recipe == recipe.model_dump(mode="json")
    assert report.versions["torch"] == torch.__version__
    assert report.command == "weft eval recipe.yaml"
    assert report.notes == ()


def test_a_hypernetwork_of_other_tasks_is_told(folders):
    recipe = make_recipe(folders, hypernetworks=[str(folders / "hyper-of-other-tasks")], seeds=[0])
    assert "trained on data other than this train split" in evaluate(recipe).notes[0]


def test_what_is_not_there_is_named(folders):
    with pytest.raises(MissingFileError, match="no folder of adapters at nowhere"):
        evaluate(make_recipe(folders, oracles="nowhere"))
    with pytest.raises(MissingFileError, match="nowhere"):
        evaluate(make_recipe(folders, multitask="nowhere"))
    with pytest.raises(ConfigError, match=r"no split 'trian' \(did you mean train\?\)"):
        evaluate(make_recipe(folders, splits=["trian"]))
    with pytest.raises(ConfigError, match="rows_per_task"):
        make_recipe(folders, rows_per_task=0)
    with pytest.raises(ConfigError, match=r"unknown key hypernetwork \(did you mean hypernetworks\?\)"):
        make_recipe(folders, hypernetwork="x")


def test_an_adapter_of_another_base_is_refused(folders, planted, tmp_path):
    stranger = planted.bank[0]
    save(type(stranger)(stranger.factors, base="weft1-other"), tmp_path / "first")
    with pytest.raises(BaseMismatchError, match="weft1-other"):
        evaluate(make_recipe(folders, oracles=str(tmp_path)))
