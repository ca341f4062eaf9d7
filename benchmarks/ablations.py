"""Ablations of image priors over diffusion steps T and Langevin moves K, with the time to sample.

    make repro RUN=digits-ablation SEEDS=0,1,2
    python -m benchmarks.ablations digits-ablation

Reads the models and metrics of a group of experiments that are built here, times the sampling of
every model (prior and decoder, after a first draw that is not counted), and writes
results/ablation-GROUP.json, of which ``make results`` makes a table (Cui and Han (2024), table 3).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch

import ldebm
from benchmarks.timing import alternating
from ldebm.config import nearest
from ldebm.errors import LdebmError, UsageError
from ldebm.files import read_json, write_json
from ldebm.seeding import configure, numerics
from pipelines.library import Library
from pipelines.lineage.records import records
from pipelines.results.glossary import present_names

__all__ = ["measure", "rows_of"]

METRICS = (
    "fid_classifier",
    "fid_classifier_gaussian",
    "fid",
    "fid_gaussian",
    "classifier_confidence",
)
REPEATS = 3


def rows_of(group: str, root: Path = Path()) -> list[tuple[str, int]]:
    """The built (experiment, seed) pairs of a group.

    Raises:
        UsageError: there is no such group, or nothing of it is built.
    """
    groups = Library(root).groups
    if group not in groups:
        raise UsageError(f"group {group!r} is not in conf/groups.yaml{nearest(group, groups)}")
    rows = []
    for name in groups[group]:
        for path in root.glob(f"reports/{name}/*/metrics.json"):
            seed = path.parts[-2]
            if (root / "models" / name / seed / "prior" / "model.safetensors").is_file():
                rows.append((name, int(seed)))
    if not rows:
        raise UsageError(f"nothing of {group} is built here; `make repro RUN={group}` builds it")
    return sorted(rows, key=lambda row: (groups[group].index(row[0]), row[1]))


def measure(experiment: str, seed: int, samples: int, root: Path = Path()) -> dict[str, Any]:
    """One model: T, K, its metrics, and the seconds that it takes to sample and to train."""
    model = ldebm.load(root / "models" / experiment / str(seed))
    prior = model.config.prior
    sampler = prior.sampler
    levels = prior.levels if prior.kind == "diffusion" else 1
    moves = sampler.moves(levels)
    folder = root / "reports" / experiment / str(seed)
    metrics = present_names(read_json(folder / "metrics.json"))

    def work() -> None:
        drawn = model.decode(model.sample_latents(samples, seed=seed), "greedy")
        assert len(drawn) == samples
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    seconds = alternating({"sample": work}, REPEATS)["sample"].summary()["median"]
    stage = f"prior@{experiment}-{seed}"
    training = [record["seconds"] for record in records(root) if record["stage"] == stage]
    return {
        "experiment": experiment,
        "seed": seed,
        "kind": prior.kind,
        "levels": levels,
        "moves": moves,
        "metrics": {name: metrics[name] for name in METRICS if name in metrics},
        "seconds_per_1000": 1000 * seconds / samples,
        "training_seconds": training[0] if training else None,
        "device": str(model.device),
    }


def main() -> int:
    """Measures a group and writes its file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", help="of conf/groups.yaml, for example digits-ablation")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    configure(options.threads)
    try:
        rows = []
        for experiment, seed in rows_of(options.group):
            rows.append(measure(experiment, seed, options.samples))
            print(f"{experiment} {seed}: {rows[-1]['seconds_per_1000']:.3g} s per 1000", flush=True)
        machine = numerics(torch.device("cpu")) | {"load": os.getloadavg()[0]}
        content = {"group": options.group, "samples": options.samples, "rows": rows}
        write_json(f"results/ablation-{options.group}.json", content | {"machine": machine})
    except LdebmError as error:
        print(f"benchmarks.ablations: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
