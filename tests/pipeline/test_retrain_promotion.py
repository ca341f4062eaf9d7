"""The registry: versions and stages as tags, written completely or not at all."""

import os
import shutil
from pathlib import Path

import gto.api
import pytest
import yaml

from ldebm.errors import UsageError
from pipelines import promotion
from pipelines.promotion import declare_artifact, promote, registered
from tests.pipeline.numbers_project import NumbersProject
from tests.pipeline.project_copy import ROOT

pytestmark = [pytest.mark.pipeline, pytest.mark.usefixtures("warm")]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> NumbersProject:
    """Built with one seed, entered under `artifacts:` and committed."""
    project = NumbersProject(tmp_path_factory.mktemp("registry") / "project")
    project.git("config", "user.name", "test")
    project.git("config", "user.email", "test@example.org")
    project.dvc("repro", "-q")
    declare_artifact(project.folder, "gauss", [0], "A Gaussian")
    project.commit("built")
    return project


@pytest.fixture
def project(built: NumbersProject, tmp_path: Path) -> NumbersProject:
    """A copy of it."""
    return built.copied(tmp_path / "copy")


def reason(project: NumbersProject, *arguments: str, **options) -> str:
    """Why a promotion was refused; no tag was written."""
    before = project.tags()
    with pytest.raises(UsageError) as caught:
        promote(project.folder, *arguments, **options)
    assert project.tags() == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_promotion_registers_a_version_and_gives_it_the_stages(project: NumbersProject):
    done = promote(project.folder, "gauss", stages=["champion", "production"])
    assert done.version == "v1.0.0"
    tags = ["gauss#champion#1", "gauss#production#2", "gauss@v1.0.0"]
    assert sorted(project.tags()) == sorted(done.created) == tags
    version = registered(project.folder, "gauss", "champion")
    assert version is not None
    assert (version.version, version.commit) == ("v1.0.0", project.git("rev-parse", "HEAD").strip())
    shown = gto.api.show(str(project.folder), table=False)
    assert shown["gauss"]["stage"] == {"champion": "v1.0.0", "production": "v1.0.0"}


def test_dvc_finds_the_registered_model_by_its_stage(project: NumbersProject):
    promote(project.folder, "gauss")
    target = project.folder.parent / "model"
    project.dvc("artifacts", "get", ".", "gauss", "--stage", "champion", "-o", str(target))
    model = project.folder / "models/gauss/0/prior/model.safetensors"
    assert target.read_bytes() == model.read_bytes()


def test_promoting_twice_changes_nothing_and_a_new_stage_adds_only_its_tag(project: NumbersProject):
    promote(project.folder, "gauss")
    again = promote(project.folder, "gauss")
    assert again.created == ()
    assert again.version == "v1.0.0"
    more = promote(project.folder, "gauss", stages=["champion", "production"])
    assert more.created == ("gauss#production#2",)


def test_the_next_model_gets_the_next_version_and_the_stage_moves_to_it(project: NumbersProject):
    promote(project.folder, "gauss")
    project.edit("mi_weight: 0.0", "mi_weight: 0.1")
    project.dvc("repro", "-q")
    project.commit("another")
    assert promote(project.folder, "gauss").version == "v1.1.0"
    assert registered(project.folder, "gauss", "champion").version == "v1.1.0"


def test_the_way_back_to_an_earlier_version_takes_the_stage_from_the_later_one(project):
    promote(project.folder, "gauss")
    first = (project.folder / "models/gauss/0/prior/model.safetensors").read_bytes()
    project.edit("mi_weight: 0.0", "mi_weight: 0.1")
    project.dvc("repro", "-q")
    project.commit("another")
    promote(project.folder, "gauss")
    back = promote(project.folder, "gauss", "gauss@v1.0.0")
    assert (back.version, back.created) == ("v1.0.0", ("gauss#champion!#3", "gauss#champion#4"))
    assert registered(project.folder, "gauss", "champion").version == "v1.0.0"
    target = project.folder.parent / "model"
    project.dvc("artifacts", "get", ".", "gauss", "--stage", "champion", "-o", str(target))
    assert target.read_bytes() == first
    assert promote(project.folder, "gauss", "gauss@v1.1.0").created == ("gauss#champion#5",)
    assert registered(project.folder, "gauss", "champion").version == "v1.1.0"


def test_uncommitted_changes_are_refused_and_named(project: NumbersProject):
    with (project.folder / "params.yaml").open("a") as stream:
        stream.write("# note\n")
    assert "uncommitted changes (params.yaml)" in reason(project, "gauss")
    assert promote(project.folder, "gauss", project.git("rev-parse", "HEAD").strip()).created


def test_a_version_that_is_taken_is_refused(project: NumbersProject):
    promote(project.folder, "gauss")
    assert "registered as v1.0.0" in reason(project, "gauss", version="v2.0.0")
    project.edit("mi_weight: 0.0", "mi_weight: 0.1")
    project.dvc("repro", "-q")
    project.commit("another")
    text = reason(project, "gauss", version="v1.0.0")
    assert text == "tag gauss@v1.0.0 exists and is of another commit; give another version"


def test_a_commit_that_lacks_what_the_version_promises_is_refused(project: NumbersProject):
    assert "not under `artifacts:`" in reason(project, "shifted")
    assert "not in this repository" in reason(project, "gauss", "nowhere")
    assert "not under `artifacts:`" in reason(project, "gauss", "HEAD~1")
    md5 = project.outputs()["reports/gauss/0/metrics.json"]
    (project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink()
    assert "reports/gauss/0/metrics.json of main" in reason(project, "gauss", "main")


def test_names_and_versions_that_make_no_tag_are_refused(project: NumbersProject):
    assert "starts and ends with a letter or digit" in reason(project, "-gauss")
    assert "expected three numbers as in v1.2.0" in reason(project, "gauss", version="2")
    assert "use letters, digits" in reason(project, "gauss", stages=["the best"])


def test_a_lock_file_with_a_model_of_older_data_is_refused(project: NumbersProject):
    project.numbers(300)
    project.dvc("repro", "-q", "-f", "-s", "fetch@numbers")
    project.commit("fetched, not built")
    assert "prepare@numbers was built from something else" in reason(project, "gauss")


def test_data_that_failed_validation_are_never_promoted(project: NumbersProject):
    path = project.folder / "numbers.csv"
    path.write_text(path.read_text() + "train,5000\n")
    project.dvc("repro", "-q", "-f", "-s", "fetch@numbers")
    for stage in ("prepare@numbers", "validate@numbers"):
        project.dvc("repro", "-q", "-s", stage)
    project.commit("bad data")
    assert "not of one piece" in reason(project, "gauss")  # the model is of the data before


def test_when_a_later_tag_cannot_be_written_the_earlier_ones_go_away(project, monkeypatch):
    def fails(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(gto.api, "assign", fails)
    assert "nothing was registered: disk full" in reason(project, "gauss")
    monkeypatch.undo()
    assert promote(project.folder, "gauss").version == "v1.0.0"


def test_where_git_knows_nobody_the_tags_are_written_all_the_same(project, monkeypatch):
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    for name in ("user.name", "user.email"):
        project.git("config", "--unset", name)
    promote(project.folder, "gauss")
    assert "ldebm retraining" in project.git("cat-file", "-p", "gauss@v1.0.0")


def test_an_entry_is_added_with_the_first_seed_and_the_rest_of_the_file_stays(tmp_path: Path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    before = (tmp_path / "dvc.yaml").read_text()
    assert declare_artifact(tmp_path, "letters-ldebm", [1, 0], 'Letters: "LDEBM"  on\nmail # 1')
    after = (tmp_path / "dvc.yaml").read_text()
    assert after.startswith(before)
    entry = yaml.safe_load(after)["artifacts"]["letters-ldebm"]
    assert entry == {
        "path": "models/letters-ldebm/1/prior/model.safetensors",
        "type": "model",
        "desc": 'Letters: "LDEBM" on mail # 1, seed 1',
    }
    assert not declare_artifact(tmp_path, "letters-ldebm", [1, 0], "again")
    assert not declare_artifact(tmp_path, "chatter-ldebm", [2, 0], "has its entry, of seed 0")


def test_an_entry_of_a_seed_that_was_not_built_is_replaced_in_place(tmp_path: Path):
    path = tmp_path / "dvc.yaml"
    path.write_text(
        "artifacts:\n  a: # first\n    path: models/a/0/prior/model.safetensors\n"
        "  b:\n    path: x\n\nplots: []\n"
    )
    assert declare_artifact(tmp_path, "a", [3], "A")
    content = yaml.safe_load(path.read_text())
    assert content["artifacts"]["a"]["path"] == "models/a/3/prior/model.safetensors"
    assert content["artifacts"]["b"] == {"path": "x"}
    assert content["plots"] == []


def test_without_git_the_refusal_says_so(tmp_path: Path):
    with pytest.raises(UsageError, match="not a git repository"):
        promotion.registered(tmp_path, "gauss", "champion")
