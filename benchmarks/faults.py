"""What happens when parts of a build are killed, or its disk, cache or remote fails.

    python -m benchmarks.faults [--rounds 20] [--out results/faults.json]
        [--kinds stage flow alone server worker disk cache remote]

Each round builds a small project through the ``build`` flow, kills one part (SIGKILL) at a random
moment, and looks: does any process outlive it, does the next start finish, with the bytes of ``dvc
repro``, does anything run again that had finished, is every file of the cache what its name says.
``alone`` is a build without a server, which is killed, hung up, terminated or interrupted.
The file is written after every round. Started again, only those rounds run that it does not have,
or in which something was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.builds import (
    PATIENCE,
    corrupt,
    log_of,
    outputs,
    server,
    start,
    started_by,
    wait_for,
    working,
)
from benchmarks.recorded import ROOT, Rounds
from pipelines.lockfile import lock_blocks
from pipelines.results.tables import faults_table
from pipelines.supervise import descendants
from tests.pipeline.tiny_project import Tiny

__all__ = ["Round", "main"]

KILLED = ("stage", "flow", "alone", "server", "worker")
SIGNALS = (signal.SIGKILL, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)  # that end it
BROKEN = ("disk", "cache", "remote")
PARTS = ("command", "dvc", "supervisor")  # the processes of a stage
DRAWS = 5  # moments that are tried until one comes before the end of the build
STAGE_SECONDS = 0.5
RETRIES = "2"  # of a request to a server that does not answer; 5 of them are a minute of waiting
STOP_SECONDS = 25.0  # for a build that was told to end
MEGABYTE = 1 << 20
NOT_TOLD = "NOT TOLD"
DEPLOY = """\
from pathlib import Path
from prefect import flow
made = flow.from_source(source=PROJECT, entrypoint="pipelines/flows.py:build")
made.to_deployment(name=NAME).apply(work_pool_name=NAME)
"""


@dataclass(frozen=True)
class Round:
    """One fault.

    Attributes:
        kind: what was killed or broken.
        after: seconds from the start of the first stage to the kill.
        hit: whether there was anything left to kill.
        alive: processes of any kind that the build had started and that were still there when the
            next start was due, a flow too that did not end by itself in time.
        finished: whether the next start built everything.
        same: whether dvc.lock and all outputs then had the bytes of ``dvc repro``.
        twice: commands that ran again though DVC had their result.
        corrupt: files of the cache whose content does not have the hash in their name.
        message: what the user was told; which process of a stage was killed, or by which signal a
            build; why the round could not be run to its end.
    """

    kind: str
    after: float = 0.0
    hit: bool = True
    alive: int = 0
    finished: bool = False
    same: bool = False
    twice: int = 0
    corrupt: int = 0
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was lost, and the user was told what was wrong."""
        lost = self.alive or self.twice or self.corrupt or self.message == NOT_TOLD
        return self.hit and self.finished and self.same and not lost


class Harness:
    """What all rounds have in common.

    Args:
        base: folder for everything.
        url: of a Prefect server that stays; a round in which the server dies has one of its own.

    Attributes:
        reference: the project, built by ``dvc repro``.
        span: seconds from the start of the first stage to the end of a build that is left alone;
            the moments of the kills are drawn from them.
    """

    def __init__(self, base: Path, url: str) -> None:
        self.url = url
        self.reference = Tiny(base / "reference", warm=False)
        self.reference.dvc("repro", "-q")
        tiny = self.project(base / "first")
        flow = start(tiny)
        wait_for(lambda: bool(tiny.ran()))
        started = time.monotonic()
        if flow.wait(PATIENCE) or outputs(tiny.root) != outputs(self.reference.root):
            raise RuntimeError(f"an undisturbed build is wrong: {log_of(tiny)[-2000:]}")
        self.span = time.monotonic() - started

    def project(self, folder: Path, do: dict[str, dict[str, object]] | None = None) -> Tiny:
        """The project of a round."""
        tiny = Tiny(folder, do, seconds=STAGE_SECONDS, warm=False)
        tiny.env["PREFECT_API_URL"] = self.url
        return tiny

    def killed(self, kind: str, chance: random.Random, folder: Path) -> Round:
        """One round in which something is killed."""
        tiny = self.project(folder)
        after = chance.uniform(0.0, self.span)
        part = chance.choice(PARTS) if kind == "stage" else ""
        number = chance.choice(SIGNALS) if kind == "alone" else signal.SIGKILL
        if kind == "alone":
            part = number.name
            tiny.env.pop("PREFECT_API_URL", None)
        with contextlib.ExitStack() as stack:
            if kind == "server":
                url, server_process = stack.enter_context(server(folder / "prefect"))
                tiny.env |= {"PREFECT_API_URL": url, "PREFECT_CLIENT_MAX_RETRIES": RETRIES}
            flow = worker(tiny) if kind == "worker" else start(tiny)
            if not wait_for(lambda: bool(tiny.ran())):
                flow.kill()
                raise RuntimeError(f"no stage has started: {log_of(tiny)[-2000:]}")
            time.sleep(after)
            if kind == "stage":
                wait_for(lambda: bool(victims(part, tiny)) or flow.poll() is not None, 20)
                doomed = [chance.choice(processes)] if (processes := victims(part, tiny)) else []
            elif kind == "server":
                doomed = [] if flow.poll() is not None else [server_process.pid]
            else:
                busy = descendants(flow.pid) if kind == "worker" else flow.poll() is None
                doomed = [flow.pid] if busy else []
            for pid in doomed:
                with contextlib.suppress(ProcessLookupError):
                    (os.killpg if kind == "server" else os.kill)(pid, number)
            hangs = False
            if kind in ("server", "stage", "alone"):
                try:
                    flow.wait(STOP_SECONDS if kind == "alone" else PATIENCE)
                except subprocess.TimeoutExpired:
                    hangs = True
            if flow.poll() is None:
                flow.kill()
            flow.wait()
            wait_for(lambda: not started_by(tiny), 40)
            alive = len(started_by(tiny)) + hangs
        found_now = Round(kind, round(after, 2), bool(doomed), alive, message=part)
        return self.finish(found_now, tiny, folder)

    def finish(self, so_far: Round, tiny: Tiny, folder: Path) -> Round:
        """Starts again and looks at what is there."""
        done = set()
        for place in (tiny.root, tiny.root / ".dvc/tmp/runs/workspace"):
            if (place / "dvc.lock").is_file():
                done |= set(lock_blocks((place / "dvc.lock").read_text()))
        before = tiny.ran()
        tiny.env.pop("PREFECT_CLIENT_MAX_RETRIES", None)
        if so_far.kind != "alone":
            tiny.env["PREFECT_API_URL"] = self.url
        code = start(tiny).wait(PATIENCE)
        now = tiny.ran()
        commands = [name.replace("@", "-") for name in done]
        return replace(
            so_far,
            finished=code == 0,
            same=outputs(tiny.root) == outputs(self.reference.root),
            twice=sum(now[name] > before[name] for name in commands),
            corrupt=corrupt(tiny.root),
        )

    def disk(self, folder: Path) -> Round:
        """No file can grow beyond a few MB: the stage that needs more says so."""
        tiny = self.project(folder, {"part-c": {"fill": 64 * MEGABYTE}})
        code = start(tiny, limit=16 * MEGABYTE).wait(PATIENCE)
        told = [
            line for line in log_of(tiny).splitlines() if line.startswith("part@c failed: the disk")
        ]
        tiny.env["TINY_DO"] = "{}"
        return self.broken("disk", code, told, tiny, folder)

    def cache(self, folder: Path) -> Round:
        """The cache cannot be written to: it is mounted read-only for the build alone."""
        tiny = self.project(folder)
        place = tiny.root / ".dvc/cache"
        place.mkdir(exist_ok=True)
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        words = [sys.executable, "-m", "pipelines", "build", "--slots", "3"]
        done = tiny.call("unshare", "-m", "sh", "-c", script, str(place), *words, code=None)
        told = [line for line in done.stdout.splitlines() if "cannot be written" in line]
        return self.broken("cache", done.returncode, told, tiny, folder)

    def remote(self, folder: Path) -> Round:
        """The remote is lost when the build wants to push."""
        tiny = self.project(folder)
        (folder / "file").write_text("in the way of the remote's folder")
        tiny.dvc("remote", "add", "-q", "--local", "-d", "store", str(folder / "file/store"))
        code = start(tiny, "--push").wait(PATIENCE)
        told = [line for line in log_of(tiny).splitlines() if "remote did not take it" in line]
        return self.broken("remote", code, told, tiny, folder)

    def broken(self, kind: str, code: int, told: list[str], tiny: Tiny, folder: Path) -> Round:
        """The end of a round in which nothing was killed; the build has to fail with code 1."""
        message = told[-1].replace(str(folder), "...") if told and code == 1 else NOT_TOLD
        return self.finish(Round(kind, alive=len(working(tiny)), message=message), tiny, folder)


def victims(part: str, tiny: Tiny) -> list[int]:
    """The processes of that part of the stages that run now."""
    processes = []
    for pid in working(tiny):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            marks = {"supervisor": b"supervise.py", "dvc": b"dvc", "command": b"work.py"}
            if next((name for name, mark in marks.items() if mark in command), "") == part:
                processes.append(pid)
    return processes


def worker(tiny: Tiny) -> subprocess.Popen[bytes]:
    """A worker with one run of the flow, started through the server."""

    def prefect(*words: str) -> list[str]:
        return [sys.executable, "-m", "prefect", *words]

    name = f"faults-{tiny.root.parent.name}"
    tiny.call(*prefect("work-pool", "create", name, "--type", "process"))
    script = DEPLOY.replace("PROJECT", repr(str(ROOT))).replace("NAME", repr(name))
    tiny.call(sys.executable, "-c", script)
    log = (tiny.root.parent / "flow.log").open("ab")
    process = subprocess.Popen(
        prefect("worker", "start", "--pool", name),
        cwd=tiny.root,
        env=tiny.env,
        stdout=log,
        stderr=log,
    )
    tiny.call(*prefect("deployment", "run", f"build/{name}", "--param", f'root="{tiny.root}"'))
    return process


def measured(work: Callable[[], Round], kind: str) -> Round:
    """A round; one that cannot be run to its end has lost."""
    try:
        return work()
    except (AssertionError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        return Round(kind, message=f"{type(error).__name__}: {error}")


def one(harness: Harness, kind: str, number: int, seed: int, base: Path) -> Round:
    """Round ``number`` of a kind, at the first of its moments that comes before the end."""
    for draw in range(DRAWS):
        folder = base / f"{kind}-{number}-{draw}"
        chance = random.Random(f"{seed} {kind} {number} {draw}")
        if kind in KILLED:
            outcome = measured(functools.partial(harness.killed, kind, chance, folder), kind)
        else:
            outcome = measured(functools.partial(getattr(harness, kind), folder), kind)
        if outcome.ok:
            shutil.rmtree(folder, ignore_errors=True)
        if outcome.hit:
            break
    return outcome


def main() -> None:
    """Runs the rounds; exit code 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="kills of each kind")
    parser.add_argument("--kinds", nargs="+", default=[*KILLED, *BROKEN], choices=KILLED + BROKEN)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("results/faults.json"))
    options = parser.parse_args()
    rounds = Rounds(options.out)
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    with server(base / "prefect") as (url, _):
        harness = Harness(base, url)
        for number, kind in itertools.product(range(options.rounds), options.kinds):
            if rounds.has(kind, number) or (kind in BROKEN and number):
                continue
            started = time.monotonic()
            outcome = one(harness, kind, number, options.seed, base)
            seconds = round(time.monotonic() - started, 1)
            rounds.add({**asdict(outcome), "number": number, "ok": outcome.ok, "seconds": seconds})
            print(number, f"{seconds} s", outcome, flush=True)
    print(faults_table(options.out))
    sys.exit(0 if rounds.ok else 1)


if __name__ == "__main__":
    main()
