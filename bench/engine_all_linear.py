"""The engine's mixed adapters with rank 8 on every linear layer of SmolLM2-135M, as QLoRA has it."""

from typing import Any

from bench.engine import lines

from weft.host import Host

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def run(*, repeats: int = 7) -> list[dict[str, Any]]:
    """A line per contestant; 16 such adapters hold a third as many parameters as the base."""
    base = Host.from_pretrained("weft/smollm2", dtype="float32").module
    return lines("SmolLM2-135M, all linear", base, repeats, targets=TARGETS, unequal=False, compiled=False)
