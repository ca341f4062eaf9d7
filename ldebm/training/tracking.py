"""Curves of a training in TensorBoard, DVCLive, Weights & Biases or MLflow while it runs.

    LDEBM_TRACK=tensorboard,mlflow make repro

The variable belongs to the machine, not to the experiment: nothing that is trained depends on it.
Files go to the folder ``LDEBM_TRACK_DIR``, by default ``.track``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ldebm.errors import UsageError
from ldebm.notes import running
from ldebm.training.parallel import is_main

__all__ = ["FOLDER", "TRACKERS", "VARIABLE", "Tracking"]

VARIABLE, FOLDER = "LDEBM_TRACK", "LDEBM_TRACK_DIR"


class Tracker(Protocol):
    """One program that shows curves."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes numbers of an update, by name."""

    def close(self) -> None:
        """The training has ended, or was interrupted."""


class _TensorBoard:
    def __init__(self, folder: Path, name: str) -> None:
        self.writer = _module("torch.utils.tensorboard", "tensorboard").SummaryWriter(
            folder / "tensorboard" / name
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class _DVCLive:
    def __init__(self, folder: Path, name: str) -> None:
        place = str(folder / "dvclive" / name)
        quiet: dict[str, Any] = {"save_dvc_exp": False, "dvcyaml": None, "report": None}
        self.live = _module("dvclive").Live(place, resume=True, **quiet)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.live.step = step
        for key, value in metrics.items():
            self.live.log_metric(key, value)
        self.live.make_summary()

    def close(self) -> None:
        self.live.end()


class _WandB:
    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.run = _module("wandb").init(project="ldebm", name=name, dir=str(folder))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    def __init__(self, folder: Path, name: str) -> None:
        self.mlflow = _module("mlflow")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            folder.mkdir(parents=True, exist_ok=True)
            self.mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        self.mlflow.set_experiment("ldebm")
        self.mlflow.start_run(run_name=name)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.mlflow.log_metrics(dict(metrics), step=step)

    def close(self) -> None:
        self.mlflow.end_run()


TRACKERS: dict[str, Callable[[Path, str], Tracker]] = {
    "tensorboard": _TensorBoard,
    "dvclive": _DVCLive,
    "wandb": _WandB,
    "mlflow": _MLflow,
}


def _module(name: str, package: str = "") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = package or name
        raise UsageError(
            f"{VARIABLE} names {package}, which is not installed: pip install {package}, or unset "
            f"{VARIABLE}"
        ) from None


class Tracking:
    """The programs that ``LDEBM_TRACK`` names; none where it names none.

    Args:
        title: of the training, shown before the names of its numbers.

    Raises:
        UsageError: a name is unknown, or its package is not installed.
    """

    def __init__(self, title: str) -> None:
        self.title, self.trackers = title, list[Tracker]()
        names = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
        for name in names:
            if name not in TRACKERS:
                raise UsageError(f"{VARIABLE} {name!r}: expected some of {', '.join(TRACKERS)}")
        if not names or not is_main():
            return
        recording = running()
        run = recording.stage if recording is not None and recording.stage else title
        folder = Path(os.environ.get(FOLDER, ".track"))
        self.trackers = [TRACKERS[name](folder, run) for name in names]

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.trackers:
            tracker.close()

    def log(self, row: Mapping[str, float], part: str = "") -> None:
        """Hands a row of a curve on.

        Args:
            row: numbers with the ``update`` they are of.
            part: of the training they are of, as ``valid``.
        """
        if not self.trackers:
            return
        prefix = "/".join(filter(None, (self.title, part)))
        metrics = {f"{prefix}/{key}": value for key, value in row.items() if key != "update"}
        for tracker in self.trackers:
            tracker.log(int(row["update"]), metrics)
