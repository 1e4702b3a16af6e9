"""A hypernetwork that writes down adapters which were there before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import EFFECTS, curve, source, tiny_host, write_tasks

from weft.adapters import save
from weft.errors import ConfigError, MissingFileError
from weft.host import Host
from weft.hyper import HyperNetwork
from weft.train.reconstruct import ReconstructRecipe, _canonical, relative_error, train_reconstruct
from weft.types import Adapter, Bank, Factors


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def adapter(host: Host, seed: int, rank: int = 2) -> Adapter:
    rng = torch.Generator().manual_seed(seed)
    factors = {
        site: Factors(
            torch.randn(rank, site.in_features, generator=rng),
            torch.randn(site.out_features, rank, generator=rng) / 10,
            0.5,
        )
        for site in host.sites
    }
    return Adapter(factors, base=host.fingerprint, name=f"a{seed}")


def library(host: Host, folder: Path, rank: int = 2) -> Path:
    for seed, name in enumerate(EFFECTS):
        save(replace(adapter(host, seed, rank), name=name), folder / name)
    return folder


def recipe(tasks: Path, output: Path, adapters: Path, **changes: Any) -> ReconstructRecipe:
    values: dict[str, Any] = {
        "run": {"output_dir": str(output), "max_steps": 250, "logging_steps": 50, "save_steps": 250},
        "base": "tiny",
        "data": source(tasks),
        "library": str(adapters),
        "encoder": {"kind": "onehot", "names": list(EFFECTS)},
        "encoder_cache": str(output.parent / "cache"),
        "network": {"head": {"kind": "L"}, "rank": 2, "latent": 32, "head_in": 64, "dropout": 0.0},
        "optimizer": {"learning_rate": 0.01},
    }
    return ReconstructRecipe.model_validate(values | changes)


def test_canonical_factors_make_the_same_delta_whatever_the_gauge(tasks: Path) -> None:
    host = tiny_host(tasks)
    one = adapter(host, 0)
    turn = torch.tensor([[2.0, 1.0], [0.0, -3.0]])
    turned = replace(
        one,
        factors={
            s: Factors(turn @ f.a_RI, f.b_OR @ turn.inverse(), f.scaling) for s, f in one.factors.items()
        },
    )
    bank = _canonical({"one": one, "turned": turned}, host.sites, 3)
    for site, factors in one.factors.items():
        dense = factors.scaling * factors.b_OR @ factors.a_RI
        torch.testing.assert_close(bank.b[site][0] @ bank.a[site][0], dense, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(bank.a[site][0], bank.a[site][1], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(bank.b[site][0], bank.b[site][1], atol=1e-4, rtol=1e-3)


def test_the_error_is_that_of_the_dense_deltas(tasks: Path) -> None:
    host = tiny_host(tasks)
    made = Bank.stack([adapter(host, seed) for seed in (0, 1)])
    wanted = Bank.stack([adapter(host, seed) for seed in (2, 3)])
    errors = []
    for k in range(2):
        lost = sum(((made.b[s] @ made.a[s] - wanted.b[s] @ wanted.a[s])[k] ** 2).sum() for s in wanted.a)
        errors.append(lost / sum(((wanted.b[s] @ wanted.a[s])[k] ** 2).sum() for s in wanted.a))
    torch.testing.assert_close(relative_error(made, wanted), torch.stack(errors).mean())
    assert float(relative_error(wanted, wanted)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("objective", ["factors", "delta"])
def test_four_adapters_are_written_down(tasks: Path, tmp_path: Path, objective: str) -> None:
    host = tiny_host(tasks)
    adapters = library(host, tmp_path / "library")
    folder = train_reconstruct(recipe(tasks, tmp_path / "run", adapters, objective=objective), host=host)
    lines = curve(tmp_path / "run")
    assert lines[0]["error"] > lines[-1]["error"]
    hyper = HyperNetwork.from_pretrained(folder, host=host)
    for seed, name in enumerate(EFFECTS):
        made, wanted = (Bank.stack([a]) for a in (hyper.adapt(name), adapter(host, seed)))
        assert float(relative_error(made, wanted)) < 0.1, name


def test_descriptions_in_place_of_names(tasks: Path, tmp_path: Path) -> None:
    host = tiny_host(tasks)
    adapters = library(host, tmp_path / "library")
    options = {"encoder": {"kind": "sentence"}, "tasks_per_batch": 3}
    folder = train_reconstruct(recipe(tasks, tmp_path / "run", adapters, **options), host=host)
    hyper = HyperNetwork.from_pretrained(folder, host=host)
    for text in ("upper it", "make it upper"):
        right, other = (Bank.stack([adapter(host, seed)]) for seed in (0, 1))
        made = Bank.stack([hyper.adapt(text)])
        assert float(relative_error(made, right)) < 0.3 < float(relative_error(made, other))


def test_what_cannot_be_written_down_is_refused(tasks: Path, tmp_path: Path) -> None:
    host = tiny_host(tasks)
    with pytest.raises(MissingFileError, match="no folder of adapters"):
        train_reconstruct(recipe(tasks, tmp_path / "run", tmp_path / "none"), host=host)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="no adapter named as one of these tasks"):
        train_reconstruct(recipe(tasks, tmp_path / "run", tmp_path / "empty"), host=host)
    large = library(host, tmp_path / "large", rank=3)
    with pytest.raises(ConfigError, match="has rank 3, the network's is 2"):
        train_reconstruct(recipe(tasks, tmp_path / "run", large), host=host)


def test_sites_that_no_adapter_changes_are_left_out(tasks: Path, tmp_path: Path) -> None:
    host = tiny_host(tasks)
    changed = {site for site in host.sites if site.path.endswith("q_proj")}
    for seed, name in enumerate(EFFECTS):
        one = adapter(host, seed)
        factors = {site: f for site, f in one.factors.items() if site in changed}
        save(replace(one, factors=factors, name=name), tmp_path / "some" / name)
    folder = train_reconstruct(recipe(tasks, tmp_path / "run", tmp_path / "some"), host=host)
    assert set(HyperNetwork.from_pretrained(folder, host=host).network.sites) == changed
    assert curve(tmp_path / "run")[-1]["error"] < 0.1


def test_an_adapter_that_changes_nothing_is_refused(tasks: Path, tmp_path: Path) -> None:
    host = tiny_host(tasks)
    folder = library(host, tmp_path / "some")
    idle = adapter(host, 0)
    factors = {site: f._replace(b_OR=torch.zeros_like(f.b_OR)) for site, f in idle.factors.items()}
    name = list(EFFECTS)[1]
    save(replace(idle, factors=factors, name=name), folder / name)
    with pytest.raises(ConfigError, match=f"{name} changes nothing"):
        train_reconstruct(recipe(tasks, tmp_path / "run", folder), host=host)
