"""Training 32 task LoRAs at once, against 32 PEFT runs one after another: task-steps per second, medians.

Both sides: the same random base of the letters' size, the same rows of 8 to 16 tokens, rank 8 on all linear
modules, eager attention (the faster one for rows this short), AdamW, clipping. The PEFT side is a plain loop
over padded batches; what a Trainer adds, and making the models, is not counted. On a CPU both sides run with
`keep_freed_memory`, as Weft's trainings do.
"""

import gc
import statistics
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from weft.host import Host
from weft.tasks import Encoded, collate
from weft.train.learned_bank import LearnedBank, backward
from weft.train.memory import keep_freed_memory

TASKS, STEPS = 32, 2
RANK, ALPHA = 8, 16
VOCABULARY = 900

Rows = list[list[list[Encoded]]]
"""By step and task."""


class _Tokenizer:
    pad_token_id = 0


def run(*, repeats: int = 7) -> list[dict[str, object]]:
    """One line per setting: both rates, and their ratio."""
    keep_freed_memory()
    settings = [(4, True), (4, False), (8, True)]
    return [_compare(rows, bf16, repeats) for rows, bf16 in settings]


def _compare(rows_per_task: int, bf16: bool, repeats: int) -> dict[str, object]:
    AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no")
    rows = _rows(rows_per_task)
    sides = {"weft": _weft(rows, accelerator), "peft": _peft(rows, accelerator)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, side in sides.items():
            gc.collect()
            start = time.perf_counter()
            side()
            if repeat > 0:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: TASKS * STEPS / statistics.median(of_side) for name, of_side in seconds.items()}
    return {
        "rows per task": rows_per_task,
        "precision": "bf16" if bf16 else "float32",
        "weft, task-steps/s": round(rates["weft"], 1),
        "PEFT, task-steps/s": round(rates["peft"], 1),
        "ratio": round(rates["weft"] / rates["peft"], 2),
        "repeats": repeats,
    }


def _base(accelerator: Accelerator) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=512,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    return model.to(accelerator.device).eval()


def _rows(rows_per_task: int) -> Rows:
    """About half of each row is the answer."""
    chance = torch.Generator().manual_seed(0)

    def row() -> Encoded:
        length = int(torch.randint(8, 17, (), generator=chance))
        ids = torch.randint(2, VOCABULARY, (length,), generator=chance).tolist()
        return Encoded(ids[: length // 2], ids[length // 2 :])

    return [[[row() for _ in range(rows_per_task)] for _ in range(TASKS)] for _ in range(STEPS)]


def _weft(rows: Rows, accelerator: Accelerator) -> Callable[[], None]:
    host = Host(_base(accelerator), tokenizer=_Tokenizer())
    bank = LearnedBank(host.sites, [str(k) for k in range(TASKS)], r=RANK, scaling=ALPHA / RANK, seed=0)
    bank.to(accelerator.device)
    optimizer = torch.optim.AdamW(bank.parameters(), lr=1e-3, fused=True)
    tokens = 1024 if accelerator.device.type == "cpu" else 16384

    def train() -> None:
        for of_step in rows:
            float(backward(host, bank, of_step, tokens=tokens, accelerator=accelerator).mean())
            bank.clip_grad_norm_(1.0)
            optimizer.step()
            optimizer.zero_grad()

    return train


def _peft(rows: Rows, accelerator: Accelerator) -> Callable[[], None]:
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(_base(accelerator), config)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def train() -> None:
        for task in range(TASKS):
            optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
            for of_step in rows:
                batch = collate(of_step[task], pad_id=0)
                ids, mask, labels = (tensor.to(accelerator.device) for tensor in batch)
                with accelerator.autocast():
                    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
                accelerator.backward(loss)
                float(loss)
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()

    return train
