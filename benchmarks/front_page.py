"""The two pictures of the front page, from the embedded set: ``python -m benchmarks.front_page``.

docs/figures/gaussians16.png: data, samples of the prior, and the class that the model infers.
docs/figures/digits.png: images of one decoder, latents from N(0, I) and from the learned prior.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import ldebm
from ldebm.data.packed import open_packed
from ldebm.seeding import configure, generator

ROWS, COLUMNS = 5, 10  # of digits
POINTS = 2500
Images = NDArray[np.uint8]


def gaussians(root: Path, out: Path) -> None:
    """Draws the sixteen Gaussians."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    model = ldebm.load(root / "models/gaussians16-ldebm/0")
    real = open_packed(root / "data/packed/gaussians16").split("test").x[:POINTS]
    drawn = np.asarray(model.generate(POINTS, seed=1))
    classes = model.classify(drawn).argmax(1)
    figure = Figure(figsize=(9, 3.1), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    colours = [colormaps["tab20"](i % 20) for i in range(int(classes.max()) + 1)]
    shown = (
        ("data", real, "#444444"),
        ("samples of the prior", drawn, "#1f6fb4"),
        ("samples, by inferred class", drawn, [colours[i] for i in classes]),
    )
    for axes, (title, points, colour) in zip(panels, shown, strict=True):
        axes.scatter(points[:, 0], points[:, 1], s=2, c=colour, linewidths=0)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_aspect("equal")
    figure.savefig(out)


def digits(root: Path, out: Path) -> None:
    """Draws digits of both priors."""
    from matplotlib.figure import Figure

    model = ldebm.load(root / "models/digits-hvae/0")
    learned = model.sample_latents(ROWS * COLUMNS, seed=1)
    stream = generator(1, "front-page", device=model.device)
    normal = torch.randn(learned.shape, generator=stream, device=model.device)
    figure = Figure(figsize=(7.6, 2.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2)
    shown = (("latents from N(0, I)", normal), ("latents from the learned EBM prior", learned))
    for axes, (title, latents) in zip(panels, shown, strict=True):
        axes.imshow(_grid(np.asarray(model.decode(latents))), cmap="gray_r", vmin=0, vmax=255)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    figure.savefig(out)


def _grid(images_BCHW: Images) -> Images:
    """Grey images in rows and columns, one pixel apart."""
    side = images_BCHW.shape[-1]
    grid = np.zeros((ROWS * (side + 1), COLUMNS * (side + 1)), dtype=np.uint8)
    for i, image in enumerate(images_BCHW[:, 0]):
        top, left = (i // COLUMNS) * (side + 1), (i % COLUMNS) * (side + 1)
        grid[top : top + side, left : left + side] = image
    return grid


def main() -> None:
    """Draws both from what is built here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(), help="a built project")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    configure(1)
    options.out.mkdir(parents=True, exist_ok=True)
    gaussians(options.root, options.out / "gaussians16.png")
    digits(options.root, options.out / "digits.png")


if __name__ == "__main__":
    main()
