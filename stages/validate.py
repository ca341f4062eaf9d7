"""Stage validate: checks data/prepared/NAME and writes reports/validation/NAME.

Always exits 0, so that DVC keeps the report of failing data; whoever reads the data asks
the report first. ``docs/index.html`` shows the same results to people, and ``docs/facts.json`` has
what the site shows beside them.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path
from typing import Any

from ldebm.data.limits import measured
from ldebm.files import write_json, write_text
from stages._entry import arguments, parameters, run

STYLE = """body{font:1rem/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem;vertical-align:top;
border-bottom:1px solid #8888}:root{color-scheme:light dark}.failed{font-weight:bold}"""


def main() -> None:
    """Validates one data set."""
    options = arguments(__doc__, "data")
    name = options.data
    config = parameters(options).dataset(name)
    from stages.data_facts import data_facts
    from stages.expectations import validate

    prepared = Path("data/prepared") / name
    facts = measured(prepared, config)
    report = validate(prepared, config, facts)
    folder = Path("reports/validation") / name
    write_json(folder / "report.json", report)
    write_text(folder / "docs" / "index.html", page(name, report))
    write_json(folder / "docs" / "facts.json", data_facts(prepared, facts))
    for note in report["notes"]:
        print(f"warning: {name}: {note}", file=sys.stderr)
    if not report["success"]:
        print(f"{name}: {report['failed']} of {report['checked']} checks failed", file=sys.stderr)


def page(name: str, report: dict[str, Any]) -> str:
    """The report as one HTML page without outside references; failed checks come first."""
    verdict = "passed" if report["success"] else f"{report['failed']} failed"
    rows = []
    for item in sorted(report["results"], key=lambda item: item["success"]):
        word = "passed" if item["success"] else "failed"
        cells = [item["frame"], item["column"], item["expectation"], _rule(item["rule"])]
        cells.append(_observed(item["observed"]))
        texts = "".join(f"<td>{escape(str(cell))}</td>" for cell in cells)
        rows.append(f'<tr class="{word}"><td>{word}</td>{texts}</tr>')
    said = "".join(f"<p>Note: {escape(note)}.</p>\n" for note in report["notes"])
    heads = ("Result", "Data", "Column", "Expectation", "Rule", "Found")
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Validation of {escape(name)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Validation of {escape(name)}</h1>\n"
        f"<p>{escape(verdict)}, {report['checked']} checks of {escape(report['kind'])} "
        f"from {escape(report['source'])}.</p>\n{said}"
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table>"
        "\n</body></html>\n"
    )


def _rule(rule: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(rule.items()))


def _observed(observed: dict[str, Any]) -> str:
    unexpected = observed.get("unexpected_count", 0)
    text = f"{unexpected} of {observed.get('element_count', '?')} rows unexpected"
    examples = observed.get("partial_unexpected_list") or []
    return f"{text}, such as {examples[:5]}" if unexpected else text


if __name__ == "__main__":
    run(main)
