"""Valid NLL of the priors of one backbone, on the same draws of the same test rows.

    make repro RUN=chatter-priors SEEDS=0,1,2,3,4
    python -m benchmarks.likelihoods chatter-priors

Reads the models of a group of experiments that are built here. For every seed all of them must have
the same backbone; its decoder is asked once for every draw, and every prior weighs that draw.
Writes the NLL of every row to results/likelihoods-GROUP.json after every seed; docs/protocol.md
says when ``make results`` compares them.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ldebm
from benchmarks.recorded import circumstances
from ldebm.config import MixtureConfig, nearest
from ldebm.data.batches import row_batches
from ldebm.data.packed import open_bound
from ldebm.errors import LdebmError, UsageError
from ldebm.evaluate.likelihood import LikelihoodSettings, likelihood
from ldebm.evaluate.priors import fit_densities
from ldebm.evaluate.report import subset
from ldebm.files import read_json, read_parquet, write_json
from ldebm.model import Model
from ldebm.priors import Posteriors
from ldebm.priors.mixture import Mixture
from ldebm.seeding import configure
from pipelines.library import Library
from pipelines.lineage.records import records

__all__ = ["facts", "measure"]


def built(group: str, seed: int, root: Path = Path()) -> dict[str, Model]:
    """The built models of a group.

    Raises:
        UsageError: there is no such group, nothing of it is built, or the backbones differ.
    """
    groups = Library(root).groups
    if group not in groups:
        raise UsageError(f"group {group!r} is not in conf/groups.yaml{nearest(group, groups)}")
    models = {}
    for name in groups[group]:
        folder = root / "models" / name / str(seed)
        if (folder / "prior" / "model.safetensors").is_file():
            models[name] = ldebm.load(folder)
    if not models:
        raise UsageError(
            f"{group}, seed {seed}: nothing is built here; "
            f"`make repro RUN={group} SEEDS={seed}` builds it"
        )
    first, *others = models.values()
    weights: dict[str, torch.Tensor] = first.backbone.state_dict()
    for other in others:
        same = other.backbone.state_dict()
        if weights.keys() != same.keys() or not all(
            torch.equal(weights[key], same[key]) for key in weights
        ):
            raise UsageError(
                f"{other.experiment}, seed {seed}: its backbone is not that of {first.experiment}; "
                "priors are compared on one backbone (docs/protocol.md)"
            )
    return models


def facts(model: Model, seed: int, known: list[dict[str, Any]]) -> dict[str, Any]:
    """Settings, their hash, length and cost of the prior of a model; ``known``: all records."""
    stage = f"prior@{model.experiment}-{seed}"
    record = next((item for item in known if item["stage"] == stage), {})
    folder = Path("models") / model.experiment / str(seed) / "prior"
    # Records of interrupted trainings once knew the time of their last part alone.
    in_part = "resumed_at" in record and "cpu_seconds_before" not in record
    return {
        "kind": model.config.prior.kind,
        "description": model.config.description,
        "settings": model.config.training_hash,
        "training": model.config.prior.training.model_dump(mode="json"),
        "updates": read_json(folder / "metrics.json").get("updates"),
        "cpu_seconds": None if in_part else record.get("cpu_seconds"),
        "commit": record.get("git", {}).get("commit"),
        "dirty": record.get("git", {}).get("dirty"),
    }


def close_mixture(model: Model, seed: int, folder: Path) -> Mixture:
    """A mixture of z fitted to the latents that the priors were trained on, for their proposals."""
    table = read_parquet(folder / "latents.parquet")
    train, valid = (Posteriors.of(table, split) for split in (0, 1))
    settings = model.config.evaluate.mixture or MixtureConfig()
    return fit_densities(train, valid, seed, settings).mixture


def measure(
    models: dict[str, Model], seed: int, rows: int | None, draws: int, inner: int
) -> dict[str, Any]:
    """NLL of test rows under every model's prior, N(0, I) beside them.

    Args:
        models: of one backbone.
        seed: of the draws.
        rows: how many test rows; ``None``: all.
        draws: trajectories a row.
        inner: draws of every normaliser.

    Returns:
        ``rows`` (ids) and ``priors``: name -> bounds, diagnostics and the NLL of every row.
    """
    first = next(iter(models.values()))
    packed = open_bound(Path("data/bound") / f"{first.experiment}.json")
    split = packed.split("test")
    chosen = subset(split.n, rows or split.n, seed, "evaluate-rows")
    ordered, batches = row_batches(split, chosen, 4, first.device)
    energies = {
        name: model.prior.energies
        for name, model in models.items()
        if model.prior.energies is not None
    }
    exact: dict[str, Any] = {
        name: model.prior.log_prob for name, model in models.items() if name not in energies
    }
    exact["standard_normal"] = standard_normal
    # The draws are those of the first prior with energies, whose level 0 may be a little noisy.
    leader = next(iter(energies), next(iter(models)))
    rivals = {name: prior for name, prior in energies.items() if name != leader}
    settings = LikelihoodSettings(draws, inner, seed=seed)
    prior = models[leader].prior
    others = {name: density for name, density in exact.items() if name != leader}
    folder = Path("models") / first.experiment / str(seed)
    estimates = likelihood(
        first.backbone, prior, batches, settings, others, rivals=rivals,
        proposal=close_mixture(first, seed, folder),
    )  # fmt: skip
    estimates = {leader if name == "prior" else name: part for name, part in estimates.items()}
    names = [*models, "standard_normal"]
    return {
        "rows": [int(value) for value in split.id[ordered]],
        "test_rows": split.n,
        "priors": {
            name: estimates[name].metrics()
            | {"row_nll": np.round(estimates[name].nll_B, 3).tolist()}
            for name in names
        },
    }


def standard_normal(z_ND: torch.Tensor) -> torch.Tensor:
    """log N(z; 0, I), shape (N,)."""
    constant = z_ND.shape[1] * math.log(2 * math.pi)
    return -0.5 * (z_ND.double().square().sum(-1) + constant)


def seeds(text: str) -> list[int]:
    """Integers between commas."""
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the seeds of a group and writes its file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", help="of conf/groups.yaml, for example chatter-priors")
    parser.add_argument("--seeds", type=seeds, default=[0], help="of the runs, for example 0,1,2")
    parser.add_argument("--rows", type=int, help="test rows; by default all")
    parser.add_argument("--draws", type=int, default=500, help="trajectories a row")
    parser.add_argument("--inner", type=int, default=64, help="draws of a normaliser")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    configure(options.threads)
    path = Path("results") / f"likelihoods-{options.group}.json"
    try:
        known = records()
        for seed in options.seeds:
            begun = time.process_time()
            models = built(options.group, seed)
            row = measure(models, seed, options.rows, options.draws, options.inner)
            for name, model in models.items():
                row["priors"][name] |= facts(model, seed, known)
            row |= {"draws": options.draws, "inner": options.inner}
            row |= {"cpu_seconds": round(time.process_time() - begun, 1), **circumstances()}
            content = read_json(path) if path.is_file() else {"group": options.group}
            content["seeds"] = {**content.get("seeds", {}), str(seed): row}
            write_json(path, content)
            for name, part in row["priors"].items():
                number = f"{part['nll']:.3f} ± {part['nll_se']:.3f}" if "nll" in part else "refused"
                print(f"{seed} {name}: {number}", flush=True)
    except LdebmError as error:
        print(f"benchmarks.likelihoods: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
