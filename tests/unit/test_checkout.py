"""A working copy has the files of the project, whatever its repository, and leaves that alone."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ldebm.errors import UsageError
from pipelines.git import environment, git, git_or_none
from pipelines.lineage.checkout import Checkout, fingerprint, project_files
from pipelines.lineage.records import git_state
from pipelines.lineage.scratch import worktree

FILES = {"params.yaml": "a: 1\n", "ldebm/x.py": "x = 1\n", "gone.txt": "gone\n"}
ROOT = Path(__file__).parents[2]
NAME = "a project, größer"  # a path with spaces and letters beyond ASCII


def call(root: Path, *words: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    who += ["-c", "protocol.file.allow=always"]
    done = subprocess.run(["git", *who, *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def make(root: Path) -> Path:
    """A repository with a commit."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / ".gitignore").write_text("/out\n/copy\n")
    call(root, "init", "-q", "-b", "main")
    call(root, "add", "-A")
    call(root, "commit", "-q", "-m", "one")
    return root


def plain(folder: Path) -> Path:
    return make(folder / NAME)


def submodule(folder: Path) -> Path:
    make(folder / "origin")
    make(folder / "outer")
    call(folder / "outer", "submodule", "add", "-q", "../origin", NAME)
    return folder / "outer" / NAME


def linked(folder: Path) -> Path:
    call(make(folder / "main"), "worktree", "add", "-q", "--detach", str(folder / NAME))
    return folder / NAME


def linked_to_bare(folder: Path) -> Path:
    call(folder, "clone", "-q", "--bare", str(make(folder / "origin")), "bare.git")
    call(folder / "bare.git", "worktree", "add", "-q", str(folder / NAME), "main")
    return folder / NAME


def shallow(folder: Path) -> Path:
    origin = make(folder / "origin")
    call(origin, "commit", "-q", "--allow-empty", "-m", "two")
    call(folder, "clone", "-q", "--depth", "1", f"file://{origin}", NAME)
    return folder / NAME


def partial(folder: Path) -> Path:
    origin = make(folder / "origin")
    call(origin, "config", "uploadpack.allowFilter", "true")
    call(folder, "clone", "-q", "--filter=blob:none", f"file://{origin}", NAME)
    return folder / NAME


def borrowing(folder: Path) -> Path:
    call(folder, "clone", "-q", "--shared", str(make(folder / "origin")), NAME)
    return folder / NAME


def sha256(folder: Path) -> Path:
    root = folder / NAME
    root.mkdir()
    call(root, "init", "-q", "--object-format=sha256")
    return make(root)


def subfolder(folder: Path) -> Path:
    root = make(folder / "large" / NAME)
    (root / ".git").rename(folder / "large" / ".git")
    call(folder / "large", "add", "-A")
    call(folder / "large", "commit", "-q", "-m", "moved")
    return root


def detached(folder: Path) -> Path:
    root = plain(folder)
    call(root, "checkout", "-q", "--detach")
    return root


def unusual_settings(folder: Path) -> Path:
    root = plain(folder)
    for name, value in {
        "core.fsmonitor": "true", "core.splitIndex": "true", "core.untrackedCache": "true",
        "status.showUntrackedFiles": "no", "core.quotePath": "false", "core.autocrlf": "true",
        "core.hooksPath": "/nowhere", "core.bare": "false", "core.logAllRefUpdates": "always",
    }.items():  # fmt: skip
        call(root, "config", name, value)
    return root


def sparse(folder: Path) -> Path:
    root = plain(folder)
    call(root, "sparse-checkout", "set", "--cone", "ldebm")
    return root


def merging(folder: Path) -> Path:
    root = plain(folder)
    for branch in ("one", "two"):
        call(root, "checkout", "-q", "-b", branch, "main")
        (root / "params.yaml").write_text(f"a: {branch}\n")
        call(root, "commit", "-q", "-am", branch)
    subprocess.run(["git", "merge", "one"], cwd=root, capture_output=True)
    assert (root / ".git/MERGE_HEAD").exists()
    return root


KINDS: list[Callable[[Path], Path]] = [
    plain, submodule, linked, linked_to_bare, shallow, partial, borrowing, sha256, subfolder,
    detached, unusual_settings, sparse, merging,
]  # fmt: skip


def contents(root: Path) -> dict[str, bytes]:
    """Files by name; the bytes, or where a link leads."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not {".git", "copy", "out"} & {*path.relative_to(root).parts}
    }


def repository(root: Path) -> dict[str, bytes]:
    """All of the repository: its objects, references, index and the rest."""
    place = Path(git(root, "rev-parse", "--path-format=absolute", "--git-common-dir"))
    return {str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_copy_is_the_workspace_and_its_repository_is_as_before(tmp_path: Path, kind):
    root = kind(tmp_path)
    (root / "new ä.bin").write_bytes(os.urandom(3 << 20))
    (root / "staged").write_text("staged\n")
    call(root, "add", "staged")
    if (root / "gone.txt").exists():
        (root / "gone.txt").unlink()
    (root / "ldebm/x.py").write_text("x = 2\n")
    commit, before = git(root, "rev-parse", "HEAD"), repository(root)
    files = project_files(root)
    project = Checkout(root, root / "copy").fill(commit, files)
    assert contents(project) == contents(root)
    assert git_state(project) == {"commit": commit, "dirty": True}
    assert repository(root) == before
    (root / "staged").unlink()
    again = Checkout(root, root / "copy").fill(commit, project_files(root))
    assert contents(again) == contents(root), "what has gone is gone here too"
    assert repository(root) == before


@pytest.mark.parametrize(
    "kind", [submodule, linked, subfolder, sparse, unusual_settings], ids=lambda kind: kind.__name__
)
def test_the_copy_of_a_commit_is_clean_and_has_nothing_else(tmp_path: Path, kind):
    root = kind(tmp_path)
    commit = git(root, "rev-parse", "HEAD")
    (root / "new.txt").write_text("new\n")
    copy = Checkout(root, root / "copy")
    copy.fill(commit, project_files(root))
    before = repository(root)
    project = copy.fill(commit)
    names = {*contents(project)} - {".gitmodules"}
    assert {*FILES} | {".gitignore"} <= names
    assert "new.txt" not in names
    assert git_state(project) == {"commit": commit, "dirty": False}
    assert repository(root) == before


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"]
)
def test_the_environment_of_a_hook_changes_nothing(tmp_path: Path, monkeypatch, name):
    root, other = plain(tmp_path), make(tmp_path / "other")
    (root / "new.txt").write_text("new\n")
    (other / "unlike").write_text("unlike\n")
    call(other, "add", "-A")
    call(other, "commit", "-q", "-m", "other")
    commit = git(root, "rev-parse", "HEAD")
    place = {
        "GIT_INDEX_FILE": ".git/index",
        "GIT_WORK_TREE": "",
        "GIT_OBJECT_DIRECTORY": ".git/objects",
    }
    monkeypatch.setenv(name, str(other / place.get(name, ".git")))
    assert name not in environment()
    before = repository(root), repository(other)
    project = Checkout(root, root / "copy").fill(commit, project_files(root))
    assert contents(project) == contents(root)
    assert git_state(root) == git_state(project) == {"commit": commit, "dirty": False}
    with worktree(root, commit) as scratch:
        assert git_state(scratch) == {"commit": commit, "dirty": False}
    assert (repository(root), repository(other)) == before


def test_repositories_inside_the_project_are_folders_of_the_copy(tmp_path: Path):
    root, other = plain(tmp_path), make(tmp_path / "other")
    call(root, "submodule", "add", "-q", str(other), "module")
    call(root, "commit", "-q", "-m", "module")
    call(root, "clone", "-q", str(other), "nested")
    call(root, "init", "-q", "empty")  # has no commit
    (root / "empty/file").write_text("of a repository without a commit\n")
    (root / "nested/out").mkdir()
    (root / "nested/out/ignored").write_text("ignored by the nested repository\n")
    project = Checkout(root, root / "copy").fill(
        git(root, "rev-parse", "HEAD"), project_files(root)
    )
    assert contents(project) == contents(root)
    assert (project / "empty/file").exists()
    assert (project / "module/ldebm/x.py").exists()
    assert not (project / "nested/out").exists()
    call(root / "module", "rm", "-q", "-r", "ldebm")
    call(root / "module", "commit", "-q", "-m", "later")
    commit = git(root, "rev-parse", "HEAD")
    project = Checkout(root, root / "copy").fill(commit)
    assert (project / "module/ldebm/x.py").exists(), "the submodule is that of the commit"
    assert not (project / "nested").exists()
    assert call(project, "status", "--porcelain") == ""


def test_links_lead_where_they_do_in_the_workspace_and_small_files_are_copied(tmp_path: Path):
    root, outside = plain(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (outside / "params.yaml").write_text("a: 2\n")
    (outside / "data").mkdir()
    (outside / "data/rows").write_text("rows\n")
    (root / "params.yaml").unlink()
    (root / "params.yaml").symlink_to("../outside/params.yaml")
    (root / "data").symlink_to("../outside/data")
    (root / "inner").symlink_to("ldebm/x.py")
    (root / "nowhere").symlink_to("nothing")
    project = Checkout(root, root / "copy").fill(
        git(root, "rev-parse", "HEAD"), project_files(root)
    )
    (project / "params.yaml").write_text("a: 3\n")
    assert (outside / "params.yaml").read_text() == "a: 2\n"
    assert (project / "data/rows").read_text() == "rows\n"
    assert os.readlink(project / "inner") == "ldebm/x.py"
    assert os.readlink(project / "nowhere") == "nothing"


def test_a_large_file_that_git_does_not_know_is_not_copied(tmp_path: Path):
    root = plain(tmp_path)
    for name in ("known", "unknown"):
        (root / name).write_bytes(bytes((1 << 24) + 1))
    call(root, "add", "known")
    call(root, "commit", "-q", "-m", "large")
    copy = Checkout(root, root / "copy")
    for _ in range(2):
        project = copy.fill(git(root, "rev-parse", "HEAD"), project_files(root))
        assert contents(project) == contents(root)
        assert os.readlink(project / "unknown") == str(root / "unknown")
        assert not (project / "known").is_symlink()
    (root / "unknown").unlink()
    project = copy.fill(git(root, "rev-parse", "HEAD"), project_files(root))
    assert not os.path.lexists(project / "unknown")


def test_a_folder_that_becomes_a_file_and_a_link_that_becomes_a_folder_are_followed(tmp_path: Path):
    root, outside = plain(tmp_path), tmp_path / "outside"
    outside.mkdir()
    (root / "a").mkdir()
    (root / "a/b").write_text("b\n")
    (root / "c").symlink_to(outside)
    commit, copy = git(root, "rev-parse", "HEAD"), Checkout(root, root / "copy")
    copy.fill(commit, project_files(root))
    (root / "a/b").unlink()
    (root / "a").rmdir()
    (root / "a").write_text("a\n")
    (root / "c").unlink()
    (root / "c").mkdir()
    (root / "c/d").write_text("d\n")
    assert contents(copy.fill(commit, project_files(root))) == contents(root)
    assert not any(outside.iterdir()), "nothing was written through the old link"


def test_a_copy_that_was_broken_is_made_anew_and_keeps_what_git_ignores(tmp_path: Path):
    root = plain(tmp_path)
    commit, copy = git(root, "rev-parse", "HEAD"), Checkout(root, root / "copy", keep=("kept",))
    project = copy.fill(commit)
    for name in ("out/result", "kept/record"):
        (project / name).parent.mkdir()
        (project / name).write_text("result\n")
    for harm in (
        lambda own: (own / "HEAD").unlink(),
        lambda own: (own / "index.lock").touch(),
        lambda own: (own / "index").write_bytes(b"half an ind"),
        lambda own: (own / "objects/info/alternates").write_text("/nowhere\n"),
    ):
        harm(project / ".git")
        copy.fill(commit)
        assert git_state(project) == {"commit": commit, "dirty": False}
    assert (project / "out/result").exists()
    assert (project / "kept/record").exists()


def test_a_moved_project_fills_its_copy_as_before(tmp_path: Path):
    root = plain(tmp_path)
    commit = git(root, "rev-parse", "HEAD")
    Checkout(root, root / "copy").fill(commit)
    moved = root.rename(tmp_path / "moved")
    (moved / "params.yaml").write_text("a: 5\n")
    project = Checkout(moved, moved / "copy").fill(commit, project_files(moved))
    assert (project / "params.yaml").read_text() == "a: 5\n"
    assert git_or_none(project, "log", "-1") is not None


def test_the_fingerprint_is_that_of_names_content_modes_and_links(tmp_path: Path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "l").symlink_to("a")
    (tmp_path / "broken").symlink_to("nowhere")
    names = ["a", "broken", "l"]
    seen = [fingerprint(tmp_path, names)]
    assert fingerprint(tmp_path, names) == seen[0]
    (tmp_path / "a").write_text("2")
    seen.append(fingerprint(tmp_path, names))
    (tmp_path / "a").chmod(0o755)
    seen.append(fingerprint(tmp_path, names))
    (tmp_path / "b").write_text("2")
    (tmp_path / "l").unlink()
    (tmp_path / "l").symlink_to("b")
    seen.append(fingerprint(tmp_path, names))
    assert len({*seen}) == 4


def test_what_git_says_of_a_refusal_is_one_line(tmp_path: Path):
    with pytest.raises(UsageError, match=r"^git rev-parse: [^\n]+$"):
        git(plain(tmp_path), "rev-parse", "no-such-thing", "--")


def test_a_clone_has_the_bytes_of_this_project_whatever_its_line_ends_are_set_to(tmp_path: Path):
    origin = tmp_path / "origin"
    origin.mkdir()
    shutil.copy(ROOT / ".gitattributes", origin)
    make(origin)
    call(tmp_path, "-c", "core.autocrlf=true", "clone", "-q", str(origin), "clone")
    assert contents(tmp_path / "clone") == contents(origin)
