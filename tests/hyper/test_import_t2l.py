"""Released Text-to-LoRA networks: what was recorded from their own code, and what must be refused.

Each folder in `released/` holds random weights of a tiny network (`state.safetensors`, its names in the order
of the pickle in `order.json`), the two files that lie beside it, and in `made.safetensors` a vector `e` with
the A and B that the public code made of it.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from weft.embed import OneHot
from weft.errors import ConfigError, MissingFileError, WeightsError
from weft.hyper import HyperNetwork
from weft.hyper.import_t2l import import_t2l
from weft.unpickle import checked

RELEASED = Path(__file__).parent / "released"
CASES = sorted(path.name for path in RELEASED.iterdir())
CUES = OneHot([str(i) for i in range(12)])
"""Of the length that the recorded networks read."""


def write(folder: Path, case: str, tensors: dict[str, Any] | None = None, **args: Any) -> Path:
    """A released folder: a recorded one, with other tensors or arguments."""
    folder.mkdir()
    values = yaml.safe_load((RELEASED / case / "args.yaml").read_text()) | args
    (folder / "args.yaml").write_text(yaml.safe_dump(values))
    (folder / "adapter_config.json").write_text((RELEASED / case / "adapter_config.json").read_text())
    torch.save(state(case) if tensors is None else tensors, folder / "hypermod.pt")
    return folder


def state(case: str) -> dict[str, Tensor]:
    tensors = load_file(RELEASED / case / "state.safetensors")
    return {name: tensors[name] for name in json.loads((RELEASED / case / "order.json").read_text())}


def check(hyper: HyperNetwork, case: str) -> None:
    made = load_file(RELEASED / case / "made.safetensors")
    factors = hyper.network(made.pop("e"))
    assert len(made) == 2 * len(factors)
    for site, (a_BRI, b_BOR) in factors.items():
        for name, ours in (("A", a_BRI), ("B", b_BOR)):
            theirs = made[f"base_model.model.{site.path}.lora_{name}.weight"]
            assert theirs.abs().max() > 0.01 / 100
            torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=1e-5)


def test_all_sizes_and_objectives_are_recorded() -> None:
    assert CASES == ["L", "L-delta", "M", "M-z", "S"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles of the test's own are read in this process: a child takes seconds to start."""
    monkeypatch.setattr(
        "weft.hyper.import_t2l.read_pickled", lambda file: torch.load(file, weights_only=True)
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("case", CASES)
def test_the_adapters_are_theirs(case: str, tmp_path: Path) -> None:
    hyper = import_t2l(write(tmp_path / "released", case), encoder=CUES)
    check(hyper, case)
    assert hyper.network.config.scaling == pytest.approx(4 / 2**0.5)
    assert hyper.provenance["base_model"] == "mistralai/Mistral-7B-Instruct-v0.2"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("case", ["L", "S"])
def test_module_ids_follow_the_order_of_the_heads(case: str, tmp_path: Path) -> None:
    """The set of another training process: heads the other way round, and the rows of their ids with them."""
    tensors = state(case)
    tensors["layer_type_encoder.0.weight"] = tensors["layer_type_encoder.0.weight"].flip(0)
    heads = [name for name in tensors if name.startswith("heads.")]
    turned = {name: x for name, x in tensors.items() if name not in heads}
    turned |= {name: tensors[name] for name in sorted(heads, key=lambda n: heads.index(n) < len(heads) / 2)}
    assert [name for name in turned if name.startswith("heads.")] != heads
    check(import_t2l(write(tmp_path / "released", case, turned), encoder=CUES), case)


def test_saved_and_read_again_it_makes_the_same(tmp_path: Path) -> None:
    hyper = import_t2l(write(tmp_path / "released", "S"), encoder=CUES)
    hyper.save_pretrained(tmp_path / "ours")
    check(HyperNetwork.from_pretrained(tmp_path / "ours"), "S")


class _Command:
    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.line,)


def test_a_pickle_that_would_run_code_runs_none(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    evil = {"heads.q_proj.weight": _Command(f"touch {proof}")}
    with pytest.raises(WeightsError, match="no pickle of plain tensors"):
        import_t2l(write(tmp_path / "released", "L", evil), encoder=CUES)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"a": torch.zeros(1).expand(1 << 40)}, "larger than the file"),
        ({"a": torch.zeros(2, dtype=torch.int64)}, "no floating-point tensor"),
        ({"a": {"b": torch.zeros(2)}}, "no floating-point tensor"),
        ({3: torch.zeros(2)}, "no floating-point tensor"),
        ({}, "no dict of 1 to"),
        ([torch.zeros(2)], "no dict of 1 to"),
    ],
)
def test_only_a_flat_dict_of_real_tensors_is_taken(found: Any, told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        checked(found, 1000)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"heads.odd_proj.weight": torch.zeros(2, 2)}, "has heads for odd_proj"),
        ({"heads.q_proj.weight": torch.zeros(2, 2)}, "do not fit"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors: dict[str, Tensor], told: str, tmp_path: Path) -> None:
    with pytest.raises((WeightsError, ConfigError), match=told):
        import_t2l(write(tmp_path / "released", "L", tensors), encoder=CUES)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "released", "L")
    (folder / "hypermod.pt").write_bytes((folder / "hypermod.pt").read_bytes()[:999])
    with pytest.raises(WeightsError, match="no pickle of plain tensors"):
        import_t2l(folder, encoder=CUES)
    (folder / "hypermod.pt").unlink()
    with pytest.raises(MissingFileError):
        import_t2l(folder, encoder=CUES)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"encoder_type": "vq"}, "encoder_type is 'vq'"),
        ({"learnable_pos_emb": True}, "learnable_pos_emb is True"),
        ({"use_one_hot_task_emb": True}, "use_one_hot_task_emb is True"),
        ({"exp_setup": "hyper_vera"}, "exp_setup is 'hyper_vera'"),
        ({"autoreg_gen": True}, "none of sizes L, M and S"),
        ({"training_task": "recon", "pred_z_score": True}, "cannot generate from"),
    ],
)
def test_variants_that_were_not_released_are_refused(args: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        import_t2l(write(tmp_path / "released", "L", **args), encoder=CUES)


def test_a_network_that_reads_its_own_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no emb_model"):
        import_t2l(write(tmp_path / "released", "L", emb_model=""))
