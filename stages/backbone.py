"""Stage backbone: trains the first stage of an experiment.

Reads data/bound/E.json; writes models/E/S/backbone/{model.safetensors, curve.csv, validation.csv,
metrics.json}.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.data.packed import open_bound
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.parallel import parallel
from stages._entry import arguments, parameters, run


def main() -> None:
    """Trains one backbone."""
    options = arguments(__doc__, "experiment", "seed")
    params = parameters(options)
    config = params.experiment(options.experiment)
    packed = open_bound(Path("data/bound") / f"{options.experiment}.json")
    folder = Path("models") / options.experiment / str(options.seed)
    with parallel():
        build_backbone_stage(config, packed, options.seed, folder / "backbone", params.run.epochs)


if __name__ == "__main__":
    run(main)
