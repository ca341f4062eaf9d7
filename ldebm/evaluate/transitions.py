"""Langevin transitions: what the sampler does to energy and images, in short and in long runs.

At every level chains are followed for their usual number of moves and for ten times as many (Cui
and Han (2024), figures 6 and 7). Energies that grow ever better while images saturate (Nijkamp et
al. 2020) would show as a larger share of saturated pixels than test images have that are decoded in
the same way: ``oversaturation`` is the difference.

Shapes: B chains, D latents, T levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ldebm.evaluate.image_classifier import ImageClassifier
from ldebm.evaluate.image_metrics import frechet_distance
from ldebm.evaluate.views import chain_energy
from ldebm.model import Model
from ldebm.seeding import generator

__all__ = ["Transitions", "follow", "saturated"]

LONG = 10  # times as many moves as the sampler makes
MOMENTS = 6  # of a level
SATURATED = 2  # distance of a pixel's value from 0 or 255
HEADER = ["run", "t", "move", "energy", "confidence", "distance", "saturated"]


def saturated(images_NCHW: np.ndarray) -> float:
    """Share of values that are black or white.

    Example:
        >>> saturated(np.array([0, 2, 3, 128, 253], dtype=np.uint8))
        0.6
    """
    return float(((images_NCHW <= SATURATED) | (images_NCHW >= 255 - SATURATED)).mean())


@dataclass(frozen=True)
class Transitions:
    """Followed chains.

    Attributes:
        rows: of the table with the columns ``HEADER``.
        shown: "short" and "long" to images of a few chains, one row a chain, one column a moment:
            uint8 (chains, moments, C, H, W).
        saturation: "short" and "long" to the share of saturated values at the end.
    """

    rows: list[list[Any]]
    shown: dict[str, np.ndarray]
    saturation: dict[str, float]


@torch.no_grad()
def follow(
    model: Model,
    chains: int,
    classifier: ImageClassifier | None = None,
    features_NF: np.ndarray | None = None,
    shown: int = 8,
    mode: str = "greedy",
) -> Transitions:
    """Follows chains from noise at the top level to t = 0, in a short and in a long run.

    Args:
        model: with an energy prior on a hierarchical backbone.
        chains: B.
        classifier: gives the confidence of the images (mean of the largest probability).
        features_NF: its features of the data, to which the distance of the images is measured.
        shown: chains whose images are kept.
        mode: of decoding.
    """
    rows: list[list[Any]] = []
    images: dict[str, np.ndarray] = {}
    saturation: dict[str, float] = {}
    for run, factor in (("short", 1), ("long", LONG)):
        moments = []
        for t, move, energy, decoded in _moments(model, chains, factor, mode):
            confidence: float | str = ""
            distance: float | str = ""
            if classifier is not None:
                classified = classifier.classify(decoded)
                confidence = round(_confidence(classified.probabilities), 5)
                if features_NF is not None and chains > 1:
                    distance = round(frechet_distance(classified.features, features_NF), 4)
            share = saturated(decoded)
            rows.append([run, t, move, round(energy, 4), confidence, distance, round(share, 5)])
            moments.append(decoded[:shown])
            saturation[run] = share
        images[run] = np.stack(moments, 1)
    return Transitions(rows, images, saturation)


def _confidence(probabilities: dict[str, np.ndarray]) -> float:
    return float(np.mean([p.max(1).mean() for p in probabilities.values()]))


def _moments(
    model: Model, chains: int, factor: int, mode: str
) -> list[tuple[int, int, float, np.ndarray]]:
    """Level, number of moves, mean energy and images of all moments of one run."""
    prior = model.prior.energies
    assert prior is not None
    stream = generator(model.seed, "image-transitions", device=model.device)
    frozen, sampler = prior.net.freeze(), prior.config.sampler
    u = torch.randn(chains, prior.latent, generator=stream, device=model.device)
    moments = []
    for t in reversed(range(prior.levels)):
        t_B = torch.full((chains,), t, dtype=torch.long, device=u.device)
        scale = float(prior.schedule.scale[t + 1])
        moves = factor * sampler.moves(prior.levels)[t]
        v, done = prior.chain_start(u, t_B, stream), 0
        for mark in sorted({round(moves * i / (MOMENTS - 1)) for i in range(MOMENTS)}):
            if mark > done:
                v = prior.chain(u, t_B, stream, frozen, start_BD=v, steps=mark - done).x_BD
                done = mark
            energy = float(chain_energy(prior, v, u, t_B, prior.negative_energy(v, t_B)).mean())
            decoded = np.asarray(model.decode(prior.from_standard(v / scale), mode, model.seed))
            moments.append((t, mark, energy, decoded))
        u = v / scale
    return moments
