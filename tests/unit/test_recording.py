"""What a stage records of itself is read from dvc.yaml."""

from pathlib import Path

import pytest

from pipelines.lineage.records import records
from stages.recording import plan, this_stage

DAG = """\
stages:
  prior:
    matrix:
      experiment: ${run.experiments}
      seed: ${run.seeds}
    deps:
      - data/bound/${item.experiment}.json
      - ldebm/priors.py
    params:
      - experiments.${item.experiment}.prior
      - run.epochs
    outs:
      - models/${item.experiment}/${item.seed}/model
    metrics:
      - models/${item.experiment}/${item.seed}/metrics.json:
          cache: false
  report:
    deps:
      - reports
    outs:
      - site
"""
PARAMS = "run: {epochs: null}\nexperiments: {e: {prior: {levels: 6}}}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "dvc.yaml").write_text(DAG)
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_is_the_definition_with_the_keys_filled_in(project: Path):
    stage = plan("prior", {"experiment": "e", "seed": "3"})
    assert stage.name == "prior@e-3"
    assert stage.inputs == ["data/bound/e.json"]
    assert stage.outputs == ["models/e/3/model", "models/e/3/metrics.json"]
    assert stage.params == {"experiments.e.prior": {"levels": 6}, "run.epochs": None}


def test_a_stage_without_a_matrix_is_called_by_its_name(project: Path):
    assert plan("report", {}).name == "report"


def test_a_running_stage_is_recorded_under_its_own_name(project: Path, monkeypatch):
    monkeypatch.setattr("sys.modules", dict(__import__("sys").modules))
    main = type("Main", (), {"__spec__": type("Spec", (), {"name": "stages.report"})})
    __import__("sys").modules["__main__"] = main
    monkeypatch.setattr("sys.argv", ["report"])
    (project / "reports").mkdir()
    with this_stage():
        (project / "site").mkdir()
        (project / "site/index.html").write_text("page")
    (record,) = records(project)
    assert record["stage"] == "report"
    assert record["outputs"][0]["path"] == "site"


def test_outside_a_project_nothing_is_recorded(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with this_stage():
        pass
    assert list(tmp_path.iterdir()) == []
