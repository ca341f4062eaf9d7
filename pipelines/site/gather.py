"""What the pages show, gathered from models/, reports/, results/ and dvc.lock as plain values.

Charts, and strings under a key that ends in ``svg``, are drawings made here, with their text
escaped; the templates escape every other string.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.lineage.graph import lineage_svg, steps_of_runs
from pipelines.results.paper_tables import beside_the_paper
from pipelines.results.published import PUBLISHED
from pipelines.results.recorded import load_results
from pipelines.site.comparing import comparison_data
from pipelines.site.data import data_section
from pipelines.site.front import own_card, recorded_tables
from pipelines.site.run import run_page

__all__ = ["gather", "number"]


def gather(root: Path = Path()) -> dict[str, Any]:
    """Everything that the site shows of ``root``, in a fixed order."""
    folders = [path.parent for path in root.glob("reports/*/*/metrics.json")]
    folders = [folder for folder in folders if folder.name.isdecimal()]
    folders.sort(key=lambda folder: (folder.parent.name, int(folder.name)))
    runs = load_results(root)
    pages = [run_page(folder, root) for folder in folders]
    here: dict[str, str] = {}
    for page in pages:
        here.setdefault(page["experiment"], f"runs/{page['anchor']}.html")
    steps = steps_of_runs(root, [f"{item.parent.name}-{item.name}" for item in folders])
    return {
        "runs": pages,
        "cards": [own_card(page) for page in pages],
        "places": {run["experiment"]: f"compare.html?a={run['experiment']}" for run in runs} | here,
        "validations": [
            data_section(path) for path in sorted(root.glob("reports/validation/*/report.json"))
        ],
        "tables": recorded_tables(runs),
        "papers": _papers(runs),
        "stages": steps,
        "executions": _executions(pages),
        "lineage_svg": lineage_svg(steps) if steps else "",
        "comparison": comparison_data(root),
    }


def _executions(pages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stage -> seconds, device and commit, of runs whose metrics are the recorded ones."""
    return {
        f"{stage}@{page['anchor']}": {
            "seconds": seconds,
            "device": page["record"].get("device") or "an unknown device",
            "commit": (page["record"].get("commit") or "")[:12],
        }
        for page in pages
        for stage, seconds in page["record"].get("stage_seconds", {}).items()
    }


def _papers(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The papers' tables of which something is recorded, with our numbers beside theirs."""
    ran = {run["experiment"] for run in runs}
    tables = []
    for name, table in PUBLISHED.items():
        if ran & set(table.experiments):
            columns, rows = beside_the_paper(table, runs)
            tables.append(
                {
                    "anchor": f"paper-{name}",
                    "title": table.title,
                    "columns": columns,
                    "rows": rows,
                    "note": table.note,
                }
            )
    return tables


def number(value: Any) -> str:
    """A value as the tables show it: four digits, empty for none."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
