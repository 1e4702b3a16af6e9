"""What every training does in a step: clip the gradient, move the weights, go on with the schedule, log."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from weft.rows import AbstractHost
from weft.tasks import Encoded
from weft.train.learned_bank import LearnedBank, backward
from weft.train.optimizer import OptimizerConfig, build_optimizers, build_schedulers
from weft.train.run import Run


class Learner:
    """The parameters of a module under a run, as its last checkpoint left them.

    `host` is what it is trained over, None where the base itself is trained. `clip` bounds the norm of the
    gradient and returns the norm, or norms, before; of all parameters together unless given. The schedule
    ends after so many `steps`, those of the run unless given. Raises what `Run.restore` raises.
    """

    def __init__(
        self,
        run: Run,
        host: AbstractHost | None,
        config: OptimizerConfig,
        module: nn.Module,
        *,
        clip: Callable[[float], Tensor] | None = None,
        steps: int | None = None,
    ) -> None:
        self.run, self.config, self.module = run, config, module
        self.clip = clip or partial(nn.utils.clip_grad_norm_, list(module.parameters()))
        self.optimizers = build_optimizers(config, module.named_parameters())
        self.schedulers = build_schedulers(
            config, self.optimizers, run.config.max_steps if steps is None else steps
        )
        self.start = run.restore(module, self.optimizers, self.schedulers, host=host)
        """How many steps were done before."""

    def left(self) -> Iterator[int]:
        """The steps that are still to be done, counted from 1; each draws by a seed of its own.

        So a run that was resumed draws the same dropout as one that was not.
        """
        for done in range(self.start + 1, self.run.config.max_steps + 1):
            torch.manual_seed(self.run.config.seed * 1_000_003 + done)
            yield done

    def step(self, done: int, metrics: Mapping[str, float]) -> None:
        """Move the weights by the gradient that was added up, and log `metrics` where it is due.

        Raises NotFiniteError for a gradient that is no number; the weights are then as they were.
        """
        norm = self.clip(self.config.max_grad_norm)
        self.run.check_finite(done, norm, "the gradient")
        for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        if self.run.is_due("logging", done):
            # a rate among the metrics was set past the schedule
            rate = self.schedulers[0].get_last_lr()[0]
            self.run.log(done, {**metrics, "grad_norm": float(norm.mean()), "learning_rate": rate, **metrics})

    def save(self, done: int) -> bool:
        """Write a checkpoint where it is due; whether it was."""
        due = self.run.is_due("save", done)
        if due:
            self.keep(done)
        return due

    def keep(self, done: int) -> None:
        """Write a checkpoint."""
        self.run.save(done, self.module, self.optimizers, self.schedulers)


class BankLearner:
    """A learned bank in a training without a run: it keeps no checkpoint and logs nothing."""

    def __init__(self, host: AbstractHost, bank: LearnedBank, config: OptimizerConfig, *, steps: int) -> None:
        self.host, self.bank, self.config = host, bank, config
        [self.optimizer] = build_optimizers(config, bank.named_parameters())
        [self.scheduler] = build_schedulers(config, [self.optimizer], steps)
        AcceleratorState._reset_state()  # a run before this one may have wanted another precision
        self.accelerator = Accelerator(cpu=host.device.type == "cpu")

    def backward(self, rows: Sequence[Sequence[Encoded]], *, tokens: int) -> Tensor:
        """Add up the gradients of each adapter's own rows; returns the K losses, in nats per answer token."""
        return backward(self.host, self.bank, rows, tokens=tokens, accelerator=self.accelerator)

    def step(self) -> None:
        """Move the weights by the gradient that was added up."""
        self.bank.clip_grad_norm_(self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
