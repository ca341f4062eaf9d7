"""The first point where two results part is named, and why."""

from pathlib import Path

import pytest
import yaml

from ldebm.errors import UsageError
from pipelines.lineage.divergence import Divergence, compare_traces, parse_target
from pipelines.lineage.records import dvc_md5
from pipelines.lineage.trace import trace
from tests.unit.lineage_project import (
    MODEL,
    edit_record,
    execute,
    git,
    lock,
    record_of,
    write_lock,
)


@pytest.fixture
def project(project: Path) -> Path:
    """Committed with its lock."""
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "built")
    return project


def against_head(root: Path) -> Divergence:
    return compare_traces(trace("e", root, "HEAD"), trace("e", root))


def rerun(root: Path, stage: str, inputs: list[str], outputs: dict[str, str], **params) -> None:
    write_lock(root, lock(root) | {stage: execute(root, stage, inputs, outputs, **params)})


def test_the_same_result_twice_has_no_divergence(project: Path):
    divergence = against_head(project)
    assert divergence.first is None
    assert divergence.to_json()["same"] is True
    assert list(divergence.lines())[-1] == "the outputs are the same all the way"


def test_a_parameter_is_named_as_the_reason_by_its_full_key(project: Path):
    rerun(project, "prior@e-0", ["data/bound/e.json"], {MODEL: "other"},
          **{"experiments.e.prior": {"levels": 4}})  # fmt: skip
    divergence = against_head(project)
    assert divergence.first is not None
    assert divergence.first.name == "prior"
    (change,) = divergence.first.causes
    assert (change.kind, change.name, change.a, change.b) == (
        "params",
        "experiments.{experiment}.prior.levels",
        6,
        4,
    )
    assert any("because of params" in line for line in divergence.lines())


def test_the_first_stage_whose_output_differs_is_named_and_later_ones_inherit(project: Path):
    raw, packed = "data/raw/mine", "data/packed/mine/meta.json"
    rerun(project, "fetch@mine", [], {f"{raw}/a.txt": "3", f"{raw}/b": ""},
          **{"data.mine": {"train": 11}})  # fmt: skip
    rerun(project, "pack@mine", [f"{raw}/a.txt"], {packed: "{ }"})
    divergence = against_head(project)
    assert divergence.first is not None
    assert divergence.first.a == "fetch@mine"
    pack = next(step for step in divergence.steps if step.name == "pack")
    assert not pack.causes
    assert [change.name for change in pack.inputs] == ["data/raw/mine/a.txt"]


def test_code_versions_device_and_seed_are_reasons(project: Path):
    (project / "stages/prior.py").write_text("# other\n")
    rerun(project, "prior@e-0", ["data/bound/e.json"], {MODEL: "other"},
          **{"experiments.e.prior": {"levels": 6}})  # fmt: skip
    edit_record(project, "prior@e-0", lambda r: r | {
        "device": "some GPU", "versions": r["versions"] | {"torch": "0"},
        "numerics": {"threads": 7},
    })  # fmt: skip
    first = against_head(project).first
    assert first is not None
    kinds = {(change.kind, change.name) for change in first.causes}
    assert kinds >= {
        ("code", "stages/prior.py"),
        ("device", "device"),
        ("versions", "torch"),
        ("numerics", "threads"),
    }


def test_a_change_of_code_without_effect_is_told_but_is_no_divergence(project: Path):
    stages = lock(project)
    for dep in stages["prior@e-0"]["deps"]:
        if dep["path"] == "stages/prior.py":
            dep["md5"] = "0" * 32
    write_lock(project, stages)
    divergence = against_head(project)
    assert divergence.first is None
    assert any("what went in differs in prior" in line for line in divergence.lines())


def test_other_bytes_from_the_same_causes_are_said_to_be_unexplained(project: Path):
    (project / MODEL).write_text("other")
    stages = lock(project)
    stages["prior@e-0"]["outs"][0]["md5"] = dvc_md5(project / MODEL)
    write_lock(project, stages)
    assert any("not deterministic" in line for line in against_head(project).lines())


def test_two_seeds_and_two_experiments_are_matched_by_role(project: Path):
    model = MODEL.replace("/e/0", "/f/1")
    other = execute(project, "prior@f-1", ["data/bound/e.json"], {model: "x"},
                    **{"experiments.f.prior": {"levels": 6}})  # fmt: skip
    other["cmd"] = "python -m stages.prior --experiment f --seed 1"
    write_lock(project, lock(project) | {"prior@f-1": other})
    divergence = compare_traces(trace("e", project), trace("f", project))
    assert divergence.first is not None
    assert (divergence.first.a, divergence.first.b) == ("prior@e-0", "prior@f-1")
    (cause,) = divergence.first.causes
    assert (cause.kind, cause.a, cause.b) == ("seed", "0", "1")
    assert [c.name for c in divergence.first.outputs] == [
        "models/{experiment}/{seed}/prior/model.safetensors"
    ]


def test_a_stage_of_one_side_only_is_a_divergence(project: Path):
    divergence = compare_traces(trace("e", project), trace("pack@mine", project))
    assert divergence.first is not None
    assert (divergence.first.a, divergence.first.b) == ("bind@e", None)


def test_two_record_files_compare(project: Path):
    one = record_of(project, "prior@e-0")
    (project / "lineage/copy.json").write_bytes(one.read_bytes())
    names = [f"lineage/{name}" for name in (one.name, "copy.json")]
    divergence = compare_traces(*(trace(name, project) for name in names))
    assert [step.name for step in divergence.steps] == ["prior"]
    assert divergence.first is None


def test_targets_take_a_revision_behind_an_at_but_stages_keep_theirs(project: Path):
    assert parse_target("prior@e-0", project)[1].revision is None
    assert parse_target("prior@e-0@HEAD", project)[1].revision == "HEAD"
    assert parse_target("@HEAD", project, same_as="e")[1].target == MODEL


def test_the_name_of_an_experiment_of_dvc_is_a_revision(project: Path):
    rerun(project, "prior@e-0", ["data/bound/e.json"], {MODEL: "other"},
          **{"experiments.e.prior": {"levels": 4}})  # fmt: skip
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "experiment")
    git(project, "update-ref", "refs/exps/ab/cdef/odd-name", "HEAD")
    git(project, "reset", "-q", "--hard", "HEAD~1")
    lineage = trace("e", project, "odd-name")
    assert lineage.steps[0].params == {"experiments.e.prior": {"levels": 4}}


def test_a_typing_error_in_a_stage_is_not_taken_for_a_revision(project: Path):
    with pytest.raises(UsageError, match="did you mean 'prior@e-0'"):
        parse_target("prior@e-00", project)
    with pytest.raises(UsageError, match="neither a git revision"):
        parse_target("e@nothing", project)


@pytest.mark.parametrize("revision", ["nothing", "-x", "HEAD~9"])
def test_an_unknown_revision_is_one_line(project: Path, revision: str):
    with pytest.raises(UsageError, match="neither a git revision nor an experiment"):
        trace("e", project, revision)


def test_a_revision_before_anything_was_built_says_so(project: Path):
    first = git(project, "rev-list", "--max-parents=0", "HEAD")
    with pytest.raises(UsageError, match=r"no dvc\.lock in it"):
        trace("e", project, first)


def test_the_lock_of_the_revision_is_read_not_that_of_the_working_tree(project: Path):
    stages = yaml.safe_load((project / "dvc.lock").read_text())["stages"]
    del stages["prior@e-0"]
    write_lock(project, stages)
    assert trace("e", project, "HEAD").steps[0].stage == "prior@e-0"
