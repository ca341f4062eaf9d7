"""Stage cluster: encodes all rows and gives the training rows their class labels.

Reads data/bound/E.json and the backbone; writes models/E/S/latents.parquet.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.data.packed import open_bound
from ldebm.training.labelling import cluster_stage
from stages._entry import arguments, parameters, run


def main() -> None:
    """Labels the latents of one run."""
    options = arguments(__doc__, "experiment", "seed")
    config = parameters(options).experiment(options.experiment)
    packed = open_bound(Path("data/bound") / f"{options.experiment}.json")
    folder = Path("models") / options.experiment / str(options.seed)
    target = folder / "latents.parquet"
    cluster_stage(config, packed, options.seed, folder / "backbone", target)


if __name__ == "__main__":
    run(main)
