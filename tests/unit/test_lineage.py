"""Records of stage executions, and the way back from a file to raw data."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ldebm.errors import UsageError
from ldebm.files import hash_path, write_json
from ldebm.lineage import code_hashes, digest, dvc_md5, recorded, records
from ldebm.trace import trace, verify


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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two data sets and one experiment, built."""
    files = {}
    stages = {}
    for name in ("mine", "other"):
        raw, packed = f"data/raw/{name}/a.txt", f"data/packed/{name}/meta.json"
        stages[f"fetch@{name}"] = execute(tmp_path, f"fetch@{name}", [], {raw: name})
        stages[f"pack@{name}"] = execute(tmp_path, f"pack@{name}", [raw], {packed: "{}"})
    files["meta.json"] = hash_path(tmp_path / "data/packed/mine/meta.json")
    bound = {"experiment": "e", "data": "mine", "path": "data/packed/mine", "files": files}
    write_json(tmp_path / "reports/validation/mine/report.json", {"success": True})
    stages["bind@e"] = execute(
        tmp_path, "bind@e", ["data/packed"], {"data/bound/e.json": json.dumps(bound)}
    )
    stages["prior@e-0"] = execute(
        tmp_path,
        "prior@e-0",
        ["data/bound/e.json"],
        {"models/e/0/prior/model.safetensors": "weights"},
        **{"experiments.e.prior.levels": 6},
    )
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    params = {"experiments": {"e": {"prior": {"levels": 6}}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


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


def test_the_same_outputs_have_one_record_and_other_outputs_another(project: Path):
    before = len(records(project))
    execute(project, "prior@e-0", [], {"models/e/0/prior/model.safetensors": "weights"})
    assert len(records(project)) == before
    execute(project, "prior@e-0", [], {"models/e/0/prior/model.safetensors": "others"})
    assert len(records(project)) == before + 1


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


def test_the_flow_run_is_recorded_when_there_is_one(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "abc")
    execute(tmp_path, "x", [], {"out": ""})
    assert records(tmp_path)[0]["flow_run"] == "abc"


def test_the_code_is_what_the_process_imported():
    root = Path(__file__).parents[2]
    found = code_hashes(root)
    assert found["ldebm/lineage.py"] == hash_path(root / "ldebm/lineage.py")
    assert "tests/unit/test_lineage.py" not in found


def test_the_walk_goes_back_to_raw_data_of_the_bound_data_set_only(project: Path):
    found = trace("models/e/0/prior/model.safetensors", project)
    assert [step.stage for step in found.steps] == [
        "prior@e-0",
        "bind@e",
        "pack@mine",
        "fetch@mine",
    ]
    assert all(step.record for step in found.steps)


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


def test_verify_finds_nothing_in_an_untouched_project(project: Path):
    assert verify(trace("e", project), project) == []


@pytest.mark.parametrize(
    ("path", "text", "named"),
    [
        ("data/raw/mine/a.txt", "edited", "data/raw/mine/a.txt: differs"),
        ("data/packed/mine/meta.json", "[]", "data/packed/mine/meta.json: sha256 differs"),
        (
            "models/e/0/prior/model.safetensors",
            "x",
            "model.safetensors: sha256 differs from lineage",
        ),
        ("params.yaml", "experiments: {e: {prior: {levels: 4}}}", "levels is 4"),
    ],
)
def test_verify_names_what_differs(project: Path, path, text, named):
    (project / path).write_text(text)
    assert any(named in line for line in verify(trace("e", project), project))


def test_verify_names_what_is_missing_and_ignores_other_data(project: Path):
    shutil.rmtree(project / "data/raw/other")
    assert verify(trace("e", project), project) == []
    shutil.rmtree(project / "data/raw/mine")
    lines = verify(trace("e", project), project)
    assert any("data/raw/mine/a.txt: missing" in line for line in lines)


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
