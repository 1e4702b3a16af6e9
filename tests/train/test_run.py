import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed
import yaml
from safetensors.torch import load_file
from tiny_training import base_recipe, curve, lora_recipe, tiny_host, write_tasks
from tokenizers.normalizers import Lowercase

from forked import elsewhere
from weft.adapters import load
from weft.config import load_config
from weft.errors import ConfigError, MissingExtraError, NotFiniteError, SaveError, WeftError
from weft.host import Host
from weft.train import BaseRecipe, LoraRecipe, Run, train_base, train_lora

Train = Callable[..., object]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


class Stopped(Exception):
    """Stands for whatever may end a run early."""


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let a run end when it has logged a step."""
    log = Run.log

    def once(self: Run, done: int, metrics: dict[str, float]) -> None:
        log(self, done, metrics)
        if done == step:
            monkeypatch.setattr(Run, "log", log)
            raise Stopped

    monkeypatch.setattr(Run, "log", once)


def train(kind: str, tasks: Path, folder: Path, **changes: object) -> None:
    if kind == "lora":
        train_lora(lora_recipe(tasks, folder, **changes), host=tiny_host(tasks))
    else:
        train_base(base_recipe(tasks, folder, optimizer={"optim": kind}, **changes))


@pytest.mark.parametrize("kind", ["adamw", "muon", "lora"])
def test_three_steps_and_three_resumed_are_six_to_the_bit(
    kind: str, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(kind, tasks, tmp_path / "whole")
    stop_after(monkeypatch, 5)  # checkpoint 3 is there, steps 4 and 5 are lost
    with pytest.raises(Stopped):
        train(kind, tasks, tmp_path / "parts")
    assert [line["step"] for line in curve(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    train(kind, tasks, tmp_path / "parts")
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 7
    for name in ("model", "optimizer"):
        file = f"checkpoint-6/{name}.safetensors"
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_finished_run_started_again_changes_nothing(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    train("lora", tasks, tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_only_the_last_checkpoint_is_kept(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path, run={"save_steps": 1})
    assert [p.name for p in tmp_path.glob("*checkpoint*")] == ["checkpoint-6"]
    assert not list(tmp_path.glob(".*"))


def test_a_link_to_a_checkpoint_elsewhere_is_dropped_and_the_checkpoint_kept(
    tasks: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train("lora", tasks, run, run={"max_steps": 3})
    (run / "checkpoint-3").rename(tmp_path / "elsewhere")
    (run / "checkpoint-3").symlink_to(tmp_path / "elsewhere")
    train("lora", tasks, run)
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-6"]
    assert (tmp_path / "elsewhere" / "state.json").is_file()


@pytest.mark.parametrize(
    ("name", "content"), [("safetensors", b"\0"), ("safetensors", None), ("json", b"[1]")]
)
def test_a_damaged_best_step_is_named(name: str, content: bytes | None, tasks: Path, tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True}
    train("lora", tasks, tmp_path, run={"max_steps": 2, "eval_steps": 1}, **best)
    file = tmp_path / f"best.{name}"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(WeftError, match=r"best\.json and best\.safetensors are damaged"):
        train("lora", tasks, tmp_path, run={"max_steps": 3, "eval_steps": 1}, **best)


def test_a_fresh_start_forgets_the_run_that_was_there(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("lora", tasks, tmp_path)
    other = lora_recipe(tasks, tmp_path, optimizer={"learning_rate": 0.02})
    stop_after(monkeypatch, 2)  # before its first checkpoint
    with pytest.raises(Stopped):
        train_lora(other, host=tiny_host(tasks), resume=False)
    train_lora(other, host=tiny_host(tasks))
    assert curve(tmp_path)[-2]["step"] == 6
    train_lora(lora_recipe(tasks, tmp_path / "new", optimizer={"learning_rate": 0.02}), host=tiny_host(tasks))
    assert curve(tmp_path) == curve(tmp_path / "new")


def test_another_recipe_in_the_same_folder_is_refused(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    before = curve(tmp_path)
    with pytest.raises(ConfigError, match="where r is 4 and not 2; choose another output_dir, or"):
        train("lora", tasks, tmp_path, r=2)
    assert curve(tmp_path) == before


def test_a_checkpoint_of_another_model_is_refused(tasks: Path, tmp_path: Path) -> None:
    recipe, whole = lora_recipe(tasks, tmp_path), tiny_host(tasks)
    train_lora(recipe, host=whole)
    part = Host(whole.module, tokenizer=whole.tokenizer, target_modules=["q_proj"], name=whole.name)
    with pytest.raises(ConfigError, match="does not fit this recipe's model"):
        train_lora(recipe, host=part)


def test_an_unknown_key_offers_the_nearest(tasks: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(base_recipe(tasks, tmp_path).model_dump(mode="json")))
    assert load_config(BaseRecipe, recipe, ["run.max-steps=7"]).run.max_steps == 7
    with pytest.raises(ConfigError, match=r"unknown key run\.max_step \(did you mean run\.max_steps\?\)"):
        load_config(BaseRecipe, recipe, ["run.max_step=7"])


def test_a_full_disk_keeps_the_old_checkpoint(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("lora", tasks, tmp_path / "whole")
    stop_after(monkeypatch, 4)
    with pytest.raises(Stopped):
        train("lora", tasks, tmp_path / "full")
    old = tmp_path / "full" / "checkpoint-3"
    before = {p.name: p.read_bytes() for p in old.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The metrics still fit, the weights do not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["model.safetensors"]) // 2, hard))
    try:
        with pytest.raises(SaveError, match=r"checkpoint-6.*untouched"):
            train("lora", tasks, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in old.iterdir()} == before
    assert [p.name for p in (tmp_path / "full").glob("*checkpoint*")] == ["checkpoint-3"]
    train("lora", tasks, tmp_path / "full")
    assert curve(tmp_path / "full") == curve(tmp_path / "whole")


def test_a_line_of_metrics_cut_short_is_dropped(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("lora", tasks, tmp_path / "whole")
    stop_after(monkeypatch, 4)
    with pytest.raises(Stopped):
        train("lora", tasks, tmp_path / "torn")
    with (tmp_path / "torn" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    train("lora", tasks, tmp_path / "torn")
    assert curve(tmp_path / "torn") == curve(tmp_path / "whole")


def train_and_kill(tasks: Path, folder: Path) -> None:
    """Train in a process that is killed again and again, until one comes to its end."""
    recipe = lora_recipe(tasks, folder, run={"max_steps": 16, "save_steps": 1})
    host = tiny_host(tasks)
    chance, kills, loaded = random.Random(0), 0, 0
    while True:
        child = os.fork()
        if child == 0:
            train_lora(recipe, host=host)
            os._exit(0)
        time.sleep(chance.uniform(0.02, 0.05 * (kills + 2)))  # ever longer, so that it ends on any machine
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(f"the run failed with {status}" if status else 0)
        kills += 1
        for state in folder.glob("checkpoint-*/state.json"):
            load_file(state.with_name("model.safetensors"))
            load_file(state.with_name("optimizer.safetensors"))
            loaded += 1
        print("kills:", kills, loaded, flush=True)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_curve(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path / "whole", run={"max_steps": 16, "save_steps": 16})
    said = elsewhere(train_and_kill, tasks, tmp_path / "killed", said=tmp_path / "said.txt")
    told = [line.split()[1:] for line in said.splitlines() if line.startswith("kills:")]
    kills, loaded = map(int, told[-1])
    assert kills >= 2
    assert loaded >= 1
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    for name in ("model", "optimizer"):
        file = f"checkpoint-16/{name}.safetensors"
        assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


class Tracker:
    """Stands for a sink of metrics."""

    finished = False

    def finish(self) -> None:
        self.finished = True


def test_leaving_a_run_finishes_its_sinks_and_keeps_the_process_group(tasks: Path, tmp_path: Path) -> None:
    tracker = Tracker()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        recipe = lora_recipe(tasks, tmp_path)
        with Run(recipe.run, recipe) as run:
            run.accelerator.trackers = [tracker]
        assert tracker.finished
        assert torch.distributed.is_initialized()
    finally:
        torch.distributed.destroy_process_group()


def test_other_data_in_the_same_folder_is_refused(tasks: Path, tmp_path: Path) -> None:
    mine = write_tasks(tmp_path / "tasks")
    train("lora", mine, tmp_path / "run")
    rows = mine / "first" / "train.jsonl"
    rows.write_text(rows.read_text() + '{"prompt": "new", "completion": "n"}\n')
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=r"data has changed since the run in .*--no-resume"):
        train("lora", mine, tmp_path / "run")
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("weights", "the base"),
        ("template", "the chat template of the base"),
        ("tokenizer", "the tokenizer of the base"),
    ],
)
def test_another_base_under_the_same_folder_is_refused(
    part: str, said: str, tasks: Path, tmp_path: Path
) -> None:
    recipe, host = lora_recipe(tasks, tmp_path), tiny_host(tasks)
    [folder, *_] = train_lora(recipe, host=host).values()
    other = tiny_host(tasks, num_hidden_layers=1 if part == "weights" else 2)
    if part == "template":
        other.tokenizer.chat_template = "Q: " + other.tokenizer.chat_template
    if part == "tokenizer":
        other.tokenizer.backend_tokenizer.normalizer = Lowercase()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=rf"^{said} has changed since the run in .* began; .*--no-resume"):
        train_lora(longer(recipe), host=other)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    (tmp_path / "base.json").unlink()  # as older versions left it
    train_lora(recipe, host=host)
    with pytest.raises(ConfigError, match=f"^{said} has changed"):
        train_lora(recipe, host=other)
    train_lora(recipe, host=other, resume=False)
    assert load(folder).base == other.fingerprint
    train_lora(recipe, host=other)


def longer(recipe: LoraRecipe) -> LoraRecipe:
    run = recipe.run.model_copy(update={"max_steps": recipe.run.max_steps + 1})
    return recipe.model_copy(update={"run": run})


def test_what_changes_nothing_may_change_and_a_run_may_get_longer(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path / "run")
    moved = tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    train("lora", tasks, moved, run={"logging_steps": 3, "save_steps": 1}, tokens_per_forward=2048)
    assert [line["step"] for line in curve(moved)] == [1, 2, 3, 4, 5, 6, 6]
    train("lora", tasks, moved, run={"max_steps": 8})
    assert [line["step"] for line in curve(moved)] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 8]
    with pytest.raises(ConfigError, match=r"where run\.max_steps is 8 and not 6"):
        train("lora", tasks, moved)


def test_two_runs_in_one_folder_are_refused(tasks: Path, tmp_path: Path) -> None:
    recipe = lora_recipe(tasks, tmp_path)
    with Run(recipe.run, recipe), pytest.raises(ConfigError, match="another run is under way in"):
        train("lora", tasks, tmp_path)
    train("lora", tasks, tmp_path)
    with pytest.raises(ConfigError, match="another recipe"):
        train("lora", tasks, tmp_path, r=2)
    train("lora", tasks, tmp_path)  # a refusal lets go of the folder


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_checkpoint_cut_short_is_named(file: str, tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    cut = tmp_path / "checkpoint-6" / file
    cut.write_bytes(cut.read_bytes()[:40])
    with pytest.raises(WeftError, match="checkpoint-6"):
        train("lora", tasks, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("checkpoint-6/state.json", "[]", "checkpoint-6 is damaged"),
        ("checkpoint-6/state.json", '{"step": "x", "schedulers": []}', "checkpoint-6 is damaged"),
        ("metrics.jsonl", "[1]\n", r"metrics\.jsonl, line 1 is no line of a run"),
        ("metrics.jsonl", '{"step": 1}\n{"step": \n', r"metrics\.jsonl, line 2 is not valid JSON"),
        ("metrics.jsonl", '{"step": null}\n', r"metrics\.jsonl, line 1 is no line of a run"),
        ("config.yaml", "- a", "holds a run of another recipe"),
        ("config.yaml", "{{{", r"config\.yaml is not valid YAML"),
        ("data.json", "[]", "the data has changed"),
        ("base.json", "[]", "the base has changed"),
    ],
)
def test_a_damaged_run_folder_is_one_line(
    file: str, content: str, said: str, tasks: Path, tmp_path: Path
) -> None:
    train("lora", tasks, tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(WeftError, match=said) as caught:
        train("lora", tasks, tmp_path, run={"max_steps": 7})
    assert "\n" not in str(caught.value)


def test_checkpoints_without_their_recipe_do_not_go_on(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(
        ConfigError, match=r"lacks config\.yaml, the recipe of its checkpoints; bring it back, or"
    ):
        train("lora", tasks, tmp_path, run={"max_steps": 7})


def test_what_only_looks_like_a_checkpoint_is_left_alone(tasks: Path, tmp_path: Path) -> None:
    train("lora", tasks, tmp_path)
    shutil.copytree(tmp_path / "checkpoint-6", tmp_path / "checkpoint-6 (copy)")
    train("lora", tasks, tmp_path, run={"max_steps": 7})
    assert [line["step"] for line in curve(tmp_path)] == [1, 2, 3, 4, 5, 6, 6, 7, 7]
    assert (tmp_path / "checkpoint-6 (copy)" / "state.json").is_file()


@pytest.mark.parametrize("name", ["file", "nul\0", "x" * 300])
def test_a_run_needs_a_folder(name: str, tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(SaveError, match=r"output_dir .* cannot be a folder"):
        train("lora", tasks, tmp_path / name)
    assert (tmp_path / "file").read_text() == "years of work"


def test_a_base_that_is_named_in_another_way_is_the_same(
    tmp_path: Path, tasks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    train("lora", tasks, tmp_path / "run", base="base")
    train("lora", tasks, tmp_path / "run", base=str(tmp_path / "base"), run={"max_steps": 7})
    with pytest.raises(ConfigError, match="where base is"):
        train("lora", tasks, tmp_path / "run", base="other", run={"max_steps": 7})


def test_seconds_go_on_after_a_resume(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train("lora", tasks, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    late = [line | {"seconds": line["seconds"] + 1000} for line in lines]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in late))
    train("lora", tasks, tmp_path, run={"max_steps": 7})
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 7
    assert last["seconds"] > 1000
    assert "resumed after step 6" in capsys.readouterr().err


def test_the_bar_has_step_time_left_and_loss_in_80_columns(
    tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "80"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    train("lora", tasks, tmp_path)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).replace("\r", "\n")
    bars = [line.strip() for line in shown.splitlines() if re.match(r"\s*\d+/6 ", line)]
    assert max(map(len, bars)) <= 80
    assert re.match(r"6/6 \S+ +\d+:\d\d train.loss \d", bars[-1]), bars[-1]


def test_the_first_loss_that_is_no_number_ends_the_run_and_keeps_the_checkpoint(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(monkeypatch, 4)
    with pytest.raises(Stopped):
        train("lora", tasks, tmp_path)
    host = tiny_host(tasks)
    with torch.no_grad():  # the token of one row alone
        host.module.get_input_embeddings().weight[host.tokenizer.encode("cat")[0]] = torch.nan
    with pytest.raises(NotFiniteError, match=r"step \d: the loss of \w+ on the row 'c.*checkpoint-3 is kept"):
        train_lora(lora_recipe(tasks, tmp_path), host=host)
    assert (tmp_path / "checkpoint-3" / "state.json").is_file()


def test_a_sink_without_its_package_is_named(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lora_recipe(tasks, tmp_path, run={"report_to": "none"}).run.report_to == ()
    recipe = lora_recipe(tasks, tmp_path, run={"report_to": "trackio"})
    assert recipe.run.report_to == ("trackio",)
    monkeypatch.setattr("weft.train.run.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install trackio"):
        Run(recipe.run, recipe)


def test_epochs_are_steps_that_meet_every_row(tasks: Path, tmp_path: Path) -> None:
    # 14 rows, 4 a step: 4 steps an epoch
    train("lora", tasks, tmp_path / "lora", run={"max_steps": 0, "num_train_epochs": 1.5})
    assert curve(tmp_path / "lora")[-1]["step"] == 6
    with pytest.raises(ConfigError, match="this training counts steps"):
        train("adamw", tasks, tmp_path / "base", run={"max_steps": 0, "num_train_epochs": 1})


def test_the_best_step_of_each_adapter_is_kept_and_a_run_without_progress_stops(
    tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"max_steps": 12, "eval_steps": 1, "save_steps": 1, "eval_on_start": True}
    rate = {"learning_rate": 100.0, "lr_scheduler_type": "constant_with_warmup"}
    wild = {"load_best_model_at_end": True, "early_stopping_patience": 2, "optimizer": rate}
    train("lora", tasks, tmp_path / "whole", run=run, **wild)
    losses = json.loads((tmp_path / "whole" / "best.json").read_text())
    assert curve(tmp_path / "whole")[0].keys() >= {"train/loss", "test/loss"}
    assert curve(tmp_path / "whole")[0]["step"] == 0
    assert len(losses) < 12
    best = [min(column) for column in zip(*(of_all for _, of_all in losses), strict=True)]
    names = [path.name for path in sorted((tmp_path / "whole" / "adapters").iterdir())]
    told = [load(tmp_path / "whole" / "adapters" / name).provenance["metrics"]["test/loss"] for name in names]
    assert sorted(told) == pytest.approx(sorted(best))
    stop_after(monkeypatch, 2)
    with pytest.raises(Stopped):
        train("lora", tasks, tmp_path / "parts", run=run, **wild)
    train("lora", tasks, tmp_path / "parts", run=run, **wild)
    for name in names:
        file = f"adapters/{name}/adapter_model.safetensors"
        assert (tmp_path / "parts" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    before = curve(tmp_path / "parts")
    train("lora", tasks, tmp_path / "parts", run=run, **wild)
    assert curve(tmp_path / "parts") == before


def test_every_answer_of_a_chat_is_trained_on_when_asked(tmp_path: Path) -> None:
    turns = [("user", "cat"), ("assistant", "c"), ("user", "dog"), ("assistant", "d")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    file = tmp_path / "chats.jsonl"
    file.write_text((json.dumps(row) + "\n") * 2)
    for every in (False, True):
        recipe = LoraRecipe.model_validate(
            {
                "run": {"output_dir": str(tmp_path / f"run-{every}"), "max_steps": 1},
                "base": "tiny",
                "data": str(file),
                "every_answer": every,
            }
        )
        host = tiny_host(write_tasks(tmp_path / f"tasks-{every}"))
        made = train_lora(recipe, host=host)
        assert list(made) == ["chats"]
        assert load(made["chats"]).provenance["description"] == "chats"
