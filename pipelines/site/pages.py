"""Renders the pages of the report from what :mod:`pipelines.site.gather` finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ldebm.files import write_text
from pipelines.site import specs
from pipelines.site.charts import colour, library
from pipelines.site.comparing import files, index
from pipelines.site.gather import gather, number
from pipelines.site.plots import write_plots

__all__ = ["build", "embedded"]

TEMPLATES = Path(__file__).parent / "templates"
PAGES = (
    ("index.html", "Results"),
    ("compare.html", "Compare"),
    ("data.html", "Data"),
    ("lineage.html", "Lineage"),
)


def build(root: Path = Path()) -> None:
    """Writes ``root/site``, the whole of it or nothing; all text is escaped."""
    content = gather(root)
    environment = _environment()
    part = root / ".site.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        for file, _ in PAGES:
            page = environment.get_template(file).render(
                **content, line_spec=json.loads(specs.lines()), pages=PAGES, here=file, up=""
            )
            write_text(part / file, page)
        staged = {node.stage for node in content["stages"]}
        for item in content["runs"]:
            page = environment.get_template("run.html").render(
                run=item,
                pages=PAGES,
                here="",
                up="../",
                staged=f"evaluate@{item['anchor']}" in staged,
            )
            write_text(part / "runs" / f"{item['anchor']}.html", page)
            for figure in item["figures"]:
                (part / "figures").mkdir(exist_ok=True)
                shutil.copyfile(figure["path"], part / "figures" / figure["file"])
        runs = [(item["experiment"], item["seed"]) for item in content["runs"]]
        write_plots(runs, root, part / "plots")
        shutil.copytree(TEMPLATES / "assets", part / "assets")
        write_text(part / "assets" / "vega.js", library())
        for place, group in enumerate(files(content["comparison"])):
            write_text(part / "compare" / f"{place}.js", f"compared({embedded(group)});\n")
        shutil.rmtree(root / "site", ignore_errors=True)
        part.rename(root / "site")
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "svg": Markup,
        "number": number,
        "signed": lambda value: f"{value:+.4g}",
        "spread": _spread,
        "duration": _duration,
        "compact": lambda value: value if isinstance(value, str) else json.dumps(value),
        "colour": colour,
        "embedded": embedded,
        "index": index,
    }
    return environment


def embedded(content: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element or start another.

    Example:
        >>> print(embedded({"a": "</script><b>"}))
        {"a":"\\u003c/script\\u003e\\u003cb\\u003e"}
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _duration(seconds: float) -> str:
    """Seconds as they are read.

    Example:
        >>> [_duration(seconds) for seconds in (0.31, 95, 3600)]
        ['0.3 s', '1 min 35 s', '1 h']
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest if not hours else 0, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or f"{seconds:.1f} s"


def _spread(cell: str) -> Markup:
    """A median, with the range of its seeds on a line below."""
    middle, bracket, rest = cell.partition(" [")
    if not bracket:
        return escape(cell)
    return Markup('{}<span class="spread">[{}</span>').format(middle, rest)
