"""A stage is run again apart from the working tree, and what differs is named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines.lineage.code_lists import code_list
from pipelines.lineage.records import dvc_md5
from tests.pipeline.project_copy import ProjectCopy

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
PRIOR = "prior@small-0"
MODEL = "models/small/0/prior/model.safetensors"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def state(project: ProjectCopy) -> tuple[str, str, dict[str, str], list[str]]:
    """What an audit must leave as it was."""
    records = sorted(path.name for path in (project.folder / "lineage").iterdir())
    lines = project.git("status", "--porcelain", "--ignored").splitlines()
    status = "\n".join(line for line in lines if not line.endswith("__pycache__/"))
    return status, project.git("worktree", "list"), project.outputs(), records


def nothing_left(project: ProjectCopy, scratch: Path) -> bool:
    return not any(scratch.glob("ldebm-audit-*")) and (
        project.git("worktree", "list").count("\n") == 1
    )


@pytest.mark.parametrize(
    "stage",
    [
        "fetch@dots",
        "validate@dots",
        "judge@dots",
        "bind@small",
        "backbone@small-0",
        PRIOR,
        "report",
    ],
)
def test_a_stage_gives_the_same_bytes_again(built: ProjectCopy, scratch: Path, stage: str):
    before = state(built)
    audit = json.loads(built.ldebm("audit", stage, "--json").out)
    assert audit["same"] is True
    assert audit["outputs"]
    assert all(output["expected"] == output["actual"] for output in audit["outputs"])
    assert state(built) == before
    assert nothing_left(built, scratch)


def test_a_dirty_working_tree_does_not_matter_and_is_not_touched(built: ProjectCopy, scratch: Path):
    code = built.folder / "ldebm/priors/base.py"
    params = built.folder / "params.yaml"
    texts = code.read_text(), params.read_text()
    code.write_text("broken(")
    params.write_text(texts[1].replace("levels: 3", "levels: 4"))
    try:
        before = state(built)
        lines = built.ldebm("audit", PRIOR).out.splitlines()
        assert state(built) == before
    finally:
        code.write_text(texts[0])
        params.write_text(texts[1])
    commit = built.git("rev-parse", "--short=12", "HEAD~1").strip()
    assert f"with commit {commit}" in lines[0]
    assert lines[-1] == f"{PRIOR}: all 6 outputs have the same bytes"


def test_with_the_workspace_code_the_first_tensor_that_differs_is_named(
    built: ProjectCopy, scratch: Path
):
    code = built.folder / "ldebm/seeding.py"
    text = code.read_text()
    changed = text.replace("[str(seed), *map(str, path)]", "[str(seed + 1), *map(str, path)]")
    assert changed != text
    code.write_text(changed)
    try:
        before = state(built)
        failed = built.ldebm("audit", PRIOR, "--workspace", "--json", code=1)
        assert state(built) == before
    finally:
        code.write_text(text)
    audit = json.loads(failed.out)
    assert audit["same"] is False
    assert "working tree" in audit["code"]
    difference = next(o["difference"] for o in audit["outputs"] if o["path"] == MODEL)
    assert difference["where"].startswith("tensor ")
    assert float(difference["expected"]) != float(difference["actual"])
    assert "values differ, by" in difference["more"]
    curve = next(o["difference"] for o in audit["outputs"] if o["path"].endswith("curve.csv"))
    assert curve["where"].startswith("row 1, column ")
    assert failed.err.count("\n") == 1
    assert nothing_left(built, scratch)


def test_parameters_that_no_commit_has_come_from_the_lock(
    built: ProjectCopy, scratch: Path, tmp_path
):
    """`dvc exp run -S` and `ldebm select` change params.yaml without a commit."""
    lock = built.folder / "dvc.lock"
    text = lock.read_text()
    content = yaml.safe_load(text)
    section = content["stages"]["bind@small"]["params"]["params.yaml"]
    assert section["experiments.small.data"] == "dots"
    content["stages"][PRIOR]["params"]["params.yaml"]["experiments.small.prior"]["levels"] = 2
    lock.write_text(yaml.safe_dump(content))
    try:
        failed = built.ldebm("audit", PRIOR, "--json", code=1)
    finally:
        lock.write_text(text)
    audit = json.loads(failed.out)
    assert "experiments.small.prior" in audit["notes"][0]
    config = next(o for o in audit["outputs"] if o["path"].endswith("config.json"))
    assert config["difference"]["where"] == "key config.prior.levels"
    assert (config["difference"]["expected"], config["difference"]["actual"]) == ("3", "2")


@pytest.mark.parametrize(
    ("stage", "message"),
    [("prior@smal-0", "did you mean 'prior@small-0'"), ("small", "no stage of dvc.lock")],
)
def test_an_unknown_stage_is_one_line(built: ProjectCopy, stage: str, message: str):
    failed = built.ldebm("audit", stage, code=2)
    assert message in failed.err
    assert failed.err.count("\n") == 1


def test_an_input_that_is_nowhere_is_named_with_the_command_that_gets_it(
    built: ProjectCopy, scratch: Path, tmp_path: Path
):
    kept = tmp_path / "kept"
    kept.mkdir()
    target = built.folder / "models/small/0/latents.parquet"
    md5 = built.outputs()["models/small/0/latents.parquet"]
    entry = built.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    shutil.move(target, kept / "workspace")
    shutil.move(entry, kept / "cache")
    try:
        failed = built.ldebm("audit", PRIOR, code=2)
    finally:
        shutil.move(kept / "workspace", target)
        shutil.move(kept / "cache", entry)
    assert "dvc fetch cluster@small-0" in failed.err
    assert nothing_left(built, scratch)


@pytest.mark.parametrize("kept", [True, False], ids=["list at hand", "list lost"])
def test_code_that_was_never_committed_is_refused_with_the_way_out(
    built: ProjectCopy, scratch: Path, kept: bool
):
    lock, listed = built.folder / "dvc.lock", built.folder / code_list("prior")
    texts = lock.read_text(), listed.read_text()
    md5 = json.loads(texts[1])["ldebm/priors/base.py"]
    if kept:
        listed.write_text(texts[1].replace(md5, "0" * 32))
    content = yaml.safe_load(texts[0])
    for dep in content["stages"][PRIOR]["deps"]:
        if dep["path"] == code_list("prior"):
            dep["md5"] = dvc_md5(listed) if kept else "1" * 32
    lock.write_text(yaml.safe_dump(content))
    try:
        failed = built.ldebm("audit", PRIOR, code=2)
    finally:
        lock.write_text(texts[0])
        listed.write_text(texts[1])
    assert ("ldebm/priors/base.py" if kept else code_list("prior")) in failed.err
    assert failed.err.count("\n") == 1
    assert "--workspace" in failed.err


def test_without_a_record_the_commit_is_found_by_its_code(built: ProjectCopy, scratch: Path):
    """As in a clone, after the code went on."""
    (record,) = (built.folder / "lineage").glob("bind@small-*.json")
    kept = scratch / record.name
    shutil.move(record, kept)
    code = built.folder / "ldebm/config/params.py"
    text = code.read_text()
    code.write_text(text + "\n")
    built.commit("later code")
    try:
        lines = built.ldebm("audit", "bind@small").out.splitlines()
    finally:
        built.git("reset", "-q", "--hard", "HEAD~1")
        shutil.move(kept, record)
    assert f"with commit {built.git('rev-parse', '--short=12', 'HEAD').strip()}" in lines[0]
    assert lines[-1] == "bind@small: all 2 outputs have the same bytes"


def begin(project: ProjectCopy, slow: Path) -> subprocess.Popen[str]:
    """Starts an audit whose stage waits, and returns when the stage runs."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    stage = project.folder / "stages/prior.py"
    text = stage.read_text()
    wait = f"import pathlib, time; pathlib.Path({str(slow)!r}).touch(); time.sleep(600)\n"
    head, _, tail = text.partition("from pathlib import Path\n")
    stage.write_text(f"{head}from pathlib import Path\n{wait}{tail}")
    try:
        audit = subprocess.Popen(
            [sys.executable, "-m", "ldebm.cli", "audit", PRIOR, "--workspace"],
            cwd=project.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not slow.exists():
            assert time.monotonic() < deadline, "the stage did not start"
            assert audit.poll() is None, audit.communicate()
            time.sleep(0.05)
    finally:
        stage.write_text(text)
    return audit


def running_in(scratch: Path) -> list[str]:
    """Processes whose working folder is in ``scratch``."""
    processes = []
    for process in Path("/proc").iterdir():
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(scratch):
                processes.append(process.name)
        except OSError:
            continue
    return processes


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_leave_nothing_behind_and_say_so_in_one_line(
    built: ProjectCopy, scratch: Path, kind
):
    audit = begin(built, scratch / "started")
    assert running_in(scratch)
    audit.send_signal(kind)
    _, error = audit.communicate(timeout=60)
    assert audit.returncode == 130
    (line,) = error.splitlines()
    assert line.startswith(f"ldebm: audit of {PRIOR} stopped after ")
    assert line.endswith("nothing was compared, its scratch worktree was removed")
    assert running_in(scratch) == []
    assert nothing_left(built, scratch)


def test_what_a_killed_audit_left_is_removed_by_the_next(built: ProjectCopy, scratch: Path):
    audit = begin(built, scratch / "started")
    orphans = running_in(scratch)
    audit.kill()
    audit.communicate(timeout=60)
    for process in orphans:
        os.kill(int(process), signal.SIGKILL)
    assert not nothing_left(built, scratch)
    built.ldebm("audit", "bind@small")
    assert nothing_left(built, scratch)


def test_the_flow_run_and_its_folder_of_records_reach_the_records_of_dvc_repro(
    built: ProjectCopy, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("LDEBM_FLOW_RUN_ID", "flow-1")
    monkeypatch.setenv("LDEBM_LINEAGE", str(tmp_path / "records"))
    built.dvc("repro", "-q", "-f", "-s", "bind@small")
    (path,) = (tmp_path / "records").iterdir()
    record = json.loads(path.read_text())
    assert (record["stage"], record["flow_run"], record["ran_by"]) == (
        "bind@small",
        "flow-1",
        "flow",
    )
    assert record["command"] == "python -m stages.bind --experiment small"
    assert record["validation"] is None or record["validation"]["success"]


def test_a_reused_backbone_says_who_trained_it(built: ProjectCopy):
    built.dvc("repro", "-q", "-f", "-s", "backbone@small-0")
    lineage = json.loads(built.ldebm("lineage", "backbone@small-0", "--json").out)
    record = lineage["steps"][0]["record"]
    assert record["reused"] is True
    assert record["trained_by"] == "backbone@small-0"
    assert record["trained_seconds"] > record["seconds"] * 0.01
    assert "reused what backbone@small-0 trained" in built.ldebm("lineage", "backbone@small-0").out


def test_an_experiment_of_dvc_parts_from_the_commit_where_its_parameter_is_read(built: ProjectCopy):
    built.dvc("exp", "run", "-q", "-n", "wider", "-S", "experiments.small.prior.levels=4")
    built.git("stash", "-q")
    try:
        lines = built.ldebm("lineage", "diff", "small", "@wider").out.splitlines()
        divergence = json.loads(
            built.ldebm("lineage", "diff", "small@HEAD", "@wider", "--json").out
        )
    finally:
        built.git("stash", "drop", "-q")
        built.dvc("checkout", "-q", "-f")
    assert lines[2] == (
        f"first divergence: {PRIOR}, because of params: experiments.{{experiment}}.prior.levels"
    )
    assert divergence["first"]["name"] == "prior"
    (cause,) = divergence["first"]["causes"]
    assert (cause["a"], cause["b"]) == (3, 4)


def test_the_whole_way_verifies_and_exports(built: ProjectCopy, tmp_path: Path):
    assert "nothing differs" in built.ldebm("lineage", "verify", "site").out
    events = tmp_path / "events.ndjson"
    built.ldebm("lineage", "small", "--openlineage", str(events))
    assert {json.loads(line)["job"]["name"] for line in events.read_text().splitlines()} >= {
        PRIOR,
        "fetch@dots",
    }
    page = tmp_path / "page.html"
    built.ldebm("lineage", "site", "--html", str(page))
    assert f'id="stage-{PRIOR.replace("@", "-")}"' in page.read_text()
