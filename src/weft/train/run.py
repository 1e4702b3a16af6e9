"""A run: one folder with its recipe, metrics and checkpoints, and a progress bar."""

import atexit
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from pydantic import Field, field_validator, model_validator
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from weft.config import Config
from weft.errors import ConfigError, MissingExtraError, NotFiniteError, SaveError, WeightsError
from weft.files import remove_leftovers, replace_file, replace_folder, to_json
from weft.plain import plain
from weft.reading import parse_json, read_json, read_text
from weft.rows import AbstractHost
from weft.train.kept import check_base, check_same, keep, keep_base, lock_folder
from weft.train.memory import keep_freed_memory
from weft.train.optimizer import load_state_tensors, state_tensors

_CHECKPOINT = "checkpoint-"


class RunConfig(Config):
    """Where a run lives and how often it speaks; names as in Hugging Face's Trainer."""

    output_dir: str
    """Folder of the run: its recipe, metrics.jsonl, checkpoints and what it makes."""
    seed: int = 0
    """Of every draw: starts, rows, wordings, dropout."""
    max_steps: int = Field(default=0, ge=0, le=10**9)
    """How long to train; 0 where `num_train_epochs` says so."""
    num_train_epochs: float = Field(default=0, ge=0, le=10**6)
    """How often to meet every row, in place of `max_steps`; for `weft train lora`."""
    logging_steps: int = Field(default=10, gt=0)
    """How many steps lie between two lines of the log."""
    eval_steps: int = Field(default=0, ge=0)
    """0 evaluates at the end alone."""
    eval_on_start: bool = False
    """Evaluate before the first step too; for `weft train lora`."""
    save_steps: int = Field(default=500, gt=0)
    """How many steps lie between two checkpoints; the last one is kept."""
    save_minutes: float = Field(default=0, ge=0, allow_inf_nan=False)
    """Save as well when this many minutes have passed since the last time; 0 goes by steps alone."""
    bf16: bool = False
    """Compute in bfloat16 where autocast allows it; weights that are trained stay float32."""
    report_to: tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...] = ()
    """Sinks besides metrics.jsonl, one or several; `none` and nothing are the same."""

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if value in ("none", "None", None):
            return ()
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_how_long(self) -> "RunConfig":
        if (self.max_steps > 0) == (self.num_train_epochs > 0):
            raise ValueError("give one of max_steps and num_train_epochs, above 0")
        return self


class Run:
    """One training run; use it as a context manager.

    Everything is written aside and renamed, so a run killed at any moment leaves its last checkpoint whole.
    A run started again in the same folder continues from there, and its loss curve is the same.
    """

    def __init__(
        self, config: RunConfig, recipe: Config, *, resume: bool = True, data_hash: str | None = None
    ) -> None:
        """Open the folder, and hold it until the run is left.

        Raises ConfigError when another run holds it, when it holds a run of another recipe or of data with
        another hash, and for a recipe without `max_steps`; MissingExtraError for a sink without its package.
        """
        if not config.max_steps:
            raise ConfigError("this training counts steps, not epochs; give run.max_steps")
        for sink in config.report_to:
            if find_spec(sink) is None:
                raise MissingExtraError(f"report_to: {sink} needs a package: pip install {sink}")
        self.config = config
        self._recipe, self._data_hash = recipe, data_hash
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
        self._lock: int | None = None
        if self.accelerator.is_main_process:
            self._lock = lock_folder(self.folder)
            try:
                if resume and self.last_checkpoint() is not None:
                    check_same(self.folder, recipe, data_hash)
            except BaseException:
                os.close(self._lock)
                raise
        if config.report_to:
            self.accelerator.init_trackers(self.folder.name)
        self.resume = resume
        self._started = self._saved = time.monotonic()
        self._spent = 0.0
        self._metrics = self.folder / "metrics.jsonl"
        self._bar = Progress(
            MofNCompleteColumn(), BarColumn(bar_width=20),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn(
                "{task.fields[shown]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
            ),
            console=Console(stderr=True), expand=True,
            disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=config.max_steps, shown=escape(plain(self.folder.name)))

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
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_due(self, what: Literal["logging", "eval", "save"], step: int) -> bool:
        """Whether `step` is a multiple of what the recipe asks for, or the last one, or saving is overdue."""
        minutes = self.config.save_minutes
        if what == "save" and minutes and time.monotonic() - self._saved >= 60 * minutes:
            return True
        every = {
            "logging": self.config.logging_steps,
            "eval": self.config.eval_steps,
            "save": self.config.save_steps,
        }
        return step == self.config.max_steps or (every[what] > 0 and step % every[what] == 0)

    def draw(self, step: int) -> int:
        """Which draw of the data this process takes in a step, so that no two processes take the same."""
        return (step - 1) * self.accelerator.num_processes + self.accelerator.process_index

    def best(self, metric: str) -> float:
        """The highest value of a metric so far; minus infinity before the first."""
        return max((line.get(metric, -math.inf) for line in self._logged()), default=-math.inf)

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, if any."""
        found = {step: path for step, path in self._checkpoints().items() if (path / "state.json").is_file()}
        return found[max(found)] if found else None

    def restore(
        self,
        model: nn.Module,
        optimizers: list[Any],
        schedulers: list[Any],
        *,
        host: AbstractHost | None = None,
    ) -> int:
        """Load the newest checkpoint and return the step to go on from; 0 for a fresh run.

        `host` is the base that is trained over, if any. Raises ConfigError for a checkpoint over another base
        or of another model, WeightsError for a damaged one.
        """
        if self.accelerator.is_main_process:
            for place in (self.folder, *self.folder.glob("*/")):  # half written when a run was killed
                remove_leftovers(place)
            self._drop(self.folder.glob(f".{_CHECKPOINT}*"))
            if not self.resume:
                self._drop(self._checkpoints().values())  # else the next resume takes them
            if host is not None:
                if self.last_checkpoint() is not None:
                    check_base(self.folder, host)
                keep_base(self.folder, host)
            keep(self.folder, self._recipe, self._data_hash)
        checkpoint = self.last_checkpoint() if self.resume else None
        if checkpoint is None:
            if self.accelerator.is_main_process:
                replace_file(self._metrics, "")
            return 0
        try:
            step = self._load(checkpoint, model, optimizers, schedulers)
        except ConfigError:
            raise
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(
                f"{checkpoint} is damaged ({type(error).__name__}: {str(error)[:100]}); "
                "bring back a whole copy, or start again with weft train --no-resume"
            ) from error
        if self.accelerator.is_main_process:
            kept = [line for line in self._logged() if line["step"] <= step]
            replace_file(self._metrics, "".join(json.dumps(line) + "\n" for line in kept))
            self._spent = max((line.get("seconds", 0.0) for line in kept), default=0.0)
            self.say(f"resumed after step {step}")
        self._bar.update(self._task, completed=step)
        return step

    def _load(self, checkpoint: Path, model: nn.Module, optimizers: list[Any], schedulers: list[Any]) -> int:
        state = read_json(checkpoint / "state.json")
        trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
        loaded = load_file(checkpoint / "model.safetensors")
        if {n: p.shape for n, p in loaded.items()} != {n: p.shape for n, p in trainable.items()}:
            raise ConfigError(f"{checkpoint} does not fit this recipe's model")
        for name, parameter in trainable.items():
            parameter.data.copy_(loaded[name])
        load_state_tensors(optimizers, load_file(checkpoint / "optimizer.safetensors"))
        for optimizer, scheduler, values in zip(optimizers, schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)
            for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate
        return int(state["step"])

    def save(self, step: int, model: nn.Module, optimizers: list[Any], schedulers: list[Any]) -> None:
        """Write checkpoint `step`, then drop the older ones."""
        self._saved = time.monotonic()
        if not self.accelerator.is_main_process:
            return
        older = list(self._checkpoints().values())
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
            seconds = round(self._spent + time.monotonic() - self._started, 2)
            line = {"step": step, "seconds": seconds, **metrics}
            try:
                with self._metrics.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise SaveError(f"could not write {self._metrics}: {error.strerror}") from error
            shown = " ".join(f"{plain(k)} {v:.3g}" for k, v in metrics.items())
            self._bar.update(self._task, completed=step, shown=escape(shown))
            if not self._bar.console.is_terminal:
                self.say(f"step {step}/{self.config.max_steps} {shown}")
        if self.config.report_to:
            self.accelerator.log(dict(metrics), step=step)

    def say(self, text: str) -> None:
        """One line above the progress bar, after the run's name."""
        if self.accelerator.is_main_process:
            line = f"{self.folder.name} {text}"
            self._bar.console.print(plain(line), markup=False, highlight=False, soft_wrap=True)

    def check_finite(self, step: int, values: Tensor | float, what: str) -> None:
        """Raise NotFiniteError unless all values are numbers; the last checkpoint stays as it is."""
        if bool(torch.as_tensor(values).isfinite().all()):
            return
        kept = self.last_checkpoint()
        left = f"{kept.name} is kept" if kept else "there is no checkpoint yet"
        raise NotFiniteError(
            f"step {step}: {what} is not a finite number; {left}. Lower the learning rate or look at the rows"
        )

    def _checkpoints(self) -> dict[int, Path]:
        """The folders of checkpoints by their step; what else is named like them is somebody's own."""
        found = {path.name.removeprefix(_CHECKPOINT): path for path in self.folder.glob(f"{_CHECKPOINT}*")}
        return {int(step): path for step, path in found.items() if step.isdecimal() and path.is_dir()}

    def _logged(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one that a full disk cut short is left out.

        Raises ConfigError that names a line which no run has written.
        """
        text = read_text(self._metrics) if self._metrics.is_file() else ""
        lines = []
        for number, line in enumerate(text.split("\n")[:-1], 1):
            where = f"{self._metrics}, line {number}"
            values = parse_json(line, where)
            if not isinstance(values, dict) or not isinstance(values.get("step"), int):
                raise ConfigError(f"{where} is no line of a run: it has no step; mend or remove the file")
            lines.append(values)
        return lines

    def _drop(self, folders: Iterable[Path]) -> None:
        for folder in list(folders):
            if not folder.name.startswith("."):  # a kill in between leaves no half checkpoint in sight
                folder = folder.rename(folder.with_name(f".{folder.name}.old"))
            # A link to a checkpoint elsewhere: what it leads to is somebody's own.
            folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)


@cache
def _leave_group_at_exit() -> None:
    """Once per process: gloo's threads must be gone before Python is finalised, or it may abort."""
    atexit.register(lambda: torch.distributed.is_initialized() and torch.distributed.destroy_process_group())


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str | list | bool | None)
