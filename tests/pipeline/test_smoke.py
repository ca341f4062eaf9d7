"""The whole DAG through dvc on a small problem: built, changed, compared, audited."""

import json
import re
from pathlib import Path

import pytest

from tests.pipeline.project_copy import SMALL, ProjectCopy

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


def test_a_second_repro_runs_nothing(built: ProjectCopy):
    assert built.repro() == set()
    assert built.git("status", "--porcelain") == ""


def test_every_stage_left_a_record_and_the_way_back_verifies(built: ProjectCopy):
    lineage = json.loads(built.ldebm("lineage", "reports/small/0/metrics.json", "--json").out)
    stages = [step["stage"].split("@")[0] for step in lineage["steps"]]
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
    assert all(step["record"] for step in lineage["steps"])
    assert "nothing differs" in built.ldebm("lineage", "verify", "small").out


def test_verify_fails_and_names_an_edited_file(built: ProjectCopy):
    path = built.folder / "data/raw/dots"
    name = sorted(item for item in path.iterdir() if item.is_file())[0]
    content = name.read_bytes()
    name.unlink()  # not the cached file that it may be linked to
    name.write_bytes(content + b"x")
    failed = built.ldebm("lineage", "verify", "small", code=1)
    assert "data/raw/dots" in failed.out
    assert failed.err.count("\n") == 1
    name.write_bytes(content)


def test_a_built_model_generates(built: ProjectCopy):
    lines = built.ldebm("generate", "small", "-n", "3").out.splitlines()
    assert len(lines) == 3
    assert all(len(line.split()) == 2 for line in lines)


def test_a_prior_parameter_runs_prior_evaluate_and_report_only_and_diffs_show_it(
    built: ProjectCopy,
):
    path = built.folder / "params.yaml"
    path.write_text(SMALL.replace("levels: 3", "levels: 4"))
    assert built.repro() == {"code", "prior", "evaluate", "report"}
    params = json.loads(built.dvc("params", "diff", "--json"))
    changed = params["params.yaml"]["experiments.small.prior.levels"]
    assert (changed["old"], changed["new"]) == (3, 4)
    metrics = json.loads(built.dvc("metrics", "diff", "--json"))
    assert set(metrics) == {"reports/small/0/summary.json"}
    plots = json.loads(built.dvc("plots", "diff", "--json", "-o", "dvc_plots"))
    assert "errors" not in plots
    drawn = plots["data"]["site/plots/acceptance.csv"][0]
    assert set(drawn["revisions"]) == {"HEAD", "workspace"}
    assert "site/plots/densities-small-0.png" in plots["data"]
    path.write_text(SMALL)
    assert built.repro() == {"code"}, "the run cache has the first build"


def test_a_mistake_stops_dvc_before_anything_runs_though_no_stage_reads_it(built: ProjectCopy):
    before = {*built.git("status", "--porcelain").splitlines()}
    for setting, said in (
        ("+experiments.other.prior.levls=4", "'experiments.other.prior.levls'; did you mean 'leve"),
        ("run.experiments=[smal]", "run.experiments: 'smal' is not in 'experiments'; did you mean"),
    ):
        command = [built.interpreter, "-m", "dvc", "exp", "run", "-S", setting]
        failed = built.call(command, code=255)
        errors = [line for line in failed.err.splitlines() if line.startswith("error: ")]
        assert said in errors[0]
        assert re.findall(r"Running stage '(.*)'", failed.out) == ["code"]
        built.git("checkout", "--", "reports")  # DVC takes away outputs that are not selected
        after = {*built.git("status", "--porcelain").splitlines()}
        assert {line.split()[-1] for line in after ^ before} == {"params.yaml"}
        (built.folder / "params.yaml").write_text(SMALL)


def test_a_parameter_that_no_stage_reads_runs_the_check_alone(built: ProjectCopy):
    path = built.folder / "params.yaml"
    path.write_text(SMALL + "retrain: {seeds: [5]}\n")
    assert built.repro() == {"code"}
    path.write_text(SMALL)
    assert built.repro() == {"code"}


def test_an_experiment_runs_with_another_selection(built: ProjectCopy):
    selected = ["-S", "run.experiments=[other]", "-S", "run.datasets=[dots]"]
    levels = "experiments.other.prior.levels"
    built.dvc("exp", "run", "-q", *selected, "-S", f"{levels}=4")
    changed = json.loads(built.dvc("params", "diff", "--json"))["params.yaml"]
    assert {key: row["new"] for key, row in changed.items()} == {
        levels: 4,
        "run.experiments": "['other']",
    }
    model = json.loads((built.folder / "models/other/0/prior/config.json").read_text())
    assert model["config"]["prior"]["levels"] == 4
    assert (built.folder / "reports/other/0/summary.json").is_file()
    assert built.dvc("exp", "show", "--json")
    plots = json.loads(built.dvc("plots", "show", "--json", "-o", "dvc_plots"))
    assert "errors" not in plots
    assert len(plots["data"]) <= 8


def test_data_that_is_not_selected_is_one_line_and_nothing_is_half_written(tmp_path: Path):
    project = ProjectCopy(tmp_path / "wrong")
    text = SMALL.replace("datasets: [dots]", "datasets: [more]")
    (project.folder / "params.yaml").write_text(text)
    project.python("stages.bind", "--experiment", "small", code=2)
    assert not (project.folder / "data").exists()
