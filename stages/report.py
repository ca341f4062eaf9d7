"""Stage report: a static page of everything that was built and recorded.

Reads models/ (curves), reports/ (metrics, samples, figures, validation) and results/; writes
site/index.html. The page needs no server and no network, and holds no times: it is byte-stable.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ldebm.charts import line_chart
from ldebm.files import write_text
from ldebm.report import gather, number
from stages._entry import arguments, run


def build(root: Path = Path()) -> None:
    """Writes ``root/site/index.html``; all text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["chart"] = lambda series: Markup(line_chart(series))
    environment.filters["number"] = number
    page = environment.get_template("report.html").render(gather(root))
    write_text(root / "site" / "index.html", page)


def main() -> None:
    """Builds the page."""
    arguments(__doc__)
    build()


if __name__ == "__main__":
    run(main)
