import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from weft.train.optimizer import (
    OptimizerConfig,
    build_optimizers,
    build_schedulers,
    load_state_tensors,
    state_tensors,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 6)
        self.inside = nn.Linear(6, 6)
        self.lm_head = nn.Linear(6, 7, bias=False)


def step(net: Net, optimizers: list[torch.optim.Optimizer], seed: int) -> None:
    ids = torch.randint(7, (5,), generator=torch.Generator().manual_seed(seed))
    nn.functional.cross_entropy(net.lm_head(net.inside(net.embed(ids))), ids).backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_state_goes_through_a_file_and_training_continues_to_the_bit(optim: str) -> None:
    config = OptimizerConfig(optim=optim, weight_decay=0.1)
    net = Net()
    optimizers = build_optimizers(config, net.named_parameters())
    for seed in range(3):
        step(net, optimizers, seed)
    written = save(state_tensors(optimizers))

    other = Net()
    other.load_state_dict(net.state_dict())
    continued = build_optimizers(config, other.named_parameters())
    load_state_tensors(continued, load(written))
    for seed in range(3, 6):
        step(net, optimizers, seed)
        step(other, continued, seed)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert written != save(state_tensors(optimizers))


def test_muon_takes_the_matrices_inside_and_adamw_the_rest() -> None:
    net = Net()
    adamw, muon = build_optimizers(OptimizerConfig(optim="muon"), net.named_parameters())
    assert [id(p) for p in muon.param_groups[0]["params"]] == [id(net.inside.weight)]
    rest = {id(p) for p in adamw.param_groups[0]["params"]}
    assert rest == {id(net.embed.weight), id(net.inside.bias), id(net.lm_head.weight)}


def test_frozen_parameters_are_left_out() -> None:
    net = Net()
    net.embed.requires_grad_(False)
    [adamw] = build_optimizers(OptimizerConfig(), net.named_parameters())
    assert len(adamw.param_groups[0]["params"]) == 3


def test_a_schedule_warms_up_stays_and_goes_down_to_zero() -> None:
    config = OptimizerConfig(lr_scheduler_type="warmup_stable_decay", warmup_ratio=0.2, decay_ratio=0.4)
    optimizers = build_optimizers(config, Net().named_parameters())
    [scheduler] = build_schedulers(config, optimizers, 10)
    rates = []
    for _ in range(10):
        optimizers[0].step()
        scheduler.step()
        rates.append(scheduler.get_last_lr()[0] / config.learning_rate)
    assert rates[:6] == [0.5, 1, 1, 1, 1, 1]
    assert rates[6:] == pytest.approx([0.75, 0.5, 0.25, 0])
