"""The flows as a user starts them: ``python -m pipelines``.

The first build has no server and needs none; the others, as flows, share one.
"""

import json
import os
import signal
import time

import pytest

from benchmarks.builds import log_of, server, start, wait_for
from pipelines.clean import clean
from pipelines.worktree import Workspace
from tests.pipeline.tiny_project import Tiny

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
NOBODY = "http://127.0.0.1:9"  # where nothing listens
PROXIES = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOBODY)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Tiny:
    """The project, built by the flow and committed."""
    project = Tiny(tmp_path_factory.mktemp("commands"), parts="abcd")
    project.env |= PROXIES | {"PREFECT_HOME": "/proc/nowhere"}
    report = json.loads(project.flows("build", "--slots", "3", "--json").stdout)
    assert report["ok"]
    assert {stage["status"] for stage in report["stages"]} == {"built"}
    project.commit()
    project.first = report
    return project


@pytest.fixture
def edited(tiny):
    """Undoes what a test does to the project's files."""
    yield tiny
    tiny.call("git", "checkout", "-q", ".")


@pytest.fixture
def served(edited, server, monkeypatch):
    """The project, whose flows use the server."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME"):
        monkeypatch.setitem(edited.env, name, server.environment[name])
    return edited


def test_the_flow_gives_the_dvc_lock_of_dvc_repro(tiny, tmp_path):
    assert tiny.lock() == tiny.twin(tmp_path).lock()
    assert tiny.dvc("status").strip() == "Data and pipelines are up to date."


def test_a_build_on_one_machine_starts_no_server_and_names_no_flow_run(tiny):
    runs = {line.split()[2] for line in tiny.log.read_text().splitlines()}
    assert runs == {"-"}
    assert tiny.first["flow_run"] is None


@pytest.mark.parametrize("words", [["build"], ["sweep", "parts.a=7,8"], ["clean"]])
def test_a_server_that_does_not_answer_is_one_line_that_says_what_to_do(edited, monkeypatch, words):
    monkeypatch.setitem(edited.env, "PREFECT_API_URL", f"{NOBODY}/api")
    edited.edit("c: 3", "c: 33")
    started = time.monotonic()
    done = edited.flows(*words, code=1)
    assert time.monotonic() - started < 30
    assert done.stderr.startswith(f"pipelines: the Prefect server at {NOBODY}/api does not answer")
    assert "start it (`make server`) and then this again, or unset PREFECT_API_URL" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert edited.ran()["part-c"] == 1, "nothing was built"


def test_a_dry_build_says_what_would_run_and_why_and_changes_nothing(edited):
    edited.edit("c: 3", "c: 30")
    before = edited.call("git", "status", "--porcelain").stdout
    lines = edited.flows("build", "--dry").stdout.splitlines()
    assert lines[0].split()[0] == "part@c"
    assert "parts.c: modified" in lines[0]
    assert lines[-1].startswith("at most 2 stages")
    assert edited.call("git", "status", "--porcelain").stdout == before


def test_a_failure_is_exit_code_1_with_the_log_and_no_traceback(served):
    served.env["TINY_DO"] = json.dumps({"part-d": {"print": "no such thing", "exit": 2}})
    served.edit("d: 4", "d: 40")
    done = served.flows("build", code=1)
    served.env["TINY_DO"] = "{}"
    assert "part@d failed: wrong parameters or data" in done.stdout
    assert "no such thing" in done.stdout
    assert "end skipped: needs part@d" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["build", "--rev", "nope"], "revision 'nope': git does not know it"),
        (["build", "--seeds", "x"], "seeds 'x': expected integers"),
        (["build", "--target", "nope"], "'nope' not found"),
        (["build", "-S", "parts.z=3", "--dry"], "override parts.z=3"),
        (["build", "--slots", "0"], "Invalid value for '--slots'"),
        (["build", "--nope"], "No such option"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tiny, words, text):
    done = tiny.flows(*words, code=2)
    assert text in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_command_prints_the_help_and_is_no_error(tiny):
    done = tiny.flows()
    assert done.stdout.startswith("Usage: python -m pipelines")
    assert done.stderr == ""
    assert "..." not in done.stdout.partition("Commands:")[2]


def test_a_sweep_builds_the_grid_once_and_writes_its_table(served):
    before = served.ran()
    done = served.flows("sweep", "parts.a=10,11", "parts.b=5,6", "--slots", "3", "--json")
    content = json.loads(done.stdout)
    assert content["ok"]
    values = [
        (point["metrics"]["part@a"]["value"], point["metrics"]["part@b"]["value"])
        for point in content["points"]
    ]
    assert values == [(a, b) for a in (10, 11) for b in (5, 6)]
    ran = served.ran() - before
    assert ran == {"part-a": 2, "part-b": 2, "end": 4}, "what points share is built once"
    folders = list((served.root / "sweeps").iterdir())
    assert {path.name for path in folders[0].iterdir()} == {
        "table.csv",
        "summary.csv",
        "sweep.json",
        "report.md",
    }
    assert served.call("git", "status", "--porcelain").stdout == ""
    again = json.loads(served.flows("sweep", "parts.a=10,11", "parts.b=5,6", "--json").stdout)
    assert again["summary"] == content["summary"]
    assert served.ran() - before == ran, "a second sweep runs nothing"


def test_clean_says_what_would_go_and_deletes_only_when_told(edited):
    edited.flows("build", "--isolated", "-S", "parts.a=77")
    report = json.loads(edited.flows("clean", "--days", "0", "--cache", "--json").stdout)
    kinds = {item["kind"] for item in report["items"]}
    assert "worktree" in kinds
    assert not report["deleted"]
    runs = Workspace(edited.root).runs
    assert any((path / ".git").exists() for path in runs.iterdir())
    young = json.loads(edited.flows("clean", "--json").stdout)
    assert young["items"] == []
    edited.flows("clean", "--days", "0", "--cache", "--delete")
    assert not any((path / ".git").exists() for path in runs.iterdir())
    assert len(edited.call("git", "worktree", "list").stdout.splitlines()) == 1
    assert edited.flows("build").stdout.startswith("6 cached"), "what commits name is kept"
    assert edited.dvc("status").strip() == "Data and pipelines are up to date."


def test_clean_leaves_what_a_build_works_on(edited):
    edited.flows("build", "--isolated", "-S", "parts.a=78")
    workspace = Workspace(edited.root)
    name = next(path.name for path in workspace.runs.iterdir() if (path / ".git").exists())
    with workspace.locked(name):
        report = json.loads(edited.flows("clean", "--days", "0", "--delete", "--json").stdout)
        done = edited.flows("clean", "--days", "0", "--cache", "--delete", code=2)
    assert report["kept"] == [f"{name}: a build works there"]
    assert "not collected while a build runs" in done.stderr
    assert workspace.place(name).is_dir()


def test_clean_removes_what_killed_stages_had_not_finished(tmp_path):
    root = Tiny(tmp_path / "one").root
    texts = root / "data" / "prepared" / ".texts-abcd"
    texts.mkdir(parents=True)
    (texts / "texts.parquet").write_bytes(b"12345")
    part = root / "models" / "e" / ".model.safetensors.0123abcd.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"123")
    kept = [root / "data" / ".mine.part", root / "data" / "texts.part"]
    for path in kept:
        path.write_bytes(b"1")
    assert not [item for item in clean(root).items if item.kind == "unfinished"], "too young"
    report = clean(root, days=0, delete=True)
    found = {item.path: item.bytes for item in report.items if item.kind == "unfinished"}
    assert found == {
        "data/prepared/.texts-abcd": 5, "models/e/.model.safetensors.0123abcd.part": 3
    }  # fmt: skip
    assert not texts.exists()
    assert not part.exists()
    assert all(path.is_file() for path in kept)


@pytest.mark.long
def test_a_server_that_dies_does_not_hold_up_the_build_or_its_end(tmp_path):
    tiny = Tiny(tmp_path / "one", seconds=0.5)
    with server(tmp_path / "one" / "prefect") as (url, process):
        tiny.env |= {"PREFECT_API_URL": url, "PREFECT_CLIENT_MAX_RETRIES": "2"}
        flow = start(tiny)
        assert wait_for(lambda: bool(tiny.ran()))
        os.killpg(process.pid, signal.SIGKILL)
        assert flow.wait(120) == 1
    assert tiny.dvc("status").strip() == "Data and pipelines are up to date."
    last = log_of(tiny).splitlines()[-1]
    assert last.startswith(f"pipelines: the Prefect server at {url} does not answer")
