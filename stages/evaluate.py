"""Stage evaluate: every metric of a trained model on the test split.

Reads data/bound/E.json, data/bound/E.measure.json and models/E/S/prior; writes
reports/E/S/metrics.json, the few of them that DVC shows to summary.json beside it, and samples,
tables and figures to reports/E/S/details.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ldebm.api import load
from ldebm.data.packed import open_bound, open_measure
from ldebm.evaluate.figures import draw_figures
from ldebm.evaluate.plugged import add_metrics
from ldebm.evaluate.summary import summary_of
from ldebm.files import write_json
from ldebm.seeding import configure
from stages._entry import arguments, parameters, run


def main() -> None:
    """Evaluates one model."""
    options = arguments(__doc__, "experiment", "seed")
    config = parameters(options).experiment(options.experiment).evaluate
    bound = Path("data/bound") / f"{options.experiment}.json"
    folder = Path("models") / options.experiment / str(options.seed) / "prior"
    out = Path("reports") / options.experiment / str(options.seed)
    configure(config.threads)
    model = load(folder / "model.safetensors", config.device)
    measure = open_measure(bound.with_suffix(".measure.json"))
    snapshots = folder / "snapshots.safetensors"
    packed = open_bound(bound)
    report = model.evaluate(packed, config, measure, snapshots)
    added = add_metrics(report, model, packed, config)
    shutil.rmtree(out / "details", ignore_errors=True)
    report.write(out / "metrics.json", out / "details")
    draw_figures(report, out / "details")
    write_json(out / "summary.json", summary_of(model, packed, report.metrics) | added)


if __name__ == "__main__":
    run(main)
