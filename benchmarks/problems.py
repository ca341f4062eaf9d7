"""What is measured: the public code's sizes (Penn Treebank) on the project's own code.

Shapes: B batch, D latent dimension, n rows of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ldebm.assembly import build_backbone, build_prior
from ldebm.backbones.base import Backbone
from ldebm.backbones.text import TextVAE
from ldebm.config import ExperimentConfig
from ldebm.data.batches import TextBatch, collate
from ldebm.data.packed import Split, open_packed
from ldebm.priors import DiffusionPrior
from ldebm.seeding import generator, numpy_generator
from ldebm.training.joint_task import JointTask

__all__ = [
    "PTB",
    "every",
    "experiment",
    "joint_task",
    "ptb_split",
    "text_batch",
    "text_model",
    "writer",
]

PTB = Path("data/packed/ptb")
META: dict[str, Any] = {
    "kind": "sentences",
    "vocab_size": 10001,
    "max_len": 40,
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": 2,
    "eos_id": 3,
    "labels": {},
}
# Measured on the training split of the Penn Treebank: shares of sentences of 3 to 7 tokens with BOS
# and EOS, 8 to 12, and so on; the last holds all from 38, cut to 40. Only for machines without the
# corpus; inside a range the synthetic lengths are uniform (mean 22.6 tokens instead of 22.7).
LENGTH_SHARES = (0.0396, 0.1044, 0.1726, 0.1953, 0.1801, 0.1400, 0.0826, 0.0854)
PUBLISHED = {"method": "ula", "steps": 50, "rule": "published", "start": "previous"}
# Of ptb-ldebm; that these moves suffice there is measured by benchmarks.chains.
SAMPLING = {"method": "pcnl", "steps": 6, "level_steps": [6, 4, 3, 2, 2, 2]}
TRAINING = {"method": "pcnl", "steps": 12}  # of ptb-ldebm-joint


@dataclass
class SyntheticSplit:
    """Rows with the interface of :class:`ldebm.data.packed.Split`, in memory."""

    meta: dict[str, Any]
    n: int
    ids: np.ndarray = field(repr=False)
    offsets: np.ndarray = field(repr=False)
    x: np.ndarray = field(repr=False)
    counted: ClassVar[bool] = False

    @property
    def flat(self) -> bool:
        """Whether rows are those of ``x``; else of lists of token ids."""
        return len(self.x) > 0

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> np.ndarray:
        """Tokens of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


def experiment(
    precision: str = "bfloat16", *, published: bool = False, sampling: bool = False
) -> ExperimentConfig:
    """The joint LDEBM of the papers' sizes, with the project's sampler or the published one.

    Args:
        precision: of the text model's training products.
        published: the public code's sampler and density.
        sampling: the number of moves that samples need, not the larger one of training.
    """
    training = {"epochs": 1, "batch": 128, "precision": precision}
    backbone = {"arch": "gru", "latent": 40, "hidden": 512, "init": "uniform"}
    prior: dict[str, Any] = {"scheme": "joint", "standardise": "none", "training": training}
    prior |= {"classes": 20, "sampler": SAMPLING if sampling else TRAINING}
    if published:
        prior |= {"sampler": PUBLISHED, "t_sampling": "published", "t_weight": "published"}
        prior |= {"base": False, "energy_scale": "code", "log_normaliser": False}
    return ExperimentConfig.model_validate(
        {"data": "ptb", "backbone": backbone | {"training": training}, "prior": prior}
    )


@lru_cache(maxsize=1)
def ptb_split() -> tuple[Any, str]:
    """The training split of the Penn Treebank and where it is from.

    Without the packed data: random words in sentences with the corpus's lengths.
    """
    if (PTB / "meta.json").is_file():
        return open_packed(PTB).split("train"), "Penn Treebank"
    rows, draws = 42068, numpy_generator(0, "bench-lengths")
    bins = draws.choice(len(LENGTH_SHARES), rows, p=LENGTH_SHARES)
    lengths = np.minimum(3 + 5 * bins + draws.integers(0, 5, rows), 40)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rank = np.exp(draws.random(int(offsets[-1])) * math.log(9997))  # as frequent as in Zipf's law
    ids = (3 + rank).astype(np.int64)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = META["bos_id"], META["eos_id"]
    split = SyntheticSplit(META, rows, ids, offsets, np.empty((0, 2)))
    return split, "synthetic, lengths of the Penn Treebank"


def every(split: Any, step: int) -> Any:
    """Every so manieth row of a split."""
    rows = np.arange(0, split.n, step)
    ids = [np.asarray(split.row(i)) for i in rows]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    return SyntheticSplit(split.meta, len(rows), np.concatenate(ids), offsets, np.empty((0, 2)))


def text_batch(split: Any, sentences: int) -> TextBatch:
    """Sentences of the mean length."""
    away = np.abs(split.lengths - np.round(split.lengths.mean()))
    return collate(split, np.sort(np.argsort(away, kind="stable")[:sentences]))


def joint_task(config: ExperimentConfig, split: Any) -> JointTask:
    """The project's training task with initial weights and random labels."""
    backbone = _backbone(config, split)
    prior = build_prior(config.backbone.latent, config.prior, generator(0, "bench-prior"))
    assert isinstance(prior, DiffusionPrior)
    labels = numpy_generator(0, "bench-labels").integers(0, config.prior.classes, split.n)
    task = JointTask(backbone, prior, split, labels, config, 0, torch.device("cpu"))
    task.module.train()
    return task


def _backbone(config: ExperimentConfig, split: Split | SyntheticSplit) -> Backbone:
    return build_backbone(config.backbone, split.meta, generator(0, "bench-backbone"))


def text_model(split: Any) -> TextVAE:
    """The text VAE of the papers' sizes with initial weights."""
    model = _backbone(experiment(precision="float32"), split).eval()
    assert isinstance(model, TextVAE)
    return model


@torch.no_grad()
def writer(split: Any) -> TextVAE:
    """A text VAE whose greedy sentences are as long as those of the Penn Treebank.

    An untrained decoder never stops. Here state 0 climbs towards 1 from a value that z decides, and
    the end of the sentence wins once it passes a threshold: about 21 words, 12 to 29 for z of one
    standard deviation. The other states and words keep their random weights, so that the work for
    each word is that of a trained model.
    """
    model = text_model(split)
    decoder, hidden = model.decoder, model.decoder.hidden_size
    climb, threshold, spread, sharp = 0.95, 1 - 0.95**21, 0.4, 1e4
    for unit, update in ((0, math.log(climb / (1 - climb))), (1, -30.0)):
        for row in (hidden + unit, 2 * hidden + unit):
            decoder.weight_ih[row], decoder.weight_hh[row] = 0.0, 0.0
            decoder.bias_hh[row] = 0.0
        decoder.bias_ih[hidden + unit] = update
        decoder.bias_ih[2 * hidden + unit] = 30.0  # candidate 1
        model.decoder_embedding[:, unit] = 0.0
    model.initial.weight[0] = 0.0
    model.initial.weight[0, 0] = spread
    model.decoder_embedding[model.eos_id] = 0.0
    model.decoder_embedding[model.eos_id, 0] = sharp
    model.decoder_embedding[model.eos_id, 1] = -sharp * threshold
    return model
