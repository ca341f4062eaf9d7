"""The flows of Prefect: what deployments run, and commands where a server is configured.

They are the functions of the other modules, whose steps are tasks inside of a flow run.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

import pipelines.audit
import pipelines.build
import pipelines.clean
import pipelines.retrain
import pipelines.sweep
from pipelines.point import build_point
from pipelines.pool import Sign
from pipelines.types import Selection

__all__ = ["audit", "build", "clean", "point", "retrain", "sweep"]

STEPS: Any = ThreadPoolTaskRunner(max_workers=256)  # slots say how many there are at a time

build = flow(name="build", task_runner=STEPS, persist_result=False)(pipelines.build.build)
sweep = flow(name="sweep", task_runner=STEPS, persist_result=False)(pipelines.sweep.sweep)
audit = flow(name="audit", task_runner=STEPS, persist_result=False)(pipelines.audit.audit)
clean = flow(name="clean", persist_result=False)(pipelines.clean.clean)


@flow(name="point", task_runner=STEPS, persist_result=False)
def point(selection: Selection, retries: int = 2) -> State[Any]:
    """Builds a part of a sweep or a retraining that another process has planned.

    Args:
        selection: with a revision.
        retries: attempts at a stage after the first, on infrastructure errors only.
    """
    sign = Sign()
    with sign.shown():
        built = build_point(selection, retries)
        sign.result(built)
    failed = built.report.having("failed")
    if not built.report.ok:
        return Failed(message=f"failed: {', '.join(stage.name for stage in failed) or 'ended'}")
    return Completed(message=f"{len(built.report.having('built'))} stages built")


@flow(name="retrain", task_runner=STEPS, persist_result=False)
def retrain(
    experiments: list[str] | None = None,
    seeds: list[int] | None = None,
    only_on_change: bool = False,
    push: bool = False,
    pool: str | None = None,
    slurm: bool = False,
) -> State[Any]:
    """Builds challengers and promotes those that are better than their champion.

    Args:
        experiments: experiments or groups of params.yaml; none: those of ``retrain:``.
        seeds: none: those of ``retrain:``.
        only_on_change: leave experiments out whose data did not change.
        push: give what was built to the DVC remote.
        pool: a work pool, whose workers build the seeds.
        slurm: jobs of Slurm build them.
    """
    result = pipelines.retrain.retrain(experiments, seeds, only_on_change, push, pool, slurm)
    ended = Failed if result.failures else Completed
    return ended(message=result.summary, data=result.to_json())
