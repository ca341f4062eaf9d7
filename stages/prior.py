"""Stage prior: trains the prior on the frozen backbone, or both together (scheme joint).

Reads data/bound/E.json, the backbone and the latents; writes models/E/S/prior with the complete
model.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.config import load_params
from ldebm.data.packed import open_bound
from ldebm.devices import choose_device
from ldebm.lineage import recorded
from ldebm.parallel import parallel
from ldebm.training import prior_stage
from stages._entry import arguments, run


def main() -> None:
    """Trains one prior."""
    options = arguments(__doc__, "experiment", "seed")
    params = load_params(options.params)
    config = params.experiment(options.experiment)
    bound = Path("data/bound") / f"{options.experiment}.json"
    folder = Path("models") / options.experiment / str(options.seed)
    with parallel(), recorded(
        f"prior@{options.experiment}-{options.seed}",
        inputs=[bound, folder / "backbone" / "model.safetensors", folder / "latents.parquet"],
        outputs=[folder / "prior"],
        params=config.prior.model_dump(mode="json"),
        seed=options.seed,
    ) as record:
        record.device = choose_device(config.prior.training.device)
        name, packed = options.experiment, open_bound(bound)
        prior_stage(config, packed, options.seed, folder, name, params.run.epochs)


if __name__ == "__main__":
    run(main)
