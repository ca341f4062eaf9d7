"""Three workers in three clones that share a DVC remote, and a command that hands them work."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.supervise import descendants
from tests.pipeline.numbers_project import NumbersProject
from tests.pipeline.prefect_server import Server

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.long]
KEY = "experiments.gauss.prior.mi_weight"
VALUES = ("0.0", "0.1", "0.2")


def ran(project: NumbersProject) -> list[tuple[str, str]]:
    """Every stage command that ran in a worktree of a folder, with the worktree's parameter."""
    lines_of = []
    for log in (project.folder / ".dvc/tmp/runs").glob("*/ran.log"):
        params = (log.parent / "params.yaml").read_text()
        weight = params.partition("mi_weight: ")[2].partition(",")[0]
        lines_of += [(weight, line) for line in log.read_text().splitlines()]
    return lines_of


class Team:
    """A project, three clones with workers, and the server; the data file is in the first alone."""

    def __init__(self, folder: Path, server: Server, names: tuple[str, ...]) -> None:
        self.server = server
        self.parent = NumbersProject(folder / "parent")
        self.parent.dvc("remote", "add", "-d", "team", str(folder / "remote"))
        self.parent.commit("a remote")
        self.folders = [self.parent]
        for name in names:
            self.parent.git("clone", "-q", str(self.parent.folder), str(folder / name))
            self.folders.append(NumbersProject.at(folder / name))
        for project in self.folders:
            (project.folder / "slow").write_text("4")

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command in the project's folder, with the server configured."""
        environment = {**self.parent.environment(), **self.server.environment}
        return subprocess.run(
            [sys.executable, "-m", "pipelines", *words],
            cwd=self.parent.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def ran(self) -> Counter[tuple[str, str]]:
        """How often each stage of each version began, in all folders together."""
        return Counter(item for project in self.folders for item in ran(project))

    def kill(self, project: NumbersProject) -> None:
        """Ends everything of a worker at once, as when its machine loses power."""
        pid = self.server.workers[project.folder.name]
        for process in [pid, *descendants(pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


@pytest.fixture(scope="module")
def team(tmp_path_factory, tables: Path) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    (folder / "server").mkdir()
    with contextlib.ExitStack() as stack:
        server = Server(folder / "server", tables=tables)
        made = Team(folder, server, ("left", "middle", "right"))
        stack.enter_context(server.running(made.parent.folder))
        for number, project in enumerate(made.folders[1:]):
            options = ("--limit", "1", "--name", project.folder.name)
            stack.enter_context(server.worker(project.folder, *options, register=number == 0))
        yield made


def test_a_sweep_survives_the_loss_of_a_worker_and_no_finished_stage_is_built_twice(team: Team):
    lost: list[tuple[str, str]] = []

    def lose_one() -> None:
        while not lost:
            for project in team.folders[1:]:
                if begun := [item for item in ran(project) if item[1].startswith("prior")]:
                    team.kill(project)
                    lost.extend([begun[-1], (project.folder.name, "")])
                    return
            time.sleep(0.2)

    thread = threading.Thread(target=lose_one, daemon=True)
    thread.start()
    done = team.call("sweep", f"{KEY}={','.join(VALUES)}", "--pool", "ldebm")
    thread.join(1)
    assert done.returncode == 0, done.stderr[-6000:]
    assert "lost, and handed out again" in done.stderr
    begun, (name, _) = lost
    counts = team.ran()
    assert {item for item, times in counts.items() if times > 1} == {begun}, "only what was killed"
    assert counts[begun] == 2
    table = next((team.parent.folder / "sweeps").glob("*/sweep.json"))
    points = json.loads(table.read_text())["points"]
    assert [point["overrides"] for point in points] == [[f"{KEY}={x}"] for x in VALUES]
    assert all(point["metrics"] for point in points)
    assert not any(point["where"].endswith(f"/{name}") for point in points)
    fetched = [project for project in team.folders if any("fetch" in x[1] for x in ran(project))]
    assert fetched == [team.parent], "only there the data are"


def test_what_was_built_comes_home_from_the_remote_and_runs_nothing(team: Team):
    before = team.ran()
    done = team.parent.python(
        "pipelines", "build", "--rev", "HEAD", "-S", f"{KEY}={VALUES[-1]}", "--pull"
    )
    assert "cached" in done.out
    assert team.ran() == before


def test_a_retraining_hands_out_its_seeds_and_judges_them_here(team: Team):
    before = team.ran()
    done = team.call("retrain", "gauss", "--seeds", "1,2,3", "--pool", "ldebm", "--json")
    assert done.returncode == 0, done.stderr[-6000:]
    outcome = json.loads(done.stdout)
    assert [verdict["decision"] for verdict in outcome["verdicts"]] == ["promote"]
    new = team.ran() - before
    assert set(new.values()) == {1}, new
    home = Counter(ran(team.parent))
    own = {line.split()[0] for (_, line) in new if home[(_, line)]}
    assert own <= {"fetch", "report"}, "all else is the workers'"
    seeds = {line.split()[-1] for _, line in new if line.startswith("prior")}
    assert seeds == {"1", "2", "3"}
