"""The one training loop, for both stages.

A :class:`Task` says what a step's loss is; the trainer does the rest: learning rate, clipping,
averaged weights, curves, validation, checkpoints, exact resume, SIGTERM, divergence guard, progress
and data-parallel gradients. Everything that a step draws is a function of (seed, step), so that a
run killed anywhere and started again ends with the same bytes (C37).
"""

from __future__ import annotations

import inspect
import math
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ldebm import kernels
from ldebm.config import OptimiserConfig, TrainingConfig
from ldebm.errors import DivergenceError, UsageError
from ldebm.files import atomic_path
from ldebm.kernels import functions
from ldebm.lineage.records import note
from ldebm.training.memory import give_back_memory
from ldebm.training.objectives import Terms
from ldebm.training.parallel import average_gradients, is_main
from ldebm.training.progress import Progress

__all__ = [
    "Group",
    "Task",
    "TrainResult",
    "apply_gradients",
    "learning_rate_factor",
    "make_optimiser",
    "train",
    "untraced",
]

EXIT_INTERRUPTED = 75
CURVE_POINTS = 200


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimiser configuration and are clipped together."""

    name: str
    parameters: list[nn.Parameter]
    config: OptimiserConfig


class Task(Protocol):
    """What the trainer trains."""

    module: nn.Module
    steps_per_epoch: int

    def groups(self) -> list[Group]:
        """Disjoint parameter groups."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of every epoch (pseudo-labels, order of rows)."""

    def loss(self, step: int) -> Terms:
        """The loss of global step ``step`` on this process's share of the batch."""

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Called after the optimiser; ``averaged`` are the averaged weights, if kept."""

    def validate(self, step: int) -> dict[str, float]:
        """Validation metrics; ``score``, when there, is minimised to choose the weights kept."""

    def state(self) -> dict[str, Any]:
        """Tensors and numbers beside the module that a resumed run needs."""

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


def learning_rate_factor(
    config: OptimiserConfig, step: int, total: int, per_epoch: int = 1
) -> float:
    """The learning rate of update ``step`` of ``total`` over the largest.

    Args:
        config: whose schedule it is.
        step: updates done.
        total: updates of the whole training.
        per_epoch: updates of an epoch; ``exponential`` falls after each, not in between.

    Example:
        >>> learning_rate_factor(OptimiserConfig(schedule="linear", final=0.0), 75, 100)
        0.5
        >>> learning_rate_factor(OptimiserConfig(schedule="exponential", decay=0.9), 25, 100, 10)
        0.81
    """
    if config.schedule == "one_cycle":
        rise = max(1, int(0.3 * total))
        if step < rise:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / rise))
        share = (step - rise) / max(1, total - rise)
        return config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * share))
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "linear":
        start = config.hold * total
        share = max(0.0, (step - start) / max(1.0, total - start))
        return warm * (1 - (1 - config.final) * share)
    if config.schedule == "cosine":
        share = step / max(1, total)
        return warm * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * share)))
    if config.schedule == "exponential":
        return warm * config.decay ** (step // per_epoch)
    return warm


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
    loop = _Loop(task, config, checkpoint, title, list(snapshots))
    loop.resume()
    with _Interrupt() as interrupt:
        loop.run(interrupt, stop_after)
    return loop.result()


class _Interrupt:
    """Remembers SIGTERM until the step in hand is done."""

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None

    def __enter__(self) -> _Interrupt:
        try:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread: the caller decides about signals
            self._previous = None
        return self

    def _note(self, *_: object) -> None:
        self.received = True

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)


class _Loop:
    """State of one training run."""

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
        self.total = _length(config, per_epoch)
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
        device = next(task.module.parameters()).device
        self.check_every = 1 if device.type == "cpu" else 50

    def run(self, interrupt: _Interrupt, stop_after: int | None) -> None:
        begun = self.step
        with Progress(self.title, self.total, self.step) as progress:
            while self.step < self.total:
                self._maybe_begin_epoch()
                terms = self._update()
                self._record(terms, progress)
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

    def _maybe_begin_epoch(self) -> None:
        epoch = self.step // self.task.steps_per_epoch
        if epoch != self.epoch:
            self.task.begin_epoch(epoch)
            self.epoch = epoch

    def _update(self) -> Terms:
        self.task.module.train()
        per_epoch = self.task.steps_per_epoch
        for group, optimiser in zip(self.groups, self.optimisers, strict=True):
            factor = learning_rate_factor(group.config, self.step, self.total, per_epoch)
            optimiser.param_groups[0]["lr"] = group.config.lr * factor
            optimiser.zero_grad(set_to_none=True)
        terms = self.task.loss(self.step)
        if self.step % self.check_every == 0:
            self._guard(terms)
        (terms.total * terms.row_weight).backward()  # type: ignore[no-untyped-call]
        for group in self.groups:
            average_gradients(group.parameters)
        for group, optimiser in zip(self.groups, self.optimisers, strict=True):
            apply_gradients(group, optimiser, compiled=self.config.precision == "bfloat16")
        if self.averaged is not None:
            self._average()
        self.task.after_update(self.step, self.averaged)
        self.step += 1
        return terms

    def _guard(self, terms: Terms) -> None:
        if bool(torch.isfinite(terms.total)):
            return
        bad = [name for name, value in terms.parts.items() if not bool(torch.isfinite(value))]
        kept = f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint else ""
        raise DivergenceError(
            f"{self.title}: the loss became {float(terms.total.detach())} at update {self.step} "
            f"(terms: {', '.join(bad) or 'total'}); lower training.optimiser.lr or clip{kept}"
        )

    @torch.no_grad()
    def _average(self) -> None:
        assert self.averaged is not None
        assert self.ema is not None
        decay = min(self.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.task.module.named_parameters():
            self.averaged[name].lerp_(value.detach(), 1 - decay)

    def _record(self, terms: Terms, progress: Progress) -> None:
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
            progress.show(self.step, row)

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

    def save(self) -> None:
        """Writes everything a resumed run needs, atomically (rank 0)."""
        self.saved = time.monotonic()
        if self.checkpoint is None or not is_main():
            return
        content = {
            "module": self.task.module.state_dict(),
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
        note(resumed_at=self.step)
        print(f"{self.title}: continuing at update {self.step} of {self.total}", file=sys.stderr)

    def result(self) -> TrainResult:
        state = self.best or self._weights(averaged=True)
        return TrainResult(state, self.curve, self.validation, self.step, self.snapshots)


def _length(config: TrainingConfig, per_epoch: int) -> int:
    """Updates of a training; none where the configuration says so."""
    if config.updates is not None:
        return config.updates
    assert config.epochs is not None
    return max(1, round(config.epochs * per_epoch)) if config.epochs else 0


def apply_gradients(
    group: Group, optimiser: torch.optim.Optimizer, *, compiled: bool = False
) -> None:
    """Clips the gradients of a group together, and makes the optimiser's step.

    Args:
        group: whose parameters have gradients.
        optimiser: of these parameters.
        compiled: by a kernel, where there is one for them: the result is the same up to rounding.
    """
    if compiled and isinstance(optimiser, torch.optim.Adam):
        fits = all(p.is_contiguous() and kernels.usable(p, 1) for p in group.parameters)
        if fits and functions.clip_adam(optimiser, group.config.clip):
            return
    if group.config.clip is not None:
        nn.utils.clip_grad_norm_(group.parameters, group.config.clip)
    optimiser.step()


def make_optimiser(group: Group) -> torch.optim.Optimizer:
    """The optimiser of a group's configuration."""
    config = group.config
    shared: dict[str, Any] = {
        "lr": config.lr,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    if config.name == "adamax":
        return untraced(torch.optim.Adamax)(group.parameters, **shared)
    return untraced(torch.optim.Adam)(group.parameters, **shared, fused=True)


def untraced(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """The optimiser without what is there for ``torch.compile``, which nothing here uses.

    Those wrappers import a compiler when they are first called, which takes over a second.
    """
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


def _check_sums(checkpoint: Path) -> None:
    """Raises where a part of the file is not what was written: ``torch.load`` does not look."""
    with zipfile.ZipFile(checkpoint) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
