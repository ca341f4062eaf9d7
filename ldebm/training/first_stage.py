"""First stage: trains a backbone against N(0, I) and writes it.

It reads and writes the files of the pipeline's contracts and knows nothing of DVC, so that the GPU
campaign and tests run the very same code.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, steps_per_epoch
from ldebm.data.packed import Packed, Split
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.files import hash_path, read_json, read_model, write_json, write_model
from ldebm.lineage.records import note, running_stage
from ldebm.nn.backbone import Backbone, architecture, build_backbone
from ldebm.nn.hierarchy import HierarchicalBackbone
from ldebm.nn.linear import draw_linear
from ldebm.optimisers import Group
from ldebm.seeding import configure, generator
from ldebm.training.image_first_stage import ImageTask
from ldebm.training.latents import batch_noise, make_batch
from ldebm.training.objectives import Terms, backbone_terms, gaussian_kl, sample_posterior
from ldebm.training.parallel import is_main, row_weight, share
from ldebm.training.runs import CHECKPOINTS, run_key, with_length, write_curves
from ldebm.training.trainer import train

__all__ = ["BackboneTask", "build_backbone_stage", "load_backbone"]

VALID_ROWS = 2000


class BackboneTask:
    """First stage: the variational objective against N(0, I)."""

    def __init__(
        self,
        backbone: Backbone,
        train: Split,
        valid: Split,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = backbone
        self.backbone, self.train_split, self.valid_split = backbone, train, valid
        self.config, self.seed, self.device = config.backbone, seed, device
        self.steps_per_epoch = steps_per_epoch(train.n, self.config.training.batch)
        self.head = _head(config, train, backbone.latent, seed, device)

    def groups(self) -> list[Group]:
        parameters = [p for p in self.backbone.parameters() if p.requires_grad]
        groups = [Group("backbone", parameters, self.config.training.optimiser)]
        if self.head is not None:
            head = list(self.head.parameters())
            groups.append(Group("classifier", head, self.config.training.optimiser))
        return groups

    def begin_epoch(self, epoch: int) -> None:
        """Nothing changes between epochs."""

    def loss(self, step: int) -> Terms:
        rows = batch_rows(self.train_split.n, self.config.training.batch, self.seed, step)
        stream = generator(self.seed, "backbone", step)
        noise = batch_noise((len(rows), self.backbone.latent), stream, self.device)
        self.backbone.stream = generator(self.seed, "dropout", step, device=self.device)
        batch = make_batch(self.train_split, rows[share(len(rows))], self.device)
        mu, logvar = self.backbone.encode(batch)
        z = sample_posterior(mu, logvar, noise)
        nll = self.backbone.reconstruction_nll(batch, z)
        terms = backbone_terms(nll, mu, logvar, self.config, step)
        if self.head is not None and self.config.supervision is not None:
            classes, _ = self._classes(self.train_split, rows[share(len(rows))], z)
            total = terms.total + self.config.supervision.weight * classes
            terms = Terms(total, {**terms.parts, "class": classes.detach()})
        return replace(terms, row_weight=row_weight(len(rows)))

    def _classes(self, split: Split, rows: np.ndarray, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the labelled rows, and which rows are classified rightly."""
        assert self.head is not None
        assert self.config.supervision is not None
        given = np.asarray(split.labels(self.config.supervision.column))[rows].astype(np.int64)
        label = torch.from_numpy(given).to(z.device)
        logits = self.head(z)
        known = label >= 0
        losses = torch.nn.functional.cross_entropy(logits, label.clamp(min=0), reduction="none")
        right = logits.argmax(-1) == label
        return (losses * known).sum() / known.sum().clamp(min=1), right[known]

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        split = self.valid_split
        rows = np.arange(min(split.n, VALID_ROWS))
        nll, kl, classes = 0.0, 0.0, 0.0
        right: list[bool] = []
        for start in range(0, len(rows), 256):
            part = rows[start : start + 256]
            batch = make_batch(split, part, self.device)
            mu, logvar = self.backbone.encode(batch)
            noise = torch.randn(mu.shape, generator=generator(self.seed, "valid", start))
            z = sample_posterior(mu, logvar, noise.to(self.device))
            nll += float(self.backbone.reconstruction_nll(batch, z).double().sum())
            kl += float(gaussian_kl(mu, logvar).double().sum())
            if self.head is not None:
                loss, hits = self._classes(split, part, z)
                classes += float(loss) * len(part) / len(rows)
                right += hits.tolist()
        nll, kl = nll / len(rows), kl / len(rows)
        score = nll + self.config.kl_weight * max(kl, self.config.kl_floor)
        metrics = {"reconstruction": nll, "kl": kl, "elbo": -(nll + kl)}
        if self.config.supervision is not None:
            score += self.config.supervision.weight * classes
            metrics |= {"class": classes, "class_accuracy": float(np.mean(right or [False]))}
        # During the warm-up the objective still changes, so its values do not compare.
        return metrics if step < self.config.kl_warmup else {**metrics, "score": score}

    def state(self) -> dict[str, Any]:
        return {} if self.head is None else {"head": self.head.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.head is not None:
            self.head.load_state_dict(state["head"])

    def finish(self) -> None:
        """Nothing is left to do."""


def _head(
    config: ExperimentConfig, train: Split, latent: int, seed: int, device: torch.device
) -> nn.Linear | None:
    """The classifier of ``backbone.supervision``; it is not kept with the model.

    Raises:
        UsageError: the data have no such label column.
    """
    supervision = config.backbone.supervision
    if supervision is None:
        return None
    train.labels(supervision.column)
    classes = len(train.meta["labels"][supervision.column])
    head = nn.Linear(latent, classes)
    draw_linear(head, generator(seed, "supervision-init"))
    return head.to(device)


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
    architecture(section, packed.kind)  # imports it: the key holds the code that is imported
    _text_task(config)
    data_hash = hash_path(packed.path)
    key = run_key("backbone", section.model_dump(mode="json"), data_hash, seed, device.type)
    finished = CHECKPOINTS / "done" / key
    reused = (finished / "trained.json").is_file() and not os.environ.get("LDEBM_NO_REUSE")
    if not reused:
        clock = time.perf_counter()
        _train_backbone(config, packed, seed, finished, key, device)
        if is_main():
            by = {"seconds": time.perf_counter() - clock, "stage": running_stage()}
            write_json(finished / "trained.json", by)
    if not is_main():
        return
    trained = read_json(finished / "trained.json")
    note(reused=reused, trained_seconds=trained["seconds"], trained_by=trained.get("stage"))
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
    model.prepare(packed)
    task = _task(model, packed, config, seed, device)
    checkpoint = CHECKPOINTS / f"backbone-{key}.pt"
    result = train(task, section.training, checkpoint, title="backbone")
    model.load_state_dict(result.state)
    task.finish()
    if not is_main():
        return
    model.eval()
    metrics = {name: value for name, value in task.validate(result.updates).items()}
    write_curves(out, result)
    write_json(out / "metrics.json", {**metrics, "updates": result.updates})
    header = {"config": section.model_dump(mode="json"), "meta": packed.meta, "seed": seed}
    write_model(out / "model.safetensors", model.state_dict(), header)
    checkpoint.unlink(missing_ok=True)


def _task(
    model: Backbone, packed: Packed, config: ExperimentConfig, seed: int, device: torch.device
) -> BackboneTask | ImageTask:
    """The training of one kind of backbone."""
    train, valid = packed.split("train"), packed.split("valid")
    if isinstance(model, HierarchicalBackbone):
        model.load_initial()
        return ImageTask(model, train, valid, config, seed, device)
    return _text_task(config)(model, train, valid, config, seed, device)


def _text_task(config: ExperimentConfig) -> Callable[..., BackboneTask]:
    if config.backbone.baseline is None:
        return BackboneTask
    from ldebm.baselines.training import BaselineTask

    return BaselineTask


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
