"""Into which parts a sweep or a retraining falls, for machines that share a DVC remote.

What several parts have in common is a part of its own that runs before them, so that no stage is
built twice. Before anything is handed out, what is built here already is given to the remote, and
the data are fetched here: files of the user may be nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ldebm.errors import UsageError
from pipelines.build import build, push_stages
from pipelines.building import Job, opened, read_params
from pipelines.dag import Dag, fingerprints
from pipelines.fanout import Part
from pipelines.git import git, git_or_none, run_git
from pipelines.slots import Slots
from pipelines.types import Selection
from pipelines.worktree import Workspace

__all__ = ["Plan", "committed", "plan", "seed_parts", "sweep_parts"]

UNIT = re.compile(r"@(.+-\d+)$")  # the experiment and seed of a stage


@dataclass(frozen=True)
class Plan:
    """What is known of a build before any of it runs.

    Attributes:
        selection: what it builds.
        dag: its stages.
        marks: what identifies the result of every stage, by name.
        stale: the stages that are not built here.
        left: those of them that the remote does not have either.
        project: the worktree where this machine would build it.
        resources: by experiment what a job asks for.
    """

    selection: Selection
    dag: Dag
    marks: Mapping[str, str]
    stale: Sequence[str]
    left: Sequence[str]
    project: Path
    resources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def asks(self, stages: Sequence[str]) -> dict[str, float]:
        """What a job with these stages asks for: the most of each, and the time of all seeds."""
        units = {found[1] for name in stages if (found := UNIT.search(name))}
        asked: dict[str, float] = {}
        for unit in sorted(units):
            for name, value in self.resources.get(unit.rpartition("-")[0], {}).items():
                before = asked.get(name, 0)
                asked[name] = before + value if name == "time" else max(before, value)
        return asked


def committed(workspace: Workspace, revision: str | None, remote: bool = True) -> str:
    """The commit that all machines build.

    Args:
        workspace: the project here.
        revision: what was asked for; None: the workspace, which has to be committed.
        remote: they have folders of their own; else they share this one.

    Raises:
        UsageError: there is no DVC remote, the workspace has changes, or the commit is here alone.
    """
    root = workspace.root
    if remote and workspace.remote is None:
        raise UsageError(
            "other machines take data and models from the DVC remote, and none is set; "
            "`dvc remote add -d NAME URL`, here and where the workers run (docs/operations.md)"
        )
    state = workspace.state(revision)
    if revision is None and state.dirty:
        raise UsageError(
            "other machines build a commit, and this folder has changes that are in none; commit "
            "and push them, or give --rev HEAD to build without them"
        )
    remotes = git(root, "remote").split() if remote else []
    if remotes:
        known = git(root, "branch", "-r", "--contains", state.commit)
        if not known and _published(root, state.commit, remotes) is False:
            raise UsageError(
                f"commit {state.commit[:10]} is in this folder alone, and other machines could not "
                "build it: `git push` it first"
            )
    return state.commit


def _published(root: Path, commit: str, remotes: Sequence[str]) -> bool | None:
    """Whether a remote repository has the commit, as far as it says; None if none answers."""
    quiet = {"GIT_TERMINAL_PROMPT": "0"}
    done = [run_git(root, "fetch", "-q", name, env=quiet).returncode == 0 for name in remotes]
    if git_or_none(root, "branch", "-r", "--contains", commit):
        return True
    return False if any(done) else None


def plan(
    selections: Sequence[Selection],
    workspace: Workspace,
    slots: Slots,
    retries: int,
    remote: bool = True,
) -> list[Plan]:
    """Looks at builds, fetches their data here, and gives the remote what is built here already.

    Args:
        selections: with a revision each.
        workspace: the project here.
        slots: of this machine.
        retries: attempts at a stage after the first, on infrastructure errors only.
        remote: the others have folders of their own; else they share this one.

    Raises:
        UsageError: a selection is wrong.
        LdebmError: the remote does not take it.
    """

    def look(selection: Selection) -> Plan:
        with opened(selection, workspace, slots=slots) as job:
            return _of(job)

    with ThreadPoolExecutor(min(len(selections), slots.cpu)) as threads:
        plans = list(threads.map(look, selections))
    pushed: set[str] = set()
    for item in plans:
        data = [name for name in item.stale if name.startswith("fetch@")]
        if any(item.marks[name] not in pushed for name in data):
            chosen = replace(item.selection, targets=tuple(data))
            build(
                chosen, workspace.root, cpu_slots=slots.cpu, retries=retries, pull=remote,
                push=remote, must_succeed=True,
            )  # fmt: skip
            done = item.dag.part(data).stages
            pushed |= {item.marks[name] for name in done}
        new = [
            name
            for name in item.dag.stages
            if name not in item.stale and item.marks[name] not in pushed
        ]
        if remote:
            push_stages(item.project, new)
        pushed |= {item.marks[name] for name in new}
    return [
        replace(item, left=[name for name in item.stale if item.marks[name] not in pushed])
        for item in plans
    ]


def _of(job: Job) -> Plan:
    marks = fingerprints(job.dag, job.place.project)
    params = read_params(job.place.project, strict=False)
    known = {} if params is None else params.experiments
    resources = {
        name: item.resources.model_dump(exclude_none=True)
        for name, item in known.items()
        if item.resources is not None
    }
    project = job.place.project
    return Plan(job.selection, job.dag, marks, job.stale, job.stale, project, resources)


def sweep_parts(plans: Sequence[Plan]) -> list[Part]:
    """A part for every build, and before it one for every group of stages that builds share.

    A group are the stages that the same builds have in common; one of those builds stands for it.

    Args:
        plans: ``point N`` is the part of build N; one that is built here has none.
    """
    holders: dict[str, list[int]] = {}
    for number, item in enumerate(plans):
        for name in item.left:
            holders.setdefault(item.marks[name], []).append(number)
    groups: dict[tuple[int, ...], list[str]] = {}
    for mark, numbers in holders.items():
        if len(numbers) > 1:
            groups.setdefault(tuple(numbers), []).append(mark)
    parts: list[Part] = []
    made: list[tuple[set[int], str]] = []
    standing: dict[int, str] = {}  # a worktree is for one part at a time
    for group in sorted(groups, key=lambda numbers: (-len(numbers), numbers)):
        stands = next((number for number in group if number not in standing), group[0])
        above = [name for others, name in made if others.issuperset(group)]
        needs = dict.fromkeys([*above, *([standing[stands]] if stands in standing else [])])
        name = f"common to {_listed(group)}"
        chosen, marks = plans[stands], set(groups[group])
        stages = tuple(stage for stage in chosen.left if chosen.marks[stage] in marks)
        selection = replace(chosen.selection, targets=stages)
        parts.append(Part(name, selection, stages, tuple(needs), chosen.asks(stages)))
        standing[stands] = name
        made.append((set(group), name))
    for number, item in enumerate(plans):
        own = tuple(name for name in item.left if len(holders[item.marks[name]]) == 1)
        if item.stale:
            first = tuple(name for others, name in made if number in others)
            asked = item.asks(own or item.left)
            parts.append(Part(f"point {number}", item.selection, own, first, asked))
    return parts


def _listed(numbers: Sequence[int]) -> str:
    """A name for points: ``points 0-5``, ``points 0, 2``."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"points {numbers[0]}-{numbers[-1]}"
    return f"points {', '.join(str(number) for number in numbers)}"


def seed_parts(item: Plan) -> list[Part]:
    """A part for every experiment and seed of one build, and one before for what they share.

    Stages that need several seeds and that no seed needs (the report) are in none.
    """
    units: dict[str, list[str]] = {}
    shared = []
    for name in item.left:
        below = {name, *item.dag.below(name)}
        of = {found[1] for stage in below if (found := UNIT.search(stage))}
        if len(of) == 1:
            units.setdefault(of.pop(), []).append(name)
        elif of:
            shared.append(name)

    def part(name: str, stages: Sequence[str], needs: tuple[str, ...] = ()) -> Part:
        chosen = replace(item.selection, targets=tuple(stages))
        return Part(name, chosen, tuple(stages), needs, item.asks(stages))

    before = [part("common to all seeds", shared)] if shared else []
    needs = tuple(one.name for one in before)
    return [*before, *(part(unit, stages, needs) for unit, stages in units.items())]
