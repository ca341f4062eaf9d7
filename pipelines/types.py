"""What flows are asked for and what they answer: plain frozen data, without Prefect or DVC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["BuildReport", "Selection", "StageOutcome", "Status"]

Status = Literal["cached", "built", "failed", "skipped"]


@dataclass(frozen=True)
class Selection:
    """What to build. The empty selection is what params.yaml of the workspace selects.

    Attributes:
        revision: a git revision, built as committed; None: the workspace with its uncommitted
            changes.
        experiments: groups or experiments of params.yaml, as for ``ldebm select``; empty: those of
            ``run.experiments``.
        seeds: empty: those of ``run.seeds``.
        epochs: length of every training; None: ``run.epochs`` as it stands.
        overrides: parameters as ``dvc exp run -S`` takes them: ``dotted.key=value``, ``+key=value``
            for a new one, ``~key`` to remove one.
        targets: DVC stages or outputs, with all that they need; empty: everything.
        isolated: keep the result in a worktree of its own and leave the workspace as it is. A
            revision or overrides are always isolated.
    """

    revision: str | None = None
    experiments: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    epochs: float | None = None
    overrides: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    isolated: bool = False

    @property
    def in_worktree(self) -> bool:
        """Whether the result stays in a worktree, instead of landing in the workspace."""
        return self.isolated or self.revision is not None or bool(self.overrides)


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage.

    Attributes:
        name: in DVC, ``prior@chatter-ldebm-0``.
        status: ``cached``: nothing ran (up to date, or restored from the cache); ``built``: its
            command ran; ``failed``; ``skipped``: something it needs failed, or the run was ended.
        seconds: from dispatch to end, waiting for a slot not counted.
        attempts: starts of its command; above 1 only after infrastructure errors.
        message: why it failed or was skipped, in one line; with ``log`` to read on.
        log: the log of its last attempt.
    """

    name: str
    status: Status
    seconds: float = 0.0
    attempts: int = 0
    message: str = ""
    log: Path | None = None


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    Attributes:
        worktree: the folder that holds the result: the user's workspace, or for an isolated build
            the worktree kept for it, where params.yaml, dvc.lock and all outputs can be read.
        commit: the git commit that was built.
        dirty: whether uncommitted changes or overrides were built on top of it.
        dvc_lock: ``worktree / "dvc.lock"``.
        stages: every stage of the selection, in the order of DVC.
        seconds: the whole build.
        flow_run: id of the Prefect flow run; None outside Prefect.
    """

    worktree: Path
    commit: str
    dirty: bool
    dvc_lock: Path
    stages: tuple[StageOutcome, ...] = field(default=())
    seconds: float = 0.0
    flow_run: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every stage is built or cached."""
        return all(stage.status in ("built", "cached") for stage in self.stages)

    def having(self, *statuses: Status) -> Sequence[StageOutcome]:
        """The stages with one of the statuses."""
        return [stage for stage in self.stages if stage.status in statuses]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BuildReport:
        """What :meth:`to_json` gave."""
        stages = [
            StageOutcome(**{**item, "log": item["log"] and Path(item["log"])})
            for item in content["stages"]
        ]
        places = {name: Path(content[name]) for name in ("worktree", "dvc_lock")}
        rest = {name: value for name, value in content.items() if name != "ok"}
        return cls(**{**rest, **places, "stages": tuple(stages)})

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        content = asdict(self) | {"ok": self.ok}
        content |= {"worktree": str(self.worktree), "dvc_lock": str(self.dvc_lock)}
        for stage in content["stages"]:
            stage["log"] = None if stage["log"] is None else str(stage["log"])
        return content
