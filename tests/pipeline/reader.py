"""Somebody who types what the guides say, in a project of their own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ldebm.data.chatter import generate
from ldebm.yaml_text import format_yaml, parse_yaml
from pipelines.library import Library
from pipelines.selection import select_run
from tests.pipeline.guides import shown
from tests.pipeline.numbers_project import PARAMS, NumbersProject
from tests.pipeline.prefect_server import FINAL, Server, started, until
from tests.pipeline.project_copy import CODE, ProjectCopy

MORE = ("benchmarks", "deploy", "prefect.yaml", "prefect.toml")
BUILT = (
    "gaussians16-ldebm", "pinwheel10-ldebm", "chatter-svebm-ib", "chatter-ldebm",
    "chatter-ldebm-labels", "digits-hvae", "letters-ldebm",
)  # fmt: skip
MAKE = ("Makefile", "constraints.txt", "pyproject.toml")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Typist:
    """Types commands into bash: variables and the folder that they leave count for the next."""

    folder: Path  # of the project
    place: Path  # where the next command is typed
    variables: dict[str, str]  # of the environment

    def sit_down(self, **more: str) -> None:
        """Begins with a usual environment."""
        base = self.folder.parent
        self.place = self.folder
        self.variables = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "MAKEFLAGS": "STAMP=.venv/bin/python",  # there: `make setup` has nothing to do
            "PREFECT_HOME": str(base / "prefect"),
            "LDEBM_SLOTS": str(base / "slots"),
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **more,
        }

    def type(self, command: str) -> str:
        """Runs it, and gives what it printed; it has to succeed."""
        with tempfile.NamedTemporaryFile() as left:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", f"{command}\n{{ pwd; env -0; }} >{left.name}"],
                cwd=self.place,
                env=self.variables,
                capture_output=True,
                text=True,
                check=False,
                timeout=900,
            )
            state = Path(left.name).read_text()
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        folder, _, variables = state.partition("\n")
        self.place = Path(folder)
        self.variables = dict(pair.split("=", 1) for pair in variables.split("\0") if pair)
        return done.stdout

    def follow(self, page: str, left_out: Iterable[str] = ()) -> dict[str, str]:
        """Types all that a page shows, once each; a block begins in the project's folder.

        Args:
            page: its file.
            left_out: commands, or patterns of them, that are not typed.

        Returns:
            What each command said.
        """
        said: dict[str, str] = {}
        block = -1
        for item in shown(page):
            if item.kind == "variable" or item.text in said:
                continue
            if any(fnmatchcase(item.text, pattern) for pattern in left_out):
                continue
            if item.block != block:
                self.between()
                self.place, block = self.folder, item.block
            command = self.change(item.text)
            if self.begin(command):
                continue
            if item.kind == "python":
                command = f"python - <<'END'\n{command}\nEND"
            said[item.text] = self.type(command)
            self.after(item.text, said[item.text])
        self.between()
        return said

    def change(self, command: str) -> str:
        """The command with this project's names in the place of the page's."""
        return command

    def begin(self, command: str) -> bool:
        """Starts a command that goes on by itself; False: it does not."""
        return False

    def after(self, command: str, said: str) -> None:
        """Is called with every command, as the page has it, and what it said."""

    def between(self) -> None:
        """Is called before every block and at the end."""


class Reader(Typist, ProjectCopy):
    """A clone of the project with trainings of seconds, and a file of the reader's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, params=None, names=(*CODE, *MORE, *MAKE))
        self.sit_down()

    def fill(self) -> None:
        """A virtual environment, shorter trainings, a file."""
        (self.folder / ".venv").symlink_to(sys.prefix)
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "reader")
        self.git("config", "user.email", "reader@example.org")
        rows = [f"{turn.text},{turn.intent}\n" for turn in generate(seed=3)][:600]
        (self.folder / "letters.csv").write_text("body,topic\n" + "".join(rows))
        self.shorten()

    def shorten(self) -> None:
        """Trainings of seconds, in every experiment that the guides build."""
        small = {"samples": 200, "rows": 20, "importance": 8, "inner": 64, "per_label": 5}
        training = {"updates": 40, "epochs": None, "validate_every": None}
        library = Library(self.folder)
        for name in set(BUILT) & library.experiments.keys():
            path = self.folder / "conf" / f"{library.experiments[name]}.yaml"
            sizes = {"hidden": 32}
            if library.experiment(name).backbone.arch == "gru":
                sizes["embed"] = 32
            shorter = {
                "backbone": {**sizes, "training": training},
                "prior": {"training": training, "energy": {"hidden": 16, "blocks": 1}},
                "evaluate": small,
            }
            path.write_text(format_yaml(_merged(parse_yaml(path.read_text()), shorter)))
        select_run(self.folder / "params.yaml")


def _merged(content: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Mappings with the keys of ``more`` over them."""
    result = dict(content)
    for key, value in more.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = _merged(old, value) if both else value
    return result


class Operator(Typist, NumbersProject):
    """A project with the experiments of the operator's guide, in which a stage takes a blink."""

    names = (*NumbersProject.names, *MAKE)

    def __init__(self, folder: Path) -> None:
        text = re.sub(r"\bgauss\b", "chatter-ldebm", PARAMS)
        text = text.replace("shifted", "gaussians16-ldebm")
        text = text.replace("[chatter-ldebm]", "[chatter-ldebm, gaussians16-ldebm]")
        super().__init__(folder, params=text.replace("mi_weight", "levels: 6, mi_weight"))
        self.server = Server(folder.parent)
        self.sit_down(
            PREFECT_SERVER_API_PORT=str(self.server.port),
            PREFECT_WORKER_QUERY_SECONDS="1",
            LDEBM_CPU_SLOTS="2",
        )
        self.going = contextlib.ExitStack()
        self.run = self.schedule = ""
        self.cancelled: set[str] = set()

    def fill(self) -> None:
        """A virtual environment, and git with a remote."""
        super().fill()
        (self.folder / ".venv").symlink_to(sys.prefix)
        origin = self.folder.parent / "origin.git"
        self.git("init", "-q", "--bare", "-b", "main", str(origin))
        self.git("init", "-q", "-b", "main")
        self.git("config", "user.name", "operator")
        self.git("config", "user.email", "operator@example.org")
        self.git("remote", "add", "origin", str(origin))
        self.git("add", "-f", "numbers.csv")  # so that another worker's clone has it

    def change(self, command: str) -> str:
        """The command with this test's names in the place of the guide's."""
        base = self.folder.parent
        times = sorted((self.folder / "retrain").glob("*"), key=lambda path: path.stat().st_mtime)
        for old, new in {
            "127.0.0.1:4200": f"127.0.0.1:{self.server.port}",
            "SERVER:4200": f"127.0.0.1:{self.server.port}",
            "URL": str(base / "origin.git"),
            "/srv/ldebm": str(base / "another"),
            "/mnt/share/ldebm-dvc": str(base / "remote"),
            "RUN_ID": self.run,
            "SCHEDULE_ID": self.schedule,
            "TIME": times[-1].name if times else "",
        }.items():
            command = re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, command)
        return command

    def after(self, command: str, said: str) -> None:
        """Remembers the ids that were printed."""
        ids = UUID.findall(said)
        if command.startswith("prefect deployment run"):
            self.run = ids[0]
        elif command.startswith("prefect flow-run cancel"):
            self.cancelled.add(self.run)
        elif command.startswith("prefect deployment schedule ls"):
            self.schedule = ids[0]

    def begin(self, command: str) -> bool:
        """Starts a server or a worker."""
        log = self.folder.parent / f"log-{len(list(self.folder.parent.glob('log-*')))}"
        if command == "make server":
            ready = self.answers
        elif command == "make worker" or "deploy/worker.sh" in command:
            ready = lambda: b"started!" in log.read_bytes()  # noqa: E731
        else:
            return False
        env = {name: value for name, value in self.variables.items() if name != "PYTHONPATH"}
        words = ["bash", "-c", command]
        self.going.enter_context(started(words, log, cwd=self.place, env=env))
        until(300, f"{command}: {log}", ready)
        return True

    def answers(self) -> bool:
        """Whether the server does."""
        with contextlib.suppress(OSError):
            return self.server.get("/health") is True
        return False

    def runs(self) -> list[dict]:
        """All runs but those of schedules."""
        runs = self.server.get("/flow_runs/filter", {"limit": 100})
        return [run for run in runs if not run["auto_scheduled"]]

    def between(self) -> None:
        """Waits for the end of all runs: what the next block does may need the same folder."""
        if self.run:
            until(900, "all runs end", lambda: all(
                run["state"]["type"] in FINAL for run in self.runs()
            ))  # fmt: skip
