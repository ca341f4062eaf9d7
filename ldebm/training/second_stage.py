"""Second stage: trains the prior on a frozen backbone, or all together, and writes the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.assembly import build_prior, prior_task, refinement_task
from ldebm.backbones.base import Backbone
from ldebm.config import ExperimentConfig
from ldebm.data.packed import Packed
from ldebm.devices import choose_device
from ldebm.files import hash_path, read_parquet, write_json, write_model
from ldebm.model import save
from ldebm.priors import Prior
from ldebm.priors.hierarchical import OnGroups
from ldebm.seeding import configure, generator
from ldebm.training.first_stage import load_backbone
from ldebm.training.image_draws import draws_to_fit
from ldebm.training.inputs import PriorInputs
from ldebm.training.parallel import is_main
from ldebm.training.runs import CHECKPOINTS, run_key, with_length, write_curves
from ldebm.training.trainer import Task, TrainResult, train

__all__ = ["open_prior", "prior_stage", "snapshot_shares", "train_prior"]

SNAPSHOT_SHARES = (0.02, 0.1, 0.3, 1.0)  # of Yu et al. (2022), figure A2


def open_prior(
    config: ExperimentConfig, packed: Packed, seed: int, folder: Path, epochs: float | None = None
) -> PriorInputs:
    """Reads ``folder/{backbone, latents.parquet}`` and makes the prior; as for prior_stage."""
    section = config.prior
    section = section.model_copy(update={"training": with_length(section.training, epochs)})
    first = config.backbone
    first = first.model_copy(update={"training": with_length(first.training, epochs)})
    config = config.model_copy(update={"prior": section, "backbone": first})
    device = choose_device(section.training.device)
    configure(section.training.threads)
    latents = read_parquet(folder / "latents.parquet")
    labels: np.ndarray | None = latents["label"][latents["split"] == 0].astype(np.int64)
    if labels is not None and (labels < 0).all():
        labels = None
    backbone = load_backbone(folder / "backbone", config, packed).to(device)
    prior = build_prior(backbone, section, generator(seed, "prior-init")).to(device)
    files = [hash_path(folder / "backbone"), hash_path(folder / "latents.parquet")]
    dumped = config.model_dump(mode="json")
    parts = dumped["prior"], dumped["cluster"], files, seed, device.type
    code = [type(part).__module__ for part in (backbone, prior)]
    if (task := prior_task(config, prior, backbone)) is not None:
        code.append(task.__module__)
    key = run_key("prior", *parts, code=code)
    checkpoint = CHECKPOINTS / f"prior-{key}.pt"
    return PriorInputs(config, packed, seed, device, latents, labels, backbone, prior, checkpoint)


def snapshot_shares(packed: Packed) -> Sequence[float]:
    """Shares of the run at which the weights are kept."""
    return SNAPSHOT_SHARES if packed.kind == "points" else ()


def prior_stage(
    config: ExperimentConfig,
    packed: Packed,
    seed: int,
    folder: Path,
    name: str,
    epochs: float | None = None,
) -> None:
    """Second stage: reads ``folder/{backbone, latents.parquet}``, writes ``folder/prior``."""
    inputs = open_prior(config, packed, seed, folder, epochs)
    config, backbone, prior = inputs.config, inputs.backbone, inputs.prior
    run = partial(train, checkpoint=inputs.checkpoint, snapshots=snapshot_shares(packed))
    result = train_prior(inputs, run)
    if (refines := refinement_task(config)) is not None:
        result = _refine(refines.of(inputs), inputs)
    if not is_main():
        return
    dumped = config.model_dump(mode="json")
    header = {"experiment": name, "seed": seed, "config": dumped, "meta": packed.meta}
    _write_prior(folder / "prior", backbone, prior, result, header, packed)
    inputs.checkpoint.unlink(missing_ok=True)


def train_prior(inputs: PriorInputs, run: Callable[..., TrainResult]) -> TrainResult | None:
    """Trains the prior of ``inputs``, or fits what is only fitted, and gives it its weights.

    Args:
        inputs: all that it reads.
        run: trains a task: :func:`~ldebm.training.trainer.train`, or one that ends otherwise.
    """
    kind = prior_task(inputs.config, inputs.prior, inputs.backbone)
    if kind is None:
        _fit(inputs)
        return None
    task = kind.of(inputs)
    result = run(task, inputs.config.prior.training, title=kind.title)
    task.module.load_state_dict(result.state)
    return result


def _refine(task: Task, inputs: PriorInputs) -> TrainResult:
    """Trains on, prior and backbone together, from the weights that the second stage has left."""
    assert inputs.config.prior.refinement is not None
    training = inputs.config.prior.refinement.training
    checkpoint = inputs.checkpoint.with_name(f"refined-{inputs.checkpoint.name}")
    result = train(task, training, checkpoint, title="refinement")
    task.module.load_state_dict(result.state)
    checkpoint.unlink(missing_ok=True)
    return result


def _fit(inputs: PriorInputs) -> None:
    """Fits a prior that is not trained to the aggregate posterior."""
    prior, device = inputs.prior, inputs.device
    if isinstance(prior, OnGroups):
        prior.fit_draws(draws_to_fit(prior.backbone, inputs.train, inputs.seed, device))
    else:
        prior.fit(inputs.posteriors(0), inputs.posteriors(1), inputs.seed)


def _write_prior(
    out: Path,
    backbone: Backbone,
    prior: Prior,
    result: TrainResult | None,
    header: dict[str, Any],
    packed: Packed,
) -> None:
    tokenizer = None if packed.split("train").flat else packed.tokenizer
    save(out / "model.safetensors", backbone, prior, header, tokenizer)
    write_json(out / "config.json", header)
    metrics: dict[str, Any] = {"updates": result.updates if result else 0}
    if prior.energies is not None:
        metrics["acceptance"] = float(prior.energies.acceptance_T.mean())
        metrics["acceptance_min"] = float(prior.energies.acceptance_T.min())
    write_json(out / "metrics.json", metrics)
    write_curves(out, result)
    snapshots = result.snapshots if result else {}
    tensors = {f"{update}/{k}": v for update, kept in snapshots.items() for k, v in kept.items()}
    write_model(out / "snapshots.safetensors", tensors, {"updates": sorted(snapshots)})
