"""What the report shows, gathered from models/, reports/ and results/ as plain values."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from ldebm.charts import read_curve
from ldebm.files import read_json
from ldebm.published import PUBLISHED
from ldebm.results import by_experiment, flatten, load_results
from ldebm.tables import HEADLINE, summary

__all__ = ["gather", "number"]

SAMPLES = 40
FAILED = 20


def gather(root: Path = Path()) -> dict[str, Any]:
    """The runs, validation verdicts and result tables under ``root``, in a fixed order."""
    return {
        "runs": [_run(path.parent, root) for path in sorted(root.glob("reports/*/*/metrics.json"))],
        "validations": [
            _validation(path) for path in sorted(root.glob("reports/validation/*/report.json"))
        ],
        "tables": _tables(load_results(root)),
    }


def _run(folder: Path, root: Path) -> dict[str, Any]:
    """What the page shows of one experiment and seed."""
    experiment, seed = folder.parts[-2], folder.parts[-1]
    model = root / "models" / experiment / seed
    metrics = flatten(read_json(folder / "metrics.json"))
    config_file = model / "prior" / "config.json"
    config = read_json(config_file) if config_file.is_file() else {}
    return {
        "name": f"{experiment}, seed {seed}",
        "anchor": f"{experiment}-{seed}",
        "headline": {key: metrics[key] for key in HEADLINE if metrics.get(key) is not None},
        "metrics": dict(sorted(metrics.items())),
        "params": flatten(config.get("config", config)),
        "curves": {
            stage: [
                series
                for name in ("curve.csv", "validation.csv")
                if (model / stage / name).is_file()
                for series in read_curve(model / stage / name)
            ]
            for stage in ("backbone", "prior")
        },
        "samples": _samples(folder),
        "figures": [
            (path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode())
            for path in sorted(folder.rglob("*.png"))
        ],
    }


def _samples(folder: Path) -> list[dict[str, str]]:
    """The first samples of the run, each with its class where it has one."""
    paths = sorted(folder.rglob("samples.jsonl"))
    if not paths:
        return []
    rows = [
        json.loads(line) for line in paths[0].read_text(encoding="utf-8").splitlines()[:SAMPLES]
    ]
    shown = []
    for row in rows:
        text = row.get("text", row.get("x"))
        label = row.get("label", row.get("class", ""))
        shown.append({"label": str(label), "text": text if isinstance(text, str) else str(text)})
    return shown


def _validation(path: Path) -> dict[str, Any]:
    """Verdict on a data set, its failed expectations and the page that shows them all."""
    report = read_json(path)
    failed = [item for item in report.get("results", []) if not item["success"]]
    lines = [f"{item['frame']}.{item['column']}: {item['expectation']}" for item in failed]
    docs = path.parent / "docs" / "index.html"
    return {
        "data": path.parts[-2],
        "success": report["success"],
        "failed": lines[:FAILED],
        "link": f"../reports/validation/{path.parts[-2]}/docs/index.html" if docs.is_file() else "",
    }


def _tables(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recorded runs by data set, with the papers' rows below."""
    tables = []
    for data in sorted({str(run["params"]["data"]) for run in runs}):
        groups = by_experiment([run for run in runs if run["params"]["data"] == data])
        published = PUBLISHED.get(data)
        columns = [key for key in HEADLINE if any(summary(mine, key) for mine in groups.values())]
        columns += [key for key in (published.metrics if published else ()) if key not in columns]
        rows = [
            (name, False, [str(len(mine)), *(summary(mine, key) for key in columns)])
            for name, mine in groups.items()
        ]
        for row in published.rows if published else ():
            values = published.values(row) if published else {}
            rows.append((row[0], True, ["", *(number(values.get(key)) for key in columns)]))
        tables.append(
            {
                "data": data,
                "columns": ["seeds", *columns],
                "rows": rows,
                "note": published.note if published else "",
            }
        )
    return tables


def number(value: Any) -> str:
    """A value as the tables show it: four digits, empty for none."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
