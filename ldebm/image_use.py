"""Images of a user's files for a trained model, and what the model makes of them.

Shapes: N images, C channels, H height, W width, G groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ldebm.data.folders import EXTENSIONS, content_of, file_names, is_image
from ldebm.data.image_files import RawImage
from ldebm.data.image_sources import READERS_OF_FILES, open_user_file
from ldebm.data.images import ImageError, as_array, resized
from ldebm.errors import UsageError
from ldebm.files import write_parquet
from ldebm.grids import picture, tile, write_png

if TYPE_CHECKING:
    from ldebm.model import Model

__all__ = ["Pictures", "Scores", "read_pictures", "score", "write_pictures"]

DRAWS = 5  # posterior draws that scores are the mean of


@dataclass(frozen=True)
class Pictures:
    """Images that fit a model.

    Attributes:
        pixels: uint8 (N, C, H, W).
        places: where each came from.
    """

    pixels: np.ndarray
    places: list[str]


def read_pictures(path: str | Path, meta: Mapping[str, Any], *, resize: bool = False) -> Pictures:
    """The images of one file, a folder, a zip, an npz or a parquet file.

    Args:
        path: where they are.
        meta: ``channels`` and ``size`` of what the model was trained on.
        resize: crop other sizes to a square and scale it, instead of refusing them.

    Raises:
        UsageError: there is no image, or one is damaged, has another size, or is grey where the
            model knows colours; the message names it.
    """
    path, channels, size = Path(path), int(meta["channels"]), int(meta["size"])
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    pixels, places = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for image in _raw_images(path):
            try:
                found = as_array(image.content, channels, meta.get("background", "white"))
            except ImageError as error:
                raise UsageError(f"{path}: {image.place}: {error}") from None
            if resize:
                found = resized(found, size)
            if found.shape[:2] != (size, size):
                height, width = found.shape[:2]
                raise UsageError(
                    f"{path}: {image.place}: {height} x {width} pixels, the model has {size} x "
                    f"{size}; give --resize to scale it"
                )
            pixels.append(found.transpose(2, 0, 1))
            places.append(image.place)
    if not pixels:
        raise UsageError(f"{path}: no image in it; expected files of {', '.join(EXTENSIONS)}")
    return Pictures(np.ascontiguousarray(np.stack(pixels)), places)


def _raw_images(path: Path) -> Iterator[RawImage]:
    if path.is_dir():
        for inside in file_names(path):
            if is_image(inside):
                yield RawImage(None, inside, content_of(path / inside))
    elif path.suffix.lower() in READERS_OF_FILES:
        yield from open_user_file(path).images
    elif path.suffix.lower() in EXTENSIONS:
        yield RawImage(None, path.name, path.read_bytes())
    else:
        known = ", ".join((*EXTENSIONS, *READERS_OF_FILES))
        raise UsageError(f"{path}: expected a folder, or a file of {known}")


@dataclass(frozen=True)
class Scores:
    """How familiar images are to a model: high energies and low bounds are strange.

    Attributes:
        bound: evidence lower bound of log p(x) with the Gaussian prior, nats (N,).
        bits: the same, negative, in bits per value of the image (N,).
        energies: -F_g of every group, top first, (N, G); None for a Gaussian prior.
    """

    bound: np.ndarray
    bits: np.ndarray
    energies: np.ndarray | None

    @property
    def energy(self) -> np.ndarray | None:
        """The sum over all groups (N,)."""
        return None if self.energies is None else self.energies.sum(1)

    def rows(self, places: list[str]) -> list[dict[str, Any]]:
        """One record an image, for tables and JSON."""
        found = []
        for index, place in enumerate(places):
            row = {"image": place, "bound": float(self.bound[index])}
            row["bits"] = float(self.bits[index])
            if self.energies is not None:
                energies = self.energies[index]
                row["energy"] = float(energies.sum())
                row |= {f"energy_{g}": float(value) for g, value in enumerate(energies)}
            found.append(row)
        return found


def score(model: Model, pixels: np.ndarray, seed: int = 0) -> Scores:
    """Energies by group at t = 0 and the evidence lower bound, means over five posterior draws.

    All images share the noise of a draw, so that a score does not depend on the other rows.

    Args:
        model: hierarchical.
        pixels: uint8 (N, C, H, W).
        seed: of the draws.
    """
    import torch

    from ldebm.evaluate.image_rows import parts
    from ldebm.nn.group_energy import GroupEnergies
    from ldebm.nn.hierarchy import HierarchicalBackbone
    from ldebm.seeding import generator

    backbone, prior = model.backbone, model.prior
    assert isinstance(backbone, HierarchicalBackbone)
    stream = generator(seed, "scores", device=model.device)
    noise = torch.randn(DRAWS, backbone.latent, generator=stream, device=model.device)
    bounds, energies = [], []
    with torch.no_grad():
        for part in parts(len(pixels), backbone.latent):
            x_BCHW = model.batch(pixels[part])
            bound = torch.zeros(len(x_BCHW), device=model.device)
            energy: torch.Tensor | None = None
            for draw_D in noise:
                drawn, nll_B = backbone.draw_and_nll(x_BCHW, draw_D.expand(len(x_BCHW), -1))
                bound -= (nll_B + drawn.kl_BG.sum(1)) / DRAWS
                if (ebm := prior.energies) is not None:
                    assert isinstance(ebm.net, GroupEnergies)
                    v_BD = ebm.scale_zero() * prior.to_standard(drawn.u_BD)
                    value_BG = ebm.net.fold().group_energies(v_BD, 0) / DRAWS
                    energy = -value_BG if energy is None else energy - value_BG
            bounds.append(bound.double().cpu().numpy())
            if energy is not None:
                energies.append(energy.double().cpu().numpy())
    found = np.concatenate(bounds)
    bits = -found / (np.log(2) * pixels[0].size)
    return Scores(found, bits, np.concatenate(energies) if energies else None)


def write_pictures(
    target: str | Path, pixels: np.ndarray, columns: Mapping[str, Any] | None = None
) -> None:
    """Writes images as one PNG picture, or as rows of parquet with a PNG file each.

    The parquet file is one that ``ldebm new --from`` reads.

    Args:
        target: ends in ``.png`` or ``.parquet``.
        pixels: uint8 (N, C, H, W).
        columns: values that all rows have, in the parquet file.

    Raises:
        UsageError: the file's name ends otherwise.
    """
    suffix = Path(target).suffix.lower()
    if suffix == ".png":
        write_png(target, tile(pixels))
    elif suffix == ".parquet":
        count = len(pixels)
        table: dict[str, Any] = {
            "id": np.arange(count),
            "image": [picture(image.transpose(1, 2, 0)) for image in pixels],
        }
        table |= {name: [value] * count for name, value in (columns or {}).items()}
        write_parquet(target, table)
    else:
        raise UsageError(f"{target}: expected a file name that ends in .png or .parquet")
