"""Supervised and self-trained classifiers on a backbone's encoder: what the EBMs have to beat.

The labelled rows alone train encoder and classifier p(y|z) = softmax MLP(z) by cross-entropy, z the
posterior mean. Self-training (Yarowsky 1995) then repeats: what the classifier is sure of among the
unlabelled rows gets a label and is trained on as well. The density of z stays N(0, I).

Shapes: B batch, D latent dimension, K classes, n rows of the training split.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ldebm.backbones.base import Backbone
from ldebm.config import ClassifierConfig, ExperimentConfig
from ldebm.data.batches import make_batch
from ldebm.data.packed import Split
from ldebm.errors import UsageError
from ldebm.optimisers import ParameterGroup
from ldebm.priors.classifier import ClassifierPrior
from ldebm.seeding import generator, numpy_generator
from ldebm.training.inputs import PriorInputs
from ldebm.training.latents import encode_split
from ldebm.training.objectives import Terms

__all__ = ["ClassifierTask", "pool_rows"]


def pool_rows(label: np.ndarray, size: int, seed: int, step: int) -> np.ndarray:
    """Labelled rows drawn with replacement for one update, int64 (B).

    Args:
        label: class of every row, -1 for none.
        size: B.
        seed: of the run.
        step: the update.

    Raises:
        UsageError: no row is labelled.
    """
    pool = np.flatnonzero(label >= 0)
    if not len(pool):
        raise UsageError("cluster.labels 'given': no training row has a label")
    return pool[numpy_generator(seed, "labelled", step).integers(len(pool), size=size)]


class ClassifierTask:
    """Cross-entropy of labelled rows, and of rows that the classifier labelled itself.

    Args:
        backbone: its encoder is trained.
        prior: the classifier.
        train: training split.
        labels: class of every row, -1 for none.
        config: the experiment.
        seed: of the run.
        device: where to train.
    """

    title = "classifier"

    def __init__(
        self,
        backbone: Backbone,
        prior: ClassifierPrior,
        train: Split,
        labels: np.ndarray,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.module: nn.Module = nn.ModuleDict({"backbone": backbone, "prior": prior})
        self.backbone, self.prior, self.train_split = backbone, prior, train
        self.given, self.labels = labels, labels
        self.config, self.seed, self.device = config, seed, device
        self.section = config.prior.classifier or ClassifierConfig()
        training = config.prior.training
        updates = training.updates or round(
            (training.epochs or 0) * math.ceil(train.n / training.batch)
        )
        # An "epoch" of the trainer is one round here: it begins with labelling anew.
        self.steps_per_epoch = max(1, updates // (self.section.rounds + 1))

    @classmethod
    def of(cls, inputs: PriorInputs) -> Self:
        """The task of a second stage."""
        assert isinstance(inputs.prior, ClassifierPrior)
        assert inputs.labels is not None
        stages = inputs.backbone, inputs.prior, inputs.train
        return cls(*stages, inputs.labels, inputs.config, inputs.seed, inputs.device)

    def groups(self) -> list[ParameterGroup]:
        """The encoder and the classifier; the decoder gets no gradient."""
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        return [ParameterGroup("classifier", parameters, self.config.prior.training.optimiser)]

    def begin_epoch(self, epoch: int) -> None:
        if epoch == 0 or epoch > self.section.rounds:
            return
        mu, _ = encode_split(self.backbone, self.train_split, self.device)
        with torch.no_grad():
            p_BK = torch.softmax(self.prior.class_logits(torch.from_numpy(mu).to(self.device)), -1)
        sure, guess = p_BK.max(-1)
        kept = np.where(sure.cpu().numpy() >= self.section.threshold, guess.cpu().numpy(), -1)
        self.labels = np.where(self.given >= 0, self.given, kept)

    def loss(self, step: int) -> Terms:
        size = self.config.prior.training.batch
        rows = pool_rows(self.given, size, self.seed, step)
        if self.section.rounds and step >= self.steps_per_epoch:  # half of them labelled by itself
            own = pool_rows(self.labels, size - size // 2, self.seed + 1, step)
            rows = np.concatenate([rows[: size // 2], own])
        self.backbone.stream = generator(self.seed, "classifier", step, device=self.device)
        mu, _ = self.backbone.encode(make_batch(self.train_split, rows, self.device))
        label_B = torch.from_numpy(self.labels[rows].astype(np.int64)).to(self.device)
        loss = functional.cross_entropy(self.prior.class_logits(mu), label_B)
        return Terms(loss, {"class": loss.detach()})

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        """Nothing to adapt."""

    def validate(self, step: int) -> dict[str, float]:
        """How many rows the classifier has labelled itself."""
        own = (self.given < 0) & (self.labels >= 0)
        return {"own_labels": float(own.sum())}

    def state(self) -> dict[str, Any]:
        return {"labels": torch.from_numpy(self.labels)}

    def load_state(self, state: dict[str, Any]) -> None:
        self.labels = state["labels"].numpy()
