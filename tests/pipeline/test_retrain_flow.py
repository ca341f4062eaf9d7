"""Retraining from end to end on the tiny project: first on a server, then without one."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.pipeline.numbers_project import NumbersProject

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


@pytest.fixture(scope="module")
def first(tmp_path_factory, server) -> NumbersProject:
    """A project whose first champion was registered by a retraining, with 40 rows of data."""
    project = NumbersProject(tmp_path_factory.mktemp("retrain") / "project", rows=40)
    project.dvc("repro", "-q")
    project.commit("built")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        project.first = pipelines(project, "retrain")
    return project


@pytest.fixture
def project(first: NumbersProject, tmp_path: Path) -> NumbersProject:
    """A copy of it."""
    return first.copied(tmp_path / "copy")


def pipelines(project: NumbersProject, *arguments: str, code: int = 0) -> SimpleNamespace:
    """Runs a command; the record of the retraining comes with it."""
    done = project.python("pipelines", *arguments, code=code)
    folders = sorted((project.folder / "retrain").glob("*"), key=lambda path: path.stat().st_mtime)
    done.folder = folders[-1] if folders else None
    done.record = json.loads((folders[-1] / "retrain.json").read_text()) if folders else None
    done.count = len(folders)
    return done


def test_the_first_challenger_becomes_the_champion_and_the_workspace_stays_as_it_was(first):
    assert first.first.out.startswith("promoted gauss")
    assert first.tags() == ["gauss#champion#1", "gauss@v1.0.0"]
    record = first.first.record
    assert record["flow_run"], "this one had a server"
    assert first.git("rev-parse", "gauss@v1.0.0^{commit}").strip() == record["commit"]
    assert first.git("rev-parse", record["branch"]).strip() == record["commit"]
    assert first.git("status", "--porcelain") == ""
    assert first.git("log", "--format=%s").splitlines() == ["built", "start"]
    promoted = first.git("show", "gauss@v1.0.0:dvc.yaml")
    assert "path: models/gauss/0/prior/model.safetensors" in promoted
    seeds = first.git("ls-tree", "-r", "--name-only", "gauss@v1.0.0", "reports").split()
    assert seeds == [f"reports/gauss/{seed}/summary.json" for seed in range(3)]


def test_its_evidence_is_a_page_with_the_verdict_the_report_and_the_validation(first):
    folder = first.first.folder
    page = (folder / "verdict.md").read_text()
    assert "gauss: promoted" in page
    assert "registered as v1.0.0" in page
    assert (folder / "site/index.html").as_uri() in page
    assert json.loads((folder / "validation/numbers/report.json").read_text())["success"]


def test_the_same_again_builds_nothing_and_refuses_because_it_is_the_champion(project):
    again = pipelines(project, "retrain")
    assert again.record["summary"] == "refused gauss"
    assert "same bytes" in again.record["verdicts"][0]["reasons"][0]
    assert len(project.tags()) == 2


def test_a_worse_challenger_is_refused_with_its_numbers_and_kept_as_a_branch(project):
    project.edit("mi_weight: 0.0", "mi_weight: 1.5")
    done = pipelines(project, "retrain")
    (verdict,) = done.record["verdicts"]
    assert verdict["decision"] == "refuse"
    assert "the challenger is not better" in verdict["reasons"][0]
    assert verdict["champion"].startswith("gauss@v1.0.0")
    assert verdict["rows"][0]["how"] == "paired over seeds 0, 1, 2"
    assert project.git("rev-parse", "--verify", done.record["branch"])
    assert len(project.tags()) == 2


def test_without_a_change_of_data_the_flow_on_change_does_nothing_and_says_so(project):
    before = pipelines(project, "changes").count
    done = pipelines(project, "retrain", "--on-change")
    assert done.out.startswith("nothing changed in numbers: nothing was built")
    assert done.count == before


def test_new_training_rows_make_a_better_model_that_replaces_the_champion_once(project):
    project.numbers(4000)
    findings = json.loads(pipelines(project, "changes", "--json").out)
    assert [item["state"] for item in findings] == ["changed"]
    done = pipelines(project, "retrain", "--on-change")
    (verdict,) = done.record["verdicts"]
    assert verdict["decision"] == "promote", verdict
    assert verdict["notes"] == ["trained on other data (train.x.json), tested on the same"]
    assert "gauss@v1.1.0" in project.tags()
    pinned = yaml.safe_load(project.git("show", "gauss@v1.1.0:params.yaml"))
    assert findings[0]["overrides"] == [
        f"+data.numbers.sha256={pinned['data']['numbers']['sha256']}"
    ]
    again = pipelines(project, "retrain", "--on-change")
    assert "nothing changed" in again.out, "this change was dealt with"


def test_with_new_test_rows_the_champion_is_measured_on_them_before_the_two_are_compared(project):
    project.numbers(4000, seed=1)
    done = pipelines(project, "retrain", "--on-change")
    (verdict,) = done.record["verdicts"]
    assert "evaluated again on the challenger's data" in verdict["champion"]
    assert verdict["decision"] == "promote", verdict
    row = verdict["rows"][0]
    old = json.loads(project.git("show", "gauss@v1.0.0:reports/gauss/0/summary.json"))
    assert row["champion"] != pytest.approx(old["nll"], abs=0.001)


def test_data_that_fail_validation_never_promote_and_their_report_stays(project):
    path = project.folder / "numbers.csv"
    path.write_text(path.read_text() + "train,5000\n")
    done = pipelines(project, "retrain", "--on-change")
    (verdict,) = done.record["verdicts"]
    assert verdict["reasons"] == ["data set 'numbers' failed validation: 1 rows above 1000"]
    assert len(project.tags()) == 2
    report = json.loads((done.folder / "validation/numbers/report.json").read_text())
    assert not report["success"]
    kept = project.folder.parent / "report.json"
    path = "reports/validation/numbers/report.json"
    project.dvc("get", ".", path, "--rev", done.record["branch"], "-o", str(kept))
    assert json.loads(kept.read_text()) == report
    assert "nothing changed" in pipelines(project, "retrain", "--on-change").out


def test_a_stage_that_fails_fails_the_run_and_is_tried_again_the_next_time(project):
    project.numbers(500)
    shown = project.folder / "stages/tiny.py"
    shown.write_text(
        shown.read_text().replace("def evaluate(o):\n", "def evaluate(o):\n    1 / 0\n")
    )
    project.commit("broken")
    done = pipelines(project, "retrain", "--on-change", code=1)
    assert "evaluate@gauss-0" in done.record["failures"][0]
    assert done.record["verdicts"][0]["decision"] == "refuse"
    assert done.record["dealt"] == []
    findings = json.loads(pipelines(project, "changes", "--json").out)
    assert findings[0]["state"] == "changed"


def test_wrong_use_is_one_line_with_exit_code_2(project):
    for arguments in (["retrain", "gaus"], ["retrain", "--seeds", "x"], ["promote", "nothing"]):
        done = project.python("pipelines", *arguments, code=2)
        line = done.err.strip().splitlines()[-1]
        assert line.startswith("pipelines: ")
        assert "Traceback" not in done.err


@pytest.mark.long
def test_a_refused_challenger_can_be_compared_again_and_promoted_by_hand(project):
    project.edit("mi_weight: 0.0", "mi_weight: 1.5")
    branch = pipelines(project, "retrain").record["branch"]
    shown = json.loads(pipelines(project, "champion", "gauss", branch, "--json").out)
    assert (shown["decision"], len(project.tags())) == ("refuse", 2)
    by_hand = pipelines(project, "promote", "gauss", branch, "--stage", "champion").out
    assert by_hand.startswith("gauss v1.1.0 at ")
