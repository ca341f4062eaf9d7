"""Jobs of a real Slurm on this machine, and what is told where there is none."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldebm.errors import UsageError
from pipelines.crews import crew_of
from tests.pipeline.numbers_project import PARAMS, NumbersProject
from tests.pipeline.slurm_cluster import cluster, missing

KEY = "experiments.gauss.prior.mi_weight"
ASKED = "    resources: {cpus: 1, memory: 0.5, time: 5}\n"


def test_without_sbatch_one_line_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        UsageError, match="no program `sbatch` here; start this where jobs are submitted"
    ):
        crew_of(tmp_path, None, slurm=True, retries=2)
    with pytest.raises(UsageError, match="--pool and --slurm: expected one of them"):
        crew_of(tmp_path, "ldebm", slurm=True, retries=2)


@pytest.fixture(scope="module")
def variables(tmp_path_factory) -> Iterator[dict[str, str]]:
    with cluster(tmp_path_factory.mktemp("slurm")) as made:
        yield made


def ran(project: NumbersProject) -> Counter[tuple[str, str]]:
    """How often each stage of each version ran."""
    counts: Counter[tuple[str, str]] = Counter()
    for log in (project.folder / ".dvc/tmp/runs").glob("*/ran.log"):
        params = (log.parent / "params.yaml").read_text()
        weight = params.partition("mi_weight: ")[2].partition(",")[0]
        counts.update((weight, line) for line in log.read_text().splitlines())
    return counts


@pytest.mark.pipeline
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_points_are_jobs_with_their_resources_and_a_job_that_is_killed_runs_again(
    tmp_path: Path, variables: dict[str, str]
):
    project = NumbersProject(
        tmp_path / "project",
        params=PARAMS.replace("{samples: 100}\n", "{samples: 100}\n" + ASKED, 1),
    )
    (project.folder / "slow").write_text("3")
    environment = {**project.environment(), **variables}
    killed: list[str] = []

    def lose_one() -> None:
        while not killed:
            listed = subprocess.run(
                ["squeue", "-h", "-t", "RUNNING", "-n", "point 1", "-o", "%i"],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if listed.stdout.strip() and any(
                "prior" in line for (w, line) in ran(project) if w == "0.2"
            ):
                number = listed.stdout.split()[0]
                shown = ["scontrol", "show", "job", number]
                killed.append(subprocess.check_output(shown, env=environment, text=True))
                subprocess.run(["scancel", number], env=environment, check=True)
            time.sleep(0.2)

    thread = threading.Thread(target=lose_one, daemon=True)
    thread.start()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "sweep", f"{KEY}=0.1,0.2", "--slurm"],
        cwd=project.folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "point 1: lost, and handed out again" in done.stderr
    for setting in ("NumCPUs=1", "MinMemoryNode=512M", "TimeLimit=00:06:00"):
        assert setting in killed[0]
    counts = ran(project)
    assert {item for item, times in counts.items() if times > 1} <= {
        ("0.2", "prior --experiment gauss --seed 0")
    }
    table = next((project.folder / "sweeps").glob("*/sweep.json"))
    points = json.loads(table.read_text())["points"]
    assert all(point["metrics"] for point in points)
    assert points[0]["where"].endswith(str(project.folder))
    assert os.listdir(project.folder / ".dvc/tmp/slurm")
