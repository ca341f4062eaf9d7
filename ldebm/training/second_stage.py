"""Second stage: trains the prior on a frozen backbone, or all together, and writes the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.baselines.policy import PolicyPrior, PolicyTask
from ldebm.config import ExperimentConfig
from ldebm.data.packed import Packed
from ldebm.devices import choose_device
from ldebm.files import hash_path, read_parquet, write_json, write_model
from ldebm.model import save
from ldebm.nn.backbone import Backbone
from ldebm.priors import EnergyPrior, Prior, build_prior
from ldebm.priors.hierarchical import OnGroups
from ldebm.seeding import configure, generator
from ldebm.training.classifier import ClassifierPrior, ClassifierTask
from ldebm.training.first_stage import load_backbone
from ldebm.training.image_prior_task import ImagePriorTask, draws_to_fit
from ldebm.training.parallel import is_main
from ldebm.training.prior_tasks import FrozenTask, JointTask, PriorTask
from ldebm.training.runs import CHECKPOINTS, run_key, with_length, write_curves
from ldebm.training.trainer import TrainResult, train

__all__ = ["prior_stage"]

SNAPSHOT_SHARES = (0.02, 0.1, 0.3, 1.0)  # training times of the papers' Figures 2, 3 and A2


def prior_stage(
    config: ExperimentConfig,
    packed: Packed,
    seed: int,
    folder: Path,
    name: str,
    epochs: float | None = None,
) -> None:
    """Second stage: reads ``folder/{backbone, latents.parquet}``, writes ``folder/prior``."""
    section = config.prior
    section = section.model_copy(update={"training": with_length(section.training, epochs)})
    first = config.backbone
    first = first.model_copy(update={"training": with_length(first.training, epochs)})
    config = config.model_copy(update={"prior": section, "backbone": first})
    device = choose_device(section.training.device)
    configure(section.training.threads)
    latents = read_parquet(folder / "latents.parquet")
    rows, held_out = latents["split"] == 0, latents["split"] == 1
    mu, logvar = latents["mu"][rows], latents["logvar"][rows]
    contexts = latents["context"][rows] if "context" in latents else None
    labels: np.ndarray | None = latents["label"][rows].astype(np.int64)
    if labels is not None and (labels < 0).all():
        labels = None
    backbone = load_backbone(folder / "backbone", config, packed).to(device)
    prior = build_prior(backbone, section, generator(seed, "prior-init")).to(device)
    inputs = [hash_path(folder / "backbone"), hash_path(folder / "latents.parquet")]
    dumped = config.model_dump(mode="json")
    key = run_key("prior", dumped["prior"], dumped["cluster"], inputs, seed, device.type)
    checkpoint = CHECKPOINTS / f"prior-{key}.pt"
    out = folder / "prior"
    result: TrainResult | None = None
    if isinstance(prior, EnergyPrior) and section.scheme == "two_stage":
        task: FrozenTask
        if isinstance(prior, OnGroups):
            task = ImagePriorTask(prior, packed.split("train"), labels, config, seed, device)
        else:
            task = PriorTask(prior, mu, logvar, labels, config, seed, device, contexts)
        points = packed.kind == "points"
        shares: Sequence[float] = SNAPSHOT_SHARES if points else ()
        result = train(task, section.training, checkpoint, title="prior", snapshots=shares)
        prior.load_state_dict(result.state)
    elif isinstance(prior, PolicyPrior):
        assert contexts is not None
        valid = latents["mu"][held_out], latents["context"][held_out]
        policy = PolicyTask(prior, (mu, contexts), valid, section, seed, device)
        result = train(policy, section.training, checkpoint, title="policy")
        prior.load_state_dict(result.state)
    elif isinstance(prior, ClassifierPrior):
        assert labels is not None
        supervised = ClassifierTask(
            backbone, prior, packed.split("train"), labels, config, seed, device
        )
        result = train(supervised, section.training, checkpoint, title="classifier")
        supervised.module.load_state_dict(result.state)
    elif isinstance(prior, EnergyPrior):
        both = JointTask(
            backbone, prior, packed.split("train"), labels, config, seed, device, log=print
        )
        result = train(both, section.training, checkpoint, title="joint")
        both.module.load_state_dict(result.state)
    elif isinstance(prior, OnGroups):
        prior.fit_draws(draws_to_fit(prior.backbone, packed.split("train"), seed, device))
    else:
        prior.fit_standardisation(
            torch.from_numpy(mu).to(device), torch.from_numpy(logvar).to(device)
        )
    if not is_main():
        return
    header = {"experiment": name, "seed": seed, "config": dumped, "meta": packed.meta}
    _write_prior(out, backbone, prior, result, header, packed)
    checkpoint.unlink(missing_ok=True)


def _write_prior(
    out: Path,
    backbone: Backbone,
    prior: Prior,
    result: TrainResult | None,
    header: dict[str, Any],
    packed: Packed,
) -> None:
    state: dict[str, Tensor] = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    state |= {f"prior.{k}": v for k, v in prior.state_dict().items()}
    tokenizer = None if packed.kind in ("points", "images") else packed.tokenizer
    save(out / "model.safetensors", state, header, tokenizer)
    write_json(out / "config.json", header)
    metrics: dict[str, Any] = {"updates": result.updates if result else 0}
    if isinstance(prior, EnergyPrior):
        metrics["acceptance"] = float(prior.acceptance_T.mean())
        metrics["acceptance_min"] = float(prior.acceptance_T.min())
    write_json(out / "metrics.json", metrics)
    write_curves(out, result)
    snapshots = result.snapshots if result else {}
    tensors = {f"{update}/{k}": v for update, kept in snapshots.items() for k, v in kept.items()}
    write_model(out / "snapshots.safetensors", tensors, {"updates": sorted(snapshots)})
