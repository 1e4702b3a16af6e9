"""Training through stages: gradients equal those of one process, to the bit, also when a worker dies."""

import json

import pytest
import torch

from gate_once import Once
from swarm.faults import Schedule, parts_of, spread
from tiny_models import make_bank, make_llama
from weft.config import parse_config
from weft.errors import BaseMismatchError, ConfigError, ShapeError, UnknownNameError
from weft.host import Host
from weft.tasks import Encoded
from weft.train.answer_logits import answer_logits
from weft.train.learned_bank import LearnedBank
from weft.train.packing import pack
from weft.types import Bank, Mixture, Term


@pytest.fixture(scope="module")
def model():
    return make_llama(num_hidden_layers=4)


def packed():
    rng = torch.Generator().manual_seed(0)

    def row(prompt, completion):
        drawn = torch.randint(3, 64, (prompt + completion,), generator=rng).tolist()
        return Encoded(drawn[:prompt], drawn[prompt:])

    return pack([[row(3, 4), row(5, 2)], [row(6, 3)], [row(2, 5), row(4, 4)]], pad_id=0)


def gradients(host, at_loss=None):
    """Loss and gradients of three adapters, one a line."""
    bank = make_bank(host.sites, 3, 4)
    leaves = [t.requires_grad_() for t in (*bank.a.values(), *bank.b.values())]
    said = answer_logits(host, Mixture.rows(bank, [0, 1, 2]), packed())
    loss = torch.nn.functional.cross_entropy(said.logits_NV, said.targets_N)
    if at_loss is not None:
        loss.register_hook(at_loss)
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


@pytest.fixture(scope="module")
def want():
    """The local run that computes its layers again in the backward."""
    host = Host(make_llama(num_hidden_layers=4))
    host.gradient_checkpointing_enable()
    return gradients(host)


def same(found, want):
    assert torch.equal(found[0], want[0])
    assert all(torch.equal(a, b) for a, b in zip(found[1], want[1], strict=True))
    assert any(grad.abs().sum() > 0 for grad in found[1])


@pytest.mark.parametrize("cuts", [[0, 4], [0, 1, 3, 4]])
def test_gradients_equal_the_local_checkpointed_run(model, want, cuts):
    same(gradients(spread(parts_of(model, cuts))[0]), want)


@pytest.mark.parametrize("kind", ["kill", "kill after", "lost answer", "flip answer"])
def test_gradients_are_the_same_when_a_worker_dies(model, want, kind):
    parts = parts_of(model, [0, 1, 3, 4])
    happened = 0
    for seed in range(6):
        faults = Schedule(seed, 0.3, (kind,))
        same(gradients(spread(parts, faults)[0]), want)
        happened += faults.counts[kind]
    assert happened > 3


def test_a_kill_at_every_call_of_a_step_of_training(model, want):
    """Forward and backward of each stage: the call that dies is the n-th."""
    parts = parts_of(model, [0, 1, 3, 4])
    for dies in range(2 * len(parts)):
        kill = Kill()
        host, _ = spread(parts, kill)
        kill.after = dies
        same(gradients(host), want)
        assert kill.done


class Kill:
    """Kills the worker that gets the call number `after`, counted from when it is set."""

    def __init__(self):
        self.after, self.done = None, False

    def __call__(self):
        if self.after is None or self.done:
            return None
        self.after -= 1
        self.done = self.after < 0
        return "kill" if self.done else None


def test_whole_sequences_say_what_the_local_host_says(model):
    bank, ids = make_bank(Host(model).sites, 2, 4), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    mixture = Mixture.rows(bank, [1, None])
    host, _ = spread(parts_of(model, [0, 1, 3, 4]))
    want = Host(model).forward(ids, mixture).logits
    torch.testing.assert_close(host.forward(ids, mixture).logits, want, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_trained_over_stages_is_told(model):
    host, _ = spread(parts_of(model, [0, 2, 4]))
    bank, ids = make_bank(host.sites, 2, 4), torch.tensor([[5, 6]])
    with pytest.raises(ConfigError, match="gates that look at states"):
        host.forward(ids, Mixture((Term(bank, Once(32, 2)),)))
    with pytest.raises(ShapeError, match="attention_mask"):
        host.forward(ids, mask_BT=torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(BaseMismatchError, match="belongs to base weft2-other"):
        host.forward(ids, Mixture.of(Bank(bank.names[:1], {}, {}, "weft2-other")))
    (site, *_) = Host(make_llama(num_hidden_layers=6)).sites[-3:]
    other = LearnedBank([site], ["x"], r=2, scaling=1.0, seed=0).part(0, 1)
    with pytest.raises(UnknownNameError, match="no site of this host"):
        host.forward(ids, Mixture.rows(other, [0]))


@pytest.mark.slow
def test_forty_steps_of_train_lora_have_the_same_losses(tmp_path):
    from weft.train import LoraRecipe, train_lora

    local = Host.from_pretrained("weft/letters")
    parts = parts_of(Host.from_pretrained("weft/letters").module, [0, 2, 4, 6])
    faults = Schedule(1, 0.005, ("kill", "kill after", "lost answer"))
    host, _ = spread(parts, faults, tokenizer=local.tokenizer, name="weft/letters")
    curves = []
    for name, given in (("local", local), ("spread", host)):
        values = {
            "run": {"output_dir": str(tmp_path / name), "max_steps": 40, "logging_steps": 1},
            "base": "weft/letters",
            "data": {"kind": "letters", "train_tasks": 2, "train_rows": 16, "test_rows": 4},
            "tasks": 2,
            "rows_per_task": 2,
            "r": 2,
        }
        train_lora(parse_config(LoraRecipe, values, "mine"), host=given)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line).get("loss") for line in lines])
    assert len(curves[0]) >= 40
    assert curves[0] == curves[1]
    assert sum(faults.counts.values()) > 0
    folders = sorted(path.name for path in (tmp_path / "spread" / "adapters").iterdir())
    for folder in folders:
        one, other = (tmp_path / name / "adapters" / folder for name in ("local", "spread"))
        file = "adapter_model.safetensors"
        assert (one / file).read_bytes() == (other / file).read_bytes()
