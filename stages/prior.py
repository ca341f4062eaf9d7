"""Stage prior: trains the prior on the frozen backbone, or both together (scheme joint).

Reads data/bound/E.json, the backbone and the latents; writes models/E/S/prior with the complete
model.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.data.packed import open_bound
from ldebm.training.parallel import parallel
from ldebm.training.second_stage import prior_stage
from stages._entry import arguments, parameters, run


def main() -> None:
    """Trains one prior."""
    options = arguments(__doc__, "experiment", "seed")
    params = parameters(options)
    config = params.experiment(options.experiment)
    packed = open_bound(Path("data/bound") / f"{options.experiment}.json")
    folder = Path("models") / options.experiment / str(options.seed)
    name, epochs = options.experiment, params.run.epochs
    with parallel():
        prior_stage(config, packed, options.seed, folder, name, epochs)


if __name__ == "__main__":
    run(main)
