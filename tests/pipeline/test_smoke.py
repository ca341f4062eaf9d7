"""The whole DAG through dvc on a small problem: built twice, changed, compared, audited."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
PARAMS = """\
# A problem of seconds.
run:
  datasets: [dots]
  experiments: [small]
  seeds: [0]
  epochs: null

judge: {}
data:
  dots: {kind: points, source: gaussians16, train: 600, valid: 100, test: 100, labels: [mode]}
  more: {kind: points, source: pinwheel10}

experiments:
  small: &small
    data: dots
    backbone: {arch: mlp, latent: 2, hidden: 16, noise: 0.5, training: {updates: 20, batch: 64}}
    cluster: {labels: gc, dims: 2}
    prior: &prior
      classes: 16
      levels: 3
      energy: {hidden: 8, blocks: 1, spectral_norm: false}
      sampler: {steps: 2}
      training: {updates: 12, batch: 64}
    evaluate: {samples: 200, rows: 50, importance: 8, inner: 8}
  other: {<<: *small, prior: {<<: *prior, classes: 8}}
"""


class Project:
    """A copy of this project in a folder of its own, under git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("ldebm", "stages"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
        (folder / "params.yaml").write_text(PARAMS)
        (folder / "results").mkdir()
        (folder / "results/README.md").write_text("recorded runs\n")
        self.git("init", "-q")
        self.commit("start")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        return self.call(["git", *identity, *arguments]).out

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def call(self, command: list[str], code: int = 0) -> SimpleNamespace:
        bin_folder = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return SimpleNamespace(out=done.stdout, err=done.stderr)

    def dvc(self, *arguments: str) -> str:
        return self.call(["dvc", *arguments]).out

    def ldebm(self, *arguments: str, code: int = 0) -> SimpleNamespace:
        return self.call([sys.executable, "-m", "ldebm.cli", *arguments], code)

    def ran(self) -> set[str]:
        """Names of the stages that a repro runs."""
        lines = self.dvc("repro").splitlines()
        return {
            line.split("'")[1].split("@")[0] for line in lines if line.startswith("Running stage")
        }

    def outputs(self) -> dict[str, str]:
        """md5 of every output in dvc.lock."""
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Project:
    """The small problem, built and committed."""
    project = Project(tmp_path_factory.mktemp("smoke") / "first")
    assert "prior" in project.ran()
    project.commit("built")
    return project


def test_a_second_repro_runs_nothing(built: Project):
    assert built.ran() == set()
    assert built.git("status", "--porcelain") == ""


def test_the_same_problem_in_another_folder_has_the_same_bytes(built: Project, tmp_path: Path):
    second = Project(tmp_path / "second")
    second.dvc("repro", "-q")
    assert second.outputs() == built.outputs()


def test_every_stage_left_a_record_and_the_way_back_verifies(built: Project):
    found = json.loads(built.ldebm("lineage", "reports/small/0/metrics.json", "--json").out)
    stages = [step["stage"].split("@")[0] for step in found["steps"]]
    reached = {
        "evaluate",
        "prior",
        "cluster",
        "backbone",
        "bind",
        "judge",
        "pack",
        "prepare",
        "fetch",
    }
    assert reached <= {*stages}
    assert all(step["record"] for step in found["steps"])
    assert "nothing differs" in built.ldebm("lineage", "verify", "small").out


def test_verify_fails_and_names_an_edited_file(built: Project):
    path = built.folder / "data/raw/dots"
    name = sorted(item for item in path.iterdir() if item.is_file())[0]
    content = name.read_bytes()
    name.unlink()  # not the cached file that it may be linked to
    name.write_bytes(content + b"x")
    failed = built.ldebm("lineage", "verify", "small", code=1)
    assert "data/raw/dots" in failed.out
    assert failed.err.count("\n") == 1
    name.write_bytes(content)


def test_a_built_model_generates(built: Project):
    lines = built.ldebm("generate", "small", "-n", "3").out.splitlines()
    assert len(lines) == 3
    assert all(len(line.split()) == 2 for line in lines)


def test_a_prior_parameter_runs_prior_evaluate_and_report_only_and_diffs_show_it(built: Project):
    path = built.folder / "params.yaml"
    path.write_text(PARAMS.replace("levels: 3", "levels: 4"))
    assert built.ran() == {"prior", "evaluate", "report"}
    params = json.loads(built.dvc("params", "diff", "--json"))
    changed = params["params.yaml"]["experiments.small.prior.levels"]
    assert (changed["old"], changed["new"]) == (3, 4)
    metrics = json.loads(built.dvc("metrics", "diff", "--json"))
    assert "reports/small/0/metrics.json" in metrics
    assert "index.html" in built.dvc("plots", "diff", "-o", "dvc_plots")
    path.write_text(PARAMS)
    assert built.ran() == set(), "the run cache has the first build"


def test_an_experiment_runs_with_another_selection(built: Project):
    built.dvc("exp", "run", "-q", "-S", "run.experiments=[other]", "-S", "run.datasets=[dots]")
    assert (built.folder / "reports/other/0/metrics.json").is_file()
    assert built.dvc("exp", "show", "--json")


def test_data_that_is_not_selected_is_one_line_and_nothing_is_half_written(tmp_path: Path):
    project = Project(tmp_path / "wrong")
    text = PARAMS.replace("datasets: [dots]", "datasets: [more]")
    (project.folder / "params.yaml").write_text(text)
    project.call([sys.executable, "-m", "stages.bind", "--experiment", "small"], code=2)
    assert not (project.folder / "data").exists()
