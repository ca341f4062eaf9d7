"""The lineage graph: the stages behind a set of runs, and any stages drawn as one SVG.

A stage stands after all that it reads, raw data first. The picture has no script and no times, and
its text is escaped; colours and sizes of letters are those of the page around it.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

from pipelines.lineage.trace import Step, locked_steps, sources

__all__ = ["layers", "lineage_svg", "nearest", "steps_of_runs"]

WIDTH, HEIGHT, LETTERS = 164, 36, 25  # of a box, and of what fits in it
ACROSS, DOWN = (202, 42), (176, 64)  # from box to box: right and down, by the graph's direction
PAD = 12
HIDDEN = ("report",)  # its page cannot say what it will be hashed to


def steps_of_runs(root: Path, runs: Sequence[str]) -> list[Step]:
    """The stages of dvc.lock on the way to runs, without their code, by layer and name.

    Args:
        root: the project's folder.
        runs: "E-S" of those that are shown; what else dvc.lock remembers is left out.
    """
    steps = {step.stage: step for step in locked_steps(root, code=False) or []}
    writers = {
        out: step.stage
        for step in steps.values()
        if step.name not in HIDDEN
        for out in step.outputs
    }
    wanted: dict[str, Step] = {}
    waiting = [f"evaluate@{run}" for run in runs]
    while waiting:
        name = waiting.pop()
        if name in steps and name not in wanted:
            step = wanted[name] = steps[name]
            parents = {_writer(path, writers) for path in sources(step, root)} - {"", name}
            step.after = sorted(parents)
            waiting += step.after
    layer = layers(list(wanted.values()))
    return sorted(wanted.values(), key=lambda step: (layer[step.stage], step.stage))


def _writer(path: str, writers: Mapping[str, str]) -> str:
    """The stage that wrote a path or a folder above it; empty if none did."""
    places = (path, *(parent.as_posix() for parent in Path(path).parents))
    return next((writers[place] for place in places if place in writers), "")


def layers(steps: Sequence[Step]) -> dict[str, int]:
    """Every stage's layer: the length of the longest way to it."""
    by_name = {step.stage: step for step in steps}
    depths: dict[str, int] = {}

    def layer(name: str) -> int:
        if name not in depths:
            depths[name] = 0  # for a way that leads back to it
            above = [item for item in by_name[name].after if item in by_name and item != name]
            depths[name] = 1 + max(map(layer, above), default=-1)
        return depths[name]

    for step in steps:
        layer(step.stage)
    return depths


def nearest(steps: Sequence[Step]) -> dict[str, list[str]]:
    """What each stage reads, without the stages that are also behind another of these."""
    layer = layers(steps)
    behind: dict[str, set[str]] = {}  # all stages on the way to a stage
    parents = {}
    for step in sorted(steps, key=lambda step: layer[step.stage]):
        direct = {name for name in step.after if name in layer and name != step.stage}
        implied = set().union(*(behind.get(name, ()) for name in direct))
        parents[step.stage] = sorted(direct - implied)
        behind[step.stage] = direct | implied
    return parents


def lineage_svg(steps: Sequence[Step], wrong: Collection[str] = (), *, down: bool = False) -> str:
    """The graph; every box is a link to the stage's entry on the page (:attr:`Step.anchor`).

    Args:
        steps: at least one; a stage that they read and that is not among them is not drawn.
        wrong: stages that get the class ``bad``.
        down: layers stand below each other, so that a chain fits the width of a phone; otherwise
            beside each other, so that many runs fit.
    """
    layer, before = layers(steps), nearest(steps)
    rows: dict[int, list[str]] = {}
    for name, number in sorted(layer.items(), key=lambda item: item[1]):
        rows.setdefault(number, []).append(name)
    longest = max(map(len, rows.values()))
    across: dict[str, float] = {}
    for names in rows.values():
        # A stage stands beside the middle of what it reads; its row stays in that order.
        order = sorted(names, key=lambda name: (_middle(before[name], across), name))
        for index, name in enumerate(order):
            across[name] = longest * (index + 0.5) / len(order) - 0.5
    right, below = DOWN if down else ACROSS

    def place(name: str) -> tuple[float, float]:
        x, y = (across[name], layer[name]) if down else (layer[name], across[name])
        return round(PAD + right * x, 1), round(PAD + below * y, 1)

    edges = [
        _edge(place(parent), place(name), down)
        for name, above in before.items()
        for parent in above
    ]
    boxes = [_box(step, *place(step.stage), step.stage in wrong) for step in steps]
    columns, lines = (longest, len(rows)) if down else (len(rows), longest)
    width, height = PAD * 2 + right * (columns - 1) + WIDTH, PAD * 2 + below * (lines - 1) + HEIGHT
    return (
        f'<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="group" aria-label="Lineage graph: {len(steps)} stages from raw data on">\n'
        + "\n".join([*edges, *boxes])
        + "\n</svg>"
    )


def _middle(names: Sequence[str], across: Mapping[str, float]) -> float:
    return statistics.fmean(across[name] for name in names) if names else 0.0


def _edge(start: tuple[float, float], end: tuple[float, float], down: bool) -> str:
    (x, y), (to_x, to_y) = start, end
    if down:
        x, y, to_x = x + WIDTH / 2, y + HEIGHT, to_x + WIDTH / 2
        bend = (DOWN[1] - HEIGHT) / 2
        curve = f"{x:g} {y + bend:g} {to_x:g} {to_y - bend:g}"
    else:
        x, y, to_y = x + WIDTH, y + HEIGHT / 2, to_y + HEIGHT / 2
        bend = ACROSS[0] - WIDTH
        curve = f"{x + bend:g} {y:g} {to_x - bend:g} {to_y:g}"
    return f'<path class="edge" d="M{x:g} {y:g}C{curve} {to_x:g} {to_y:g}"/>'


def _box(step: Step, x: float, y: float, wrong: bool) -> str:
    instance = step.stage.partition("@")[2]
    shown = instance if len(instance) <= LETTERS else instance[: LETTERS - 1] + "…"
    name, kind = escape(step.stage), ' class="bad"' if wrong else ""
    return (
        f'<a href="#{step.anchor}" aria-label="{name}"{kind}><title>{name}</title>'
        f'<rect class="box" x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
        f'<text class="stage" x="{x + 8:g}" y="{y + 15:g}">{escape(step.name)}</text>'
        f'<text x="{x + 8:g}" y="{y + 29:g}">{escape(shown)}</text></a>'
    )
