"""Files come out of the cache by hash, and what is not there is one clear line."""

import json
import sys
from pathlib import Path

import pytest

from ldebm.errors import UsageError
from pipelines.lineage.objects import Objects
from pipelines.lineage.records import dvc_md5


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of DVC with its cache in another place."""
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[cache]\n    dir = ../cache\n")
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


def test_the_cache_of_a_project_without_settings_is_where_dvc_has_it(project: Path):
    (project / "inner").mkdir()
    assert Objects(project / "inner").cache == project / "cache"
    (project / ".dvc/config").write_text("")
    assert Objects(project).cache == project / ".dvc/cache"


def test_without_dvc_the_message_says_how_to_get_it(project: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dvc.config", None)
    with pytest.raises(UsageError, match="pip install"):
        _ = Objects(project).cache
    assert Objects(project).cached("0" * 32) is None


def test_no_project_and_a_wrong_configuration_are_named(project: Path):
    with pytest.raises(UsageError, match="no DVC project"):
        _ = Objects(project.parent).cache
    (project / ".dvc/config").write_text("[cache]\n    dirr = x\n")
    with pytest.raises(UsageError, match=r"\.dvc/config: .*dirr"):
        _ = Objects(project).cache
