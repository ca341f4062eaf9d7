"""The stages' work as functions: train a backbone, label latents, train a prior.

They read and write the files of the pipeline's contracts and know nothing of DVC, so that the GPU
campaign and tests run the very same code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.clustering import geometric_clusters
from ldebm.config import ExperimentConfig, TrainingConfig
from ldebm.data.packed import SPLITS, Packed, Split
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.files import (
    hash_json,
    hash_path,
    read_model,
    read_parquet,
    write_csv,
    write_json,
    write_model,
    write_parquet,
)
from ldebm.model import save
from ldebm.nn.backbone import Backbone, build_backbone
from ldebm.parallel import is_main
from ldebm.priors import EnergyPrior, Prior, build_prior
from ldebm.seeding import configure, generator
from ldebm.tasks import BackboneTask, JointTask, PriorTask, encode_split
from ldebm.trainer import TrainResult, train

__all__ = ["build_backbone_stage", "cluster_stage", "prior_stage", "with_length"]

CHECKPOINTS = Path(".ckpt")
SNAPSHOT_SHARES = (0.02, 0.1, 0.3, 1.0)  # training times of the papers' Figures 2, 3 and A2


def with_length(config: TrainingConfig, epochs: float | None) -> TrainingConfig:
    """The training section with ``run.epochs`` in place of its own length, when that is given."""
    if epochs is None:
        return config
    return config.model_copy(update={"epochs": epochs, "updates": None})


def run_key(*parts: Any) -> str:
    """What identifies a training: parameters, inputs and the library's code."""
    return hash_json([*parts, _code_hash()])[:32]


def _code_hash() -> str:
    folder = Path(__file__).parent
    return hash_json([[f.name, hash_path(f)] for f in sorted(folder.rglob("*.py"))])


def build_backbone_stage(
    config: ExperimentConfig, packed: Packed, seed: int, out: Path, epochs: float | None = None
) -> None:
    """First stage: writes ``out/{model.safetensors, curve.csv, metrics.json}``.

    A training whose parameters, data, code and seed equal those of a finished one is not repeated:
    the experiments of a comparison share their backbone (``LDEBM_NO_REUSE=1`` trains anyway).
    """
    section = config.backbone
    section = section.model_copy(update={"training": with_length(section.training, epochs)})
    config = config.model_copy(update={"backbone": section})
    device = choose_device(section.training.device)
    configure(section.training.threads)
    data_hash = hash_path(packed.path)
    key = run_key("backbone", section.model_dump(mode="json"), data_hash, seed, device.type)
    finished = CHECKPOINTS / "done" / key
    if not (finished / "model.safetensors").is_file() or os.environ.get("LDEBM_NO_REUSE"):
        _train_backbone(config, packed, seed, finished, key, device)
    if not is_main():
        return
    out.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "curve.csv", "validation.csv", "metrics.json"):
        shutil.copyfile(finished / name, out / name)


def _train_backbone(
    config: ExperimentConfig,
    packed: Packed,
    seed: int,
    out: Path,
    key: str,
    device: torch.device,
) -> None:
    section = config.backbone
    model = build_backbone(section, packed.meta, generator(seed, "backbone-init")).to(device)
    task = BackboneTask(model, packed.split("train"), packed.split("valid"), config, seed, device)
    checkpoint = CHECKPOINTS / f"backbone-{key}.pt"
    result = train(task, section.training, checkpoint, title="backbone")
    if not is_main():
        return
    model.load_state_dict(result.state)
    model.eval()
    metrics = {name: value for name, value in task.validate(result.updates).items()}
    _write_curves(out, result)
    write_json(out / "metrics.json", {**metrics, "updates": result.updates})
    header = {"config": section.model_dump(mode="json"), "meta": packed.meta, "seed": seed}
    write_model(out / "model.safetensors", result.state, header)
    checkpoint.unlink(missing_ok=True)


def load_backbone(path: Path, config: ExperimentConfig, packed: Packed) -> Backbone:
    """The trained first stage.

    Raises:
        UsageError: the file is damaged or was trained with another architecture.
    """
    tensors, _ = read_model(path / "model.safetensors")
    backbone = build_backbone(config.backbone, packed.meta)
    try:
        backbone.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: does not fit experiment's backbone section ({detail})") from None
    return backbone


def cluster_stage(
    config: ExperimentConfig, packed: Packed, seed: int, backbone_dir: Path, out: Path
) -> None:
    """Writes ``latents.parquet``: posterior means and log-variances of all rows, and labels.

    Labels are -1 where there are none: on valid and test with geometric clustering, on the rows
    that ``cluster.share`` leaves out with given ones.
    """
    training = config.backbone.training
    device = choose_device(training.device)
    configure(training.threads)
    backbone = load_backbone(backbone_dir, config, packed).to(device)
    columns: dict[str, list[np.ndarray]] = {
        name: [] for name in ("id", "split", "mu", "logvar", "label")
    }
    for index, name in enumerate(SPLITS):
        split = packed.split(name)
        mu, logvar = encode_split(backbone, split, device)
        columns["id"].append(np.asarray(split.id))
        columns["split"].append(np.full(split.n, index, dtype=np.int8))
        columns["mu"].append(mu)
        columns["logvar"].append(logvar)
        columns["label"].append(_labels(config, split, mu, seed))
    write_parquet(out, {name: np.concatenate(parts) for name, parts in columns.items()})


def _labels(config: ExperimentConfig, split: Split, mu: np.ndarray, seed: int) -> np.ndarray:
    cluster = config.cluster
    none = np.full(split.n, -1, dtype=np.int16)
    if cluster.labels == "given":
        assert cluster.column is not None
        given = np.asarray(split.labels(cluster.column), dtype=np.int16)
        if int(given.max(initial=-1)) >= config.prior.classes:
            raise UsageError(
                f"prior.classes {config.prior.classes}: label column {cluster.column!r} has "
                f"{int(given.max()) + 1} classes; set prior.classes to at least that"
            )
        if split.name != "train" or cluster.share == 1.0:
            return given
        hidden = torch.rand(split.n, generator=generator(seed, "hidden-labels")).numpy()
        return np.where(hidden < cluster.share, given, none)
    if cluster.labels == "gc" and split.name == "train":
        classes = config.prior.classes
        if split.n < classes:
            raise UsageError(
                f"prior.classes {classes}: more classes than the {split.n} training rows"
            )
        return geometric_clusters(mu, classes, cluster, seed).astype(np.int16)
    return none


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
    config = config.model_copy(update={"prior": section})
    device = choose_device(section.training.device)
    configure(section.training.threads)
    latents = read_parquet(folder / "latents.parquet")
    rows = latents["split"] == 0
    mu, logvar = latents["mu"][rows], latents["logvar"][rows]
    labels: np.ndarray | None = latents["label"][rows].astype(np.int64)
    if labels is not None and (labels < 0).all():
        labels = None
    backbone = load_backbone(folder / "backbone", config, packed).to(device)
    prior = build_prior(backbone.latent, section, generator(seed, "prior-init")).to(device)
    inputs = [hash_path(folder / "backbone"), hash_path(folder / "latents.parquet")]
    dumped = config.model_dump(mode="json")
    key = run_key("prior", dumped["prior"], dumped["cluster"], inputs, seed, device.type)
    checkpoint = CHECKPOINTS / f"prior-{key}.pt"
    out = folder / "prior"
    result: TrainResult | None = None
    if isinstance(prior, EnergyPrior) and section.scheme == "two_stage":
        task = PriorTask(prior, mu, logvar, labels, config, seed, device)
        points = packed.kind == "points"
        shares: Sequence[float] = SNAPSHOT_SHARES if points else ()
        result = train(task, section.training, checkpoint, title="prior", snapshots=shares)
        prior.load_state_dict(result.state)
    elif isinstance(prior, EnergyPrior):
        both = JointTask(
            backbone, prior, packed.split("train"), labels, config, seed, device, log=print
        )
        result = train(both, section.training, checkpoint, title="joint")
        both.module.load_state_dict(result.state)
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
    tokenizer = None if packed.kind == "points" else packed.tokenizer
    save(out / "model.safetensors", state, header, tokenizer)
    write_json(out / "config.json", header)
    metrics: dict[str, Any] = {"updates": result.updates if result else 0}
    if isinstance(prior, EnergyPrior):
        metrics["acceptance"] = float(prior.acceptance_T.mean())
        metrics["acceptance_min"] = float(prior.acceptance_T.min())
    write_json(out / "metrics.json", metrics)
    _write_curves(out, result)
    if result is not None and result.snapshots:
        tensors = {
            f"{update}/{k}": v for update, kept in result.snapshots.items() for k, v in kept.items()
        }
        write_model(out / "snapshots.safetensors", tensors, {"updates": sorted(result.snapshots)})


def _write_curves(out: Path, result: TrainResult | None) -> None:
    """``curve.csv`` (training terms) and ``validation.csv``; only headers without training."""
    for name, rows in (
        ("curve.csv", result.curve if result else []),
        ("validation.csv", result.validation if result else []),
    ):
        columns = list(rows[0]) if rows else ["update", "epoch", "loss"]
        columns += sorted({column for row in rows for column in row} - set(columns))
        write_csv(out / name, columns, [[row.get(key, "") for key in columns] for row in rows])
