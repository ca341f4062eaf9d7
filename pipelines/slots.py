"""Slots: one lock file per GPU and per CPU share of this machine.

A slot is an ``flock``: the kernel releases it when the last process that holds it dies, so
nothing leaks and no server is needed. All projects and users' flows of one machine share the
folder, so they do not overload it together. The flow takes a slot before it starts a stage and
hands the open file to the stage's process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldebm.errors import UsageError

__all__ = ["Held", "Need", "Slots", "lock_file", "need_of", "shares", "visible_gpus"]

CPU_VARIABLE = "LDEBM_CPU_SLOTS"
GPU_VARIABLE = "LDEBM_GPU_SLOTS"
FOLDER_VARIABLE = "LDEBM_SLOTS"
POLL = 0.2  # seconds between two attempts of who waits


@dataclass(frozen=True)
class Need:
    """What a stage occupies.

    Attributes:
        cpu: threads that it computes with.
        gpu: whether it needs a GPU for itself.
    """

    cpu: int = 1
    gpu: bool = False


@dataclass
class Held:
    """Slots in hand.

    Attributes:
        names: ``cpu-0``, ``gpu-1``.
        fds: their open lock files, to be handed to the process that works.
        env: what tells that process its device.
    """

    names: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def release(self) -> None:
        """Closes the files here; a process that has them too keeps the slots."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


def lock_file(path: Path) -> int | None:
    """Opens and locks a file; None if another process has it. Closing the number releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


class Slots:
    """The slots of this machine.

    Args:
        cpu: number of CPU slots; default ``LDEBM_CPU_SLOTS``, else the cores of this process.
        gpus: names of the devices; default ``LDEBM_GPU_SLOTS`` (comma-separated), else those that
            are visible here.
        folder: of the lock files; default ``LDEBM_SLOTS``, else one of the user in the temporary
            folder.
    """

    def __init__(
        self,
        cpu: int | None = None,
        gpus: Sequence[str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.cpu = _cpu_count() if cpu is None else cpu
        self.gpus = tuple(visible_gpus() if gpus is None else gpus)
        place = os.environ.get(FOLDER_VARIABLE)
        default = Path(place) if place else Path(tempfile.gettempdir(), f"ldebm-{os.getuid()}")
        self.folder = folder or default
        if self.cpu < 1:
            raise UsageError(f"{self.cpu} CPU slots: expected at least 1")

    def take(self, need: Need) -> Held | None:
        """Takes what a stage needs, all or nothing; None if it is not free now."""
        with self._gate() as open_:
            if not open_:
                return None
            wanted = min(need.cpu, self.cpu)
            names: list[str] = []
            fds: list[int] = []
            env: dict[str, str] = {}
            if need.gpu:
                fd, device = self._first([f"gpu-{name}" for name in self.gpus])
                if fd is None:
                    return None
                names.append(device)
                fds.append(fd)
                env["CUDA_VISIBLE_DEVICES"] = device.removeprefix("gpu-")
            else:
                for number in range(self.cpu):
                    if len(fds) < wanted:
                        fd = lock_file(self.folder / f"cpu-{number}.lock")
                        if fd is not None:
                            fds.append(fd)
                            names.append(f"cpu-{number}")
                if len(fds) < wanted:
                    for fd in fds:
                        os.close(fd)
                    return None
            return Held(tuple(names), tuple(fds), env)

    def wait(self, need: Need) -> Held:
        """Takes what a stage needs as soon as it is free."""
        while (held := self.take(need)) is None:
            time.sleep(POLL)
        return held

    def _first(self, names: Sequence[str]) -> tuple[int | None, str]:
        for name in names:
            fd = lock_file(self.folder / f"{name.replace('/', '_')}.lock")
            if fd is not None:
                return fd, name
        return None, ""

    @contextlib.contextmanager
    def _gate(self) -> Iterator[bool]:
        """One process at a time collects, so that two cannot each hold half of what both need."""
        fd = lock_file(self.folder / "gate.lock")
        try:
            yield fd is not None
        finally:
            if fd is not None:
                os.close(fd)


def _cpu_count() -> int:
    text = os.environ.get(CPU_VARIABLE)
    if text is None:
        return len(os.sched_getaffinity(0))
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{CPU_VARIABLE}={text!r}: expected a whole number above 0")
    return int(text)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA numbers them (no CUDA is loaded)."""
    text = os.environ.get(GPU_VARIABLE)
    if text is None:
        text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is not None:
        return [item.strip() for item in text.split(",") if item.strip() not in ("", "-1")]
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return listing.stdout.split() if listing.returncode == 0 else []


def need_of(stage: str, params: Any, gpus: Sequence[str]) -> Need:
    """What a stage occupies, by its parameters.

    Args:
        stage: its name, ``KIND@EXPERIMENT-SEED`` or ``judge@DATA``; anything that is not of ldebm
            takes one CPU slot.
        params: :class:`ldebm.config.Params`, or None.
        gpus: the devices here; ``device: auto`` takes one where there is one.
    """
    kind, _, rest = stage.partition("@")
    section = None if params is None else _computing(kind, rest, params)
    if section is None:
        return Need()
    if gpus and section.device != "cpu":
        return Need(gpu=True)
    return Need(cpu=section.threads)


def _computing(kind: str, rest: str, params: Any) -> Any:
    """The section with ``threads`` and ``device`` of a stage; None where it only moves data."""
    if kind == "judge":
        return params.classifier(rest) if rest in params.data else None
    experiment = rest.rpartition("-")[0]
    if experiment not in params.experiments:
        return None
    config = params.experiment(experiment)
    trained = config.backbone.training
    sections = {
        "backbone": trained,
        "cluster": trained,
        "prior": config.prior.training,
        "evaluate": config.evaluate,
    }
    return sections.get(kind)


def shares(needs: Mapping[str, Need], slots: Slots) -> str:
    """How the stages will share the machine, in words, for the log."""
    gpu = sum(need.gpu for need in needs.values())
    text = f"{slots.cpu} CPU slot{'s' if slots.cpu != 1 else ''}"
    return f"{text}, {len(slots.gpus)} GPU slots for {gpu} stages" if gpu else text
