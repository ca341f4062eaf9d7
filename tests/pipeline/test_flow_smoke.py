"""The real stages through the flow: the bytes of ``dvc repro``, and records that name the run."""

import json

import pytest

from pipelines.audit import AuditReport, Verdict
from pipelines.lineage.audit import Audit, Output
from pipelines.lineage.differences import Difference
from tests.pipeline.project_copy import ProjectCopy

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]


@pytest.fixture(scope="module")
def built(tmp_path_factory, server) -> ProjectCopy:
    """The small problem, built by the flow in another folder, its stages by Python's own start."""
    folder = tmp_path_factory.mktemp("flow")
    project = ProjectCopy(folder / "first")
    wanted = ("PREFECT_HOME", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "LDEBM_SLOTS")
    project.more = {name: server.environment[name] for name in wanted}
    project.more["TESTS_WARM"] = "dvc pipelines"
    report = project.python("pipelines", "build", "--slots", "2", "--json")
    project.report = json.loads(report.out)
    return project


def test_the_flow_and_dvc_repro_write_the_same_dvc_lock(built, small_built):
    assert built.report["ok"]
    serial = small_built.folder / "dvc.lock"
    assert (built.folder / "dvc.lock").read_bytes() == serial.read_bytes()
    assert built.repro() == set(), "for dvc repro nothing is left to do"


def test_every_record_names_the_flow_run_and_the_way_back_verifies(built):
    records = [json.loads(path.read_text()) for path in (built.folder / "lineage").glob("*.json")]
    assert len(records) == len(built.report["stages"])
    assert {record["flow_run"] for record in records} == {built.report["flow_run"]}
    assert "nothing differs" in built.ldebm("lineage", "verify", "small").out


def test_the_next_estimate_knows_what_the_stages_took(built):
    text = (built.folder / "params.yaml").read_text()
    (built.folder / "params.yaml").write_text(text.replace("levels: 3", "levels: 4"))
    lines = built.python("pipelines", "build", "--dry").out.splitlines()
    (built.folder / "params.yaml").write_text(text)
    assert [line.split()[0] for line in lines[:-1]] == [
        "code",
        "prior@small-0",
        "evaluate@small-0",
        "report",
    ]
    assert "?" not in "".join(lines)


def test_stages_that_are_audited_through_the_flow_give_the_same_bytes(built):
    done = built.python("pipelines", "audit", "bind@small", "cluster@small-0", "--json")
    report = json.loads(done.out)
    assert report["ok"]
    assert {stage["stage"]: stage["verdict"] for stage in report["stages"]} == {
        "bind@small": "same",
        "cluster@small-0": "same",
    }


def test_an_audit_that_differs_is_summed_up_by_its_first_difference():
    difference = Difference("model.safetensors", "tensor a[0]", "1.0", "2.0", "3 of 4 differ")
    audit = Audit("prior@small-0", "commit", 1.0, [Output("models/x", "1", "2", difference)])
    line = Verdict("prior@small-0", "differ", 1.0, audit.to_json())
    assert AuditReport((line,)).lines() == [
        "prior@small-0: differ (1 s): models/x: model.safetensors: tensor a[0]: 1.0 -> 2.0"
    ]
