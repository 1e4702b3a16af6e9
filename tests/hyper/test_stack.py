"""Levels of hypernetworks: what is not called is not run, and what is called acts on the level below."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from weft.embed import OneHot
from weft.errors import ConfigError
from weft.hyper import HyperNetwork, Stack, StackConfig, T2LConfig
from weft.hyper.stack import build_network
from weft.types import Description

LEVEL = {"head": {"kind": "Z", "core": "full"}, "latent": 16, "head_in": 12, "rank": 3, "dropout": 0.0}
FIRST = {"latent": 16, "head_in": 16, "rank": 2, "dropout": 0.0}
NAMES = ("sort", "reverse", "count", "double")


def make_stack(host, *, levels=2, trained=True):
    torch.manual_seed(0)
    config = StackConfig.model_validate({"kind": "stack", "first": FIRST, "higher": [LEVEL] * levels})
    stack = build_network(config, host.sites, dim=len(NAMES))
    assert isinstance(stack, Stack)
    if trained:
        with torch.no_grad():
            for parameter in stack.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return stack


def flat(made):
    return torch.cat([part.flatten(1) for site in sorted(made) for part in made[site]], 1)


def flops(stack, e_BD, levels):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stack(e_BD, levels)
    return counter.get_total_flops()


def test_levels_that_have_learned_nothing_change_nothing(pico_host):
    stack = make_stack(pico_host, trained=False)
    e_BD = torch.eye(4)
    assert torch.equal(flat(stack(e_BD, 0)), flat(stack(e_BD, 1)))
    assert torch.equal(flat(stack(e_BD, 0)), flat(stack(e_BD, 2)))


def test_every_level_acts(pico_host):
    stack = make_stack(pico_host)
    e_BD = torch.eye(4)
    made = [flat(stack(e_BD, depth)) for depth in range(3)]
    assert (made[0] - made[1]).abs().max() > 1e-3
    assert (made[1] - made[2]).abs().max() > 1e-3


def test_a_level_that_is_not_called_costs_nothing(pico_host):
    stack = make_stack(pico_host)
    e_BD = torch.eye(4)
    with FlopCounterMode(display=False) as alone, torch.no_grad():
        stack.levels[0](e_BD)
    assert flops(stack, e_BD, 0) == alone.get_total_flops()
    assert flops(stack, e_BD, 0) < flops(stack, e_BD, 1) < flops(stack, e_BD, 2)
    called = []
    stack.levels[2].trunk.register_forward_pre_hook(lambda *_: called.append(2))
    stack.levels[2].trunk.mixer.register_forward_pre_hook(lambda *_: called.append(2))
    stack(e_BD, 1)
    assert not called
    stack(e_BD, 2)
    assert called


def test_each_cue_stops_by_itself_and_pays_for_itself(pico_host):
    stack = make_stack(pico_host)
    e_BD = torch.eye(4)
    with torch.no_grad():
        for halt in stack.halts:
            halt.weight.zero_()
            halt.bias.zero_()
        stack.halts[0].weight[0, :4] = torch.tensor([9.0, -9.0, -9.0, -9.0])
        stack.halts[1].weight[0, :4] = torch.tensor([0.0, 9.0, -9.0, -9.0])
    z_BSQF, depth_B = stack.climb(e_BD)
    assert depth_B.tolist() == [0, 1, 2, 2]
    for row, depth in enumerate(depth_B.tolist()):
        alone, used = stack.climb(e_BD[row : row + 1], depth)
        assert used.tolist() == [depth]
        torch.testing.assert_close(z_BSQF[row], alone[0], atol=1e-4, rtol=1e-3)
    parts = [flops(stack, e_BD[row : row + 1], depth) for row, depth in enumerate(depth_B.tolist())]
    # beside the levels, the halting unit: 4 cues at depth 0 and 3 at depth 1, a product of 4 + 16 each
    assert flops(stack, e_BD, None) == sum(parts) + 2 * 20 * (4 + 3)


def test_each_cue_can_be_given_its_own_number_of_levels(pico_host):
    stack = make_stack(pico_host)
    e_BD = torch.eye(4)
    levels_B = torch.tensor([2, 0, 1, 2])
    z_BSQF, depth_B = stack.climb(e_BD, levels_B)
    assert torch.equal(depth_B, levels_B)
    for row, depth in enumerate(levels_B.tolist()):
        alone, _ = stack.climb(e_BD[row : row + 1], depth)
        torch.testing.assert_close(z_BSQF[row], alone[0], atol=1e-4, rtol=1e-3)
    with pytest.raises(ConfigError, match="levels is 0 to 2"):
        stack.climb(e_BD, torch.tensor([0, 0, 0, 3]))


def test_a_cue_gets_among_others_what_it_gets_alone(pico_host):
    stack = make_stack(pico_host)
    e_BD = torch.eye(4)
    for depth in (0, 1, 2, None):
        together = flat(stack(e_BD, depth))
        for row in range(4):
            alone = flat(stack(e_BD[row : row + 1], depth))
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-3)


def test_gradients_reach_every_level(pico_host):
    stack = make_stack(pico_host)
    flat(stack(torch.eye(4), 2)).square().sum().backward()
    for level in stack.levels:
        assert all(p.grad is not None for n, p in level.named_parameters() if n.startswith("trunk.mlp"))


def test_a_stack_is_a_hypernetwork_that_is_kept(pico_host, tmp_path):
    stack = make_stack(pico_host)
    hyper = HyperNetwork(OneHot(NAMES), stack, base=pico_host.fingerprint)
    hyper.save_pretrained(tmp_path / "stack")
    again = HyperNetwork.from_pretrained(tmp_path / "stack", host=pico_host)
    for levels in (None, 0, 2):
        made, wanted = again.adapt("count", levels=levels), hyper.adapt("count", levels=levels)
        assert all(torch.equal(made.factors[s].b_OR, wanted.factors[s].b_OR) for s in wanted.sites)


def test_levels_that_there_are_not_are_refused(pico_host):
    hyper = HyperNetwork(OneHot(NAMES), make_stack(pico_host))
    with pytest.raises(ConfigError, match="levels is 0 to 2 in this stack, got 3"):
        hyper.generate([Description("sort")], levels=3)
    torch.manual_seed(0)
    one = build_network(T2LConfig.model_validate(FIRST), pico_host.sites, dim=4)
    with pytest.raises(ConfigError, match="is one network, no stack"):
        HyperNetwork(OneHot(NAMES), one).adapt("sort", levels=1)
