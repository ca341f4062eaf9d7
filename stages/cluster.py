"""Stage cluster: encodes all rows and gives the training rows their class labels.

Reads data/bound/E.json and the backbone; writes models/E/S/latents.parquet.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.config import load_params
from ldebm.data.packed import open_bound
from ldebm.devices import choose_device
from ldebm.lineage import recorded
from ldebm.training import cluster_stage
from stages._entry import arguments, run


def main() -> None:
    """Labels the latents of one run."""
    options = arguments(__doc__, "experiment", "seed")
    config = load_params(options.params).experiment(options.experiment)
    bound = Path("data/bound") / f"{options.experiment}.json"
    folder = Path("models") / options.experiment / str(options.seed)
    with recorded(
        f"cluster@{options.experiment}-{options.seed}",
        inputs=[bound, folder / "backbone" / "model.safetensors"],
        outputs=[folder / "latents.parquet"],
        params=config.cluster.model_dump(mode="json") | {"classes": config.prior.classes},
        seed=options.seed,
    ) as record:
        record.device = choose_device(config.backbone.training.device)
        packed = open_bound(bound)
        cluster_stage(config, packed, options.seed, folder / "backbone", folder / "latents.parquet")


if __name__ == "__main__":
    run(main)
