"""What happens when parts of a build are killed, or its disk, cache or remote fails.

    python -m benchmarks.faults [--rounds 20] [--kinds stage flow server worker disk cache remote]
        [--out results/faults.json]

Each round builds a small project through the ``build`` flow, kills one part (SIGKILL) at a random
moment, and looks: does any process outlive it, does the next start finish, with the bytes of ``dvc
repro``, does anything run again that had finished, is every file of the cache what its name says.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ldebm.files import write_json
from pipelines.lockfile import lock_blocks
from pipelines.runner import strays
from pipelines.supervise import descendants
from tests.pipeline.tiny_project import Tiny

__all__ = ["Round", "main"]

KILLED = ("stage", "flow", "server", "worker")
BROKEN = ("disk", "cache", "remote")
STAGE_SECONDS = 0.5
PATIENCE = 300.0  # seconds for a build on a busy machine
MEGABYTE = 1 << 20
DEPLOY = """\
from pathlib import Path
from prefect import flow
made = flow.from_source(source=PROJECT, entrypoint="pipelines/build.py:build")
made.to_deployment(name="faults").apply(work_pool_name="faults")
"""


@dataclass(frozen=True)
class Round:
    """One fault.

    Attributes:
        kind: what was killed or broken.
        after: seconds from the start of the first stage to the kill.
        alive: processes that were still there when the next start was due.
        finished: whether the next start built everything.
        same: whether dvc.lock and all outputs then had the bytes of ``dvc repro``.
        twice: commands that ran again though DVC had their result.
        corrupt: files of the cache whose content does not have the hash in their name.
        message: what the user was told.
    """

    kind: str
    after: float
    alive: int
    finished: bool
    same: bool
    twice: int
    corrupt: int
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing was lost."""
        return self.finished and self.same and not (self.alive or self.twice or self.corrupt)


def outputs(tiny: Tiny) -> dict[str, bytes]:
    """The entries of dvc.lock and everything that stages write.

    After a failure the entries stand in another order, as after ``dvc repro --keep-going``.
    """
    files = [path for name in ("out", "metrics") for path in (tiny.root / name).rglob("*")]
    found = {str(f.relative_to(tiny.root)): f.read_bytes() for f in files if f.is_file()}
    lock = tiny.root / "dvc.lock"
    blocks = lock_blocks(lock.read_text()) if lock.is_file() else {}
    return found | {f"dvc.lock {name}": text.encode() for name, text in blocks.items()}


def corrupt(tiny: Tiny) -> int:
    """Files of the cache that do not have their hash."""
    count = 0
    for path in (tiny.root / ".dvc/cache/files/md5").glob("??/*"):
        if path.is_file():
            wanted = (path.parent.name + path.name).removesuffix(".dir")
            count += hashlib.md5(path.read_bytes()).hexdigest() != wanted
    return count


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE) -> bool:
    """Polls; False if it never came."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def server(home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Prefect server on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--no-services"],
        env={**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"{url}/health", timeout=2).status == 200)
        except OSError:
            return False

    try:
        if not wait_for(answers, 180):
            raise RuntimeError("the Prefect server did not start within 180 s")
        yield url, process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(tiny: Tiny, *words: str, limit: int | None = None) -> subprocess.Popen[bytes]:
    """Starts ``python -m pipelines build``; ``limit``: bytes of its largest file."""

    def in_child() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with (tiny.root.parent / "flow.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines", "build", "--slots", "3", *words],
            cwd=tiny.root,
            env=tiny.env,
            stdout=log,
            stderr=log,
            preexec_fn=in_child,
        )


def log_of(tiny: Tiny) -> str:
    """What the flow has printed."""
    path = tiny.root.parent / "flow.log"
    return path.read_text(errors="replace") if path.exists() else ""


def working(tiny: Tiny) -> list[int]:
    """The processes of stages of the project's build."""
    return strays(tiny.root / ".dvc/tmp/runs/workspace")


def lives(pid: int) -> bool:
    """Whether a process is there and has not ended (a machine whose init reaps nobody keeps it)."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return facts.rpartition(")")[2].split()[0] != "Z"


def victim(kind: str, tiny: Tiny, flow: subprocess.Popen[bytes]) -> list[int]:
    """Whom to kill now."""
    if kind == "flow":
        return [flow.pid]
    found = []
    for pid in working(tiny):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"work.py" in command and b"dvc" not in command:
                found.append(pid)
    return found[:1]


def killed(kind: str, reference: Tiny, chance: random.Random, folder: Path) -> Round:
    """One round in which something is killed."""
    tiny = Tiny(folder, seconds=STAGE_SECONDS)
    after = chance.uniform(0.0, 8 * STAGE_SECONDS)
    with contextlib.ExitStack() as stack:
        url, server_process = stack.enter_context(server(folder / "prefect"))
        tiny.env["PREFECT_API_URL"] = url
        flow = worker(tiny) if kind == "worker" else start(tiny)
        if not wait_for(lambda: bool(tiny.ran())):
            flow.kill()
            raise RuntimeError(f"no stage has started: {log_of(tiny)[-2000:]}")
        time.sleep(after)
        if kind == "server":
            os.killpg(server_process.pid, signal.SIGKILL)
        elif kind == "worker":
            flow.kill()
        else:
            wait_for(lambda: bool(victim(kind, tiny, flow)) or flow.poll() is not None, 20)
            for pid in victim(kind, tiny, flow):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if kind in ("server", "stage"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                flow.wait(PATIENCE)
        children = descendants(flow.pid) if flow.poll() is None else []
        if flow.poll() is None:
            flow.kill()
        flow.wait()
        wait_for(lambda: not working(tiny) and not any(lives(pid) for pid in children), 40)
        alive = len(working(tiny)) + sum(lives(pid) for pid in children)
    return finish(kind, after, tiny, reference, alive, folder)


def finish(
    kind: str,
    after: float,
    tiny: Tiny,
    reference: Tiny,
    alive: int,
    folder: Path,
    message: str = "",
) -> Round:
    """Starts again and looks at what is there."""
    done = set()
    for place in (tiny.root, tiny.root / ".dvc/tmp/runs/workspace"):
        if (place / "dvc.lock").is_file():
            done |= set(lock_blocks((place / "dvc.lock").read_text()))
    before = tiny.ran()
    with server(folder / "again") as (url, _):
        tiny.env["PREFECT_API_URL"] = url
        code = start(tiny).wait(PATIENCE)
    now = tiny.ran()
    twice = sum(now[name.replace("@", "-")] > before[name.replace("@", "-")] for name in done)
    same = outputs(tiny) == outputs(reference)
    return Round(kind, round(after, 2), alive, code == 0, same, twice, corrupt(tiny), message)


def worker(tiny: Tiny) -> subprocess.Popen[bytes]:
    """A worker with one run of the flow, started through the server."""
    project = str(Path(__file__).parents[1])
    tiny.call(sys.executable, "-m", "prefect", "work-pool", "create", "faults", "--type", "process")
    tiny.call(sys.executable, "-c", DEPLOY.replace("PROJECT", repr(project)))
    log = (tiny.root.parent / "flow.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "faults"],
        cwd=tiny.root,
        env=tiny.env,
        stdout=log,
        stderr=log,
    )
    where = f'root="{tiny.root}"'
    tiny.call(
        *[sys.executable, "-m", "prefect", "deployment", "run", "build/faults", "--param", where]
    )
    return process


def disk(reference: Tiny, folder: Path) -> Round:
    """No file can grow beyond a few MB: the stage that needs more says so."""
    tiny = Tiny(folder, {"part-c": {"fill": 64 * MEGABYTE}}, seconds=STAGE_SECONDS)
    with server(folder / "prefect") as (url, _):
        tiny.env["PREFECT_API_URL"] = url
        code = start(tiny, limit=16 * MEGABYTE).wait(PATIENCE)
    told = [
        line for line in log_of(tiny).splitlines() if line.startswith("part@c failed: the disk")
    ]
    alive = len(working(tiny)) + (code != 1)
    tiny.env["TINY_DO"] = "{}"
    return finish("disk", 0.0, tiny, reference, alive, folder, told[0] if told else "NOT TOLD")


def cache(reference: Tiny, folder: Path) -> Round:
    """The cache cannot be written to: it is mounted read-only for the build alone."""
    tiny = Tiny(folder, seconds=STAGE_SECONDS)
    place = tiny.root / ".dvc/cache"
    place.mkdir(exist_ok=True)
    with server(folder / "prefect") as (url, _):
        tiny.env["PREFECT_API_URL"] = url
        script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        words = [sys.executable, "-m", "pipelines", "build", "--slots", "3"]
        done = tiny.call("unshare", "-m", "sh", "-c", script, str(place), *words, code=None)
    told = [line for line in done.stdout.splitlines() if "cannot be written" in line]
    alive = len(working(tiny)) + (done.returncode != 1)
    return finish("cache", 0.0, tiny, reference, alive, folder, told[0] if told else "NOT TOLD")


def remote(reference: Tiny, folder: Path) -> Round:
    """The remote is lost when the build wants to push."""
    tiny = Tiny(folder, seconds=STAGE_SECONDS)
    (folder / "file").write_text("in the way of the remote's folder")
    tiny.dvc("remote", "add", "-q", "--local", "-d", "store", str(folder / "file/store"))
    with server(folder / "prefect") as (url, _):
        tiny.env["PREFECT_API_URL"] = url
        code = start(tiny, "--push").wait(PATIENCE)
    told = [line for line in log_of(tiny).splitlines() if "remote did not take it" in line]
    alive = len(working(tiny)) + (code != 1)
    return finish("remote", 0.0, tiny, reference, alive, folder, told[-1] if told else "NOT TOLD")


def table(rounds: list[Round]) -> str:
    """The results as markdown."""
    lines = [
        "| fault | rounds | next start finishes | same bytes | built twice | orphans | corrupt |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for kind in dict.fromkeys(item.kind for item in rounds):
        mine = [item for item in rounds if item.kind == kind]
        cells = [kind, len(mine), sum(r.finished for r in mine), sum(r.same for r in mine)]
        cells += [sum(r.twice for r in mine), sum(r.alive for r in mine)]
        cells += [sum(r.corrupt for r in mine)]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs the rounds; exit code 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="kills of each kind")
    parser.add_argument("--kinds", nargs="+", default=[*KILLED, *BROKEN], choices=KILLED + BROKEN)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("results/faults.json"))
    options = parser.parse_args()
    rounds: list[Round] = []
    base = Path(tempfile.mkdtemp(prefix="faults-"))
    reference = Tiny(base / "reference")
    reference.dvc("repro", "-q")
    for kind in options.kinds:
        for number in range(options.rounds if kind in KILLED else 1):
            folder = base / f"{kind}-{number}"
            chance = random.Random(f"{options.seed} {kind} {number}")
            if kind in KILLED:
                found = killed(kind, reference, chance, folder)
            else:
                found = {"disk": disk, "cache": cache, "remote": remote}[kind](reference, folder)
            rounds.append(found)
            print(found, flush=True)
            if found.ok:
                shutil.rmtree(folder, ignore_errors=True)
    content = {"rounds": [asdict(item) for item in rounds], "ok": all(r.ok for r in rounds)}
    write_json(options.out, content)
    print(table(rounds))
    sys.exit(0 if content["ok"] else 1)


if __name__ == "__main__":
    main()
