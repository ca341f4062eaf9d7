"""Files come out of the cache by hash, and what is not there is one clear line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ldebm.errors import UsageError
from pipelines.lineage.objects import Objects
from pipelines.lineage.records import dvc_md5


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """A folder whose `dvc cache dir` answers."""
    tools = tmp_path / "tools"
    tools.mkdir()
    dvc = tools / "dvc"
    dvc.write_text(f"#!{sys.executable}\nprint('cache')\n")
    dvc.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    root = tmp_path / "project"
    root.mkdir()
    return root


def store(root: Path, content: bytes) -> str:
    (root / "new").write_bytes(content)
    md5 = dvc_md5(root / "new")
    place = root / "cache/files/md5" / md5[:2]
    place.mkdir(parents=True, exist_ok=True)
    (root / "new").rename(place / md5[2:])
    return md5


def test_a_file_is_copied_from_the_cache(project: Path):
    md5 = store(project, b"weights")
    Objects(project).put("model", md5, project / "scratch/model", "prior@e-0")
    assert (project / "scratch/model").read_bytes() == b"weights"
    (project / "scratch/model").write_bytes(b"x")
    assert (project / "cache/files/md5" / md5[:2] / md5[2:]).read_bytes() == b"weights"


def test_a_folder_is_put_together_from_its_listing(project: Path):
    folder = project / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    (folder / "sub/b").write_bytes(b"2")
    md5 = dvc_md5(folder)
    files = [("a", store(project, b"1")), ("sub/b", store(project, b"2"))]
    entry = project / "cache/files/md5" / md5[:2] / md5[2:]
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.write_text(json.dumps([{"md5": item, "relpath": name} for name, item in files]))
    Objects(project).put("other", md5, project / "scratch/folder", "pack@d")
    assert dvc_md5(project / "scratch/folder") == md5


def test_what_the_cache_lacks_comes_from_the_working_tree_if_its_hash_is_right(project: Path):
    (project / "metrics.json").write_text("{}")
    objects = Objects(project)
    objects.put("metrics.json", dvc_md5(project / "metrics.json"), project / "scratch/m", "e")
    assert (project / "scratch/m").read_text() == "{}"
    with pytest.raises(UsageError, match="dvc fetch evaluate@e-0"):
        objects.put("metrics.json", "0" * 32, project / "scratch/n", "evaluate@e-0")
    assert not (project / "scratch/n").exists()


def test_a_cache_entry_with_other_bytes_is_refused(project: Path):
    md5 = store(project, b"weights")
    (project / "cache/files/md5" / md5[:2] / md5[2:]).write_bytes(b"other")
    with pytest.raises(UsageError, match="the cache has other bytes"):
        Objects(project).put("model", md5, project / "scratch/model", "prior@e-0")


def test_without_dvc_the_message_says_how_to_get_it(project: Path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="pip install"):
        _ = Objects(project).cache


def test_outside_a_dvc_project_the_reason_of_dvc_is_shown(tmp_path: Path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with pytest.raises(UsageError, match="dvc cache dir"):
        _ = Objects(tmp_path).cache
