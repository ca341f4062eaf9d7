"""Every kind of tampering is found, and what was tampered with is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from ldebm.config.sections import explicit
from ldebm.files import hash_path, read_json, write_json
from pipelines.library import Library
from pipelines.lineage.records import dvc_md5, recorded
from pipelines.lineage.trace import bound_sources, trace
from pipelines.lineage.verify import Problem, verify
from tests.unit.lineage_project import (
    CODE,
    MODEL,
    edit_record,
    execute,
    git,
    lock,
    record_of,
    write_lock,
)


def check(root: Path, **options) -> list[Problem]:
    return verify(trace("e", root), root, **options)


def named(problems: list[Problem], kind: str, name: str, message: str = "") -> bool:
    return any(p.kind == kind and name in p.name and message in str(p) for p in problems)


def test_an_untouched_project_has_no_problem(project: Path):
    assert check(project) == []


def test_an_experiment_that_is_gone_is_no_part_of_what_was_built_without_it(project: Path):
    """dvc.lock keeps the stages of experiments that are no longer selected."""
    other = "models/gone/0/prior/model.safetensors"
    stages = lock(project)
    stages["prior@gone-0"] = execute(project, "prior@gone-0", ["data/packed"], {other: "weights"})
    stages["report"] = execute(project, "report", ["models"], {"site/index.html": "both"})
    write_lock(project, stages)
    assert {"prior@e-0", "prior@gone-0"} <= {step.stage for step in trace("site", project).steps}
    shutil.rmtree(project / "models/gone")
    assert named(verify(trace("site", project), project), "artifact", other, "missing")
    stages["report"] = execute(project, "report", ["models"], {"site/index.html": "one"})
    write_lock(project, stages)
    assert verify(trace("site", project), project) == []
    (project / MODEL).unlink()  # a part of it, still
    assert named(verify(trace("site", project), project), "artifact", MODEL, "missing")


def test_the_walk_at_a_revision_reads_the_lock_of_that_commit(project: Path):
    git(project, "add", "-f", "dvc.lock")
    git(project, "commit", "-q", "-m", "built")
    stages = lock(project)
    stages["prior@e-0"]["outs"][0]["md5"] = "0" * 32
    write_lock(project, stages)
    now, before = trace("e", project), trace("e", project, "HEAD")
    assert now.steps[0].outputs != before.steps[0].outputs
    assert before.steps[0].record is not None


@pytest.mark.parametrize("path", [MODEL, "data/bound/e.json", "data/packed/mine/meta.json"])
def test_a_changed_artifact_is_named(project: Path, path: str):
    (project / path).write_text("tampered")
    assert named(check(project), "artifact", path, "differs")


def test_changed_raw_data_is_named(project: Path):
    (project / "data/raw/mine/a.txt").write_text("1 3")
    assert named(check(project), "artifact", "data/raw/mine/a.txt", "differs")


def test_a_changed_file_of_the_same_size_and_time_is_named(project: Path):
    path = project / MODEL
    before = path.stat()
    path.write_text("weightz")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert named(check(project), "artifact", MODEL, "differs")


def test_a_file_that_grew_with_its_old_time_is_named(project: Path):
    path = project / MODEL
    before = path.stat()
    path.write_text("weights and more")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert named(check(project), "artifact", MODEL, "differs")


def test_in_a_folder_the_changed_file_is_named(project: Path):
    stages = lock(project)
    stages["fetch@mine"] = execute(project, "fetch@mine", [], {}, **{"data.mine": {"train": 10}})
    with recorded(
        "fetch@mine", inputs=[], outputs=["data/raw/mine"], params={"data.mine": {"train": 10}},
        seed=0, root=project,
    ):  # fmt: skip
        pass
    entry = {"path": "data/raw/mine", "md5": dvc_md5(project / "data/raw/mine")}
    write_lock(project, stages | {"fetch@mine": stages["fetch@mine"] | {"outs": [entry]}})
    (project / "data/raw/mine/b").write_text("more")
    assert named(check(project), "artifact", "data/raw/mine", "differs in b,")


def test_missing_data_are_named_and_those_of_others_do_not_matter(project: Path):
    shutil.rmtree(project / "data/raw/mine")
    assert named(check(project), "artifact", "data/raw/mine/a.txt", "missing")


def test_a_packed_file_that_the_binding_names_is_named(project: Path):
    (project / "data/packed/mine/meta.json").unlink()
    assert named(check(project), "data", "data/packed/mine/meta.json", "data/bound/e.json names it")


def test_the_judge_and_the_data_that_only_measure_are_verified_too(project: Path):
    judge, other = project / "data/judge/mine/judge.safetensors", project / "data/packed/o/x.npy"
    for path in (judge, other):
        path.parent.mkdir(parents=True)
        path.write_text("content")
    folders = {
        path: {
            "path": path.parent.relative_to(project).as_posix(),
            "files": {path.name: hash_path(path)},
        }
        for path in (judge, other)
    }
    content = {"experiment": "e", "data": "mine", "judge": folders[judge]}
    content["ood"] = {"o": folders[other]}
    outputs = {"data/bound/e.json": (project / "data/bound/e.json").read_text(),
               "data/bound/e.measure.json": json.dumps(content)}  # fmt: skip
    record_of(project, "bind@e").unlink()
    stages = lock(project)
    stages["bind@e"] = execute(project, "bind@e", ["data/packed"], outputs)
    write_lock(project, stages)
    assert check(project) == []
    judge.write_text("another")
    other.unlink()
    problems = check(project)
    assert named(problems, "data", "data/judge/mine/judge.safetensors", "sha256 differs")
    assert named(problems, "data", "data/packed/o/x.npy", "missing")


def test_the_sources_of_a_binding_are_what_it_names():
    inputs = {"data/packed": "1", "data/judge": "2"}
    params = {"experiments.e.data": "a", "experiments.e.evaluate": {"ood": ["b", "rotated"]}}
    assert bound_sources(inputs, params) == ["data/judge/a", "data/packed/a", "data/packed/b"]
    for key in ("classifier", "judge"):  # the present name and the earlier one
        named = {"experiments.e.data": "a", "experiments.e.evaluate": {key: "c"}}
        assert bound_sources(inputs, named) == ["data/judge/c", "data/packed/a"]
    assert bound_sources({"data/packed": "1"}, {"experiments.e.data": "a"}) == ["data/packed/a"]


def test_a_parameter_that_was_changed_after_the_run_is_named_by_its_full_key(project: Path):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("levels: 6", "levels: 4"))
    (problem,) = check(project)
    assert named(
        [problem], "param", "experiments.e.prior.levels", "is 4, prior@e-0 was built with 6"
    )


def test_a_parameter_of_the_data_counts_as_well(project: Path):
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("train: 10", "train: 11"))
    assert named(check(project), "param", "data.mine.train")


def test_what_is_not_selected_is_held_against_conf(project: Path):
    """A built experiment stays verifiable when params.yaml selects another one."""
    path = project / "conf/data/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("{kind: sentences, source: file, path: a.txt, train: 10}\n")
    params = {"data.mine": explicit(Library(project).dataset("mine"))}
    raw = {"data/raw/mine/a.txt": "1 2", "data/raw/mine/b": ""}
    for record in (project / "lineage").glob("fetch@mine*"):
        record.unlink()
    write_lock(
        project, lock(project) | {"fetch@mine": execute(project, "fetch@mine", [], raw, **params)}
    )
    assert check(project) != []  # params.yaml has the data set, with one key
    selected = yaml.safe_load((project / "params.yaml").read_text())
    del selected["data"]["mine"]
    (project / "params.yaml").write_text(yaml.safe_dump(selected))
    assert check(project) == []
    path.write_text("{kind: sentences, source: file, path: a.txt, train: 11}\n")
    (problem,) = check(project)
    assert str(problem) == "conf/: data.mine.train is 11, fetch@mine was built with 10"
    path.unlink()
    assert named(check(project), "param", "data.mine", "params.yaml: data.mine is None")


def test_a_changed_code_file_is_named(project: Path):
    (project / "stages/prior.py").write_text("# other\n")
    assert named(check(project), "code", "stages/prior.py", "differs")


def test_a_deleted_record_is_named_unless_records_are_elsewhere(project: Path):
    record_of(project, "bind@e").unlink()
    assert named(check(project), "record", "lineage/bind@e", "missing")
    assert check(project, need_records=False) == []


def test_a_record_that_is_not_json_any_more_is_named(project: Path):
    path = record_of(project, "bind@e")
    path.write_text("{")
    assert named(check(project), "record", path.name, "not valid JSON")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device", "cuda"),
        ("seconds", 1e6),
        ("started", "2001-01-01T00:00:00+00:00"),
        ("versions", {"torch": "9"}),
        ("flow_run", "x"),
        ("numerics", {"threads": 9}),
    ],
)
def test_an_edited_field_of_a_record_breaks_its_seal(project: Path, field: str, value):
    path = record_of(project, "prior@e-0")
    write_json(path, read_json(path) | {field: value})
    assert named(check(project), "record", path.name, "was edited")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r | {"params": {"experiments.e.prior": {"levels": 5}}}, "on the parameters"),
        (lambda r: r | {"inputs": []}, "what prior@e-0 read: data/bound/e.json"),
        (lambda r: r | {"command": "python x", "ran_by": "dvc"}, "on the command"),
        (lambda r: r | {"code_md5": {CODE[0]: "0" * 32}}, "other code than dvc.lock lists"),
        (lambda r: r | {"code": r["code"] | {"ldebm/new.py": ""}}, "that dvc.lock does not list"),
        (lambda r: r | {"seed": 1}, "says seed 1"),
        (lambda r: r | {"validation": {"data": "mine", "success": False}}, "was not valid"),
        (lambda r: r | {"git": {"commit": "0" * 40, "dirty": False}}, "not in this repository"),
    ],
)
def test_a_record_that_fits_itself_but_not_the_rest_is_named(project: Path, change, message):
    path = edit_record(project, "prior@e-0", change)
    assert named(check(project), "record", path.name, message)


def test_a_resealed_record_with_other_outputs_does_not_agree_with_the_lock(project: Path):
    def change(record: dict) -> dict:
        (output,) = record["outputs"]
        return record | {"outputs": [output | {"md5": "0" * 32, "sha256": "0" * 64}]}

    path = edit_record(project, "prior@e-0", change)
    assert named(
        check(project),
        "record",
        path.name,
        f"does not agree with dvc.lock on what prior@e-0 wrote: {MODEL}",
    )


def test_a_resealed_sha256_is_held_against_the_file(project: Path):
    def change(record: dict) -> dict:
        (output,) = record["outputs"]
        return record | {"outputs": [output | {"sha256": "0" * 64}]}

    edit_record(project, "prior@e-0", change)
    assert named(check(project), "record", MODEL, "sha256 differs from lineage/prior@e-0")


def test_a_renamed_record_is_named(project: Path):
    path = record_of(project, "prior@e-0")
    path.rename(path.with_name("prior@e-0-0000.json"))
    assert named(check(project), "record", "prior@e-0-0000.json", "name of its content")


def test_an_artifact_and_lock_edited_together_do_not_agree_with_the_record(project: Path):
    (project / MODEL).write_text("tampered")
    stages = lock(project)
    stages["prior@e-0"]["outs"][0]["md5"] = dvc_md5(project / MODEL)
    write_lock(project, stages)
    assert named(check(project), "record", "lineage/prior@e-0", MODEL)


def test_a_stage_that_read_other_bytes_than_the_one_before_wrote_is_named(project: Path):
    (project / "data/raw/mine/a.txt").write_text("new")
    stages = lock(project)
    outs = stages["fetch@mine"]["outs"]
    outs[0]["md5"] = dvc_md5(project / "data/raw/mine/a.txt")
    write_lock(project, stages)
    assert named(check(project), "lock", "data/raw/mine/a.txt", "pack@mine read")


def test_code_that_its_commit_does_not_have_is_named(project: Path):
    path = project / "stages/prior.py"
    path.write_text("# edited\n")
    stages = lock(project)
    for stage in stages.values():
        for dep in stage["deps"]:
            if dep["path"] == "stages/prior.py":
                dep["md5"] = dvc_md5(path)
    write_lock(project, stages)
    for stage in stages:
        edit_record(project, stage, lambda r: r | {
            "code": r["code"] | {"stages/prior.py": hash_path(path)},
            "code_md5": r["code_md5"] | {"stages/prior.py": dvc_md5(path)},
            "git": r["git"] | {"dirty": False},
        })  # fmt: skip
    assert named(check(project), "record", "prior@e-0", "other code than its commit")


def test_records_of_a_queue_without_dvc_are_verified_too(project: Path):
    (project / "dvc.lock").unlink()
    assert check(project) == []
    (project / MODEL).write_text("tampered")
    assert named(check(project), "artifact", MODEL, "lineage/prior@e-0")


def test_the_code_of_a_queue_is_compared_with_the_commit_of_its_project(project: Path, monkeypatch):
    queue = project / "queue"  # a folder of the project's own repository
    queue.mkdir()
    for name in ("data", "models", "lineage", "reports"):
        (project / name).rename(queue / name)
    shutil.copy(project / "params.yaml", queue)
    monkeypatch.setattr(
        "pipelines.lineage.verify.__file__", str(project / "pipelines/lineage/verify.py")
    )
    for stage in [step.stage for step in trace("e", queue).steps]:
        edit_record(queue, stage, lambda record: record | {"git": record["git"] | {"dirty": False}})
    assert check(queue) == []
    (project / "stages/prior.py").write_text("# changed")
    assert named(check(queue), "code", "stages/prior.py", "differs")
