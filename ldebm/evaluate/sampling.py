"""Whether the sampler's chains are long enough: acceptance, and a comparison with longer chains.

Metropolis-adjusted moves leave the stated density invariant, but do not say how many of them it
takes to forget the start. Draws of the default sampler are held against draws of chains that are
``TIMES`` as long: if a classifier cannot tell them apart, more moves would change nothing.

Shapes: N draws, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ldebm.evaluate.ood import auroc
from ldebm.priors import Prior
from ldebm.seeding import generator

__all__ = ["DRAWS", "TIMES", "distinguishability", "sampler_acceptance", "sampler_convergence"]

TIMES = 8
DRAWS = 2000


@torch.no_grad()
def sampler_acceptance(density: Prior, n: int, seed: int) -> dict[str, float]:
    """Metropolis acceptance of the sampler's chains, mean and per level; 1 without chains."""
    if (prior := density.energies) is None:
        return {"acceptance": 1.0, "acceptance_min": 1.0}
    device = prior.shift_D.device
    stream = generator(seed, "acceptance", device=device)
    top = torch.randn(n, prior.latent, generator=stream, device=device)
    states = [top]
    if prior.levels > 1:
        states = [*prior.sample_levels(n, stream)[1:], top]
    means = []
    for t, u_next in enumerate(states):
        t_B = torch.full((n,), t, dtype=torch.long, device=device)
        means.append(float(prior.chain(u_next, t_B, stream).acceptance_B.mean()))
    result = {"acceptance": sum(means) / len(means), "acceptance_min": min(means)}
    return result | {f"acceptance_{t}": mean for t, mean in enumerate(means)}


@torch.no_grad()
def sampler_convergence(
    density: Prior,
    seed: int,
    moves_T: Sequence[int] | None = None,
    draws: int = DRAWS,
    times: int = TIMES,
) -> dict[str, float]:
    """Draws of the sampler against those of chains ``times`` as long as its own.

    Args:
        density: any; nothing is reported of one without chains.
        seed: of both samples.
        moves_T: of every level, of the draws that are scored; by default the sampler's own.
        draws: of each.
        times: how much longer.

    Returns:
        ``sampler_auc`` (0.5: cannot be told apart) and ``sampler_energy_gap``, the difference of
        the means of F at the lowest level in standard deviations.
    """
    if (prior := density.energies) is None:
        return {}
    own_T, device = prior.config.sampler.moves(prior.levels), prior.shift_D.device
    usual, longer = (
        prior.sample_levels(draws, generator(seed, name, device=device), moves_T=moves)[0]
        for name, moves in (
            ("chains", moves_T or own_T),
            ("long-chains", [times * moves for moves in own_T]),
        )
    )
    frozen, scale = prior.net.freeze(), prior.scale_zero()
    energies = [frozen.value(scale * u, 0).cpu().numpy() for u in (usual, longer)]
    spread = max(float(np.std(energies[1])), 1e-12)
    sides = [
        np.column_stack([u.cpu().numpy(), energy])
        for u, energy in zip((usual, longer), energies, strict=True)
    ]
    return {
        "sampler_auc": distinguishability(*sides),
        "sampler_energy_gap": float(energies[0].mean() - energies[1].mean()) / spread,
    }


def distinguishability(one: np.ndarray, other: np.ndarray) -> float:
    """Held-out AUROC of a logistic regression on values and squares that tells two samples apart.

    Args:
        one: rows, (N, D).
        other: rows, (M, D).

    Example:
        >>> x = np.random.default_rng(0).normal(size=(4000, 2))
        >>> abs(distinguishability(x[:2000], x[2000:]) - 0.5) < 0.05
        True
        >>> distinguishability(x[:2000], x[2000:] + 3) > 0.95
        True
    """
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate([one, other]).astype(np.float64)
    rows = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-12)
    features = np.concatenate([rows, rows**2], 1)
    is_one = np.arange(len(rows)) < len(one)
    index = np.arange(len(rows))
    fitted = index % 2 == 0
    model = LogisticRegression(C=0.1, max_iter=200).fit(features[fitted], is_one[fitted])
    scores = model.decision_function(features[~fitted])
    return auroc(scores[is_one[~fitted]], scores[~is_one[~fitted]])
