"""Networks as folders: sizes are compared before anything is allocated, and only floating point is read."""

import json
import resource
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_models import make_bank
from weft.embed import OneHot
from weft.errors import ConfigError, WeightsError
from weft.host import Host
from weft.hyper import HyperNetwork, T2LConfig, build_t2l
from weft.route import Tree, TreeGate, full, load_tree, save_tree
from weft.saved import read_tensors


@pytest.fixture
def hyper(pico_host: Host, tmp_path: Path) -> Path:
    network = build_t2l(T2LConfig(latent=16, head_in=16, rank=2), pico_host.sites, dim=3)
    made = HyperNetwork(OneHot(["a", "b", "c"]), network, base=pico_host.fingerprint)
    made.save_pretrained(tmp_path / "hyper")
    return tmp_path / "hyper"


@pytest.fixture
def tree(pico_host: Host, tmp_path: Path) -> Path:
    leaves = full(1)
    bank = make_bank(pico_host.sites, len(leaves), 2)
    bank = type(bank)(tuple(f"leaf-{path}" for path in leaves), bank.a, bank.b, pico_host.fingerprint)
    layers = tuple(sorted({site.layer for site in bank.sites}))
    save_tree(Tree(bank, TreeGate(leaves, 32, scope="token", layers=layers)), tmp_path / "tree")
    return tmp_path / "tree"


def change(folder: Path, *keys: str, value: object) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    place = config
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("network", "head_in"), 65536, "its config asks for"),
        (("network", "head_in"), 10**6, "head_in"),
        (("base",), "x" * 100_000, "base: String should have at most 200"),
        (("network", "rank"), 8192, "its config asks for"),
        (("network", "rank"), 10**6, "rank"),
        (("network", "latent"), 2**14, "its config asks for"),
        (("network", "latent"), 2**40, "latent"),
        (("sites",), [["model.layers.0.q_proj", 0, "q_proj", 2**21, 2**21]], "config asks for|holds|lacks"),
        (("sites",), [["model.layers.0.q_proj", 0, "q_proj", 0, 4]], "sites.0.3"),
        (("sites",), [["model.layers.0.q_proj", -9, "q_proj", 4, 4]], "sites.0.1"),
        (("sites",), [["model.layers.0.q_proj", 0, "q_proj", 10**30, 4]], "sites.0.3"),
        (("encoder",), {"kind": "learned", "names": ["a"] * 1000, "dim": 10**6}, "are more than"),
    ],
)
def test_a_config_that_asks_for_too_much(
    hyper: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    change(hyper, *keys, value=value)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises((ConfigError, WeightsError), match=message):
        HyperNetwork.from_pretrained(hyper)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "in KiB"
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("what", ["hyper", "tree"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn, torch.bool])
def test_only_floating_point_is_read(what: str, dtype: torch.dtype, hyper: Path, tree: Path) -> None:
    folder = hyper if what == "hyper" else tree
    load = HyperNetwork.from_pretrained if what == "hyper" else load_tree
    load(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = max(tensors)
    save_file(tensors | {name: tensors[name].to(dtype)}, file)
    with pytest.raises(WeightsError, match=f"{name} is .*, expected one of F64, F32, F16, BF16"):
        load(folder)


def write_holes(file: Path, size: int) -> None:
    """A file of one tensor of so many bytes, none of which takes a place on the disk."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with file.open("wb") as handle:
        handle.write(len(header).to_bytes(8, "little") + header)
        handle.truncate(8 + len(header) + size)


def test_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    """40 GB that take no place on the disk."""
    file, size = tmp_path / "big.safetensors", 40 << 30
    write_holes(file, size)
    with pytest.raises(WeightsError, match="has 42949672960 bytes"):
        read_tensors(file)
    with pytest.raises(WeightsError, match=r"x is \[10737418240\]|has 42949672960 bytes"):
        read_tensors(file, {"x": (3,)})


def test_a_file_of_holes_is_not_read(tmp_path: Path) -> None:
    """1 GB that takes no place on the disk, in tensors of a size that may be read."""
    file, size = tmp_path / "big.safetensors", 1 << 30
    write_holes(file, size)
    with pytest.raises(WeightsError, match="mostly holes"):
        read_tensors(file)
