"""The lineage graph as one HTML page: inline SVG and style, no script, no request, text escaped.

Stages stand below what they read, raw data first, so that the usual way (a chain) fits the width
of a phone; wider graphs scroll sideways inside their frame. Every node is a link to the stage's
section below.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from pipelines.lineage.graph import lineage_svg
from pipelines.lineage.trace import Step, Trace
from pipelines.lineage.verify import Problem

__all__ = ["lineage_page"]

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
  stroke-width: 3; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .stage { fill: var(--ink); font-size: 13px; } svg path { fill: none; stroke: var(--line); }
svg a:focus-visible rect, svg a:hover rect { stroke: var(--link); stroke-width: 3; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
code, td, li { overflow-wrap: anywhere; } code { font-size: .85rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; table-layout: fixed; }
th, td { text-align: left; vertical-align: top; padding: .2rem .5rem .2rem 0; }
th { width: 5.5rem; color: var(--soft); font-weight: normal; }
.bad { color: var(--bad); } .good { color: var(--good); } .soft { color: var(--soft); }
"""


def lineage_page(lineage: Trace, problems: Sequence[Problem] | None = None) -> str:
    """The page.

    Args:
        lineage: of :func:`pipelines.lineage.trace.trace`.
        problems: of :func:`pipelines.lineage.verify.verify`; None says that nothing was checked.
    """
    wrong = {problem.stage for problem in problems or []}
    title = f"Lineage of {lineage.target}" + (f" at {lineage.revision}" if lineage.revision else "")
    sections = "\n".join(_section(step, problems or []) for step in lineage.forwards())
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
{_verdict(lineage, problems)}
<figure>
{lineage_svg(lineage.forwards(), wrong, down=True)}
</figure>
{sections}
</main>
</body>
</html>
"""


def _verdict(lineage: Trace, problems: Sequence[Problem] | None) -> str:
    if problems is None:
        return '<p class="soft">Not checked: the files are those of another revision.</p>'
    if not problems:
        return f'<p class="good">{len(lineage.steps)} stages verified, nothing differs.</p>'
    items = "".join(f"<li>{escape(str(problem))}</li>" for problem in problems)
    return f'<p class="bad">{len(problems)} things differ:</p><ul class="bad">{items}</ul>'


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
        f'<section id="{step.anchor}"><h2>{escape(step.stage)}</h2>'
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
