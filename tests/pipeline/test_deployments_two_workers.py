"""Two workers on two folders that share a DVC remote, each building half of a sweep."""

from collections import Counter
from pathlib import Path

import pytest

from tests.pipeline.numbers_project import NumbersProject
from tests.pipeline.prefect_server import Server

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.long]
KEY = "experiments.gauss.prior.mi_weight"


def clone(project: NumbersProject, folder: Path) -> NumbersProject:
    """Another machine's clone: nothing built, an empty cache, the same remote."""
    project.git("clone", "-q", str(project.folder), str(folder))
    return NumbersProject.at(folder)


def ran(project: NumbersProject) -> list[tuple[str, str]]:
    """Every stage command that ran in a worktree of a folder, with the worktree's parameter."""
    lines_of = []
    for log in (project.folder / ".dvc/tmp/runs").glob("*/ran.log"):
        params = (log.parent / "params.yaml").read_text()
        weight = params.partition("mi_weight: ")[2].partition(",")[0]
        lines_of += [(weight, line) for line in log.read_text().splitlines()]
    return lines_of


def test_each_builds_half_of_a_sweep_and_no_stage_is_built_twice(tmp_path: Path):
    left = NumbersProject(tmp_path / "left")
    left.edit("seeds: [0]\n", "seeds: [0, 1]\n")
    left.dvc("remote", "add", "-d", "team", str(tmp_path / "remote"))
    left.git("add", "-f", "numbers.csv")
    left.dvc("repro", "-q", "bind@gauss")
    left.commit("what all points need")
    left.dvc("push", "-q")
    (left.folder / "slow").write_text("1.5")  # so that the halves overlap
    right = clone(left, tmp_path / "right")
    (right.folder / "slow").write_text("1.5")
    before = Counter(line for line in left.ran())
    with (
        Server(tmp_path).running(left.folder) as server,
        server.worker(left.folder, "--limit", "1", "--name", "left"),
        server.worker(right.folder, "--limit", "1", "--name", "right", register=False),
    ):
        values = [["0.0", "0.1", "0.2"], ["0.3", "0.4", "0.5"]]
        runs = [
            server.run("sweep/sweep", axes=[f"{KEY}={','.join(half)}"], pull=True)
            for half in values
        ]
        states = [server.finished(run, 600) for run in runs]
        logs = [path.read_text()[-4000:] for path in tmp_path.glob("worker-*.log")]
        assert [state["type"] for state in states] == ["COMPLETED"] * 2, "\n".join(logs)
    mine, theirs = ran(left), ran(right)
    assert {weight for weight, _ in mine}.isdisjoint(weight for weight, _ in theirs)
    built = Counter(mine) + Counter(theirs)
    assert set(built.values()) == {1}, "no stage twice"
    for stage in ("prior", "evaluate"):
        lines = [weight for weight, line in built if line.startswith(stage)]
        assert sorted(lines) == sorted(v for half in values for v in half for _ in (0, 1))
    assert not [
        line for _, line in built if line.split()[0] in ("fetch", "prepare", "pack", "bind")
    ]
    assert Counter(left.ran()) == before
    assert mine
    assert theirs
