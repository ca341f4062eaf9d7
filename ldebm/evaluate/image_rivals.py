"""What an energy-based prior of images has to beat: simpler priors of the same backbone.

Each is fitted to posterior draws of training images and sampled in the coordinates u, so that the
same decoder makes images of all of them. Priors that are trained without labels compare with
``fitted`` and ``mixture``, which have none either; ``mixture_classes`` knows the labels.

Shapes: N rows, D latents, K components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import ClusterConfig, MixtureConfig
from ldebm.data.packed import Packed, Split
from ldebm.evaluate.image_rows import posterior_draw
from ldebm.evaluate.report import subset
from ldebm.priors.mixture import LARGEST, MixtureFit, choose_mixture, mixture_of_classes
from ldebm.seeding import generator

__all__ = ["Draw", "Rivals", "fit_rivals", "fitted_gaussian", "standard_normal"]

FITTED_ROWS = 10_000  # posterior draws that the Gaussian is fitted to
LARGEST_FULL = 2048  # latents of which a full covariance is fitted
SMALLEST = (1, 2)  # numbers of components that are tried before those of the settings

Draw = Callable[[int, torch.Generator], Tensor]
"""Number of rows and source of noise to latents in the backbone's coordinates."""


@dataclass(frozen=True)
class Rivals:
    """Priors beside the model's own.

    Attributes:
        draws: ``gaussian``, ``fitted`` and, where they can be fitted, ``mixture`` and
            ``mixture_classes``.
        details: what each is, or why it is not there.
        metrics: numbers of components.
    """

    draws: dict[str, Draw]
    details: dict[str, str]
    metrics: dict[str, float]


@torch.no_grad()
def fit_rivals(
    backbone: HierarchicalBackbone,
    packed: Packed,
    reference_N: np.ndarray,
    cluster: ClusterConfig,
    settings: MixtureConfig,
    seed: int,
) -> Rivals:
    """N(0, I), the fitted Gaussian and fitted mixtures.

    Args:
        backbone: that encodes the images.
        packed: the data; validation images choose the numbers of components.
        reference_N: training rows to choose from.
        cluster: what the experiment knows of labels; a mixture of every class is fitted where the
            prior is trained with all of them.
        settings: of the mixtures.
        seed: of the run.
    """
    train, latent = packed.split("train"), backbone.latent
    chosen = subset(len(reference_N), FITTED_ROWS, seed, "fitted-rows")
    fitted, form = fitted_gaussian(backbone, np.array(train.x[reference_N[chosen]]), seed)
    draws: dict[str, Draw] = {"gaussian": standard_normal(backbone), "fitted": fitted}
    if latent > LARGEST:
        why = f"none: {latent} latents, full covariances are fitted up to {LARGEST}"
        return Rivals(draws, {"fitted": form, "mixture": why}, {})
    train_u, label_N = _drawn(backbone, train, cluster.column, settings, seed)
    valid_u, valid_label_N = _drawn(backbone, packed.split("valid"), cluster.column, settings, seed)
    mean, spread = train_u.mean(0), train_u.std(0).clamp(min=1e-4)
    data = ((train_u - mean) / spread, (valid_u - mean) / spread)
    sizes = [*SMALLEST, *(size for size in settings.components if size not in SMALLEST)]
    fits = {"mixture": choose_mixture(*data, sizes, seed)}
    details = {"fitted": form}
    if cluster.labels == "given" and cluster.column is not None:
        if cluster.whole:
            labels = label_N, valid_label_N
            fits["mixture_classes"] = mixture_of_classes(data, labels, sizes, seed)
        else:
            details["mixture_classes"] = "none: the prior is trained with some of the labels only"
    for name, fit in fits.items():
        draws[name] = _sampler(fit, mean, spread)
        details[name] = f"{len(fit.mean_KD)} components"
    metrics = {f"{name}_components": float(len(fit.mean_KD)) for name, fit in fits.items()}
    return Rivals(draws, details, metrics)


def standard_normal(backbone: HierarchicalBackbone) -> Draw:
    """The backbone's own prior, N(0, I)."""
    device = next(backbone.parameters()).device
    return lambda n, stream: torch.randn(n, backbone.latent, generator=stream, device=device)


@torch.no_grad()
def fitted_gaussian(
    backbone: HierarchicalBackbone, images_NCHW: np.ndarray, seed: int
) -> tuple[Draw, str]:
    """The Gaussian fitted to one posterior draw of every image.

    Returns:
        Its sampler, and "full" or "diagonal": the covariance is full where there are four draws for
        every latent, and at most 2,048 latents.
    """
    device = next(backbone.parameters()).device
    stream = generator(seed, "fitted", device=device)
    u, _, _ = posterior_draw(backbone, images_NCHW, stream)
    mean, spread = u.mean(0), u.std(0)
    standard = standard_normal(backbone)
    if u.shape[1] > min(LARGEST_FULL, len(u) // 4):
        return lambda n, source: mean + spread * standard(n, source), "diagonal"
    covariance = torch.cov(u.double().t()).reshape(u.shape[1], u.shape[1])
    tiny = 1e-8 * torch.eye(u.shape[1], dtype=torch.float64, device=device)
    factor = torch.linalg.cholesky(covariance + tiny).float()
    return lambda n, source: mean + standard(n, source) @ factor.t(), "full"


def _drawn(
    backbone: HierarchicalBackbone,
    split: Split,
    column: str | None,
    settings: MixtureConfig,
    seed: int,
) -> tuple[Tensor, np.ndarray]:
    """Several posterior draws of every image, or of as many as the settings allow, and labels."""
    device = next(backbone.parameters()).device
    each = settings.draws_of_images(split.n)
    rows = subset(split.n, max(1, settings.rows // each), seed, "mixture-rows")
    images = np.array(split.x[rows])
    stream = generator(seed, "mixture", split.name, device=device)
    draws = [posterior_draw(backbone, images, stream)[0] for _ in range(each)]
    label = np.asarray(split.labels(column))[rows] if column else np.full(len(rows), -1)
    return torch.cat(draws), np.tile(label, each)


def _sampler(fit: MixtureFit, mean_D: Tensor, spread_D: Tensor) -> Draw:
    mixture = fit.mixture().float().to(mean_D.device)
    return lambda n, stream: mean_D + spread_D * mixture.draw(n, stream)
