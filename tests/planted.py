"""A planted world: four tasks, and four adapters that know the answers to their test rows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from weft.host import Host
from weft.tasks import IGNORE, Row, Task, collate, render
from weft.tasks.letters.tokenizer import build_tokenizer
from weft.types import AbstractHyperNetwork, Bank, Cue, Description, Mixture

ANSWERS = {"first": "ab", "second": "c", "third": "dbe", "fourth": "ge"}
INPUTS = ["me", "no", "pop", "qu", "rar"]


def planted_tasks() -> tuple[Task, ...]:
    return tuple(
        Task(
            name=name,
            descriptions=(f"say {name}", f"write the {name} thing"),
            unseen_descriptions=(f"answer with the {name} one",),
            test=tuple(Row(text, answer) for text in INPUTS),
        )
        for name, answer in ANSWERS.items()
    )


class Stub(AbstractHyperNetwork):
    """Knows the right adapter of every wording, and gives a zero adapter for anything else."""

    def __init__(self, bank: Bank, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.bank = bank
        self.place = {
            text: k
            for k, task in enumerate(tasks)
            for text in (*task.descriptions, *task.unseen_descriptions)
        }

    def generate(self, cues: Sequence[Cue] | torch.Tensor) -> Bank:
        texts = [cue.text for cue in cues if isinstance(cue, Description)]
        picked = self.bank.select(torch.tensor([self.place.get(text, 0) for text in texts]))
        known = torch.tensor([text in self.place for text in texts])
        b = {site: b * known[:, None, None] for site, b in picked.b.items()}
        return Bank(tuple(texts), picked.a, b, base=picked.base)


class Planted(NamedTuple):
    host: Host
    tasks: tuple[Task, ...]
    bank: Bank
    """One adapter per task, in their order."""
    hyper: Stub


def make_planted() -> Planted:
    tasks = planted_tasks()
    texts = [text for task in tasks for text in (*task.descriptions, *task.unseen_descriptions)]
    tokenizer = build_tokenizer(texts)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=48,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    config.initializer_range = 0.2
    module = LlamaForCausalLM(config).eval()
    module.lm_head.weight.data *= 5  # the frozen head must be able to be sure
    host = Host(module, tokenizer=tokenizer, name="planted")
    bank = _train(host, tasks)
    return Planted(host, tasks, bank, Stub(bank, tasks))


def _train(host: Host, tasks: Sequence[Task]) -> Bank:
    rng = torch.Generator().manual_seed(0)
    count, rank = len(tasks), 4
    a = {s: torch.randn(count, rank, s.in_features, generator=rng) * s.in_features**-0.5 for s in host.sites}
    b = {s: torch.zeros(count, s.out_features, rank, requires_grad=True) for s in host.sites}
    bank = Bank(tuple(task.name for task in tasks), a, b, base=host.fingerprint)
    rows = [render(host.tokenizer, row) for task in tasks for row in task.test]
    ids, mask, labels = collate(rows, pad_id=host.tokenizer.pad_token_id)
    index = torch.arange(count).repeat_interleave(len(INPUTS))
    optimizer = torch.optim.Adam(b.values(), lr=0.02)
    for _ in range(40):
        logits = host.forward(ids, Mixture.rows(bank, index), mask_BT=mask).logits
        loss = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Bank(bank.names, a, {s: x.detach() for s, x in b.items()}, base=bank.base)
