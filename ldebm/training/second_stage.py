"""Second stage: trains the prior on a frozen backbone, or all together, and writes the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

__all__ = ["Opened", "open_prior", "prior_stage", "snapshot_shares"]

SNAPSHOT_SHARES = (0.02, 0.1, 0.3, 1.0)  # of Yu et al. (2022), figure A2


@dataclass(frozen=True)
class Opened:
    """A second stage with all that it reads.

    Attributes:
        config: the experiment, with the length of this run.
        seed: of the run.
        device: where to train.
        latents: columns of latents.parquet.
        labels: class of every training row or -1; ``None`` without labels.
        backbone: the trained first stage.
        prior: with initial weights.
        checkpoint: where the training stands, keyed by all that it depends on.
    """

    config: ExperimentConfig
    seed: int
    device: torch.device
    latents: dict[str, np.ndarray]
    labels: np.ndarray | None
    backbone: Backbone
    prior: Prior
    checkpoint: Path

    def of_training(self, column: str) -> np.ndarray:
        """A column of the training rows."""
        rows: np.ndarray = self.latents[column][self.latents["split"] == 0]
        return rows

    def task(self, packed: Packed) -> FrozenTask:
        """What trains the energies on the frozen backbone."""
        assert isinstance(self.prior, EnergyPrior)
        common = self.labels, self.config, self.seed, self.device
        if isinstance(self.prior, OnGroups):
            return ImagePriorTask(self.prior, packed.split("train"), *common)
        contexts = self.of_training("context") if "context" in self.latents else None
        mu, logvar = self.of_training("mu"), self.of_training("logvar")
        return PriorTask(self.prior, mu, logvar, *common, contexts)


def open_prior(
    config: ExperimentConfig, packed: Packed, seed: int, folder: Path, epochs: float | None = None
) -> Opened:
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
    inputs = [hash_path(folder / "backbone"), hash_path(folder / "latents.parquet")]
    dumped = config.model_dump(mode="json")
    key = run_key("prior", dumped["prior"], dumped["cluster"], inputs, seed, device.type)
    checkpoint = CHECKPOINTS / f"prior-{key}.pt"
    return Opened(config, seed, device, latents, labels, backbone, prior, checkpoint)


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
    opened = open_prior(config, packed, seed, folder, epochs)
    config, device, latents = opened.config, opened.device, opened.latents
    section, labels, backbone = config.prior, opened.labels, opened.backbone
    prior, checkpoint = opened.prior, opened.checkpoint
    mu = opened.of_training("mu")
    result: TrainResult | None = None
    if isinstance(prior, EnergyPrior) and section.scheme == "two_stage":
        task, shares = opened.task(packed), snapshot_shares(packed)
        result = train(task, section.training, checkpoint, title="prior", snapshots=shares)
        prior.load_state_dict(result.state)
    elif isinstance(prior, PolicyPrior):
        held_out = latents["split"] == 1
        valid = latents["mu"][held_out], latents["context"][held_out]
        contexts = opened.of_training("context")
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
            torch.from_numpy(mu).to(device),
            torch.from_numpy(opened.of_training("logvar")).to(device),
        )
    if not is_main():
        return
    dumped = config.model_dump(mode="json")
    header = {"experiment": name, "seed": seed, "config": dumped, "meta": packed.meta}
    _write_prior(folder / "prior", backbone, prior, result, header, packed)
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
