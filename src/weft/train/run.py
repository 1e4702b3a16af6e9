"""A run: one folder with its recipe, metrics and checkpoints, and a progress bar."""

import atexit
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch.distributed
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import Field
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors.torch import load_file, save
from torch import nn

from weft.config import Config
from weft.errors import ConfigError, SaveError
from weft.files import read_json, remove_leftovers, replace_file, replace_folder, to_json
from weft.plain import plain
from weft.train.memory import keep_freed_memory
from weft.train.optimizer import load_state_tensors, state_tensors

_CHECKPOINT = "checkpoint-"


class RunConfig(Config):
    """Where a run lives and how often it speaks; names as in Hugging Face's Trainer."""

    output_dir: str
    seed: int = 0
    max_steps: int = Field(gt=0)
    logging_steps: int = Field(default=10, gt=0)
    eval_steps: int = Field(default=0, ge=0)
    """0 evaluates at the end alone."""
    save_steps: int = Field(default=500, gt=0)
    bf16: bool = False
    report_to: tuple[str, ...] = ()
    """Sinks besides metrics.jsonl, as Accelerate names them: tensorboard, trackio, wandb."""


class Run:
    """One training run; use it as a context manager.

    Everything is written aside and renamed, so a run killed at any moment leaves its last checkpoint whole.
    A run started again in the same folder continues from there, and its loss curve is the same.
    """

    def __init__(self, config: RunConfig, recipe: Config, *, resume: bool = True) -> None:
        """Open the folder. Raises ConfigError when it holds a run of another recipe."""
        self.config = config
        self.folder = Path(config.output_dir)
        # Accelerate keeps one precision per process, and refuses a second run that wants the other.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.bf16 else "no",
            log_with=list(config.report_to) or None,
            project_dir=config.output_dir,
        )
        if self.accelerator.device.type == "cpu":
            keep_freed_memory()
        text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
        path = self.folder / "config.yaml"
        if self.accelerator.is_main_process:
            if resume and path.is_file() and path.read_text() != text and self.last_checkpoint() is not None:
                raise ConfigError(f"{self.folder} holds a run of another recipe; choose another output_dir")
            replace_file(path, text)
        if config.report_to:
            self.accelerator.init_trackers(self.folder.name)
        self.resume = resume
        self._started = time.monotonic()
        self._first_step = 0
        self._metrics = self.folder / "metrics.jsonl"
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"), TimeElapsedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        self._task = self._bar.add_task(self.folder.name, total=config.max_steps, shown="")

    def __enter__(self) -> "Run":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        for tracker in self.accelerator.trackers:
            tracker.finish()  # not end_training(), which would end the process group under the next run
        if torch.distributed.is_initialized():
            _leave_group_at_exit()
            if error is None:
                self.accelerator.wait_for_everyone()

    def is_due(self, what: Literal["logging", "eval", "save"], step: int) -> bool:
        """Whether `step` is a multiple of what the recipe asks for, or the last one."""
        every = {
            "logging": self.config.logging_steps,
            "eval": self.config.eval_steps,
            "save": self.config.save_steps,
        }
        return step == self.config.max_steps or (every[what] > 0 and step % every[what] == 0)

    def best(self, metric: str) -> float:
        """The highest value of a metric so far; minus infinity before the first."""
        return max((line.get(metric, -math.inf) for line in self._logged()), default=-math.inf)

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, if any."""
        found = [p for p in self.folder.glob(f"{_CHECKPOINT}*") if (p / "state.json").is_file()]
        return max(found, key=lambda p: int(p.name.removeprefix(_CHECKPOINT)), default=None)

    def restore(self, model: nn.Module, optimizers: list[Any], schedulers: list[Any]) -> int:
        """Load the newest checkpoint and return the step to go on from; 0 for a fresh run.

        Raises ConfigError for a checkpoint of another model.
        """
        if self.accelerator.is_main_process:
            for place in (self.folder, *self.folder.glob("*/")):  # half written when a run was killed
                remove_leftovers(place)
            self._drop(self.folder.glob(f".{_CHECKPOINT}*"))
            if not self.resume:
                self._drop(self.folder.glob(f"{_CHECKPOINT}*"))  # else the next resume takes them
        checkpoint = self.last_checkpoint() if self.resume else None
        if checkpoint is None:
            if self.accelerator.is_main_process:
                replace_file(self._metrics, "")
            return 0
        state = read_json(checkpoint / "state.json")
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        loaded = load_file(checkpoint / "model.safetensors")
        if loaded.keys() != trainable.keys():
            raise ConfigError(f"{checkpoint} does not fit this recipe's model")
        for name, parameter in trainable.items():
            parameter.data.copy_(loaded[name])
        load_state_tensors(optimizers, load_file(checkpoint / "optimizer.safetensors"))
        for optimizer, scheduler, values in zip(optimizers, schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
            for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        step = int(state["step"])
        if self.accelerator.is_main_process:
            kept = [line for line in self._logged() if line["step"] <= step]
            replace_file(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))
        self._bar.update(self._task, completed=step)
        self._first_step = step
        return step

    def save(self, step: int, model: nn.Module, optimizers: list[Any], schedulers: list[Any]) -> None:
        """Write checkpoint `step`, then drop the older ones."""
        if not self.accelerator.is_main_process:
            return
        older = list(self.folder.glob(f"{_CHECKPOINT}*"))
        with replace_folder(self.folder / f"{_CHECKPOINT}{step}") as fresh:
            trainable = {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
            # Through bytes: on a full disk save_file raises an error of its own kind.
            (fresh / "model.safetensors").write_bytes(save(trainable))
            (fresh / "optimizer.safetensors").write_bytes(save(state_tensors(optimizers)))
            schedules = [{k: v for k, v in s.state_dict().items() if _plain(v)} for s in schedulers]
            (fresh / "state.json").write_text(to_json({"step": step, "schedulers": schedules}))
        self._drop(path for path in older if path.name != f"{_CHECKPOINT}{step}")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl, and to every other sink. `step` counts finished steps.

        Raises SaveError when the disk refuses.
        """
        if self.accelerator.is_main_process:
            line = {"step": step, "seconds": round(time.monotonic() - self._started, 2), **metrics}
            try:
                with self._metrics.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise SaveError(f"could not write {self._metrics}: {error.strerror}") from error
            rate = (step - self._first_step) / max(time.monotonic() - self._started, 1e-9)
            shown = " ".join(f"{k} {v:.3g}" for k, v in metrics.items())
            self._bar.update(self._task, completed=step, shown=f"{shown} {rate:.2f} steps/s")
            if not self._bar.console.is_terminal:
                self._bar.console.print(
                    f"{plain(self.folder.name)} step {step}/{self.config.max_steps} {shown}"
                )
        if self.config.report_to:
            self.accelerator.log(dict(metrics), step=step)

    def _logged(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one that a full disk cut short is left out."""
        text = self._metrics.read_text() if self._metrics.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _drop(self, folders: Iterable[Path]) -> None:
        for folder in list(folders):
            if not folder.name.startswith("."):  # a kill in between leaves no half checkpoint in sight
                folder = folder.rename(folder.with_name(f".{folder.name}.old"))
            shutil.rmtree(folder)


@cache
def _leave_group_at_exit() -> None:
    """Once per process: gloo's threads must be gone before Python is finalised, or it may abort."""
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str | list | bool | None)
