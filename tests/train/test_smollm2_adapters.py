"""The LoRAs of single functions that ship for SmolLM2."""

import pytest

from weft.engine import Engine
from weft.host import Host
from weft.route import load_library
from weft.tasks.source import FunctionsSource, load_splits
from weft.types import Mixture


@pytest.mark.usefixtures("smollm2")
def test_each_knows_its_function_and_no_other() -> None:
    host = Host.from_pretrained("weft/smollm2", dtype="float32")
    library = load_library("weft/smollm2-adapters")
    bank = library.bank(host)
    assert len(bank.names) == 12
    tasks = {
        task.name: task for task in load_splits(FunctionsSource(kind="functions", train_tasks=243))["train"]
    }
    rows = [tasks[name].test[0] for name in bank.names]
    prompts = [row.prompt for row in rows]
    own = list(range(len(rows)))
    others = own[1:] + own[:1]
    engine = Engine(host)
    wanted = [row.completion.strip() for row in rows]
    right = []
    for ks in (own, others):
        texts = engine.generate(prompts, mixture=Mixture.rows(bank, ks), max_new_tokens=16)
        right.append(sum(text.strip() == want for text, want in zip(texts, wanted, strict=True)))
    assert right[0] >= 11
    assert right[1] <= 2
