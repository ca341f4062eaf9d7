"""The one training loop, for both stages.

A :class:`Task` says what a step's loss is; the trainer does the rest: learning rate, clipping,
averaged weights, curves, validation, checkpoints, exact resume, SIGTERM, divergence guard, progress
and data-parallel gradients. Everything that a step draws is a function of (seed, step), so that a
run killed anywhere and started again ends with the same bytes.
"""

from __future__ import annotations

import math
import sys
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldebm.config import TrainingConfig
from ldebm.errors import DivergenceError, UsageError
from ldebm.files import atomic_path
from ldebm.notes import note
from ldebm.optimisers import (
    ParameterGroup,
    apply_gradients,
    learning_rate_factor,
    make_optimiser,
)
from ldebm.training.interrupt import Interrupt
from ldebm.training.memory import give_back_memory
from ldebm.training.objectives import Terms
from ldebm.training.parallel import average_gradients, is_main
from ldebm.training.progress import Progress
from ldebm.training.tracking import Tracking

__all__ = [
    "EXIT_INTERRUPTED",
    "Loop",
    "Task",
    "TrainResult",
    "train",
]

EXIT_INTERRUPTED = 75
CURVE_POINTS = 200


class Task(Protocol):
    """What the trainer trains. A subclass needs only what differs from the defaults here."""

    module: nn.Module
    steps_per_epoch: int

    def groups(self) -> list[ParameterGroup]:
        """Disjoint parameter groups."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of every epoch (pseudo-labels, order of rows)."""

    def loss(self, step: int) -> Terms:
        """The loss of global step ``step`` on this process's share of the batch."""

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Called after the optimiser; ``averaged`` are the averaged weights, if kept."""

    def validate(self, step: int) -> dict[str, float]:
        """Validation metrics; ``score``, when there, is minimised to choose the weights kept."""
        return {}

    def state(self) -> dict[str, Any]:
        """Tensors and numbers beside the module that a resumed run needs."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state` gave."""


@dataclass
class TrainResult:
    """What a finished run leaves.

    Attributes:
        state: the weights to keep: best by validation, else averaged, else last.
        curve: one row of training terms per logging interval.
        validation: one row per validation.
        updates: optimiser steps done.
        snapshots: weights at a few training times, by update.
    """

    state: dict[str, Tensor]
    curve: list[dict[str, float]]
    validation: list[dict[str, float]]
    updates: int
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)


def train(
    task: Task,
    config: TrainingConfig,
    checkpoint: Path | None,
    *,
    title: str,
    snapshots: Iterable[float] = (),
    stop_after: int | None = None,
) -> TrainResult:
    """Trains ``task`` to its end, continuing from ``checkpoint`` when that is there.

    Args:
        task: module and losses.
        config: length, optimiser schedules, checkpoint interval.
        checkpoint: file for resuming, outside all outputs; ``None``: cannot be resumed.
        title: shown in the progress.
        snapshots: shares of the run at which weights are kept for plots.
        stop_after: stop as if interrupted after this many updates of this call (tests).

    Raises:
        DivergenceError: a loss term became non-finite; the last good checkpoint is kept.
        UsageError: the checkpoint cannot be read.
        SystemExit: code 75 after SIGTERM, with a checkpoint written.
    """
    loop = Loop(task, config, checkpoint, title, list(snapshots))
    loop.resume()
    with Interrupt() as interrupt:
        loop.run(interrupt, stop_after)
    return loop.result()


class Loop:
    """State of one training run.

    Args:
        task: module and losses.
        config: length, optimiser schedules, checkpoint interval.
        checkpoint: file for resuming.
        title: shown in the progress.
        snapshots: shares of the run at which weights are kept.

    Attributes:
        together: what the record of the stage says of a run that was trained beside others:
            ``trained_with``, their stages, and ``trained_seconds``, its share of the time.
    """

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        checkpoint: Path | None,
        title: str,
        snapshots: list[float],
    ) -> None:
        self.task, self.config, self.checkpoint, self.title = task, config, checkpoint, title
        per_epoch = task.steps_per_epoch
        self.total = config.length(per_epoch)
        self.groups = task.groups()
        self.optimisers = [make_optimiser(group) for group in self.groups]
        self.ema = self.groups[0].config.ema
        self.averaged: dict[str, Tensor] | None = None
        if self.ema is not None:
            self.averaged = {k: v.detach().clone() for k, v in task.module.named_parameters()}
        self.step = 0
        self.epoch = -1
        self.sums: dict[str, float | Tensor] = {}
        self.count = 0
        self.curve: list[dict[str, float]] = []
        self.validation: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None
        self.best_score = math.inf
        self.snapshot_steps = {max(1, round(share * self.total)) for share in snapshots}
        self.snapshots: dict[int, dict[str, Tensor]] = {}
        self.log_every = max(1, self.total // CURVE_POINTS)
        validate = config.validate_every
        self.validate_steps = max(1, round(validate * per_epoch)) if validate else None
        self.saved = time.monotonic()
        self.together: dict[str, Any] = {}
        self.cpu_before: float | None = 0.0
        self.cpu_start, self.sharing = time.process_time(), 1
        device = next(task.module.parameters()).device
        self.check_every = 1 if device.type == "cpu" else 50

    def run(self, interrupt: Interrupt, stop_after: int | None) -> None:
        begun = self.step
        shown = Progress(self.title, self.total, self.step)
        with Tracking(self.title) as tracking, shown as progress:
            while self.step < self.total and not self.stopped:
                self.begin_update()
                terms = self.update()
                validations = len(self.validation)
                row = self.record(terms)
                if row is not None:
                    progress.show(self.step, row)
                    tracking.log(row)
                if len(self.validation) > validations:
                    tracking.log(self.validation[-1], "valid")
                if interrupt.received or (stop_after and self.step - begun >= stop_after):
                    self.save()
                    print(
                        f"{self.title}: interrupted at update {self.step} of {self.total}; "
                        "start it again to continue",
                        file=sys.stderr,
                    )
                    raise SystemExit(EXIT_INTERRUPTED)
                if time.monotonic() - self.saved > self.config.checkpoint_seconds:
                    self.save()
                    give_back_memory()

    @property
    def stopped(self) -> bool:
        """Whether the last validations, as many as ``patience``, were no better than the best."""
        scores = [row["score"] for row in self.validation if "score" in row]
        if self.config.patience is None or not scores:
            return False
        return len(scores) - 1 - scores.index(min(scores)) >= self.config.patience

    def begin_update(self) -> None:
        """A new epoch where one begins, the learning rate, no gradients."""
        epoch, per_epoch = self.step // self.task.steps_per_epoch, self.task.steps_per_epoch
        if epoch != self.epoch:
            self.task.begin_epoch(epoch)
            self.epoch = epoch
        self.task.module.train()
        for group, optimiser in zip(self.groups, self.optimisers, strict=True):
            factor = learning_rate_factor(group.config, self.step, self.total, per_epoch)
            optimiser.param_groups[0]["lr"] = group.config.lr * factor
            optimiser.zero_grad(set_to_none=True)

    def update(self) -> Terms:
        """Loss, gradients and optimiser of an update that has begun."""
        terms = self.task.loss(self.step)
        self.guard(terms)
        # Nothing but the parameters: double gradients would also go back to what is given.
        trained = [p for group in self.groups for p in group.parameters if p.requires_grad]
        torch.autograd.backward(terms.total * terms.row_weight, inputs=trained)
        for group in self.groups:
            average_gradients(group.parameters)
        for group, optimiser in zip(self.groups, self.optimisers, strict=True):
            apply_gradients(group, optimiser, compiled=self.config.precision == "bfloat16")
        self._average()
        self.end_update()
        return terms

    def end_update(self) -> None:
        """Counts an update that the optimiser has made."""
        self.task.after_update(self.step, self.averaged)
        self.step += 1

    def guard(self, terms: Terms) -> None:
        """Raises where the loss is not finite.

        Raises:
            DivergenceError: with the terms that are not.
        """
        if self.step % self.check_every or bool(torch.isfinite(terms.total)):
            return
        bad = [name for name, value in terms.parts.items() if not bool(torch.isfinite(value))]
        kept = f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint else ""
        raise DivergenceError(
            f"{self.title}: the loss became {float(terms.total.detach())} at update {self.step} "
            f"(terms: {', '.join(bad) or 'total'}); lower training.optimiser.lr or clip{kept}"
        )

    @property
    def decay(self) -> float:
        """Of the averaged weights, at this update."""
        return min(self.ema or 0.0, (1 + self.step) / (10 + self.step))

    @torch.no_grad()
    def _average(self) -> None:
        if self.averaged is not None:
            values: list[Tensor] = list(self.task.module.parameters())
            torch._foreach_lerp_(list(self.averaged.values()), values, 1 - self.decay)

    def record(self, terms: Terms) -> dict[str, float] | None:
        """Adds an update to the curve, with snapshots and validations where they are due.

        Returns:
            The row of the curve that it completes, if it does.
        """
        for name, value in {"loss": terms.total.detach(), **terms.parts}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.double()
        self.count += 1
        if self.step in self.snapshot_steps:
            self.snapshots[self.step] = self._weights(averaged=True)
        due = self.validate_steps is not None and self.step % self.validate_steps == 0
        if due or self.step == self.total:
            self._validate()
        if self.step % self.log_every == 0 or self.step == self.total:
            row = self._position()
            row |= {name: float(value) / self.count for name, value in self.sums.items()}
            self.curve.append(row)
            self.sums, self.count = {}, 0
            return row
        return None

    def _position(self) -> dict[str, float]:
        return {
            "update": self.step,
            "epoch": round(self.step / self.task.steps_per_epoch, 4),
        }

    def _validate(self) -> None:
        if self.averaged is not None:
            own = self._weights(averaged=False)
            self.task.module.load_state_dict(self._weights(averaged=True))
        self.task.module.eval()
        metrics = self.task.validate(self.step)
        self.validation.append({**self._position(), **metrics})
        if metrics.get("score", math.inf) < self.best_score:
            self.best_score = metrics["score"]
            self.best = self._weights(averaged=self.averaged is not None)
        if self.averaged is not None:
            self.task.module.load_state_dict(own)

    def _weights(self, *, averaged: bool) -> dict[str, Tensor]:
        state = {k: v.detach().clone() for k, v in self.task.module.state_dict().items()}
        if averaged and self.averaged is not None:
            state |= {k: v.clone() for k, v in self.averaged.items()}
        return state

    @property
    def cpu_seconds(self) -> float | None:
        """Processor time so far, that before interruptions included; ``None``: not known."""
        if self.cpu_before is None:
            return None
        return self.cpu_before + (time.process_time() - self.cpu_start) / self.sharing

    def save(self) -> None:
        """Writes everything a resumed run needs, atomically (rank 0)."""
        self.saved = time.monotonic()
        if self.checkpoint is None or not is_main():
            return
        content = {
            "module": self._weights(averaged=False),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "averaged": self.averaged,
            "step": self.step,
            "epoch": self.epoch,
            "sums": {name: float(value) for name, value in self.sums.items()},
            "count": self.count,
            "curve": self.curve,
            "validation": self.validation,
            "best": self.best,
            "best_score": self.best_score,
            "snapshots": self.snapshots,
            "task": self.task.state(),
            "together": self.together,
            "cpu_seconds": self.cpu_seconds,
        }
        with atomic_path(self.checkpoint) as path:
            torch.save(content, path)

    def resume(self) -> None:
        """Takes up the checkpoint, when there is one."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return
        try:
            _check_sums(self.checkpoint)
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            self.task.module.load_state_dict(content["module"])
            for optimiser, state in zip(self.optimisers, content["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.task.load_state(content["task"])
        except Exception as error:
            raise UsageError(
                f"{self.checkpoint}: corrupt checkpoint ({type(error).__name__}); "
                "delete it to train from the start"
            ) from error
        device = next(self.task.module.parameters()).device
        if self.averaged is not None:
            self.averaged = {k: v.to(device) for k, v in content["averaged"].items()}
        self.step, self.epoch = content["step"], content["epoch"]
        self.sums, self.count, self.curve = content["sums"], content["count"], content["curve"]
        self.validation = content["validation"]
        self.best, self.best_score = content["best"], content["best_score"]
        self.snapshots = content["snapshots"]
        self.together = content.get("together", {})
        self.cpu_before, self.cpu_start = content.get("cpu_seconds"), time.process_time()
        note(resumed_at=self.step, cpu_seconds_before=self.cpu_before, **self.together)
        print(f"{self.title}: continuing at update {self.step} of {self.total}", file=sys.stderr)

    def result(self) -> TrainResult:
        state = self.best or self._weights(averaged=True)
        return TrainResult(state, self.curve, self.validation, self.step, self.snapshots)


def _check_sums(checkpoint: Path) -> None:
    """Raises where a part of the file is not what was written: ``torch.load`` does not look."""
    with zipfile.ZipFile(checkpoint) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
