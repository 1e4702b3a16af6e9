"""`lora_dropout`: where PEFT puts it, in training alone, the same after a resume."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_training import curve, lora_recipe, tiny_host, write_tasks
from torch import Tensor, nn

from tiny_models import make_bank, make_llama
from weft import adapters
from weft.host import Dropout, Host
from weft.train import train_lora
from weft.types import Mixture, Site

IDS = torch.randint(3, 64, (3, 7), generator=torch.Generator().manual_seed(0))
MODULES = ["q_proj", "down_proj"]


class Masked(nn.Module):
    """Stands in PEFT's place for dropout and drops what ours drops."""

    def __init__(self, dropout: Dropout, site: Site) -> None:
        super().__init__()
        self.dropout, self.site = dropout, site

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout.drop(x, self.site)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_it_stands_where_peft_puts_it() -> None:
    host = Host(make_llama(), target_modules=MODULES)
    bank = make_bank(host.sites, 1, 4)
    leaves = [tensor.requires_grad_() for tensor in (*bank.a.values(), *bank.b.values())]
    dropout = Dropout(0.3, "step/0")
    ours = host(IDS, Mixture.of(bank), dropout=dropout).logits
    ours.square().mean().backward()

    config = LoraConfig(r=4, lora_alpha=4, lora_dropout=0.3, target_modules=MODULES, task_type="CAUSAL_LM")
    model = get_peft_model(make_llama(), config).train()
    layers = {site: model.base_model.model.get_submodule(site.path) for site in host.sites}
    for site, layer in layers.items():
        assert isinstance(layer.lora_dropout["default"], nn.Dropout)
        layer.lora_dropout["default"] = Masked(dropout, site)
        layer.lora_A["default"].weight.data.copy_(bank.a[site][0])
        layer.lora_B["default"].weight.data.copy_(bank.b[site][0])
    theirs = model(input_ids=IDS).logits
    theirs.square().mean().backward()

    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    parts = [(site, "a", "lora_A") for site in bank.a] + [(site, "b", "lora_B") for site in bank.b]
    for leaf, (site, _, name) in zip(leaves, parts, strict=True):
        assert leaf.grad is not None
        grad = getattr(layers[site], name)["default"].weight.grad
        torch.testing.assert_close(leaf.grad[0], grad, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(ours, host(IDS, Mixture.of(bank)).logits, atol=1e-3)


def test_it_drops_the_share_asked_for_and_keeps_the_mean() -> None:
    site, other = Host(make_llama()).sites[:2]
    x = torch.ones(2000, 50)
    once = Dropout(0.3, "a").drop(x, site)
    assert once.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    # Four standard deviations of 100,000 draws.
    assert float((once == 0).float().mean()) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / 100_000) ** 0.5)
    assert torch.equal(once, Dropout(0.3, "a").drop(x, site))
    for another in (
        Dropout(0.3, "b").drop(x, site),
        Dropout(0.3, "a").drop(x, other),
        Dropout(0.3, "a").part(1).drop(x, site),
    ):
        assert float(((once == 0) == (another == 0)).float().mean()) == pytest.approx(0.58, abs=0.01)


def test_a_layer_that_is_computed_again_drops_the_same() -> None:
    found = []
    for checkpointing in (False, True):
        host = Host(make_llama())
        if checkpointing:
            host.gradient_checkpointing_enable()
        bank = make_bank(host.sites, 1, 4)
        leaves = [tensor.requires_grad_() for tensor in (*bank.a.values(), *bank.b.values())]
        host(IDS, Mixture.of(bank), dropout=Dropout(0.5, "k")).logits.square().mean().backward()
        found.append([leaf.grad for leaf in leaves])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_training_with_it_resumes_to_the_same_bits(tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    host = tiny_host(tasks)

    def train(name: str, dropout: float, steps: int) -> Path:
        changes = {"tasks": ["reverse"], "lora_dropout": dropout, "tokens_per_forward": 20}
        schedule = {"lr_scheduler_type": "constant_with_warmup", "learning_rate": 0.01, "warmup_ratio": 0.0}
        recipe = lora_recipe(tasks, tmp_path / name, run={"max_steps": steps}, optimizer=schedule, **changes)
        return train_lora(recipe, host=host)["reverse"]

    whole = train("whole", 0.4, 6)
    train("parts", 0.4, 3)
    parts = train("parts", 0.4, 6)
    name = "adapter_model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()
    steps = [[line for line in curve(tmp_path / which) if "loss" in line] for which in ("whole", "parts")]
    assert steps[0] == steps[1]
    assert len(steps[0]) == 6
    assert (train("none", 0.0, 6) / name).read_bytes() != (whole / name).read_bytes()
    assert adapters.load(whole).provenance["recipe"]["lora_dropout"] == 0.4
