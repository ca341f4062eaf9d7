"""What counts as changed data."""

import hashlib
from pathlib import Path

import pytest
import yaml

from ldebm.data.registry import SOURCES, Source, SourceFile
from pipelines.changes import Finding, find_changes
from tests.pipeline.numbers_project import NumbersProject

pytestmark = pytest.mark.pipeline
SECTION = "  numbers: {kind: points, source: file, path: numbers.csv}"


def only(project: NumbersProject, **options) -> Finding:
    """What is found about the one data set."""
    (finding,) = find_changes(project.folder, **options)
    assert "\n" not in finding.words
    return finding


@pytest.fixture
def project(tmp_path: Path) -> NumbersProject:
    """Fetched once, with its dvc.lock."""
    made = NumbersProject(tmp_path / "project")
    made.dvc("repro", "-q", "fetch@numbers")
    made.commit("fetched")
    return made


def test_what_was_never_built_is_a_change(tmp_path: Path):
    finding = only(NumbersProject(tmp_path / "project"))
    assert (finding.state, finding.words) == ("changed", "not in dvc.lock: it was never built")


def test_an_untouched_file_is_the_same_even_without_dvcs_cache(project: NumbersProject):
    assert only(project).state == "same"
    (project.folder / "numbers.csv").touch()
    assert only(project).words == "numbers.csv is what dvc.lock has"


def test_another_file_is_a_change_that_brings_its_sha256_along(project: NumbersProject):
    project.numbers(500)
    content = (project.folder / "numbers.csv").read_bytes()
    finding = only(project)
    assert finding.state == "changed"
    assert finding.overrides == (f"+data.numbers.sha256={hashlib.sha256(content).hexdigest()}",)


def test_a_change_that_was_dealt_with_is_not_one_until_the_file_changes_again(project):
    project.numbers(500)
    finding = only(project)
    again = only(project, handled={finding.fingerprint})
    assert (again.state, again.overrides) == ("same", ())
    project.numbers(501)
    assert only(project, handled={finding.fingerprint}).state == "changed"


def test_other_parameters_of_the_data_set_are_a_change_that_names_the_keys(project: NumbersProject):
    project.edit("path: numbers.csv}", "path: numbers.csv, seed: 3}")
    assert only(project).words == "other parameters than dvc.lock has: seed None -> 3"


def test_a_missing_or_empty_file_is_a_problem_not_a_change(project: NumbersProject):
    (project.folder / "numbers.csv").write_text("")
    assert (only(project).state, "is empty" in only(project).words) == ("problem", True)
    (project.folder / "numbers.csv").unlink()
    assert (only(project).state, "no such file" in only(project).words) == ("problem", True)


def test_a_file_in_git_has_to_be_committed_before_it_counts(project: NumbersProject):
    project.git("add", "-f", "numbers.csv")
    project.commit("data in git")
    project.numbers(500)
    assert "uncommitted changes" in only(project).words
    project.commit("new data")
    assert only(project).state == "changed"


def relock(project: NumbersProject, section: dict[str, str]) -> None:
    """Makes dvc.lock say that the files were fetched with this section of params.yaml."""
    path = project.folder / "dvc.lock"
    content = yaml.safe_load(path.read_text())
    content["stages"]["fetch@numbers"]["params"]["params.yaml"]["data.numbers"] = section
    path.write_text(yaml.safe_dump(content))


@pytest.fixture
def mirrored(project: NumbersProject, tmp_path: Path, monkeypatch) -> NumbersProject:
    """The same project with its file as a published source in a mirror."""
    content = (project.folder / "numbers.csv").read_bytes()
    file = SourceFile("numbers.csv", hashlib.sha256(content).hexdigest(), len(content))
    source = Source("published", "points", "numbers", "none", "none", folder="num", files=[file])
    monkeypatch.setitem(SOURCES, "published", source)
    (tmp_path / "mirror/num").mkdir(parents=True)
    (tmp_path / "mirror/num/numbers.csv").write_bytes(content)
    monkeypatch.setenv("LDEBM_DATA_MIRROR", str(tmp_path / "mirror"))
    project.edit(SECTION, "  numbers: {kind: points, source: published}")
    relock(project, {"kind": "points", "source": "published"})
    return project


def test_a_mirror_with_the_fetched_files_is_the_same(mirrored: NumbersProject):
    assert only(mirrored).words == "1 files of the mirror are what dvc.lock has"


def test_a_mirror_with_another_edition_is_a_problem_until_its_sha256_is_declared(
    mirrored: NumbersProject, tmp_path: Path
):
    path = tmp_path / "mirror/num/numbers.csv"
    path.write_text("test,1\n")
    finding = only(mirrored)
    assert finding.state == "problem"
    now = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"checksums: {{numbers.csv: {now}}} in data.numbers" in finding.words
    mirrored.edit("source: published}", f"source: published, checksums: {{numbers.csv: {now}}}}}")
    assert only(mirrored).state == "changed"


def test_without_a_mirror_a_published_source_changes_only_with_its_declared_sha256(
    mirrored: NumbersProject, monkeypatch
):
    monkeypatch.delenv("LDEBM_DATA_MIRROR")
    assert "fixed by their sha256" in only(mirrored).words
    newer = SourceFile("numbers.csv", "0" * 64)
    source = Source("published", "points", "numbers", "none", "none", folder="num", files=[newer])
    monkeypatch.setitem(SOURCES, "published", source)
    assert "declares another edition of numbers.csv" in only(mirrored).words


def test_a_generated_source_cannot_change_by_itself(project: NumbersProject):
    project.edit(SECTION, "  numbers: {kind: points, source: gaussians16}")
    relock(project, {"kind": "points", "source": "gaussians16"})
    assert only(project).words.startswith("made here from its parameters")
