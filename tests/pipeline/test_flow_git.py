"""A build leaves the repository of the user as it is, wherever the project lies."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ldebm.errors import LdebmError, UsageError
from pipelines.building import planned
from pipelines.evidence import commit_build
from pipelines.types import Selection
from pipelines.worktree import Workspace
from tests.pipeline.tiny_project import Tiny, statuses

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
WHO = ("-c", "user.name=test", "-c", "user.email=test@example.org")


def repository(root: Path) -> dict[str, bytes]:
    """All files of a repository."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def at(root: Path, like: Tiny) -> Tiny:
    """The project at another place."""
    other = Tiny.__new__(Tiny)
    other.root, other.env, other.log = root, like.env, like.log
    return other


def test_a_build_in_a_hook_of_another_worktree_leaves_head_index_and_objects(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a").use(monkeypatch)
    (tiny.root / "note").write_text("note\n")
    tiny.call("git", "add", "note")
    (tiny.root / "corpus.bin").write_bytes(os.urandom(5 << 20))
    tiny.call("git", "worktree", "add", "-q", "-b", "branch", str(tmp_path / "linked"))
    before = repository(tiny.root / ".git")
    hook = tmp_path / "linked/.git"
    monkeypatch.setenv("GIT_DIR", hook.read_text().removeprefix("gitdir: ").strip())
    monkeypatch.setenv("GIT_INDEX_FILE", str(tiny.root / ".git/index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path / "linked"))
    report = tiny.build()
    assert set(statuses(report).values()) == {"built"}
    assert repository(tiny.root / ".git") == before
    tiny.edit("a: 1", "a: 2")
    _, _, state = planned(Selection(), tiny.root)
    assert state.dirty
    assert repository(tiny.root / ".git") == before


def test_a_submodule_is_a_project_and_repositories_inside_it_are_folders(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a")
    outer = tmp_path / "outer"
    subprocess.run(["git", "init", "-q", str(outer)], check=True)
    local = ("-c", "protocol.file.allow=always")
    words = ["git", *local, "submodule", "add", "-q", str(tiny.root), "a project ü"]
    subprocess.run(words, cwd=outer, check=True)
    project = at(outer / "a project ü", tiny).use(monkeypatch)
    project.call("git", "init", "-q", "empty")
    (project.root / "empty/file").write_text("of a repository without a commit\n")
    before = repository(outer / ".git")
    assert project.build().ok
    assert project.dvc("status").strip() == "Data and pipelines are up to date."
    assert repository(outer / ".git") == before


def test_a_copied_and_a_moved_project_build_and_leave_the_other_alone(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a").use(monkeypatch)
    assert tiny.build().ok
    copy = at(tmp_path / "copy", tiny)
    shutil.copytree(tiny.root, copy.root, symlinks=True)
    before = repository(tiny.root)
    copy.edit("a: 1", "a: 5")
    assert copy.build().having("built")
    assert (copy.root / "out/end").read_text().endswith("5\n")
    moved = at(tmp_path / "moved", tiny)
    copy.root.rename(moved.root)
    moved.edit("a: 5", "a: 6")
    assert moved.build().having("built")
    assert repository(tiny.root) == before


def test_a_project_in_a_folder_of_a_larger_repository(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a").use(monkeypatch)
    (tmp_path / "large.bin").write_bytes(os.urandom(1 << 20))
    (tiny.root / ".git").rename(tmp_path / ".git")
    tiny.call("git", "add", ".")
    tiny.call("git", *WHO, "commit", "-q", "-m", "moved")
    tiny.edit("a: 1", "a: 2")
    assert tiny.build().ok
    assert (tiny.root / "out/part/a").read_text().endswith("2\n")
    workspace = Workspace(tiny.root)
    assert not (workspace.runs / "workspace/large.bin").exists()
    project = workspace.checkout("commit", workspace.state("HEAD"))
    assert "a: 1" in (project / "params.yaml").read_text()


def test_a_file_of_parameters_outside_is_followed_and_never_written(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a").use(monkeypatch)
    (tiny.root / "params.yaml").rename(tmp_path / "mine.yaml")
    (tiny.root / "params.yaml").symlink_to("../mine.yaml")
    text = (tmp_path / "mine.yaml").read_text()
    report = tiny.build(Selection(overrides=("parts.a=9",), isolated=True))
    assert report.ok
    assert (report.worktree / "out/part/a").read_text().endswith("9\n")
    assert (tmp_path / "mine.yaml").read_text() == text


def test_a_worktree_that_git_knew_is_forgotten_by_the_repository(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a").use(monkeypatch)
    workspace = Workspace(tiny.root)
    tiny.call("git", "worktree", "add", "-q", "--detach", str(workspace.runs / "workspace"))
    workspace.checkout("workspace", workspace.state())
    assert tiny.call("git", "worktree", "list").stdout.count("\n") == 1
    assert not [*(tiny.root / ".git/worktrees").glob("*")]


def test_what_was_built_becomes_a_branch_and_nothing_else_changes(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a")
    workspace = Workspace(tiny.root)
    project = workspace.checkout("challenger", workspace.state("HEAD"))
    (project / "models").mkdir()
    (project / "models/metrics.json").write_text("{}")
    (tiny.root / "note").write_text("note\n")
    tiny.call("git", "add", "note")
    kept = [tiny.root / ".git" / name for name in ("HEAD", "index", "refs/heads/master")]
    before = [path.read_bytes() for path in kept]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tiny.root / ".git/index"))
    commit = commit_build(tiny.root, project, "challenger/x", "Retraining")
    assert [path.read_bytes() for path in kept] == before
    names = tiny.call("git", "show", "--format=%s", "--name-only", "challenger/x").stdout.split()
    assert names == ["Retraining", "models/metrics.json"]
    assert tiny.call("git", "rev-parse", "challenger/x").stdout.strip() == commit


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda root: (root / ".git/HEAD").write_text("ref: refs/heads/none\n"), "with a commit"),
        (lambda root: (root / ".git/config").write_text("[core"), "git cannot be used here: bad"),
        (
            lambda root: (shutil.rmtree(root / ".git"), (root / ".git").write_text("gitdir: /x\n")),
            "git cannot be used here: not a git repository: /x",
        ),
    ],
)
def test_what_git_refuses_is_one_line_at_once(tmp_path, harm, said):
    tiny = Tiny(tmp_path, parts="a")
    harm(tiny.root)
    with pytest.raises(UsageError, match=said) as caught:
        Workspace(tiny.root)
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    tiny = Tiny(tmp_path, parts="a")

    def full(source, *_, **__):
        raise OSError(28, "No space left on device", source)

    monkeypatch.setattr(shutil, "copy2", full)
    workspace = Workspace(tiny.root)
    with pytest.raises(LdebmError, match=r"^[^\n]+: No space left on device; free some space"):
        workspace.checkout("workspace", workspace.state())
