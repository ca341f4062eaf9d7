"""A DVC project of a few stages that take a tenth of a second each, for tests of the flows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.building import opened, run_jobs
from pipelines.dispatch import Options, run_stage
from pipelines.slots import Slots
from pipelines.types import BuildReport, Selection
from tests.warm import warm_python

ROOT = Path(__file__).parents[2]
DAG = """\
stages:
  base:
    cmd: python work.py base
    deps: [work.py]
    params: [base]
    outs: [out/base]
  part:
    matrix:
      x: ${run.parts}
    cmd: python work.py part-${item.x} out/base
    deps: [work.py, out/base]
    params:
      - parts.${item.x}
    outs:
      - out/part/${item.x}
    metrics:
      - metrics/${item.x}.json:
          cache: false
  end:
    cmd: python work.py end out/part
    deps: [work.py, out/part]
    outs: [out/end]
"""
PARAMS = "base: 0\nrun: {{parts: [{names}]}}\nparts: {{{values}}}\n"
DVC = {  # what `dvc init` writes
    ".dvc/config": "",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvcignore": "",
}
# Says in $TINY_RAN when it starts and when it has written; does to its stage what $TINY_DO says.
WORK = """\
import json, os, re, signal, sys, time
from pathlib import Path

name, inputs = sys.argv[1], sys.argv[2:]
def note(what):
    with open(os.environ["TINY_RAN"], "a") as stream:
        stream.write(f"{what} {name} {os.environ.get('PREFECT_FLOW_RUN_ID', '-')}\\n")
note("start")
todo = json.loads(os.environ.get("TINY_DO", "{}")).get(name)
flag = Path(os.environ["TINY_RAN"] + "." + name)
if todo and not (todo.get("once") and flag.exists()):
    flag.touch()
    if "print" in todo:
        print(todo["print"], flush=True)
    if "signal" in todo:
        os.kill(os.getpid(), todo["signal"])
    if "checkpoint" in todo:  # as a training that is told to stop
        def save(*_):
            time.sleep(todo.get("slow", 0))
            Path(todo["checkpoint"]).write_text("saved")
            sys.exit(75)
        signal.signal(signal.SIGTERM, save)
        note("listens")
    if "exit" in todo:
        sys.exit(todo["exit"])
    if "sleep" in todo:
        time.sleep(todo["sleep"])
    if "fill" in todo:
        Path("out").mkdir(exist_ok=True)
        with open("out/.big.part", "wb") as stream:
            stream.write(bytes(todo["fill"]))
time.sleep(float(os.environ.get("TINY_SECONDS", "0.1")))
read = [p for i in inputs for p in sorted([Path(i), *Path(i).rglob("*")]) if p.is_file()]
text = name + "\\n" + "".join(p.read_text() for p in read)
kind, _, part = name.partition("-")
if kind == "part":
    value = re.search(rf"parts:.*\\b{part}: (\\w+)|parts:(?:\\n  .*)*?\\n  {part}: (\\w+)",
                      Path("params.yaml").read_text())
    value = value[1] or value[2]
    text += f"{value}\\n"
    Path("metrics").mkdir(exist_ok=True)
    Path(f"metrics/{part}.json").write_text(json.dumps({"value": float(value)}) + "\\n")
target = Path("out", *name.split("-"))
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(text)
note("end")
"""


class Tiny:
    """The project in a folder of its own.

    Args:
        folder: is made.
        do: by stage (``base``, ``part-a``): ``exit``, ``signal``, ``sleep``, ``print``, ``fill``
            (bytes to write), ``once``; ``checkpoint`` (a file that SIGTERM has it write), after
            ``slow`` seconds.
        seconds: that a stage takes.
        parts: stages between the first and the last, by letter; their value is the letter's place.
        warm: whether its commands start from a process that has the libraries loaded.
    """

    warm = True

    def __init__(
        self,
        folder: Path,
        do: dict[str, dict[str, object]] | None = None,
        seconds: float = 0.1,
        parts: str = "abcdef",
        warm: bool = True,
    ) -> None:
        self.warm = warm
        self.root = folder / "project"
        (self.root / ".dvc").mkdir(parents=True)
        self.log = folder / "ran"
        programs = [str(Path(python).parent) for python in (self.interpreter, sys.executable)]
        self.env = {
            **os.environ,
            "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "DVC_NO_ANALYTICS": "1",
            "PREFECT_HOME": str(folder / "prefect"),
            "LDEBM_SLOTS": str(folder / "slots"),
            "TINY_RAN": str(self.log),
            "TINY_DO": json.dumps(do or {}),
            "TINY_SECONDS": str(seconds),
        }
        values = ", ".join(f"{part}: {number}" for number, part in enumerate(parts, start=1))
        params = PARAMS.format(names=", ".join(parts), values=values)
        files = {**DVC, "dvc.yaml": DAG, "params.yaml": params, "work.py": WORK}
        for name, text in files.items():
            (self.root / name).write_text(text)
        (self.root / ".gitignore").write_text("/out\n/sweeps\n")
        self.call("git", "init", "-q", "-b", "master")
        self.commit()

    @property
    def interpreter(self) -> str:
        """The Python of its commands."""
        return str(warm_python() / "python") if self.warm else sys.executable

    def use(self, monkeypatch: pytest.MonkeyPatch) -> Tiny:
        """Makes its environment and interpreter those of this process, for :meth:`build`."""
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "executable", self.interpreter)
        return self

    def call(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Runs a command in the project."""
        done = subprocess.run(
            words, cwd=self.root, env=self.env, capture_output=True, text=True, check=False
        )
        assert code is None or done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
        return done

    def commit(self) -> None:
        """Commits everything."""
        self.call("git", "add", "-A")
        who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        self.call("git", *who, "commit", "-q", "--allow-empty", "-m", "state")

    def dvc(self, *words: str) -> str:
        """Output of a dvc command."""
        return self.call(self.interpreter, "-m", "dvc", *words).stdout

    def flows(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Runs ``python -m pipelines``."""
        return self.call(self.interpreter, "-m", "pipelines", *words, code=code)

    def lock(self) -> str:
        """The bytes of dvc.lock."""
        return (self.root / "dvc.lock").read_text()

    def ran(self, what: str = "start") -> Counter[str]:
        """How often each command has started, or written its output (``end``)."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return Counter(line.split()[1] for line in lines if line.split()[0] == what)

    def edit(self, old: str, new: str, name: str = "params.yaml") -> None:
        """Changes a file."""
        path = self.root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def build(
        self,
        selection: Selection | None = None,
        options: Options | None = None,
        cpu: int = 3,
        messages: list[str] | None = None,
    ) -> BuildReport:
        """Builds with threads in place of Prefect's tasks."""
        options = options or Options(delay=0.0)
        slots = Slots(cpu, [], Path(self.env["LDEBM_SLOTS"]))
        said = [] if messages is None else messages
        place = opened(selection or Selection(), self.root, slots=slots, options=options)
        with place as job, ThreadPoolExecutor(16) as pool:
            dispatcher = job.start()
            run_jobs(
                {
                    dispatcher: (
                        job,
                        lambda stage, held: pool.submit(
                            run_stage, stage, held, job.place, options, said.append
                        ),
                        None,
                    )
                }
            )
            return job.report([dispatcher.outcomes[name] for name in job.dag.stages])

    def twin(self, folder: Path) -> Tiny:
        """The same project elsewhere, built by ``dvc repro``."""
        other = Tiny(folder)  # whose files are overwritten
        for name in ("dvc.yaml", "params.yaml", "work.py"):
            (other.root / name).write_text((self.root / name).read_text())
        other.commit()
        other.dvc("repro", "-q")
        return other


def statuses(report: BuildReport) -> dict[str, str]:
    """Status by stage."""
    return {stage.name: stage.status for stage in report.stages}


def names(words: Sequence[str] = "abcdef") -> list[str]:
    """The stages in the order of DVC."""
    return ["base", *(f"part@{x}" for x in words), "end"]
