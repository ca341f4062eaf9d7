"""The lineage graph as one HTML page: inline SVG and style, no script, no request, text escaped.

Stages stand below what they read, raw data first, so that the usual way (a chain) fits the width
of a phone; wider graphs scroll sideways inside their frame. Every node is a link to the stage's
section below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html import escape

from pipelines.lineage.trace import Step, Trace
from pipelines.lineage.verify import Problem

__all__ = ["lineage_page", "lineage_svg"]

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 168, 46, 16, 40, 8
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #ffffff;
  --box: #eef3f9; --line: #9aa8b8; --link: #0b57a4; --bad: #b3261e; --good: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf2; --soft: #a3b0c0; --paper: #12161c;
  --box: #1e2733; --line: #5d6c7d; --link: #8ab8f0; --bad: #ff9b91; --good: #7fd6a0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 0;
  overflow-wrap: anywhere; }
a { color: var(--link); } a:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
figure { margin: 1rem 0; overflow-x: auto; } svg { display: block; }
svg rect { fill: var(--box); stroke: var(--line); } svg .bad rect { stroke: var(--bad);
  stroke-width: 3; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .sub { fill: var(--soft); font-size: 11px; } svg path { fill: none; stroke: var(--line); }
svg a:focus-visible rect, svg a:hover rect { stroke: var(--link); stroke-width: 3; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
code, td, li { overflow-wrap: anywhere; } code { font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .2rem .5rem .2rem 0; }
th { width: 5.5rem; color: var(--soft); font-weight: normal; }
.bad { color: var(--bad); } .good { color: var(--good); } .soft { color: var(--soft); }
"""


def lineage_page(found: Trace, problems: Sequence[Problem] | None = None) -> str:
    """The page.

    Args:
        found: of :func:`pipelines.lineage.trace.trace`.
        problems: of :func:`pipelines.lineage.verify.verify`; None says that nothing was checked.
    """
    title = f"Lineage of {found.target}" + (f" at {found.revision}" if found.revision else "")
    sections = "\n".join(_section(step, problems or []) for step in found.forwards())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{_verdict(found, problems)}
<figure>
{lineage_svg(found, problems or [])}
</figure>
{sections}
</main>
</body>
</html>
"""


def _verdict(found: Trace, problems: Sequence[Problem] | None) -> str:
    if problems is None:
        return '<p class="soft">Not checked: the files are those of another revision.</p>'
    if not problems:
        return f'<p class="good">{len(found.steps)} stages verified, nothing differs.</p>'
    items = "".join(f"<li>{escape(str(problem))}</li>" for problem in problems)
    return f'<p class="bad">{len(problems)} things differ:</p><ul class="bad">{items}</ul>'


def lineage_svg(found: Trace, problems: Sequence[Problem] = (), link: str = "#") -> str:
    """The graph alone, for other pages; its colours and sizes are those of their style.

    Args:
        found: of :func:`pipelines.lineage.trace.trace`.
        problems: stages that have one get the class ``bad``.
        link: what stands before ``stage-NAME`` in the address of a node.
    """
    edges = _edges(found)
    cells = _cells(found, edges)
    places = {
        name: (_MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y))
        for name, (column, row) in cells.items()
    }
    width = max(x for x, _ in places.values()) + _WIDTH + _MARGIN
    height = max(y for _, y in places.values()) + _HEIGHT + _MARGIN
    lines = [_edge(places[start], places[end]) for start, end in edges]
    wrong = {problem.stage for problem in problems}
    nodes = [
        _node(step, places[step.stage], step.stage in wrong, link) for step in found.forwards()
    ]
    label = escape(f"{len(nodes)} stages from raw data to {found.target}", quote=True)
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}">\n' + "\n".join([*lines, *nodes]) + "\n</svg>"
    )


def _edges(found: Trace) -> list[tuple[str, str]]:
    """From each stage to those that read it, without those that a longer way implies."""
    before: dict[str, set[str]] = {}  # all stages on the way to a stage
    edges = []
    for step in found.forwards():
        direct = {name for name in step.after if name in before and name != step.stage}
        implied = set().union(*(before[name] for name in direct))
        edges += [(name, step.stage) for name in sorted(direct - implied)]
        before[step.stage] = direct | implied
    return edges


def _cells(found: Trace, edges: Sequence[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Column and row of every stage: below what it reads, in the same column where that is free."""
    parents: dict[str, list[str]] = {step.stage: [] for step in found.forwards()}
    for start, end in edges:
        parents[end].append(start)
    rows: dict[str, int] = {}
    for name, above in parents.items():
        rows[name] = 1 + max((rows[parent] for parent in above), default=-1)
    columns: dict[str, int] = {}
    for row in range(max(rows.values()) + 1):
        wanted = {
            name: min((columns[parent] for parent in parents[name]), default=0)
            for name in parents
            if rows[name] == row
        }
        free = 0
        for name in sorted(wanted, key=lambda name: (wanted[name], name)):
            columns[name] = max(free, wanted[name])
            free = columns[name] + 1
    return {name: (columns[name], rows[name]) for name in parents}


def _edge(start: tuple[float, float], end: tuple[float, float]) -> str:
    x, y = start[0] + _WIDTH / 2, start[1] + _HEIGHT
    to_x, to_y = end[0] + _WIDTH / 2, end[1]
    bend = _GAP_Y / 2
    return f'<path d="M{x:g} {y:g}C{x:g} {y + bend:g} {to_x:g} {to_y - bend:g} {to_x:g} {to_y:g}"/>'


def _node(step: Step, place: tuple[float, float], wrong: bool, link: str) -> str:
    x, y = place
    middle = x + _WIDTH / 2
    instance = step.stage.partition("@")[2] or "all"
    shown = instance if len(instance) <= 26 else instance[:25] + "…"
    target = escape(f"{link}{_anchor(step.stage)}", quote=True)
    return (
        f'<a href="{target}" class="{"bad" if wrong else "stage"}">'
        f"<title>{escape(step.stage)}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
        f'<text x="{middle:g}" y="{y + 19:g}" text-anchor="middle">{escape(step.name)}</text>'
        f'<text class="sub" x="{middle:g}" y="{y + 35:g}" text-anchor="middle">'
        f"{escape(shown)}</text></a>"
    )


def _anchor(stage: str) -> str:
    return "stage-" + re.sub(r"[^A-Za-z0-9_.-]", "_", stage)


def _section(step: Step, problems: Sequence[Problem]) -> str:
    mine = [problem for problem in problems if problem.stage == step.stage]
    rows = [("command", f"<code>{escape(step.command)}</code>")]
    rows += [("differs", f'<span class="bad">{escape(str(problem))}</span>') for problem in mine]
    rows += [("read", _file(path, md5)) for path, md5 in step.inputs.items()]
    rows += [("wrote", _file(path, md5)) for path, md5 in step.outputs.items()]
    rows += [
        ("params", f"<code>{escape(key)} = {escape(json.dumps(value))}</code>")
        for key, value in step.params.items()
    ]
    rows += _run_rows(step)
    code = "".join(f"<li>{_file(path, md5)}</li>" for path, md5 in step.code.items())
    table = "".join(f"<tr><th scope=row>{name}</th><td>{cell}</td></tr>" for name, cell in rows)
    return (
        f'<section id="{_anchor(step.stage)}"><h2>{escape(step.stage)}</h2>'
        f"<table>{table}</table>"
        f"<details><summary>Code: {len(step.code)} files</summary><ul>{code}</ul></details>"
        "</section>"
    )


def _file(path: str, md5: str) -> str:
    return f'{escape(path)} <code class="soft">{escape(md5[:12])}</code>'


def _run_rows(step: Step) -> list[tuple[str, str]]:
    record = step.record
    if record is None:
        return [("run", '<span class="soft">no record on this machine</span>')]
    git = record["git"]
    verdict = record.get("validation")
    facts = {
        "when": f"{record['started']}, {record['seconds']:.1f} s, {record.get('ran_by') or ''}",
        "restored": f"by DVC from its cache; produced by {step.twin}" if step.twin else None,
        "reused": record.get("trained_by") if record.get("reused") else None,
        "trained with": ", ".join(record.get("trained_with") or ()) or None,
        "flow run": record.get("flow_run"),
        "commit": f"{git.get('commit')}{' with changes' if git.get('dirty') else ''}",
        "device": record.get("device"),
        "seed": record.get("seed"),
        "data": None if not verdict else "valid" if verdict["success"] else "NOT valid",
        "numerics": ", ".join(f"{k} {v}" for k, v in (record.get("numerics") or {}).items()),
        "versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items()),
        "record": record["file"],
    }
    return [(name, escape(str(value))) for name, value in facts.items() if value not in (None, "")]
