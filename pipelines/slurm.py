"""Slurm: each part is a job of ``sbatch`` in this folder, which all nodes have to share.

The nodes share the project's folder, and with it DVC's cache and the checkpoints: nothing goes
through a remote. A job that ends without an answer (its node died, its time was up) is handed out
again, and its training goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ldebm.errors import LdebmError, UsageError
from ldebm.files import read_json, write_json
from pipelines.dag import environment
from pipelines.fanout import News, Part, Unreachable
from pipelines.point import Built

__all__ = ["Slurm"]

FOLDER = Path(".dvc", "tmp", "slurm")
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED")
ENDING = ("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING")
SETTLE = 15.0  # seconds in which a shared folder shows what another machine wrote
STOP_SECONDS = 60  # before its time is up a job is told, so that a training writes its checkpoint


class Slurm:
    """The nodes of a cluster.

    Args:
        root: the project's folder, the same on all nodes.

    Raises:
        UsageError: there is no Slurm here.
    """

    remote = False

    def __init__(self, root: Path) -> None:
        if shutil.which("sbatch") is None:
            raise UsageError(
                "--slurm: there is no program `sbatch` here; start this where jobs are submitted, "
                "or spread it over a Prefect pool with --pool (docs/operations.md)"
            )
        self.root = root.resolve()
        self.jobs: dict[str, Path] = {}  # folders by number
        self.ended: dict[str, float] = {}  # when a job was first seen to have ended

    def start(self, part: Part) -> str:
        """Submits a job; the options of sbatch for a site are its variables (SBATCH_PARTITION)."""
        content = json.dumps([part.name, asdict(part.selection)], sort_keys=True)
        folder = self.root / FOLDER / hashlib.sha256(content.encode()).hexdigest()[:16]
        answer = folder / "answer.json"
        folder.mkdir(parents=True, exist_ok=True)
        answer.unlink(missing_ok=True)
        write_json(folder / "asked.json", asdict(part.selection))
        words = [sys.executable, "-m", "pipelines.point", str(folder / "asked.json"), str(answer)]
        setting = 'export LDEBM_SLOTS="${TMPDIR:-/tmp}/ldebm-$SLURM_JOB_ID"'
        cpus = part.resources.get("cpus")
        if cpus:
            setting += f" LDEBM_CPU_SLOTS={cpus:.0f}"
        done = self._ask(
            "sbatch", "--parsable", f"--job-name={part.name}", f"--output={folder / 'log'}",
            f"--chdir={self.root}", f"--signal=B:TERM@{STOP_SECONDS}", *_options(part.resources),
            f"--wrap={setting}; exec {shlex.join(words)}",
        )  # fmt: skip
        if done.returncode:
            said = " ".join(done.stderr.split()).removeprefix("sbatch: ")
            raise LdebmError(f"{part.name}: sbatch refuses the job: {said}")
        number = done.stdout.strip().partition(";")[0]
        self.jobs[number] = folder
        return number

    def news(self, tries: Sequence[str]) -> Mapping[str, News]:
        """How the jobs are."""
        if not tries:
            return {}
        listed = self._ask("squeue", "-h", "-t", "all", "-o", "%i|%T|%N", "-j", ",".join(tries))
        if listed.returncode and "Invalid job id" not in listed.stderr:
            raise Unreachable(f"Slurm does not answer ({' '.join(listed.stderr.split())})")
        rows = [line.split("|") for line in listed.stdout.splitlines()]
        states = {number: (state, node) for number, state, node in rows}
        return {number: self._of(number, *states.get(number, ("gone", ""))) for number in tries}

    def _of(self, number: str, state: str, node: str) -> News:
        answer = self.jobs[number] / "answer.json"
        if answer.is_file():
            content = read_json(answer)
            if "error" in content:
                return News("failed", content["error"])
            return News("done", built=Built.from_json(content))
        if state in WAITING:
            return News("waits")
        if state in ENDING:
            return News("runs", f"job {number} on {node}")
        if time.monotonic() - self.ended.setdefault(number, time.monotonic()) < SETTLE:
            return News("runs", f"job {number} on {node}")
        return News("lost", f"job {number} ended as {state}; see {self.jobs[number] / 'log'}")

    def drop(self, run: str) -> None:
        """Cancels a job; a training in it writes its checkpoint."""
        self._ask("scancel", run)

    def _ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=self.root, env=environment(), capture_output=True, text=True, check=False
        )


def _options(resources: Mapping[str, float]) -> list[str]:
    """Resources as options of ``sbatch``.

    Example:
        >>> _options({"cpus": 4, "gpus": 1, "memory": 1.5, "time": 90})
        ['--cpus-per-task=4', '--gres=gpu:1', '--mem=1536M', '--time=91']
    """
    words = []
    if cpus := resources.get("cpus"):
        words.append(f"--cpus-per-task={cpus:.0f}")
    if gpus := resources.get("gpus"):
        words.append(f"--gres=gpu:{gpus:.0f}")
    if memory := resources.get("memory"):
        words.append(f"--mem={math.ceil(memory * 1024)}M")
    if minutes := resources.get("time"):
        words.append(f"--time={math.ceil(minutes + STOP_SECONDS / 60)}")
    return words
