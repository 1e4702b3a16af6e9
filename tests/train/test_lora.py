import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from tiny_training import EFFECTS, curve, lora_recipe, tiny_host, tokenizer, write_tasks
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from weft import adapters
from weft.errors import ConfigError, UnknownNameError, WeftError
from weft.host import Host
from weft.tasks import Row, Task, TaskSampler, collate, load_task, load_tasks, render, save_task
from weft.train import train_lora
from weft.train.learned_bank import LearnedBank, backward
from weft.types import Adapter, Mixture


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def host(tasks: Path) -> Host:
    return tiny_host(tasks)


def assert_same(a: Adapter, b: Adapter, atol: float = 1e-5) -> None:
    assert a.sites == b.sites
    for site in a.sites:
        (a_RI, b_OR, scaling), (other_RI, other_OR, other_scaling) = a.factors[site], b.factors[site]
        assert scaling == pytest.approx(other_scaling)
        torch.testing.assert_close(a_RI, other_RI, rtol=0, atol=atol)
        torch.testing.assert_close(b_OR, other_OR, rtol=0, atol=atol)
    assert max(float(f.b_OR.abs().max()) for f in a.factors.values()) > 0.01


@pytest.mark.parametrize("tokens", [None, 60])
def test_many_at_once_are_what_each_would_be_alone(
    tasks: Path, host: Host, tmp_path: Path, tokens: int | None
) -> None:
    # A tight clip: were the norm shared, each adapter would depend on the others.
    changes: dict[str, Any] = {
        "optimizer": {"learning_rate": 0.01, "max_grad_norm": 0.5, "weight_decay": 0.1}
    }
    together = train_lora(
        lora_recipe(tasks, tmp_path / "all", tokens_per_forward=tokens, **changes), host=host
    )
    assert list(together) == sorted(EFFECTS)  # whatever order they were trained in
    for name in ("reverse", "upper"):
        alone = train_lora(lora_recipe(tasks, tmp_path / name, tasks=[name], **changes), host=host)
        assert_same(adapters.load(together[name]), adapters.load(alone[name]))
    first, last = (adapters.load(together[name]).factors for name in ("first", "upper"))
    assert not any(torch.equal(first[site].b_OR, last[site].b_OR) for site in first)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("use_rslora", [False, True])
def test_training_equals_peft(tasks: Path, tmp_path: Path, use_rslora: bool) -> None:
    changes = {"tasks": ["reverse"], "target_modules": ["q_proj", "down_proj"], "use_rslora": use_rslora}
    recipe = lora_recipe(tasks, tmp_path, **changes)
    host = Host(
        tiny_host(tasks).module, tokenizer=tiny_host(tasks).tokenizer, target_modules=["q_proj", "down_proj"]
    )
    ours = adapters.load(train_lora(recipe, host=host)["reverse"])

    scaling = 8 / math.sqrt(4) if use_rslora else 8 / 4
    start = LearnedBank(host.sites, ["reverse"], r=4, scaling=scaling, seed=0).adapter(
        0, base="", provenance={}
    )
    theirs = train_with_peft(tasks, start, use_rslora=use_rslora)
    assert_same(ours, Adapter({**theirs.factors}))


def train_with_peft(tasks: Path, start: Adapter, *, use_rslora: bool) -> Adapter:
    """The same recipe as a plain loop over PEFT, from the same start."""
    host = tiny_host(tasks)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        use_rslora=use_rslora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(host.module, config)
    layers = {site: model.base_model.model.get_submodule(site.path) for site in start.sites}
    for site, layer in layers.items():
        layer.lora_A["default"].weight.data.copy_(start.factors[site].a_RI)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    task = next(t for t in load_tasks(tasks) if t.name == "reverse")
    sampler = TaskSampler([task], tasks_per_batch=1, rows_per_task=4, seed=0)
    for step in range(6):
        rows = [render(host.tokenizer, row) for row in sampler.draw(step)[0].rows]
        batch = collate(rows, pad_id=host.tokenizer.pad_token_id)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + math.cos(math.pi * step / 6)) / 2
        model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT, labels=batch.labels_BT).loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    scaling = next(iter(layers.values())).scaling["default"]
    factors = {
        site: (layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach())
        for site, layer in layers.items()
    }
    return Adapter({s: type(start.factors[s])(a, b, scaling) for s, (a, b) in factors.items()})


def test_clipping_is_per_adapter(host: Host) -> None:
    bank = LearnedBank(host.sites, ["small", "large"], r=2, scaling=1.0, seed=0)
    for parameter in bank.parameters():
        parameter.grad = torch.ones_like(parameter) * torch.tensor([1e-4, 1.0])[:, None, None]
    before = [p.grad[0].clone() for p in bank.parameters() if p.grad is not None]
    norm_K = bank.clip_grad_norm_(1.0)
    size = math.sqrt(sum(p[0].numel() for p in bank.parameters()))
    assert norm_K.tolist() == pytest.approx([1e-4 * size, size])
    for old, parameter in zip(before, bank.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad[0], old)
        assert float(parameter.grad[1].max()) == pytest.approx(1 / size, rel=1e-5)


def test_gradients_of_a_part_go_to_that_part_alone(tasks: Path, host: Host) -> None:
    bank = LearnedBank(host.sites, ["a", "b", "c"], r=2, scaling=2.0, seed=0)
    row = render(host.tokenizer, load_tasks(tasks)[0].train[0])
    losses = backward(host, bank, [[], [row, row], []], tokens=100, accelerator=Accelerator())
    assert losses[1] > 0
    assert losses[[0, 2]].tolist() == [0, 0]
    for b in bank.b:
        assert b.grad is not None
        assert b.grad[1].abs().sum() > 0
        assert b.grad[[0, 2]].abs().sum() == 0


@pytest.fixture(scope="module")
def learned(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Host, Path]:
    """A base, and a run that got some of its answers right."""
    host = tiny_host(tasks, hidden_size=64)
    output = tmp_path_factory.mktemp("learned")
    recipe = lora_recipe(
        tasks,
        output,
        run={"max_steps": 40},
        tasks=["first", "upper"],
        r=8,
        rows_per_task=8,
        optimizer={"learning_rate": 0.02},
    )
    train_lora(recipe, host=host)
    return host, output


def test_it_learns(learned: tuple[Host, Path]) -> None:
    first, *_, measured = curve(learned[1])
    assert measured["train/loss"] < 0.3 * first["loss"]
    assert measured["train/followed"] > 0.4


def test_what_is_followed_is_what_greedy_decoding_gives(learned: tuple[Host, Path], tasks: Path) -> None:
    host, output = learned
    shares = []
    for name in ("first", "upper"):
        adapter = adapters.load(output / "adapters" / name)
        task = load_task(tasks / name)
        right = 0
        for row in task.train:
            prompt, answer = render(host.tokenizer, row)
            ids = list(prompt)
            for _ in answer:
                ids.append(int(host(torch.tensor([ids]), Mixture.of(adapter)).logits[0, -1].argmax()))
            right += ids == prompt + answer
        assert adapter.provenance["metrics"]["train/followed"] == pytest.approx(right / len(task.train))
        shares.append(right / len(task.train))
    assert any(0 < share < 1 for share in shares)


def test_each_adapter_says_where_it_comes_from(tasks: Path, host: Host, tmp_path: Path) -> None:
    folders = train_lora(lora_recipe(tasks, tmp_path, run={"seed": 3}, tasks=2), host=host)
    assert folders == {name: tmp_path / "adapters" / name for name in ("first", "reverse")}
    adapter = adapters.load(folders["first"])
    assert adapter.base == host.fingerprint
    assert adapter.name == "first"
    told = adapter.provenance
    assert told["seed"] == 3
    assert told["description"] == "first it"
    assert told["base_model"] == "tiny"
    assert told["rows_left_out"] == 0
    assert told["recipe"]["r"] == 4
    assert str(tmp_path / "a") not in json.dumps(told["recipe"]["run"])
    assert told["metrics"].keys() == {"train/loss", "train/followed", "test/loss", "test/followed"}
    assert told["data_hash"] != adapters.load(folders["reverse"]).provenance["data_hash"]


def test_one_adapter_for_all_tasks(tasks: Path, host: Host, tmp_path: Path) -> None:
    recipe = lora_recipe(tasks, tmp_path, mode="multitask", tasks_per_batch=3, describe=True)
    folders = train_lora(recipe, host=host)
    assert list(folders) == ["multitask"]
    adapter = adapters.load(folders["multitask"])
    assert "description" not in adapter.provenance
    assert adapter.provenance["metrics"]["test/loss"] > 0


def test_equal_recipes_give_equal_bytes(tasks: Path, tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        folder = train_lora(lora_recipe(tasks, tmp_path / name, tasks=1), host=tiny_host(tasks))["first"]
        files.append([p.read_bytes() for p in sorted(folder.iterdir())])
    assert files[0] == files[1]


def test_it_runs_in_bfloat16(tasks: Path, tmp_path: Path) -> None:
    losses = {}
    for name, bf16 in (("float32", False), ("bfloat16", True), ("again", False)):
        train_lora(lora_recipe(tasks, tmp_path / name, run={"bf16": bf16}), host=tiny_host(tasks))
        losses[name] = [line["loss"] for line in curve(tmp_path / name)[:-1]]
    assert losses["bfloat16"] != losses["float32"] == losses["again"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_base_in_bfloat16_trains_adapters_in_float32(tasks: Path, tmp_path: Path) -> None:
    host = tiny_host(tasks)
    host.module.to(torch.bfloat16)
    adapter = adapters.load(train_lora(lora_recipe(tasks, tmp_path, tasks=1), host=host)["first"])
    assert {f.a_RI.dtype for f in adapter.factors.values()} == {torch.float32}


def test_a_saved_base_is_loaded_by_its_folder(tasks: Path, tmp_path: Path, host: Host) -> None:
    host.module.save_pretrained(tmp_path / "base")
    host.tokenizer.save_pretrained(tmp_path / "base")
    recipe = lora_recipe(
        tasks, tmp_path / "run", base=str(tmp_path / "base"), attn_implementation="eager", tasks=1
    )
    loaded = adapters.load(train_lora(recipe)["first"])
    given = adapters.load(train_lora(lora_recipe(tasks, tmp_path / "given", tasks=1), host=host)["first"])
    assert_same(loaded, given, atol=1e-3)  # Adam magnifies what eager attention rounds otherwise


def test_a_base_without_a_tokenizer_is_refused_in_one_line(tasks: Path, tmp_path: Path, host: Host) -> None:
    host.module.save_pretrained(tmp_path / "base")
    with pytest.raises(ConfigError, match="base has no tokenizer, so it reads no rows"):
        train_lora(lora_recipe(tasks, tmp_path / "run", base=str(tmp_path / "base"), tasks=1))


def test_a_pad_token_that_the_base_has_no_embedding_for_changes_nothing(tasks: Path, tmp_path: Path) -> None:
    trained = []
    for name, added in (("one", {}), ("other", {"pad_token": "<added>"})):
        host = tiny_host(tasks)
        host.tokenizer.add_special_tokens(added)
        assert (host.tokenizer.pad_token_id >= host.vocab_size) == bool(added)
        recipe = lora_recipe(tasks, tmp_path / name, tasks=1)
        trained.append(adapters.load(train_lora(recipe, host=host)["first"]))
    assert_same(*trained, atol=0)


def test_rows_that_are_too_long_are_left_out_and_counted(host: Host, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    rows = (*(Row(word, word) for word in ("cat", "dog", "sun")), Row("very " * 60, "long"))
    save_task(Task("first", ("first it",), train=rows, test=rows[2:]), tasks / "first")
    folders = train_lora(lora_recipe(tasks, tmp_path / "run", tasks=["first"]), host=host)
    assert adapters.load(folders["first"]).provenance["rows_left_out"] == 2
    with pytest.raises(ConfigError, match="task first has no train row of at most 3 tokens"):
        train_lora(lora_recipe(tasks, tmp_path / "none", tasks=1, max_length=3), host=host)


def test_one_adapter_for_all_leaves_out_tasks_that_keep_no_row(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = write_tasks(tmp_path / "tasks")
    save_task(Task("first", ("first it",), train=(Row("very " * 60, "long"),)), tasks / "first")
    together = lora_recipe(tasks, tmp_path / "run", tasks=2, mode="multitask")
    without = lora_recipe(tasks, tmp_path / "without", tasks=["reverse"], mode="multitask")
    made = [adapters.load(train_lora(recipe, host=host)["multitask"]) for recipe in (together, without)]
    assert "left out 1 of 2 tasks, which keep no train row" in capsys.readouterr().err
    assert_same(*made)
    assert made[0].provenance["data_hash"] == made[1].provenance["data_hash"]
    nothing = lora_recipe(tasks, tmp_path / "none", tasks=2, mode="multitask", max_length=3)
    with pytest.raises(ConfigError, match="none of 2 tasks has a train row of at most 3 tokens"):
        train_lora(nothing, host=host)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"tasks": ["revers"]},
            UnknownNameError,
            r"no task 'revers' in the split train \(did you mean reverse",
        ),
        ({"tasks": 9}, ConfigError, "tasks is 9, the split train has 4"),
        ({"split": "trian"}, UnknownNameError, r"no split 'trian' \(did you mean train\?\); there are train"),
        ({"tasks": ["upper", "upper"]}, ConfigError, "two tasks are called upper"),
    ],
)
def test_wrong_names_and_counts(
    tasks: Path, host: Host, tmp_path: Path, changes: dict[str, Any], kind: type[WeftError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train_lora(lora_recipe(tasks, tmp_path, **changes), host=host)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"optim": "muon"}}, "adapters are trained with optim: adamw"),
        ({"tasks_per_batch": 2}, "tasks_per_batch is for mode: multitask"),
        ({"tasks": 0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other(tasks: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora_recipe(tasks, Path("nowhere"), **changes)


def test_a_base_without_sdpa_attends_eagerly(tasks: Path, tmp_path: Path) -> None:
    text = tokenizer(tasks)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    heads = {"num_key_value_heads": 1, "head_dim": 8}
    Gemma2ForCausalLM(Gemma2Config(vocab_size=len(text), **sizes, **heads)).save_pretrained(tmp_path / "base")
    text.save_pretrained(tmp_path / "base")
    changes: dict[str, Any] = {"base": str(tmp_path / "base"), "tasks": ["upper"], "run": {"max_steps": 1}}
    assert train_lora(lora_recipe(tasks, tmp_path / "run", **changes)).keys() == {"upper"}
