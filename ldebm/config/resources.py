"""The section ``resources``: what a machine gives to a run of an experiment."""

from __future__ import annotations

from pydantic import Field

from ldebm.config.sections import Section

__all__ = ["ResourcesConfig"]


class ResourcesConfig(Section):
    """What a job of a cluster asks for. No model depends on it: a change trains nothing."""

    cpus: int | None = Field(None, ge=1)
    """CPU cores, and as many stages at a time; null: what the cluster gives."""
    gpus: int | None = Field(None, ge=0)
    """GPUs; null: what the cluster gives."""
    memory: float | None = Field(None, gt=0)
    """Memory in GiB; null: what the cluster gives."""
    time: float | None = Field(None, gt=0)
    """Minutes for all stages of one seed; a job with several seeds asks for their sum."""
