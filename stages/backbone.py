"""Stage backbone: trains the first stage of an experiment.

Reads data/bound/E.json; writes models/E/S/backbone/{model.safetensors, curve.csv, validation.csv,
metrics.json}.
"""

from __future__ import annotations

from pathlib import Path

from ldebm.config import load_params
from ldebm.data.packed import open_bound
from ldebm.devices import choose_device
from ldebm.lineage import recorded
from ldebm.parallel import parallel
from ldebm.training import build_backbone_stage
from stages._entry import arguments, run


def main() -> None:
    """Trains one backbone."""
    options = arguments(__doc__, "experiment", "seed")
    params = load_params(options.params)
    config = params.experiment(options.experiment)
    bound = Path("data/bound") / f"{options.experiment}.json"
    out = Path("models") / options.experiment / str(options.seed) / "backbone"
    with parallel(), recorded(
        f"backbone@{options.experiment}-{options.seed}",
        inputs=[bound],
        outputs=[out],
        params=config.backbone.model_dump(mode="json"),
        seed=options.seed,
    ) as record:
        record.device = choose_device(config.backbone.training.device)
        build_backbone_stage(config, open_bound(bound), options.seed, out, params.run.epochs)


if __name__ == "__main__":
    run(main)
