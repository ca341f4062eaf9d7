"""What the pages show, gathered from models/, reports/, results/ and dvc.lock as plain values.

Charts, and strings under a key that ends in ``svg``, are drawings made here, with their text
escaped; the templates escape every other string.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldebm.files import read_json
from pipelines.lineage.graph import lineage_svg, steps_of_runs
from pipelines.results.paper_tables import beside_the_paper
from pipelines.results.published import PUBLISHED
from pipelines.results.recorded import load_results
from pipelines.site.comparing import comparison_data
from pipelines.site.front import own_card, recorded_tables
from pipelines.site.run import run_page

__all__ = ["gather", "number"]

EXAMPLES = 5  # offending values that are shown of a failed expectation


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
            _validation(path) for path in sorted(root.glob("reports/validation/*/report.json"))
        ],
        "tables": recorded_tables(runs),
        "papers": _papers(runs),
        "stages": steps,
        "lineage_svg": lineage_svg(steps) if steps else "",
        "comparison": comparison_data(root),
    }


def _validation(path: Path) -> dict[str, Any]:
    """Verdict on a data set, and its expectations, those that failed first."""
    report = read_json(path)
    rows = [_expectation(item) for item in report.get("results", [])]
    return {
        "data": path.parts[-2],
        "kind": report.get("kind", ""),
        "success": report["success"],
        "notes": report.get("notes", []),
        "failed": [row for row in rows if not row["success"]],
        "rows": sorted(rows, key=lambda row: (row["success"], row["frame"], row["column"])),
    }


def _expectation(item: Mapping[str, Any]) -> dict[str, Any]:
    observed = item.get("observed") or {}
    rule = ", ".join(f"{key} {value}" for key, value in sorted((item.get("rule") or {}).items()))
    return {
        "frame": item["frame"],
        "column": item["column"],
        "expectation": str(item["expectation"]).removeprefix("expect_").replace("_", " "),
        "rule": rule.replace("_", " "),
        "success": bool(item["success"]),
        "checked": observed.get("element_count"),
        "unexpected": observed.get("unexpected_count"),
        "examples": [str(v) for v in observed.get("partial_unexpected_list", [])[:EXAMPLES]],
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
