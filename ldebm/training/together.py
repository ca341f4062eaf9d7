"""Trains several second stages at once and leaves each finished training where its stage looks.

The key of a checkpoint is all that a training depends on, so that the stage finds it wherever it is
started: by DVC, by a build or by hand. It takes the run up at the last update and writes what it
writes alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldebm.config import ExperimentConfig
from ldebm.config.alike import alike
from ldebm.data.packed import Packed
from ldebm.notes import note
from ldebm.training.interrupt import Interrupt
from ldebm.training.memory import give_back_memory
from ldebm.training.parallel import world
from ldebm.training.prior_tasks import PriorTask
from ldebm.training.progress import Progress
from ldebm.training.second_stage import open_prior, snapshot_shares
from ldebm.training.stacked_runs import StackedRuns
from ldebm.training.trainer import EXIT_INTERRUPTED, Loop

__all__ = ["Run", "prepare", "train_together"]


@dataclass(frozen=True)
class Run:
    """A second stage that may be trained beside others.

    Attributes:
        name: of the experiment.
        seed: of the run.
        config: the experiment.
        packed: its data.
        folder: with the backbone and latents.parquet.
    """

    name: str
    seed: int
    config: ExperimentConfig
    packed: Packed
    folder: Path

    @property
    def stage(self) -> str:
        """Its stage in DVC."""
        return f"prior@{self.name}-{self.seed}"


def prepare(runs: Sequence[Run], epochs: float | None) -> list[str]:
    """Trains second stages together and leaves each finished training where its stage looks.

    The stage then takes its checkpoint up at the last update and writes what it writes alone. Runs
    that are not like the first one, or that stand at another update, are left to their stages.

    Args:
        runs: with what they read.
        epochs: length of the run, in place of the experiments' own.

    Returns:
        The stages of the runs that were trained.

    Raises:
        UsageError: a checkpoint is damaged.
        SystemExit: code 75 after SIGTERM, with all checkpoints written.
    """
    key = alike(runs[0].config)
    # All before the first is trained: the key of a checkpoint holds the code that is imported.
    opened = [
        (run, open_prior(run.config, run.packed, run.seed, run.folder, epochs))
        for run in runs
        if key is not None and alike(run.config) == key
    ]
    loops: dict[str, Loop] = {}
    for run, stage in opened:
        task, training = PriorTask.of(stage), stage.config.prior.training
        shares = list(snapshot_shares(run.packed))
        loop = Loop(task, training, stage.checkpoint, "prior", shares)
        loop.resume()
        first = next(iter(loops.values()), loop)
        same = loop.step == first.step and task.steps_per_epoch == first.task.steps_per_epoch
        if stage.device.type == "cpu" and same and loop.step < loop.total:
            loops[run.stage] = loop
    if len(loops) < 2 or world() > 1:
        return []
    for loop in loops.values():
        loop.together = {"trained_with": sorted(loops)}
    done = train_together(list(loops.values()))
    return [stage for stage, loop in loops.items() if loop in done]


def train_together(loops: Sequence[Loop]) -> list[Loop]:
    """Trains runs to their end, each with its own checkpoint at that end.

    A run that diverges leaves the others, with the last checkpoint that it has: started alone it
    says what is wrong.

    Args:
        loops: at the same update, with files for their checkpoints.

    Returns:
        Those that came to the end.

    Raises:
        SystemExit: code 75 after SIGTERM, with all checkpoints written.
    """
    together, first = StackedRuns(loops), loops[0]
    if not together.agrees():
        together.part()
        print("priors: this machine rounds joined products in another way; each is trained alone")
        return []
    saved, cpu = time.monotonic(), time.process_time()
    clock = saved
    for loop in loops:
        loop.cpu_start, loop.sharing = cpu, len(loops)
    with Interrupt() as interrupt, Progress("priors", first.total, first.step) as progress:
        while together.step < first.total:
            going, lost = together.update()
            rows = [loop.record(terms) for loop, terms in going]
            if lost:
                together.part()
                if not going:
                    return []
                together = StackedRuns([loop for loop, _ in going])
            if rows[0] is not None:
                progress.show(together.step, rows[0])
            if interrupt.received or time.monotonic() - saved > first.config.checkpoint_seconds:
                together.save()
                give_back_memory()
                saved = time.monotonic()
            if interrupt.received:
                print(
                    f"priors: interrupted at update {together.step} of {first.total}; "
                    "start it again to continue",
                    file=sys.stderr,
                )
                raise SystemExit(EXIT_INTERRUPTED)
    together.part()
    for loop in together.loops:
        loop.together["trained_seconds"] = (time.monotonic() - clock) / len(together.loops)
        loop.save()
    note(cpu_seconds_shared=time.process_time() - cpu)
    return together.loops
