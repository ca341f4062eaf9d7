"""The lineage graph of what was built: stages in columns, from raw data to metrics, as one SVG.

It is read from dvc.lock, and shows only what a build determines (hashes of data, parameters): no
times, so that the same build gives the same page. ``ldebm lineage`` has code, commit and device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ldebm.yaml_text import parse_yaml
from pipelines.lineage.code_lists import is_code
from pipelines.lineage.trace import bound_sources

__all__ = ["Node", "layers", "lineage_nodes", "lineage_svg", "nearest_parents"]

BOX, ROW, COLUMN, PAD = 152, 34, 190, 12
HIDDEN = ("report",)  # the page cannot say what it will be hashed to
LETTERS = 25


@dataclass
class Node:
    """One stage instance.

    Attributes:
        stage: its name in DVC.
        command: what runs it.
        inputs: path -> md5, code left out.
        outputs: path -> md5.
        params: dotted key -> value.
        parents: stages whose outputs it reads.
        layer: its column: one more than that of its furthest parent.
    """

    stage: str
    command: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    params: dict[str, Any]
    parents: list[str] = field(default_factory=list)
    layer: int = 0

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        return "stage-" + self.stage.replace("@", "-")


def lineage_nodes(root: Path, runs: Sequence[str]) -> list[Node]:
    """The stages on the way to runs, by column and name.

    Args:
        root: the project's folder.
        runs: "E-S" of those that the report shows; what else dvc.lock remembers is left out.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        return []
    content = parse_yaml(path.read_text(encoding="utf-8"))
    nodes = {
        name: _node(name, stage)
        for name, stage in (content or {}).get("stages", {}).items()
        if name not in HIDDEN
    }
    writers = {out: node.stage for node in nodes.values() for out in node.outputs}
    for node in nodes.values():
        reads = list(node.inputs)
        if node.stage.startswith("bind@"):  # it depends on all data sets for those that it names
            reads = bound_sources(node.inputs, node.params)
        found = {_writer(item, writers) for item in reads} - {None, node.stage}
        node.parents = sorted(str(stage) for stage in found)
    wanted: dict[str, Node] = {}
    waiting = [f"evaluate@{run}" for run in runs]
    while waiting:
        node_or_none = nodes.get(waiting.pop())
        if node_or_none is not None and node_or_none.stage not in wanted:
            wanted[node_or_none.stage] = node_or_none
            waiting += node_or_none.parents
    layers(wanted)
    return sorted(wanted.values(), key=lambda node: (node.layer, node.stage))


def _node(name: str, stage: dict[str, Any]) -> Node:
    deps = {str(dep["path"]): str(dep.get("md5", "")) for dep in stage.get("deps", [])}
    params = {k: v for group in stage.get("params", {}).values() for k, v in group.items()}
    return Node(
        stage=name,
        command=str(stage["cmd"]),
        inputs={path: md5 for path, md5 in deps.items() if not is_code(path)},
        outputs={str(out["path"]): str(out.get("md5", "")) for out in stage.get("outs", [])},
        params=params,
    )


def _writer(path: str, writers: dict[str, str]) -> str | None:
    for candidate in (path, *(parent.as_posix() for parent in Path(path).parents)):
        if candidate in writers:
            return writers[candidate]
    return None


def layers(nodes: dict[str, Node]) -> None:
    """Sets every node's layer to the length of the longest way to it."""
    for _ in nodes:
        changed = False
        for node in nodes.values():
            above = [nodes[name].layer + 1 for name in node.parents if name in nodes]
            if above and max(above) > node.layer:
                node.layer, changed = max(above), True
        if not changed:
            return


def nearest_parents(node: Node, nodes: dict[str, Node]) -> list[str]:
    """The parents that are not also behind another parent: what the graph draws."""
    behind: set[str] = set()
    waiting = [name for parent in node.parents if parent in nodes for name in nodes[parent].parents]
    while waiting:
        name = waiting.pop()
        if name not in behind:
            behind.add(name)
            waiting += nodes[name].parents if name in nodes else []
    return [parent for parent in node.parents if parent not in behind]


def lineage_svg(nodes: Sequence[Node]) -> str:
    """The graph; every box is a link to the stage's entry on the page."""
    rows: dict[int, list[Node]] = {}
    for node in nodes:
        rows.setdefault(node.layer, []).append(node)
    tallest = max(len(column) for column in rows.values())
    places: dict[str, tuple[float, float]] = {}
    for layer, column in sorted(rows.items()):
        # A node stands beside the middle of what it reads; its column stays in that order.
        order = sorted(column, key=lambda node: (_middle(node, places), node.stage))
        gap = ROW * tallest / len(order)
        for index, node in enumerate(order):
            places[node.stage] = (PAD + COLUMN * layer, PAD + gap * (index + 0.5) - ROW / 2)
    edges, boxes = [], []
    by_name = {node.stage: node for node in nodes}
    for node in nodes:
        x, y = places[node.stage]
        parents = [parent for parent in nearest_parents(node, by_name) if parent in places]
        edges += [_edge(places[parent], (x, y)) for parent in parents]
        boxes.append(_box(node, x, y))
    width = PAD * 2 + COLUMN * max(rows) + BOX
    height = PAD * 2 + ROW * tallest
    return (
        f'<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="group" aria-label="Lineage graph: {len(nodes)} stages from raw data to metrics">'
        f"{''.join(edges)}{''.join(boxes)}</svg>"
    )


def _middle(node: Node, places: dict[str, tuple[float, float]]) -> float:
    above = [places[name][1] for name in node.parents if name in places]
    return sum(above) / len(above) if above else 0.0


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x0, y0 = start[0] + BOX, start[1] + ROW / 2
    x1, y1 = end[0], end[1] + ROW / 2
    bend = min(40.0, (x1 - x0) / 2)
    return (
        f'<path class="edge" d="M{x0:.0f},{y0:.1f}C{x0 + bend:.0f},{y0:.1f} '
        f'{x1 - bend:.0f},{y1:.1f} {x1:.0f},{y1:.1f}"/>'
    )


def _box(node: Node, x: float, y: float) -> str:
    stage, _, instance = node.stage.partition("@")
    shown = instance if len(instance) <= LETTERS else instance[: LETTERS - 1] + "…"
    return (
        f'<a href="#{escape(node.anchor)}" aria-label="{escape(node.stage)}">'
        f"<title>{escape(node.stage)}</title>"
        f'<rect class="box" x="{x:.0f}" y="{y + 2:.1f}" width="{BOX}" height="{ROW - 4}" rx="5"/>'
        f'<text class="stage" x="{x + 8:.0f}" y="{y + 14:.1f}">{escape(stage)}</text>'
        f'<text x="{x + 8:.0f}" y="{y + 26:.1f}">{escape(shown)}</text></a>'
    )
