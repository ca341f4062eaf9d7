"""Who builds the parts of a sweep or a retraining: this machine, a work pool, or Slurm."""

from __future__ import annotations

from pathlib import Path

from ldebm.errors import UsageError
from pipelines.engine import pool_of
from pipelines.fanout import Crew
from pipelines.slurm import Slurm

__all__ = ["crew_of"]


def crew_of(root: Path, pool: str | None, slurm: bool, retries: int) -> Crew | None:
    """Who builds; None: this machine.

    Args:
        root: the project's folder.
        pool: name of a work pool of Prefect.
        slurm: jobs of Slurm.
        retries: attempts at a stage after the first, on infrastructure errors only.

    Raises:
        UsageError: both are given, or what is given cannot be used.
        LdebmError: the Prefect server does not answer.
    """
    if pool is not None and slurm:
        raise UsageError("--pool and --slurm: expected one of them")
    if slurm:
        return Slurm(root)
    crew: Crew | None = None if pool is None else pool_of(pool, retries)
    return crew
