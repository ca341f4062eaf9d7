"""A sweep through the flow against the same versions built one after the other by ``dvc repro``.

    python -m benchmarks.sweeps embedded [--run gaussians16-ldebm] [--set KEY=VALUE ...]
    python -m benchmarks.sweeps small [--rounds 10]

``embedded`` takes the real stages of an experiment, in two clones of this repository's last commit
with caches of their own: first every version by ``dvc repro``, then all by one ``python -m
pipelines sweep``, without a server, its start included. ``small`` repeats a sweep of stages that
take a blink, so that DVC's locks are what it mostly does. Both compare every output and dvc.lock
with the serial build's, and count what DVC said about locks. The rounds are kept in
results/sweeps.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.builds import outputs
from benchmarks.recorded import ROOT, Rounds
from ldebm.files import read_json
from pipelines.building import select
from pipelines.dag import ask_dvc
from pipelines.failures import LOCK
from pipelines.results.tables import sweeps_table
from pipelines.types import Selection
from tests.pipeline.numbers_project import NumbersProject

__all__ = ["Built", "main"]

VALUES = {
    "embedded": "0.01,0.02,0.03,0.05,0.07,0.1",
    "small": "0,0.1,0.2,0.3,0.4,0.5",
}
WEIGHT = "experiments.{run}.prior.mi_weight={values}"  # of the prior alone, and not of its cost
FOLDERS = ("data", "models", "reports", "site")
LIMIT = 0.75  # of the serial time


@dataclass
class Built:
    """All versions, built in one of the two ways.

    Attributes:
        versions: of each, every output's hash by path.
        seconds: wall time.
        cpu: seconds of all processes.
        said: what was printed, and the logs of the stages.
    """

    versions: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    said: str = ""

    def run(self, command: Sequence[str], project: Path, env: Mapping[str, str]) -> str:
        """Runs a command in a project, adds its time, and returns its output.

        Raises:
            RuntimeError: it failed.
        """
        started, before = time.monotonic(), _cpu()
        done = subprocess.run(
            command, cwd=project, env=dict(env), capture_output=True, text=True, check=False
        )
        self.seconds += time.monotonic() - started
        self.cpu += _cpu() - before
        self.said += done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[:4])}: {(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    @property
    def lock_errors(self) -> int:
        """Lines in which DVC complains about a lock."""
        return sum(bool(LOCK.search(line)) for line in self.said.splitlines())


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def by_repro(project: Path, points: Sequence[Selection], env: Mapping[str, str]) -> Built:
    """Every version by ``dvc repro``, one after the other, in the same folder."""
    built = Built()
    params = project / "params.yaml"
    text = params.read_text(encoding="utf-8")
    for point in points:
        params.write_text(text, encoding="utf-8")
        select(params, point)
        built.run([sys.executable, "-m", "dvc", "repro", "-q"], project, env)
        built.versions.append(outputs(project, FOLDERS))
    return built


def by_flow(
    project: Path, axis: str, selection: Selection, slots: int, env: Mapping[str, str]
) -> Built:
    """All versions by one sweep."""
    built = Built()
    command = [sys.executable, "-m", "pipelines", "sweep", axis, "--slots", str(slots)]
    command += [word for name in selection.experiments for word in ("--run", name)]
    command += ["--seeds", ",".join(str(seed) for seed in selection.seeds)]
    command += [word for item in selection.overrides for word in ("-S", item)]
    built.run([*command, "--out", "sweeps/measured"], project, env)
    for point in read_json(project / "sweeps/measured/sweep.json")["points"]:
        built.versions.append(outputs(Path(point["report"]["worktree"]), FOLDERS))
    for log in sorted((project / ".dvc/tmp/runs/logs").glob("*/*.log*")):
        built.said += log.read_text(encoding="utf-8", errors="replace")
    return built


def versions(project: Path, axis: str, selection: Selection) -> list[Selection]:
    """What each point of the axis builds."""
    return [
        Selection(
            experiments=selection.experiments,
            seeds=selection.seeds,
            overrides=(*selection.overrides, *point),
        )
        for point in ask_dvc(project, "--grid", axis)["points"]
    ]


def differences(one: Built, other: Built) -> list[str]:
    """Outputs that are not the same, by version."""
    if len(one.versions) != len(other.versions):
        return [f"{len(one.versions)} versions, not {len(other.versions)}"]
    return [
        f"{number}: {name}"
        for number, (mine, theirs) in enumerate(zip(one.versions, other.versions, strict=True))
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name)
    ]


def record(serial: Built, flow: Built, selection: Selection, slots: int) -> dict[str, Any]:
    """A round as it is kept."""
    wrong = differences(serial, flow)
    return {
        "versions": len(flow.versions),
        "seeds": len(selection.seeds),
        "slots": slots,
        "overrides": list(selection.overrides),
        "outputs": sum(len(version) for version in flow.versions),
        "differences": wrong[:20],
        "same": not wrong,
        "lock_errors": flow.lock_errors,
        "serial_seconds": round(serial.seconds, 1),
        "flow_seconds": round(flow.seconds, 1),
        "serial_cpu": round(serial.cpu, 1),
        "flow_cpu": round(flow.cpu, 1),
        "ratio": round(flow.seconds / serial.seconds, 3),
    }


def environment(base: Path) -> dict[str, str]:
    """Of every command: the project's own code and slots, no server, no telemetry."""
    left_out = ("PYTHONPATH", "PREFECT_API_URL")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_HOME": str(base / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "LDEBM_SLOTS": str(base / "slots"),
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
    }


def embedded(rounds: Rounds, options: argparse.Namespace, base: Path) -> None:
    """One measurement of the real stages."""
    for name in ("serial", "flow"):
        command = ["git", "clone", "-q", str(ROOT), str(base / name)]
        subprocess.run(command, check=True)
    run = options.run
    values = options.values or VALUES["embedded"]
    axis = WEIGHT.format(run=run, values=values)
    selection = Selection(
        experiments=(run,), seeds=tuple(options.seeds), overrides=tuple(options.set)
    )
    started, env = time.monotonic(), environment(base)
    serial = by_repro(base / "serial", versions(base / "serial", axis, selection), env)
    print(f"dvc repro: {serial.seconds:.1f} s, {serial.cpu:.1f} CPU seconds", flush=True)
    flow = by_flow(base / "flow", axis, selection, options.slots, env)
    print(f"sweep: {flow.seconds:.1f} s, {flow.cpu:.1f} CPU seconds", flush=True)
    row = record(serial, flow, selection, options.slots)
    _add(rounds, "embedded", 0, started, row, row["ratio"] <= LIMIT)


def small(rounds: Rounds, options: argparse.Namespace, base: Path) -> None:
    """Repetitions with stages that take a blink."""
    axis = WEIGHT.format(run="gauss", values=options.values or VALUES["small"])
    selection = Selection(experiments=("gauss",), seeds=tuple(options.seeds))
    env = environment(base)
    project = NumbersProject(base / "serial").folder
    serial = by_repro(project, versions(project, axis, selection), env)
    for number in range(options.rounds):
        if not rounds.has("small", number):
            started = time.monotonic()
            flow = by_flow(
                NumbersProject(base / f"flow-{number}").folder, axis, selection, options.slots, env
            )
            _add(rounds, "small", number, started, record(serial, flow, selection, options.slots))


def _add(
    rounds: Rounds,
    kind: str,
    number: int,
    started: float,
    row: Mapping[str, Any],
    fast: bool = True,
) -> None:
    seconds = round(time.monotonic() - started, 1)
    ok = bool(row["same"] and not row["lock_errors"] and fast)
    rounds.add({**row, "kind": kind, "number": number, "seconds": seconds, "ok": ok})
    print(number, f"{seconds} s", row, flush=True)


def main() -> None:
    """Measures; exit code 1 if bytes differ, a lock failed, or the sweep took too long."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("embedded", "small"))
    parser.add_argument("--run", default="gaussians16-ldebm", help="experiment of `embedded`")
    parser.add_argument("--values", default="", help="of the prior's mi_weight, by comma")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE of all versions")
    parser.add_argument("--slots", type=int, default=2, help="CPU slots of the flow")
    parser.add_argument("--rounds", type=int, default=10, help="repetitions of `small`")
    parser.add_argument("--out", type=Path, default=Path("results/sweeps.json"))
    options = parser.parse_args()
    rounds = Rounds(options.out)
    base = Path(tempfile.mkdtemp(prefix="sweeps-"))
    {"embedded": embedded, "small": small}[options.kind](rounds, options, base)
    print(sweeps_table(options.out))
    if rounds.ok:
        shutil.rmtree(base, ignore_errors=True)
    sys.exit(0 if rounds.ok else 1)


if __name__ == "__main__":
    main()
