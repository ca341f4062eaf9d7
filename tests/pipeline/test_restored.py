"""Stages that DVC restores from its cache, without running them, are accounted for truthfully."""

import json
import re
import shutil
from pathlib import Path

import pytest

from ldebm.cli import main
from pipelines.lineage.audit import audit_stage
from pipelines.lineage.divergence import compare_traces
from pipelines.lineage.records import dvc_md5
from pipelines.lineage.trace import Trace, restored_by_chance, trace
from pipelines.lineage.verify import Problem, verify
from tests.pipeline.tiny_project import ROOT, Tiny

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
STAGE = """\
import json
from pathlib import Path
from stages._entry import arguments, run
from stages.work import write

def main() -> None:
    name = arguments(None, {names}).experiment
    {work}

if __name__ == "__main__":
    run(main)
"""
WORK = """\
from pathlib import Path
from ldebm.files import write_text

def write(path, text):
    write_text(Path(path), text)
"""
STAGES = {  # `first` is the same of both experiments, `note` writes the same from other parameters
    "bind": 'write(f"data/bound/{name}.json", json.dumps({"experiment": name, "data": "d", '
    '"files": {}}))',
    "first": 'write(f"models/{name}/0/first/model", "weights")',
    "note": 'write(f"models/{name}/0/note", "none")',
}
DAG = """\
stages:
  bind:
    matrix: &each {experiment: [a, b]}
    cmd: python -m stages.bind --experiment ${item.experiment}
    deps: [CODE, stages/bind.py, data/packed]
    params: ["runs.${item.experiment}.data"]
    outs: ["data/bound/${item.experiment}.json"]
  first:
    matrix: *each
    cmd: python -m stages.first --experiment ${item.experiment} --seed 0
    deps: [CODE, stages/first.py, "data/bound/${item.experiment}.json"]
    params: ["runs.${item.experiment}.first"]
    outs: ["models/${item.experiment}/0/first/model"]
  note:
    matrix: *each
    cmd: python -m stages.note --experiment ${item.experiment}
    deps: [CODE, stages/note.py, data/packed]
    params: ["runs.${item.experiment}.note"]
    outs: ["models/${item.experiment}/0/note"]
""".replace("CODE", "stages/__init__.py, stages/_entry.py, stages/recording.py, stages/work.py")
PARAMS = """\
runs:
  a: {data: d, first: {width: 3}, note: 1}
  b: {data: d, first: {width: 3}, note: 2}
"""
FIRST = "models/b/0/first/model"


class Twins(Tiny):
    """Two experiments with the same first stage."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        root = self.root
        (root / "stages").mkdir()
        (root / "data/packed/d").mkdir(parents=True)
        for name, work in STAGES.items():
            keys = '"experiment"' + (', "seed"' if name == "first" else "")
            (root / f"stages/{name}.py").write_text(STAGE.format(names=keys, work=work))
        files = {"stages/__init__.py": "", "stages/work.py": WORK, "dvc.yaml": DAG}
        files |= {"params.yaml": PARAMS, "data/packed/d/x": "1", "dvc.lock": ""}
        files[".gitignore"] = "/models\n/data/bound\n/lineage\n/.ckpt\n__pycache__\n"
        for name, text in files.items():
            (root / name).write_text(text)
        for name in ("_entry", "recording"):
            shutil.copyfile(ROOT / f"stages/{name}.py", root / f"stages/{name}.py")
        (root / "dvc.lock").unlink()
        self.commit()
        self.dvc("repro", "-q")
        self.commit()

    def forget(self, *names: str) -> None:
        """Removes folders: outputs, DVC's cache, the records."""
        for name in names:
            shutil.rmtree(self.root / name, ignore_errors=True)

    def cold(self) -> None:
        """As in a fresh clone: dvc.lock is there, nothing else."""
        self.forget("models", "data/bound", ".dvc/cache", "lineage", ".ckpt", ".dvc/tmp")

    def trace(self, target: str = "models") -> Trace:
        """The way back."""
        return trace(target, self.root)

    def problems(self, target: str = "models") -> list[Problem]:
        """What verifying finds."""
        return verify(self.trace(target), self.root)


@pytest.fixture(scope="module")
def cold(tmp_path_factory) -> Twins:
    """A fresh clone that `dvc repro` has built."""
    twins = Twins(tmp_path_factory.mktemp("cold"))
    twins.cold()
    said = twins.dvc("repro")
    assert said.count("is cached - skipping run") == 2, said
    return twins


@pytest.fixture
def project(cold: Twins, tmp_path: Path) -> Twins:
    """A copy of it, in which note@b has its record too."""
    shutil.copytree(cold.root, tmp_path / "project")
    copy = Twins.__new__(Twins)
    copy.root, copy.env, copy.log = tmp_path / "project", cold.env, cold.log
    return copy


def step(lineage: Trace, stage: str):
    return next(item for item in lineage.steps if item.stage == stage)


def named(problems: list[Problem], stage: str, *texts: str) -> bool:
    return any(p.stage == stage and all(text in str(p) for text in texts) for p in problems)


def test_a_stage_that_was_restored_has_the_record_of_its_twin(cold: Twins, capsys):
    lineage = cold.trace("first@b")
    assert cold.problems("first@b") == []
    assert step(lineage, "first@b").twin == "first@a"
    assert "restored by DVC from its cache; produced by first@a on 20" in "\n".join(lineage.lines())
    with pytest.raises(SystemExit) as done:
        main(["lineage", "verify", "first@b", "--in", str(cold.root)])
    assert not done.value.code
    assert "first@b: restored by DVC from its cache; produced by first@a" in capsys.readouterr().out


def test_what_another_stage_wrote_from_other_parameters_is_no_proof(cold: Twins):
    (problem,) = cold.problems()
    assert problem.missing_record
    assert named([problem], "note@b", "note@a wrote the same bytes", "parameters (runs.b.no")
    assert "`dvc repro -f -s note@b`" in str(problem)


def test_the_remedy_that_is_named_works(project: Twins):
    project.dvc("repro", "-q", "-f", "-s", "note@b")
    assert project.problems() == []


def test_a_flow_runs_what_nothing_proves_and_restores_the_rest(project: Twins, monkeypatch):
    project.use(monkeypatch).cold()
    said: list[str] = []
    assert project.build(messages=said, cpu=1).ok
    assert project.problems() == []
    assert sum("another stage wrote these bytes" in line for line in said) == 1
    twins = {project.trace(f"first@{name}").steps[0].twin for name in "ab"}
    assert twins in ({"", "first@a"}, {"", "first@b"})


@pytest.mark.parametrize("path", [FIRST, "data/bound/b.json", "stages/work.py"])
def test_a_changed_file_of_a_restored_stage_is_named(project: Twins, path: str):
    (project.root / path).chmod(0o644)
    (project.root / path).write_text("{}")
    assert any(path in str(problem) for problem in project.problems("first@b"))


def test_a_changed_parameter_of_a_restored_stage_is_named(project: Twins):
    project.edit("b: {data: d, first: {width: 3}", "b: {data: d, first: {width: 4}")
    assert named(project.problems("first@b"), "first@b", "runs.b.first.width is 4")


def edit_lock(project: Twins, old: str, new: str) -> None:
    """Changes the entry of first@b."""
    before, entry = project.lock().split("  first@b:\n")
    assert old in entry
    (project.root / "dvc.lock").write_text(f"{before}  first@b:\n{entry.replace(old, new, 1)}")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("width: 3\n", "width: 4\n", "parameters (runs.b.first)"),
        ("--seed 0", "--seed 1", "the command"),
        (
            dvc_md5(ROOT / "stages/recording.py"),
            "0" * 32,
            "code (stages/recording.py)",
        ),
    ],
)
def test_a_twin_of_another_execution_proves_nothing(project: Twins, old, new, text):
    edit_lock(project, old, new)
    assert named(project.problems("first@b"), "first@b", "no record of first@b", text)


def test_a_twin_that_read_other_data_proves_nothing(project: Twins):
    path = project.root / "data/bound/b.json"
    before = dvc_md5(path)
    path.chmod(0o644)
    content = json.loads(path.read_text()) | {"files": {"x": "0"}}
    path.write_text(json.dumps(content))
    text = project.lock().replace(before, dvc_md5(path))
    (project.root / "dvc.lock").write_text(text)
    assert named(project.problems("first@b"), "first@b", "no record", "inputs (data/bound/b.json)")


def test_an_edited_or_deleted_record_of_the_twin_is_noticed(project: Twins):
    (path,) = (project.root / "lineage").glob("first@a-*")
    path.write_text(re.sub(r'"seconds": [\d.]+', '"seconds": 99', path.read_text()))
    assert named(project.problems("first@b"), "first@b", path.name, "was edited")
    path.unlink()
    assert named(project.problems("first@b"), "first@b", "no record of first@b")


def test_the_audit_of_a_restored_stage_runs_its_own_command(project: Twins):
    audit = audit_stage("first@b", project.root)
    assert audit.same
    assert [output.path for output in audit.outputs] == [FIRST]


def test_a_stage_and_its_twin_do_not_diverge(cold: Twins):
    divergence = compare_traces(cold.trace("first@a"), cold.trace("first@b"))
    assert divergence.first is None
    assert not any(item.notes and "no record" in item.notes[0] for item in divergence.steps)


def test_a_clone_with_a_pulled_cache_says_that_the_records_are_elsewhere(project: Twins, capsys):
    project.forget("models", "data/bound", "lineage", ".dvc/tmp")
    assert project.dvc("repro").count("is cached - skipping run") == 6
    assert not restored_by_chance("note@b", project.root)  # so that a flow leaves it, too
    problems = project.problems()
    assert {problem.stage for problem in problems} == {
        f"{name}@{experiment}" for name in STAGES for experiment in "ab"
    }
    assert all(problem.missing_record for problem in problems)
    assert verify(project.trace(), project.root, need_records=False) == []
    with pytest.raises(SystemExit):
        main(["lineage", "verify", "models", "--in", str(project.root)])
    assert "6 stages have no record on this machine" in capsys.readouterr().err


def test_commit_and_checkout_of_dvc_prove_nothing_by_themselves(project: Twins):
    project.dvc("repro", "-q", "-f", "-s", "note@b")
    (project.root / FIRST).unlink()
    project.dvc("checkout", "-q", "first@b")
    assert project.problems() == []
    (project.root / FIRST).unlink()
    (project.root / FIRST).write_text("other weights")
    project.dvc("commit", "-q", "-f", "first@b")
    assert named(project.problems("first@b"), "first@b", "no record of first@b")


def test_an_experiment_beside_the_workspace_leaves_its_records_in_the_project(project: Twins):
    project.dvc("repro", "-q", "-f", "-s", "note@b")
    project.commit()
    project.dvc("exp", "run", "-q", "--temp", "-n", "larger", "-S", "runs.b.first.width=4")
    project.dvc("exp", "apply", "-q", "larger")
    assert project.problems() == []
    assert step(project.trace("first@b"), "first@b").record["params"] == {
        "runs.b.first": {"width": 4}
    }
