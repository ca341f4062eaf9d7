"""A prior with modes far apart: chains of training from the data, or from the kernel.

    python -m benchmarks.clusters [--seeds 3] [--updates 1500]

Four heaps in the latents of the two-layer linear-Gaussian generator, whose aggregate posterior is
known exactly; the distance of the learnt prior from it is by quadrature. Printed as a table.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.unit.exact_priors import divergence, draws, trained
from tests.unit.image_worlds import LinearGaussian

__all__ = ["four_heaps", "heap_distances", "main"]


def four_heaps() -> tuple[np.ndarray, np.ndarray]:
    """1,200 pictures in four heaps at the corners of a rectangle in u, and which heap each is in.

    Within a heap they differ by less than the posterior's own spread.
    """
    backbone = LinearGaussian()
    stream = np.random.default_rng(0)
    heap = np.repeat(np.arange(4), 300)
    u_1, u_2 = 0.9 * (2 * (heap % 2) - 1), 1.55 * (2 * (heap // 2) - 1)
    z_1 = u_1
    z_2 = backbone.slope * z_1 + backbone.spread * u_2
    # The picture whose posterior has its mean path at (z_1, z_2).
    own, narrow = (4 * backbone.noise) ** 2, backbone.spread**2
    wide = narrow + own
    x_2 = (z_2 * (1 / narrow + 1 / own) - backbone.slope * z_1 / narrow) * own
    x_1 = (z_1 * (1 + 1 / own + backbone.slope**2 / wide) - backbone.slope * x_2 / wide) * own
    x = np.stack([x_1, x_2], 1) / 4 + 0.01 * stream.standard_normal((1200, 2))
    assert np.abs(x).max() < 1
    return ((x + 1) * 127.5).round().astype(np.uint8).reshape(1200, 1, 1, 2), heap


def heap_distances(prior: Any, images: np.ndarray, heap: np.ndarray) -> list[float]:
    """Between the heaps of the aggregate posterior, in standard deviations within a heap."""
    u = draws(prior, images)
    centres = [u[heap == k].mean(0) for k in range(4)]
    within = torch.cov(torch.cat([u[heap == k] - centres[k] for k in range(4)]).t())
    root = torch.linalg.cholesky(torch.linalg.inv(within))
    return [float(((centres[i] - centres[j]) @ root).norm()) for i in range(4) for j in range(i)]


def main() -> None:
    """Prints the divergence of every seed, for both ways to start the chains."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=1500)
    options = parser.parse_args()
    images, heap = four_heaps()
    print("training_start  seed  KL(aggregate posterior || prior), nats  nearest heaps, deviations")
    for start in ("data", "same"):
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory(prefix="heaps-") as folder:
                prior, _ = trained(
                    Path(folder),
                    options.updates,
                    (images, heap),
                    seed=seed,
                    classes=4,
                    score_matching=0.5,
                    sampler={"steps": 10, "training_start": start},
                    lr=4e-3,
                )
            apart = min(heap_distances(prior, images, heap))
            print(f"{start:14}  {seed:4}  {divergence(prior, images):.4f}  {apart:.2f}", flush=True)


if __name__ == "__main__":
    main()
