"""Records of stage executions, and the way back from a file to raw data."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ldebm.errors import UsageError
from ldebm.files import hash_path, write_json
from ldebm.notes import note
from ldebm.sources import closure
from pipelines.lineage.records import (
    code_hashes,
    digest,
    dvc_md5,
    git_state,
    read_records,
    recorded,
    records,
    seal,
)
from pipelines.lineage.trace import trace


def execute(root: Path, stage: str, inputs: list[str], outputs: dict[str, str], **params):
    """Runs a stage that writes text, and returns its entry of dvc.lock."""
    with recorded(stage, inputs=inputs, outputs=list(outputs), params=params, seed=0, root=root):
        for path, text in outputs.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    return {
        "cmd": f"run {stage}",
        "deps": [{"path": path, "md5": dvc_md5(root / path)} for path in inputs],
        "params": {"params.yaml": params},
        "outs": [{"path": path, "md5": dvc_md5(root / path)} for path in outputs],
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Two data sets and one experiment."""
    root = tmp_path_factory.mktemp("built")
    files = {}
    stages = {}
    for name in ("mine", "other"):
        raw, packed = f"data/raw/{name}/a.txt", f"data/packed/{name}/meta.json"
        stages[f"fetch@{name}"] = execute(root, f"fetch@{name}", [], {raw: name})
        stages[f"pack@{name}"] = execute(root, f"pack@{name}", [raw], {packed: "{}"})
    files["meta.json"] = hash_path(root / "data/packed/mine/meta.json")
    bound = {"experiment": "e", "data": "mine", "path": "data/packed/mine", "files": files}
    write_json(root / "reports/validation/mine/report.json", {"success": True})
    stages["bind@e"] = execute(
        root, "bind@e", ["data/packed"], {"data/bound/e.json": json.dumps(bound)}
    )
    stages["prior@e-0"] = execute(
        root,
        "prior@e-0",
        ["data/bound/e.json"],
        {"models/e/0/prior/model.safetensors": "weights"},
        **{"experiments.e.prior.levels": 6},
    )
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    params = {"experiments": {"e": {"prior": {"levels": 6}}}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(built, tmp_path / "project")


def test_a_record_says_what_where_when_and_with_which_code(project: Path):
    record = next(item for item in records(project) if item["stage"] == "prior@e-0")
    assert [item["path"] for item in record["inputs"]] == ["data/bound/e.json"]
    output = record["outputs"][0]
    assert output["sha256"] == hash_path(project / output["path"])
    assert output["bytes"] == len("weights")
    assert record["params"] == {"experiments.e.prior.levels": 6}
    assert record["validation"] == {"data": "mine", "success": True}
    assert record["seconds"] >= 0
    assert {"git", "versions", "numerics", "device", "seed", "started"} <= record.keys()
    assert record["versions"]["python"].startswith("3.")
    assert record["ran_by"] == "hand"
    assert record["seal"] == seal(record)


def test_the_same_execution_has_one_record_and_other_inputs_or_outputs_another(project: Path):
    before = len(records(project))
    again = {"experiments.e.prior.levels": 6}
    model = "models/e/0/prior/model.safetensors"
    execute(project, "prior@e-0", ["data/bound/e.json"], {model: "weights"}, **again)
    assert len(records(project)) == before
    execute(project, "prior@e-0", ["data/bound/e.json"], {model: "weights"}, other=1)
    assert len(records(project)) == before + 1
    execute(project, "prior@e-0", ["data/bound/e.json"], {model: "others"}, **again)
    assert len(records(project)) == before + 2


def test_the_record_of_a_folder_names_every_file_in_it(project: Path):
    record = next(item for item in records(project) if item["stage"] == "bind@e")
    (read,) = record["inputs"]
    assert set(read["files"]) == {"mine/meta.json", "other/meta.json"}
    assert read["sha256"] == hash_path(project / "data/packed")


def test_records_go_where_the_environment_says(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LDEBM_LINEAGE", str(tmp_path / "elsewhere"))
    execute(tmp_path / "scratch", "x", [], {"out": ""})
    assert not (tmp_path / "scratch/lineage").exists()
    (record,) = records(tmp_path)
    assert record["file"].startswith("elsewhere/x-")


def test_a_file_that_is_no_record_is_named_as_unreadable(project: Path):
    (project / "lineage/x-0.json").write_text("{")
    (project / "lineage/y-0.json").write_text('{"stage": "y"}')
    readable, unreadable = read_records(project)
    assert {record["stage"] for record in readable}.isdisjoint({"x", "y"})
    assert "not valid JSON" in unreadable["lineage/x-0.json"]
    assert "inputs" in unreadable["lineage/y-0.json"]


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path):
    with (
        pytest.raises(RuntimeError),
        recorded("x", inputs=[], outputs=[], params={}, root=tmp_path),
    ):
        raise RuntimeError
    assert records(tmp_path) == []


def test_a_recording_inside_another_belongs_to_it(tmp_path: Path):
    nothing = {"inputs": [], "outputs": [], "params": {}, "root": tmp_path}
    with recorded("outer", **nothing) as outer, recorded("inner", **nothing) as inner:
        assert inner is outer
    assert [record["stage"] for record in records(tmp_path)] == ["outer"]


def test_an_interrupted_training_costs_what_all_its_parts_cost(tmp_path: Path):
    for before, stage in ((100.0, "prior@e-0"), (None, "prior@e-1")):
        with recorded(stage, inputs=[], outputs=[], params={}, root=tmp_path):
            note(cpu_seconds_before=before, resumed_at=4)
    record_of = {record["stage"]: record for record in records(tmp_path)}
    assert record_of["prior@e-0"]["cpu_seconds"] >= 100
    assert record_of["prior@e-1"]["cpu_seconds"] is None


@pytest.mark.parametrize("variable", ["LDEBM_FLOW_RUN_ID", "PREFECT__FLOW_RUN_ID"])
def test_the_flow_run_is_recorded_when_there_is_one(tmp_path: Path, monkeypatch, variable):
    monkeypatch.setenv(variable, "abc")
    execute(tmp_path, "x", [], {"out": ""})
    (record,) = records(tmp_path)
    assert (record["flow_run"], record["ran_by"]) == ("abc", "flow")


def test_dvc_is_recorded_as_the_runner_of_its_stages(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "x")
    execute(tmp_path, "x", [], {"out": ""})
    assert records(tmp_path)[0]["ran_by"] == "dvc"


def test_the_code_is_what_the_process_imported():
    root = Path(__file__).parents[2]
    hashes = code_hashes(root)
    assert hashes["pipelines/lineage/records.py"] == hash_path(
        root / "pipelines/lineage/records.py"
    )
    assert "tests/unit/test_lineage.py" not in hashes


def test_the_walk_goes_back_to_raw_data_of_the_bound_data_set_only(project: Path):
    lineage = trace("models/e/0/prior/model.safetensors", project)
    assert [step.stage for step in lineage.steps] == [
        "prior@e-0",
        "bind@e",
        "pack@mine",
        "fetch@mine",
    ]
    assert all(step.record for step in lineage.steps)


def test_an_experiment_a_folder_and_a_result_file_are_targets_too(project: Path):
    assert trace("e", project).target == "models/e/0/prior/model.safetensors"
    assert trace("models/e/0", project).steps[0].stage == "prior@e-0"
    with pytest.raises(UsageError, match="not written by any stage"):
        trace("results/e/0.json", project)


def test_a_file_that_no_stage_wrote_is_refused(project: Path):
    with pytest.raises(UsageError, match="not written by any stage"):
        trace("README.md", project)


def test_without_a_lock_nothing_was_built(tmp_path: Path):
    with pytest.raises(UsageError, match="make repro"):
        trace("e", tmp_path)


def test_a_stage_and_a_record_are_targets_too(project: Path):
    assert [step.stage for step in trace("pack@mine", project).steps] == ["pack@mine", "fetch@mine"]
    name = next(item["file"] for item in records(project) if item["stage"] == "bind@e")
    for given in (name, str(project / name)):
        (step,) = trace(given, project).steps
        assert step.stage == "bind@e"


def test_a_typing_error_in_a_target_has_a_hint(project: Path):
    with pytest.raises(UsageError, match="did you mean 'pack@mine'"):
        trace("pack@mien", project)


def test_without_dvc_the_records_alone_are_the_way(project: Path):
    (project / "dvc.lock").unlink()
    lineage = trace("e", project)
    assert lineage.steps[0].stage == "prior@e-0"
    assert lineage.steps[0].params == {"experiments.e.prior.levels": 6}
    assert not lineage.steps[0].locked


def test_forwards_begins_with_raw_data(project: Path):
    assert [step.stage for step in trace("e", project).forwards()] == [
        "fetch@mine",
        "pack@mine",
        "bind@e",
        "prior@e-0",
    ]


def test_a_lock_that_is_not_yaml_is_one_line(project: Path):
    (project / "dvc.lock").write_text("stages: [")
    with pytest.raises(UsageError, match=r"git checkout dvc\.lock"):
        trace("e", project)


def test_folder_hashes_ignore_byte_code_as_dvc_does(tmp_path: Path):
    (tmp_path / "d/__pycache__").mkdir(parents=True)
    (tmp_path / "d/a").write_text("x")
    before = digest("d", tmp_path)["md5"]
    (tmp_path / "d/__pycache__/a.pyc").write_text("y")
    assert digest("d", tmp_path)["md5"] == before


@pytest.mark.pipeline
def test_folder_hashes_are_those_of_dvc(tmp_path: Path):
    (tmp_path / "d/sub").mkdir(parents=True)
    for name, text in (("b", "1"), ("sub/a", "2"), ("a-b", "3"), ("é", "4")):
        (tmp_path / "d" / name).write_text(text)
    for command in (["init", "--no-scm", "-q"], ["add", "-q", "d"]):
        subprocess.run(["python", "-m", "dvc", *command], cwd=tmp_path, check=True)
    assert yaml.safe_load((tmp_path / "d.dvc").read_text())["outs"][0]["md5"] == dvc_md5(
        tmp_path / "d"
    )


def test_a_selection_makes_nothing_dirty_and_a_parameter_does(tmp_path):
    def git(*words: str) -> None:
        user = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *user, *words], cwd=tmp_path, check=True, capture_output=True)

    text = "# what\nrun:\n  seeds: [0] # one\n\n  # long\n  epochs: null\n\ndata:\n  d: {rows: 1}\n"
    params = tmp_path / "params.yaml"
    params.write_text(text)
    (tmp_path / "ldebm").mkdir()
    (tmp_path / "ldebm/a.py").write_text("1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    assert git_state(tmp_path)["dirty"] is False
    params.write_text(text.replace("[0] # one", "[1, 2]").replace("null", "0.5"))
    assert git_state(tmp_path)["dirty"] is False
    params.write_text(text.replace("rows: 1", "rows: 2"))
    assert git_state(tmp_path)["dirty"] is True
    params.write_text(text.replace("[0]", "[1]"))
    (tmp_path / "ldebm/a.py").write_text("2\n")
    assert git_state(tmp_path)["dirty"] is True


def test_the_code_of_a_stage_is_what_it_may_import_whatever_its_process_has_loaded():
    root = Path(__file__).parents[2]
    hashes = code_hashes(root, "prior@ptb-ldebm-0")
    assert hashes.keys() == set(closure("stages.prior", root))
    assert "ldebm/training/joint_task.py" in hashes
    assert code_hashes(root, "campaign") == code_hashes(root)


def test_the_list_of_a_stage_counts_while_none_of_its_files_has_changed(tmp_path: Path):
    (tmp_path / "stages").mkdir()
    (tmp_path / "data/code").mkdir(parents=True)
    command, other = tmp_path / "stages/one.py", tmp_path / "stages/two.py"
    command.write_text("from stages import two\n")
    other.write_text("")
    listed = {"stages/one.py": dvc_md5(command)}  # shorter than the imports, to tell which is read
    (tmp_path / "data/code/one.json").write_text(json.dumps(listed))
    assert set(code_hashes(tmp_path, "one@x")) == {"stages/one.py"}
    command.write_text("from stages import two  # changed\n")
    assert set(code_hashes(tmp_path, "one@x")) == {"stages/one.py", "stages/two.py"}
