"""The pictures of the README and of docs/equations.md: ``python -m benchmarks.figures``.

Draws what is built in this project and leaves the other pictures as they are:

    make repro                                            digits, evolution, label information
    make repro RUN=points-grids,points-rings              densities and classes of points
    python -m benchmarks.figures
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ldebm
from ldebm.data.packed import open_packed
from ldebm.evaluate.figures import draw_densities
from ldebm.evaluate.points import density_panel
from ldebm.evaluate.report import encode_rows
from ldebm.files import atomic_path
from ldebm.seeding import configure, generator

ROWS, COLUMNS = 5, 10  # of digits
LARGEST = 150_000  # bytes of a picture
DRAWS = 20000
DENSITIES = {
    "gaussians8": ("svebm-ib", "svebm", "mixture", "flow", "ldebm-nogc", "ldebm"),
    "pinwheel5": ("svebm-ib", "svebm", "mixture", "flow", "ldebm-nogc", "ldebm"),
    "gaussians16": ("svebm-ib", "ldebm-nogc", "ldebm"),
    "pinwheel10": ("svebm-ib", "ldebm-nogc", "ldebm"),
}
"""Figure 2 of Pang and Wu (2021), figure 2 of Yu et al. (2022)."""
EVALUATED = {
    "classes-gaussians16.png": "gaussians16-ldebm/0/details/scatter.png",
    "classes-pinwheel10.png": "pinwheel10-ldebm/0/details/scatter.png",
    "evolution-gaussians16.png": "gaussians16-ldebm/0/details/evolution.png",
    "evolution-pinwheel10.png": "pinwheel10-ldebm/0/details/evolution.png",
    "label-information-chatter.png": "chatter-ldebm/0/details/label_information.png",
    "digits-samples.png": "digits-hvae/0/details/grid-prior.png",
    "digits-classes.png": "digits-hvae/0/details/grid-control.png",
    "digits-top.png": "digits-hvae/0/details/grid-hierarchy_top.png",
    "digits-bottom.png": "digits-hvae/0/details/grid-hierarchy_bottom.png",
    "digits-short-chains.png": "digits-hvae/0/details/grid-transitions_short.png",
    "digits-long-chains.png": "digits-hvae/0/details/grid-transitions_long.png",
}
"""What the evaluation has drawn: figures 3, A1 and A2 of Yu et al. (2022), figures 1, 2 and 5 to 7
of Cui and Han (2024)."""

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


def densities(root: Path, out: Path, data: str, names: tuple[str, ...]) -> None:
    """Densities of points and latents, a row an experiment, as far as they are built."""
    test = open_packed(root / "data/packed" / data).split("test")
    x_N2 = torch.from_numpy(np.array(test.x, dtype=np.float32))
    reach = 1.15 * float(x_N2.abs().max())
    rows: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name in names:
        folder = root / "models" / f"{data}-{name}" / "0"
        if not (folder / "prior/model.safetensors").is_file():
            print(f"{data}-{name} is not built: left out", file=sys.stderr)
            continue
        model = ldebm.load(folder)
        mu, logvar = encode_rows(model.backbone, test, np.arange(test.n), model.device)
        stream = generator(1, "figures", device=model.device)
        noise = torch.randn(mu.shape, generator=stream, device=model.device)
        posterior = mu + torch.exp(0.5 * logvar) * noise
        drawn = model.prior.sample(DRAWS, stream)
        limit = 1.15 * float(posterior.abs().max())
        shown: tuple[tuple[str, Tensor, float], ...] = (
            ("data x", x_N2, reach),
            ("prior x", torch.as_tensor(np.asarray(model.decode(drawn))), reach),
            ("posterior z", posterior.cpu(), limit),
            ("prior z", drawn.cpu(), limit),
        )
        rows[name] = {title: density_panel(points, end) for title, points, end in shown}
    if rows:
        draw_densities(rows, out)


def evaluated(source: Path, out: Path) -> None:
    """A picture of the evaluation, made smaller until it has at most 150 kB."""
    from PIL import Image

    image = Image.open(source)
    width, height = image.size
    for share in (1.0, 0.7, 0.5, 0.35):
        smaller = image.convert("RGB").resize((round(width * share), round(height * share)))
        with atomic_path(out) as temporary:
            smaller.quantize(256).save(temporary, format="png", optimize=True)
        if out.stat().st_size <= LARGEST:
            return


def main() -> None:
    """Draws them from what is built here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path(), help="a built project")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    configure(1)
    options.out.mkdir(parents=True, exist_ok=True)
    for experiment, draw in (("gaussians16-ldebm", gaussians), ("digits-hvae", digits)):
        if (options.root / "models" / experiment / "0/prior/model.safetensors").is_file():
            draw(options.root, options.out / f"{experiment.partition('-')[0]}.png")
    for data, names in DENSITIES.items():
        if (options.root / "data/packed" / data).is_dir():
            densities(options.root, options.out / f"densities-{data}.png", data, names)
    for name, source in EVALUATED.items():
        if (options.root / "reports" / source).is_file():
            evaluated(options.root / "reports" / source, options.out / name)


if __name__ == "__main__":
    main()
