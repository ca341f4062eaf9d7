"""How long a build of a new experiment takes, roughly, before anything has run."""

from __future__ import annotations

from ldebm.config import ExperimentConfig

__all__ = ["expected_minutes"]

MOVES = 48  # levels times Langevin moves of the runs that the numbers below are fitted to


def expected_minutes(config: ExperimentConfig) -> float | None:
    """Minutes of one seed on one CPU core; None where nothing is known.

    Fitted to the recorded runs of hierarchical models on digits (8 x 8), CIFAR-10 (32 x 32) and
    CelebA (64 x 64): right to a factor of two.
    """
    backbone, prior = config.backbone, config.prior
    updates, more = backbone.training.updates, prior.training.updates
    if backbone.hvae is None or updates is None or more is None:
        return None
    last = backbone.hvae.layers[-1].conv
    if last is None:
        return None
    side = last[1] * 2 ** (len(backbone.hvae.widths) - 1)
    moves = prior.levels * prior.sampler.steps / MOVES
    first = updates * (0.03 + 2e-6 * backbone.training.batch * side**2)
    second = more * (0.03 + 0.0032 * side * moves)
    evaluation = 60 + config.evaluate.samples * 0.004 * side * moves
    return float(first + second + evaluation) / 60
