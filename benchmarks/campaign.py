"""The PTB runs and the benchmarks on a machine with a GPU: a queue that can be stopped and resumed.

    python -m benchmarks.campaign --prepare FOLDER [--runs ptb ptb-tradeoff] [--seeds 0]
    python -m benchmarks.campaign --run FOLDER --out OUT [--minutes 25]

``--prepare``, where the project is installed, puts into FOLDER what a bare machine needs: the
checked parameters as JSON, the packed data and the list of jobs. ``--run`` needs the core of the
project alone (no dvc, prefect, polars, yaml) and does one job after the other with the functions
that the stages call. It writes one small JSON a run into OUT, in the format of results/, and leaves
finished jobs out. The lineage records of its stages lie in FOLDER/lineage and, to come back with
the results, in OUT/lineage: `ldebm lineage evaluate@E-S --in FOLDER` reads them. At the end of
``--minutes`` the job in hand stops as on SIGTERM: its checkpoint lies in ``.ckpt``, and the next
``--run`` goes on from there.

Where pydantic or another package of the core is missing, install it beside the jobs:
``pip install --target FOLDER/lib pydantic``; ``--run`` looks there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ldebm.config import Params

__all__ = ["Job", "jobs", "prepare", "run"]

EXIT_INTERRUPTED = 75  # as the trainer's, and for the same reason: call again
MARGIN = 30.0  # seconds between SIGTERM and the end of the time


@dataclass(frozen=True)
class Job:
    """A training with its evaluation, or the benchmarks."""

    name: str
    experiment: str | None = None
    seed: int = 0


def jobs(experiments: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """The queue: every experiment with the first seed, then with the next, the benchmarks first.

    Example:
        >>> [job.name for job in jobs(["a", "b"], [0, 1])]
        ['bench', 'a-0', 'b-0', 'a-1', 'b-1']
    """
    trainings = [Job(f"{name}-{seed}", name, seed) for seed in seeds for name in experiments]
    return [Job("bench"), *trainings]


def prepare(folder: Path, runs: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Writes parameters, data and the queue into ``folder``.

    Args:
        folder: travels to the machine with the GPU.
        runs: groups or experiments.
        seeds: of each of them.

    Raises:
        UsageError: a name is unknown, or its data set is not packed yet.
    """
    from ldebm.data.packed import open_packed
    from ldebm.errors import UsageError
    from ldebm.files import write_json
    from pipelines.selection import params_of

    params = params_of("params.yaml", runs, seeds)
    experiments = params.run.experiments
    for data in sorted({params.experiment(name).data for name in experiments}):
        packed = Path("data", "packed", data)
        if not (packed / "meta.json").is_file():
            first = next(name for name in experiments if params.experiment(name).data == data)
            raise UsageError(
                f"{packed}: not packed yet; run `ldebm select {first}` and `dvc repro pack@{data}`"
            )
        open_packed(packed)
        shutil.copytree(packed, folder / "data" / data, dirs_exist_ok=True)
        report = _validation(data)
        if report.is_file():  # the verdict belongs to the records
            (folder / report).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(report, folder / report)
    queue = jobs(experiments, seeds)
    write_json(folder / "params.json", params.model_dump(mode="json"))
    write_json(folder / "jobs.json", [vars(job) for job in queue])
    write_json(folder / "commit.json", _commit())
    return queue


def _validation(data: str) -> Path:
    return Path("reports", "validation", data, "report.json")


def _commit() -> dict[str, Any]:
    from pipelines.lineage.records import git_state

    return git_state()


def run(folder: Path, out: Path, minutes: float = 0.0) -> int:
    """Does the jobs that have no result in ``out`` yet.

    Args:
        folder: what :func:`prepare` wrote.
        out: gets ``<job>.json`` for every finished job.
        minutes: time for all of them; 0: no limit.

    Returns:
        0 if all are done, 75 if the time ended before, 1 if a job failed (the others are done).
    """
    if (folder / "lib").is_dir():
        sys.path.append(str((folder / "lib").resolve()))
    from ldebm.errors import LdebmError
    from ldebm.files import read_json, write_json

    failed = 0
    deadline = time.monotonic() + 60 * minutes if minutes else None
    queue = [Job(**item) for item in read_json(folder / "jobs.json")]
    waiting = [job for job in queue if not (out / f"{job.name}.json").is_file()]
    print(f"campaign: {len(waiting)} of {len(queue)} jobs to do", flush=True)
    for job in waiting:
        left = None if deadline is None else deadline - time.monotonic() - MARGIN
        if left is not None and left <= 0:
            return EXIT_INTERRUPTED
        started = time.monotonic()
        print(f"campaign: {job.name}", flush=True)
        try:
            result = _benchmarks(left) if job.experiment is None else _training(folder, job, left)
        except LdebmError as error:  # one diverging run must not stop the queue
            print(f"campaign: {job.name} failed: {error}", file=sys.stderr, flush=True)
            failed = 1
            continue
        if result is None:
            print(
                f"campaign: {job.name} stopped after {time.monotonic() - started:.0f} s", flush=True
            )
            return EXIT_INTERRUPTED
        write_json(out / f"{job.name}.json", result)
        if (folder / "lineage").is_dir():  # what comes back from the machine is `out` alone
            shutil.copytree(folder / "lineage", out / "lineage", dirs_exist_ok=True)
    return failed


def _training(folder: Path, job: Job, seconds: float | None) -> dict[str, Any] | None:
    """A run in the format of results/, or None if the time ended first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_INTERRUPTED))  # outside the trainer
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.setitimer(signal.ITIMER_REAL, seconds or 0)
    try:
        return _train_and_evaluate(folder, job)
    except SystemExit as stopped:
        if stopped.code != EXIT_INTERRUPTED:
            raise
        return None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _train_and_evaluate(folder: Path, job: Job) -> dict[str, Any]:
    from ldebm.api import load
    from ldebm.config import load_params
    from ldebm.data.packed import open_packed
    from ldebm.files import hash_json, read_json, write_json
    from ldebm.seeding import configure, numerics
    from ldebm.training.first_stage import build_backbone_stage
    from ldebm.training.labelling import cluster_stage
    from ldebm.training.second_stage import prior_stage

    assert job.experiment is not None
    params = load_params(folder / "params.json")
    config = params.experiment(job.experiment)
    packed = open_packed(folder / "data" / config.data)
    epochs = params.run.epochs
    key = hash_json([config.model_dump(mode="json"), epochs])[:12]  # other parameters, other place
    place = folder / "models" / f"{job.experiment}-{key}" / str(job.seed)
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(name: str) -> Iterator[None]:
        clock = time.monotonic()
        with _recorded(folder, job, name, place, params):
            yield
        seconds[name] = round(time.monotonic() - clock, 1)

    if not (place / "prior" / "model.safetensors").is_file():
        with stage("backbone"):
            build_backbone_stage(config, packed, job.seed, place / "backbone", epochs)
        with stage("cluster"):
            cluster_stage(config, packed, job.seed, place / "backbone", place / "latents.parquet")
        with stage("prior"):
            prior_stage(config, packed, job.seed, place, job.experiment, epochs)
    with stage("evaluate"):
        configure(config.evaluate.threads)
        model = load(place / "prior", config.evaluate.device)
        snapshots = place / "prior" / "snapshots.safetensors"
        report = model.evaluate(packed, config.evaluate, snapshots=snapshots)
        write_json(place / "metrics.json", report.metrics)
    facts = numerics(model.device)
    built = read_json(place / "prior" / "config.json")["config"]
    return {
        "experiment": job.experiment,
        "seed": job.seed,
        "epochs": {stage: built[stage]["training"]["epochs"] for stage in ("backbone", "prior")},
        "params": built,
        **read_json(folder / "commit.json"),
        "device": facts.get("gpu", "cpu"),
        "numerics": facts,
        "seconds": round(sum(seconds.values()), 1),
        "stage_seconds": seconds,
        "metrics": report.metrics,
    }


def _recorded(
    folder: Path, job: Job, stage: str, place: Path, params: Params
) -> contextlib.AbstractContextManager[Any]:
    """The lineage record of one stage of a job, in ``folder/lineage``, as DVC's stages leave it."""
    from ldebm.files import read_json
    from pipelines.lineage.records import recorded

    assert job.experiment is not None
    mine = place.relative_to(folder)
    name = params.experiment(job.experiment).data
    data = Path("data", name)
    backbone, prior = mine / "backbone", mine / "prior"
    latents, model = mine / "latents.parquet", prior / "model.safetensors"
    snapshots = prior / "snapshots.safetensors"
    reads, writes = {
        "backbone": ([data], [backbone]),
        "cluster": ([data, backbone], [latents]),
        "prior": ([data, backbone, latents], [prior]),
        "evaluate": ([data, model, snapshots], [mine / "metrics.json"]),
    }[stage]
    section = params.model_dump(mode="json")["experiments"][job.experiment]
    parts = ("cluster", "prior") if stage == "prior" else (stage,)
    used = {f"experiments.{job.experiment}.{part}": section[part] for part in parts}
    return recorded(
        f"{stage}@{job.experiment}-{job.seed}",
        inputs=[*reads, _validation(name)],
        outputs=writes,
        params={**used, "run.epochs": params.run.epochs},
        seed=job.seed,
        root=folder,
        command=f"python -m benchmarks.campaign --run {folder.name}",
        ran_by="campaign",
        project=Path(__file__).parents[1],
        git=read_json(folder / "commit.json"),
    )  # fmt: skip


def _benchmarks(seconds: float | None) -> dict[str, Any] | None:
    """The figures of ``make bench``, in a process of their own: they set threads and devices."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.run"], timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    from ldebm.files import read_json

    path = Path("reports", "bench.json")
    figures = read_json(path) if done.returncode == 0 and path.is_file() else []
    return {"exit_code": done.returncode, "figures": figures}


def main() -> None:
    """Prepares or runs the queue."""
    parser = argparse.ArgumentParser(description="Queue of GPU runs.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--prepare", type=Path, metavar="FOLDER")
    action.add_argument("--run", type=Path, metavar="FOLDER")
    parser.add_argument("--runs", nargs="+", default=["ptb"], help="groups or experiments")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path, help="folder of the results; default FOLDER/out")
    parser.add_argument("--minutes", type=float, default=0.0, help="time limit; 0: none")
    given = parser.parse_args()
    if given.run:
        sys.exit(run(given.run, given.out or given.run / "out", given.minutes))
    from ldebm.errors import LdebmError

    try:
        queue = prepare(given.prepare, given.runs, given.seeds)
    except LdebmError as error:
        print(f"campaign: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"campaign: {len(queue)} jobs in {given.prepare}")


if __name__ == "__main__":
    main()
