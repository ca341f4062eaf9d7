"""A build gives the bytes of ``dvc repro``, survives what goes wrong, and goes on where it was."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ldebm.errors import UsageError
from pipelines.dispatch import Options, mend
from pipelines.runner import strays
from pipelines.types import Selection
from pipelines.worktree import Busy, Workspace
from tests.pipeline.tiny_project import Tiny, names, statuses

FOUR, TWO = "abcd", "ab"
pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
START = """\
import sys
from pathlib import Path
from tests.pipeline.tiny_project import Tiny
tiny = Tiny.__new__(Tiny)
tiny.root, tiny.env, tiny.warm = Path.cwd(), dict(__import__("os").environ), False
tiny.build()
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What stages see comes from the project of the test."""

    return lambda tiny: tiny.use(monkeypatch)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Tiny:
    """Built by ``dvc repro``."""
    tiny = Tiny(tmp_path_factory.mktemp("reference"), parts=FOUR)
    tiny.dvc("repro", "-q")
    return tiny


def contents(tiny: Tiny) -> dict[str, bytes]:
    """All outputs."""
    files = [*(tiny.root / "out").rglob("*"), *(tiny.root / "metrics").rglob("*")]
    return {str(f.relative_to(tiny.root)): f.read_bytes() for f in files if f.is_file()}


@pytest.mark.parametrize("rounds", [1, pytest.param(3, marks=pytest.mark.long)])
def test_stages_in_parallel_give_the_same_dvc_lock_every_time(
    tmp_path, environment, reference, rounds
):
    for number in range(rounds):
        tiny = environment(Tiny(tmp_path / str(number), parts=FOUR))
        messages: list[str] = []
        report = tiny.build(cpu=4, messages=messages)
        assert set(statuses(report).values()) == {"built"}
        assert messages == [], "no retry, no lock error"
        assert tiny.lock() == reference.lock()
        assert contents(tiny) == contents(reference)
        assert tiny.dvc("status").strip() == "Data and pipelines are up to date."


def test_a_second_build_starts_nothing_and_makes_no_worktree(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, parts=TWO))
    tiny.dvc("repro", "-q")
    report = tiny.build()
    assert set(statuses(report).values()) == {"cached"}
    assert sum(tiny.ran().values()) == 4
    assert "worktree" not in tiny.call("git", "worktree", "list").stdout.replace(str(tmp_path), "")
    assert not Workspace(tiny.root).place("workspace").exists()


def test_uncommitted_changes_are_built_and_only_what_they_touch_runs(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, parts="abc"))
    tiny.build()
    tiny.commit()
    tiny.edit("c: 3", "c: 30")
    report = tiny.build()
    expected = dict.fromkeys(names("abc"), "cached") | {"part@c": "built", "end": "built"}
    assert statuses(report) == expected
    assert report.dirty
    assert tiny.lock() == tiny.twin(tmp_path / "twin").lock()
    tiny.edit("c: 30", "c: 3")
    assert set(statuses(tiny.build()).values()) == {"cached"}, "the run cache has the first build"
    assert tiny.ran()["part-c"] == 2


def test_what_other_selections_left_in_a_folder_that_a_stage_reads_is_read_here_too(
    tmp_path, environment
):
    tiny = environment(Tiny(tmp_path, parts=TWO))
    tiny.dvc("repro", "-q")
    tiny.edit("parts: [a, b]", "parts: [a]")
    tiny.edit("base: 0", "base: 1")
    left, hand = tiny.root / "out/part/b", tiny.root / "out/part/by_hand/c"
    left.chmod(0o644)
    left.write_text("of another selection\n")
    hand.parent.mkdir()
    hand.write_text("by hand\n")
    (tiny.root / ".gitignore").write_text("by_hand\n")
    for here in (True, False):
        assert statuses(tiny.build())["end"] == "built"
        end = (tiny.root / "out/end").read_text()
        assert ("of another selection" in end, "by hand" in end) == (here, here)
        assert set(statuses(tiny.build()).values()) == {"cached"}
        left.unlink(missing_ok=True)
        hand.unlink(missing_ok=True)


def test_a_change_that_leaves_an_output_as_it_is_stops_there(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, parts=TWO))
    tiny.dvc("repro", "-q")
    tiny.edit("base: 0", "base: 1")  # which the text of base does not depend on
    report = tiny.build()
    assert statuses(report)["base"] == "built"
    assert sum(tiny.ran().values()) == 5


def test_a_revision_and_overrides_are_built_beside_the_workspace(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, parts=TWO))
    tiny.dvc("repro", "-q")
    tiny.commit()
    tiny.edit("b: 2", "b: 20")
    before = (tiny.lock(), contents(tiny), tiny.call("git", "status", "--porcelain").stdout)
    report = tiny.build(Selection(revision="HEAD", overrides=("parts.a=10",)))
    after = (tiny.lock(), contents(tiny), tiny.call("git", "status", "--porcelain").stdout)
    assert after == before
    built = [stage.name for stage in report.having("built")]
    assert built == ["part@a", "end"]
    assert (report.worktree / "out/part/a").read_text().endswith("10\n")
    assert (report.worktree / "out/part/b").read_text().endswith("2\n")
    twin = Tiny(tmp_path / "twin", parts=TWO)
    twin.dvc("repro", "-q")
    twin.edit("a: 1", "a: 10")
    twin.dvc("repro", "-q")
    assert report.dvc_lock.read_text() == twin.lock()
    again = tiny.build(Selection(revision="HEAD", overrides=("parts.a=10",)))
    assert again.worktree == report.worktree
    assert again.having("built") == []


def test_a_failure_says_why_and_the_rest_goes_on(tmp_path, environment):
    wrong = {"part-b": {"print": "value is wrong", "exit": 2}}
    tiny = environment(Tiny(tmp_path, wrong, parts=TWO))
    report = tiny.build()
    status_of = statuses(report)
    assert status_of.pop("part@b") == "failed"
    assert status_of.pop("end") == "skipped"
    assert set(status_of.values()) == {"built"}
    (failed,) = report.having("failed")
    assert "wrong parameters or data (exit code 2)" in failed.message
    assert "value is wrong" in failed.message, "the end of the log"
    assert "dvc repro -s part@b" in failed.message, "the command to run it by hand"
    assert tiny.ran()["part-b"] == 1, "never tried again"
    assert "part@a" in tiny.lock(), "what was built has landed"
    environment(tiny).env["TINY_DO"] = "{}"
    environment(tiny)
    assert [stage.name for stage in tiny.build().having("built")] == ["part@b", "end"]


def test_an_infrastructure_error_is_tried_again(tmp_path, environment):
    hows = {"a": {"signal": 9}, "b": {"exit": 75}, "c": {"print": "MemoryError", "exit": 1}}
    do = {f"part-{part}": {**how, "once": True} for part, how in hows.items()}
    tiny = environment(Tiny(tmp_path, do, parts="abc"))
    messages: list[str] = []
    report = tiny.build(messages=messages)
    assert report.ok
    attempts = {stage.name: stage.attempts for stage in report.stages}
    assert attempts == {"base": 1, "part@a": 2, "part@b": 2, "part@c": 2, "end": 1}
    again = sorted(text.partition(":")[0] for text in messages if "trying again" in text)
    assert again == ["part@a", "part@b", "part@c"]


def test_after_its_retries_an_infrastructure_error_is_a_failure(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, {"base": {"signal": 9}}, parts=TWO))
    report = tiny.build(options=Options(retries=1, delay=0.0))
    assert report.having("failed")[0].attempts == 2
    assert len(report.having("skipped")) == 3


def test_stopping_at_the_first_failure_starts_nothing_more(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, {"part-a": {"exit": 1}}, parts="abc"))
    report = tiny.build(options=Options(delay=0.0, keep_going=False), cpu=1)
    assert len(report.having("failed")) == 1
    assert sum(tiny.ran().values()) < 5


def test_two_builds_at_once_the_second_says_who_runs(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, parts=TWO))
    with (
        Workspace(tiny.root).locked("workspace"),
        pytest.raises(Busy, match=f"process {os.getpid()}"),
    ):
        tiny.build()
    assert tiny.build().ok


def test_builds_of_different_versions_at_once_build_what_they_share_once(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, seconds=0.5, parts="abc"))
    reports = {}

    def work(value: int) -> None:
        reports[value] = tiny.build(Selection(overrides=(f"parts.a={value}",)), cpu=4)

    threads = [threading.Thread(target=work, args=(value,)) for value in (10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(report.ok for report in reports.values())
    counts = tiny.ran()
    assert counts.pop("part-a") == counts.pop("end") == 2
    assert set(counts.values()) == {1}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_killed_leaves_nothing_and_the_next_goes_on(
    tmp_path, environment, reference, number
):
    tiny = environment(Tiny(tmp_path, seconds=0.6, parts=FOUR, warm=False))
    command = [sys.executable, "-c", START]
    flow = subprocess.Popen(command, cwd=tiny.root, env=tiny.env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while sum(tiny.ran("end").values()) < 2:
        assert time.monotonic() < deadline
        assert flow.poll() is None
        time.sleep(0.02)
    flow.send_signal(number)
    flow.wait(timeout=30)
    tiny.warm = True
    report = environment(tiny).build()  # waits for the end of what the first has left
    assert report.ok, [stage.message for stage in report.having("failed")]
    worktree = Workspace(tiny.root).place("workspace")
    assert strays(worktree) == []
    assert tiny.lock() == reference.lock()
    interrupted = sum(tiny.ran().values()) - 6
    assert interrupted <= 3, "only what was running then has started twice"


def test_a_lock_file_that_a_killed_dvc_left_half_written_is_no_obstacle(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, parts=TWO))
    tiny.build()
    half = Workspace(tiny.root).place("workspace") / ".dvc/tmp/rwlock"
    half.write_text('{"write": {"a')
    tiny.edit("b: 2", "b: 20")
    assert tiny.build().ok
    half.write_text("")
    mend(half.parents[2])
    assert not half.exists()


def test_what_git_ignores_but_parameters_name_is_there(tmp_path, environment):
    tiny = environment(Tiny(tmp_path))
    (tiny.root / "out").mkdir()
    (tiny.root / "out/mine.csv").write_text("x\n")
    workspace = Workspace(tiny.root)
    project = workspace.checkout("w", workspace.state())
    for text in ("x\n", "later\n"):
        (tiny.root / "out/mine.csv").write_text(text)
        workspace.bring(project, ["out/mine.csv", "out/none.csv"])
        assert (project / "out/mine.csv").read_text() == text


def test_a_worktree_has_uncommitted_and_new_files_and_forgets_those_of_the_last_time(
    tmp_path, environment
):
    tiny = environment(Tiny(tmp_path))
    (tiny.root / "new.txt").write_text("new")
    tiny.edit("a: 1", "a: 7")
    workspace = Workspace(tiny.root)
    index = tiny.call("git", "status", "--porcelain").stdout
    project = workspace.checkout("w", workspace.state())
    assert tiny.call("git", "status", "--porcelain").stdout == index, "the index is as it was"
    assert (project / "new.txt").read_text() == "new"
    assert "a: 7" in (project / "params.yaml").read_text()
    (tiny.root / "new.txt").unlink()
    tiny.call("git", "checkout", "-q", ".")
    state = workspace.state()
    assert not state.dirty
    workspace.checkout("w", state)
    assert not (project / "new.txt").exists()
    assert "a: 1" in (project / "params.yaml").read_text()


def test_a_remote_with_a_relative_path_works_from_a_worktree(tmp_path, environment):
    tiny = environment(Tiny(tmp_path, parts=TWO))
    tiny.dvc("remote", "add", "-q", "-d", "store", "../store")
    tiny.commit()
    report = tiny.build(Selection(isolated=True))
    done = Workspace(tiny.root).dvc("push", "-q", cwd=report.worktree)
    assert done.returncode == 0, done.stderr
    stored = [path for path in tmp_path.rglob("store/files/md5/*/*") if path.is_file()]
    assert len(stored) >= 4


def test_no_git_and_no_commit_are_one_line(tmp_path):
    (tmp_path / ".dvc").mkdir()
    with pytest.raises(UsageError, match="flows need a git repository with a commit"):
        Workspace(tmp_path)
    with pytest.raises(UsageError, match="no DVC project here"):
        Workspace(tmp_path / ".dvc")
