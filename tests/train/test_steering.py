"""The loss of a hypernetwork's training, against a forward per row."""

from pathlib import Path

import torch
import torch.nn.functional as F
from tiny_training import tiny_host, write_tasks
from torch import Tensor

from weft.hyper import T2LConfig, build_t2l
from weft.tasks import Draw, load_tasks, render
from weft.train.steering import loss, pack_draws
from weft.types import Bank, Mixture


def test_the_loss_is_nats_and_the_distance_to_the_prompted_base(tmp_path: Path) -> None:
    tasks = load_tasks(write_tasks(tmp_path))[:2]
    host = tiny_host(tmp_path)
    draws = [Draw(i, task, task.descriptions[0], task.train[: 2 + i]) for i, task in enumerate(tasks)]
    torch.manual_seed(0)
    network = build_t2l(T2LConfig(rank=2, latent=16, head_in=16, dropout=0.0), host.sites, dim=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    factors = network(torch.randn(2, 4))
    bank = Bank(("a", "b"), {s: a for s, (a, _) in factors.items()}, {s: b for s, (_, b) in factors.items()})
    nats, distance = [], []
    for i, draw in enumerate(draws):
        rows = [one_row(host, bank, i, draw, row) for row in draw.rows]
        nats.append(torch.cat([n for n, _ in rows]).mean())
        distance.append(torch.cat([d for _, d in rows]).mean())
    packed = pack_draws(host, draws, described=False)
    torch.testing.assert_close(loss(host, bank, packed, draws), torch.stack(nats).mean())
    both = torch.stack(nats).mean() + 0.7 * torch.stack(distance).mean()
    assert torch.stack(distance).mean() > 0.01
    found = loss(host, bank, packed, draws, kl_weight=0.7)
    torch.testing.assert_close(found, both)
    found.backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if "head" in name)
    told = pack_draws(host, draws, described=True)
    assert told.ids_BT.shape[1] > packed.ids_BT.shape[1]


def one_row(host, bank, index, draw, row) -> tuple[Tensor, Tensor]:
    """Nats and KL of each answer token of one row, each from a forward of its own."""
    found = {}
    for told in (None, draw.description):
        encoded = render(host.tokenizer, row, description=told)
        mixture = Mixture.rows(bank, [index]) if told is None else None
        logits = host(torch.tensor([encoded.ids]), mixture).logits[0, len(encoded.prompt_ids) - 1 : -1]
        found[told] = logits.log_softmax(-1)
    ours, theirs = found[None], found[draw.description].detach()
    target = torch.tensor(encoded.completion_ids)
    return F.nll_loss(ours, target, reduction="none"), (theirs.exp() * (theirs - ours)).sum(-1)
