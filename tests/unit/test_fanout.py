"""Parts of a sweep: who needs whom, and what becomes of them when machines are lost."""

from dataclasses import replace
from pathlib import Path

import pytest

from ldebm.config import ExperimentConfig, parse
from ldebm.config.sections import explicit
from ldebm.errors import UsageError
from pipelines import fanout
from pipelines.dag import Dag, Stage
from pipelines.fanout import News, Part, Unreachable, fan_out
from pipelines.parts import Plan, committed, seed_parts, sweep_parts
from pipelines.point import Built
from pipelines.types import BuildReport, Selection, StageOutcome
from pipelines.worktree import Workspace
from tests.pipeline.project_copy import ProjectCopy

HERE = Path("here")


def built(*stages: StageOutcome) -> Built:
    """A result with its stages."""
    outcomes = stages or (StageOutcome("a", "built"),)
    return Built(BuildReport(HERE, "c", True, HERE / "dvc.lock", outcomes), {}, "machine:/folder")


def part(name: str, *needs: str) -> Part:
    return Part(name, Selection(revision="c"), (f"stage of {name}",), needs)


class Told:
    """The engine: keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Script:
    """A crew: for every part the news of its tries, the last of them for ever."""

    def __init__(self, **script: list[object]) -> None:
        self.script, self.given, self.dropped = script, [], []
        self.asked: dict[str, int] = {}

    def start(self, one: Part) -> str:
        self.given.append(one.name)
        return f"{one.name}-{self.given.count(one.name)}"

    def news(self, tries):
        return {run: self._of(run) for run in tries}

    def _of(self, run: str) -> News:
        script = self.script.get(run.rpartition("-")[0], [News("done", built=built())])
        place = self.asked[run] = self.asked.get(run, -1) + 1
        item = script[min(place, len(script) - 1)]
        if isinstance(item, Exception):
            raise item
        return item

    def drop(self, run: str) -> None:
        self.dropped.append(run)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch) -> None:
    monkeypatch.setattr(fanout, "POLL", 0.0)


def test_a_part_is_handed_out_when_all_that_it_needs_is_built():
    crew = Script(common=[News("waits"), News("runs", "x"), News("done", built=built())])
    ended = fan_out([part("common"), part("b", "common"), part("c", "common")], crew, Told())
    assert crew.given == ["common", "b", "c"]
    assert all(isinstance(result, Built) for result in ended.values())


def test_a_lost_part_is_handed_out_again_and_three_losses_are_a_failure():
    told = Told()
    lost = News("lost", "m has given no sign")
    ended = fan_out([part("a"), part("b", "a")], Script(a=[lost]), told)
    assert ended["a"] == "m has given no sign"
    assert ended["b"] == "needs a: m has given no sign"
    assert sum("handed out again (m has given no sign)" in line for line in told.lines) == 2


def test_after_a_failed_stage_only_what_needs_it_is_left_out():
    failed = built(StageOutcome("prior@a-0", "failed", message="no memory\nlog"))
    crew = Script(a=[News("done", built=failed)])
    ended = fan_out([part("a"), part("b", "a"), part("c")], crew, Told())
    assert ended["b"] == "needs a: prior@a-0: no memory"
    assert isinstance(ended["c"], Built)
    assert crew.given == ["a", "c"]


def test_a_server_that_is_away_for_a_while_loses_nothing():
    told = Told()
    crew = Script(a=[Unreachable("busy"), News("done", built=built())])
    assert isinstance(fan_out([part("a")], crew, told)["a"], Built)
    assert "busy; trying again" in told.lines


def test_an_error_stops_what_runs(monkeypatch):
    monkeypatch.setattr(fanout, "AWAY_SECONDS", -1.0)
    crew = Script(a=[News("runs", "x"), Unreachable("gone")])
    with pytest.raises(Unreachable, match="gone"):
        fan_out([part("a")], crew, Told())
    assert crew.dropped == ["a-1"]


def plan(*stages: tuple[str, str, list[str]], number: int = 0) -> Plan:
    """A build: name, mark and parents of its stages, all of them stale."""
    dag = Dag({name: Stage(name, "", (), {}, (), tuple(above)) for name, _, above in stages})
    marks = {name: mark for name, mark, _ in stages}
    chosen = Selection(revision="c", overrides=(f"x={number}",))
    return Plan(chosen, dag, marks, list(marks), list(marks), HERE)


def points(*of: tuple[str, str]) -> list[Plan]:
    """Builds of data, a backbone and a prior, by the marks of the last two."""
    return [
        plan(
            ("data", "d", []), ("backbone", b, ["data"]), ("prior", p, ["backbone"]), number=number
        )
        for number, (b, p) in enumerate(of)
    ]


def test_what_points_share_is_a_part_of_its_own_before_them():
    parts = sweep_parts(points(("b", "p0"), ("b", "p1")))
    assert [(one.name, one.builds, one.needs) for one in parts] == [
        ("common to points 0, 1", ("data", "backbone"), ()),
        ("point 0", ("prior",), ("common to points 0, 1",)),
        ("point 1", ("prior",), ("common to points 0, 1",)),
    ]
    assert parts[0].selection.targets == ("data", "backbone")
    assert [one.selection.targets for one in parts[1:]] == [(), ()]


def test_groups_of_a_grid_come_after_what_all_share_and_never_two_in_one_folder_at_a_time():
    parts = sweep_parts(points(("b0", "p0"), ("b0", "p1"), ("b1", "p2"), ("b1", "p3")))
    assert [(one.name, one.builds, one.needs) for one in parts[:3]] == [
        ("common to points 0-3", ("data",), ()),
        ("common to points 0, 1", ("backbone",), ("common to points 0-3",)),
        ("common to points 2, 3", ("backbone",), ("common to points 0-3",)),
    ]
    assert [one.selection.overrides for one in parts[:3]] == [("x=0",), ("x=1",), ("x=2",)]
    assert parts[-1].needs == ("common to points 0-3", "common to points 2, 3")
    stages = [stage for one in parts for stage in one.builds]
    assert len(stages) == 1 + 2 + 4, "none twice"


def test_equal_points_are_built_once():
    parts = sweep_parts(points(("b", "p"), ("b", "p")))
    assert parts[0].builds == ("data", "backbone", "prior")
    assert [one.builds for one in parts[1:]] == [(), ()]


def test_seeds_are_parts_after_what_they_share_and_the_report_is_in_none():
    one = plan(
        ("bind@e", "b", []),
        ("prior@e-0", "p0", ["bind@e"]),
        ("evaluate@e-0", "e0", ["prior@e-0"]),
        ("prior@e-1", "p1", ["bind@e"]),
        ("report", "r", ["evaluate@e-0", "prior@e-1"]),
    )
    assert [(item.name, item.builds, item.needs) for item in seed_parts(one)] == [
        ("common to all seeds", ("bind@e",), ()),
        ("e-0", ("prior@e-0", "evaluate@e-0"), ("common to all seeds",)),
        ("e-1", ("prior@e-1",), ("common to all seeds",)),
    ]


def test_a_job_asks_for_the_most_of_its_stages_and_the_time_of_all_seeds():
    resources = {"a": {"cpus": 2, "time": 10}, "b": {"cpus": 1, "memory": 4.0, "time": 5}}
    one = replace(plan(("bind@a", "b", [])), resources=resources)
    asked = one.asks(["bind@a", "prior@a-0", "evaluate@a-0", "prior@a-1", "prior@b-0"])
    assert asked == {"cpus": 2, "memory": 4.0, "time": 25}
    assert one.asks(["bind@a"]) == {}


def test_resources_are_checked_and_no_model_and_no_written_default_has_them():
    training = {"training": {"updates": 1}}
    content = {
        "data": "d",
        "backbone": {"arch": "mlp", "latent": 1, **training},
        "prior": {"kind": "gaussian", **training},
    }
    plain = parse(ExperimentConfig, content, "experiments.e")
    asked = {**content, "resources": {"gpus": 1, "memory": 16}}
    with_them = parse(ExperimentConfig, asked, "experiments.e")
    assert with_them.model_dump() == plain.model_dump()
    assert with_them.training_hash == plain.training_hash
    assert "resources" not in explicit(plain)
    assert explicit(with_them)["resources"]["memory"] == 16
    for wrong in ({"cpus": 0}, {"ram": 4}):
        with pytest.raises(UsageError, match="resources"):
            parse(ExperimentConfig, {**content, "resources": wrong}, "experiments.e")


def test_others_can_build_only_a_commit_that_they_can_get(tmp_path):
    project = ProjectCopy(tmp_path / "project", names=(".dvc/.gitignore",))
    workspace = Workspace(project.folder)
    with pytest.raises(UsageError, match="none is set; `dvc remote add -d NAME URL`"):
        committed(workspace, None)
    project.dvc("remote", "add", "-q", "-d", "team", str(tmp_path / "remote"))
    workspace = Workspace(project.folder)
    with pytest.raises(UsageError, match="changes that are in none; commit and push them"):
        committed(workspace, None)
    head = project.git("rev-parse", "HEAD").strip()
    assert committed(workspace, "HEAD") == head
    project.commit("a remote")
    assert committed(workspace, None) != head
    project.git("init", "-q", "--bare", str(tmp_path / "origin"))
    project.git("remote", "add", "origin", str(tmp_path / "origin"))
    with pytest.raises(UsageError, match="in this folder alone, and other machines could"):
        committed(workspace, None)
    project.git("push", "-q", "origin", "main")
    assert committed(workspace, None) == committed(workspace, "HEAD")
