"""Models of images: pictures of a user's files, samples and scores.

Shapes: N images, C channels, H height, W width, G groups.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import EvaluateConfig
from ldebm.data.folders import EXTENSIONS, content_of, file_names, is_image
from ldebm.data.image_files import RawImage
from ldebm.data.image_sources import READERS_OF_FILES, open_user_file
from ldebm.data.images import ImageError, as_array, resized
from ldebm.errors import UsageError
from ldebm.files import write_parquet
from ldebm.grids import picture, tile, write_png
from ldebm.model import Model, UserRows
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.data.packed import Measure, Packed
    from ldebm.evaluate.report import Report

__all__ = ["ImageModel", "Pictures", "Scores", "read_pictures", "write_pictures"]

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
                picture = as_array(image.content, channels, meta.get("background", "white"))
            except ImageError as error:
                raise UsageError(f"{path}: {image.place}: {error}") from None
            if resize:
                picture = resized(picture, size)
            if picture.shape[:2] != (size, size):
                height, width = picture.shape[:2]
                raise UsageError(
                    f"{path}: {image.place}: {height} x {width} pixels, the model has {size} x "
                    f"{size}; give --resize to scale it"
                )
            pixels.append(picture.transpose(2, 0, 1))
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

    def columns(self) -> dict[str, np.ndarray]:
        """For tables and JSON."""
        columns = {"bound": self.bound, "bits": self.bits}
        if self.energies is not None and self.energy is not None:
            columns["energy"] = self.energy
            columns |= {f"energy_{g}": value for g, value in enumerate(self.energies.T)}
        return columns


class ImageModel(Model):
    """A model of images, uint8 (B, C, H, W); (B, H, W, C) and (B, H, W) are read too."""

    rows = "images"
    task = "images"
    at_once = 250
    threads = True
    backbone: HierarchicalBackbone

    def batch(self, rows: Any) -> Tensor:
        images = np.asarray(rows)
        if images.ndim == 3 and self.meta["channels"] == 1:
            images = images[:, None]
        elif images.ndim == 4 and images.shape[1] not in (1, 3):
            images = images.transpose(0, 3, 1, 2)
        side = int(self.meta["size"])
        shape = (int(self.meta["channels"]), side, side)
        if images.dtype != np.uint8 or images.shape[1:] != shape:
            raise UsageError(
                f"images: expected uint8 of shape (n, {', '.join(map(str, shape))}), got "
                f"{images.dtype} {images.shape}"
            )
        return torch.from_numpy(images.copy()).to(self.device).float().div_(127.5).sub_(1)

    @torch.no_grad()
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> np.ndarray:
        stream = generator(seed, "decode", device=self.device)
        split = torch.split(z_BD, self.at_once or len(z_BD))
        parts = [self.backbone.decode(part, mode, stream) for part in split]
        return np.asarray(torch.cat(parts).cpu().numpy())

    def read(
        self,
        path: Path,
        column: str | None = None,
        context: str | None = None,
        *,
        resize: bool = False,
    ) -> UserRows:
        if column or context:
            raise UsageError(
                f"{self.experiment}: a model of images; leave --text and --context out"
            )
        pictures = read_pictures(path, self.meta, resize=resize)
        return UserRows(pictures.pixels, {"image": pictures.places})

    def score(self, images: np.ndarray, seed: int = 0) -> Scores:
        """How familiar images are: energies by group at t = 0 and the evidence lower bound.

        They are means over five posterior draws. All images share the noise of a draw, so that a
        score does not depend on the other rows.

        Args:
            images: uint8 (N, C, H, W).
            seed: of the draws.

        Raises:
            UsageError: the images have another shape.
        """
        from ldebm.evaluate.image_rows import parts
        from ldebm.priors.group_energy_net import GroupEnergies

        backbone, prior = self.backbone, self.prior
        stream = generator(seed, "scores", device=self.device)
        noise = torch.randn(DRAWS, backbone.latent, generator=stream, device=self.device)
        bounds, energies = [], []
        with torch.no_grad():
            for part in parts(len(images), backbone.latent):
                x_BCHW = self.batch(images[part])
                bound = torch.zeros(len(x_BCHW), device=self.device)
                energy: torch.Tensor | None = None
                for draw_D in noise:
                    drawn, nll_B = backbone.draw_and_nll(x_BCHW, draw_D.expand(len(x_BCHW), -1))
                    bound -= (nll_B + drawn.kl_BG.sum(1)) / DRAWS
                    if (ebm := prior.energies) is not None:
                        assert isinstance(ebm.net, GroupEnergies)
                        v_BD = ebm.scale_zero() * prior.to_standard(drawn.u_BD)
                        value_BG = ebm.net.freeze().group_energies(v_BD, 0) / DRAWS
                        energy = -value_BG if energy is None else energy - value_BG
                bounds.append(bound.double().cpu().numpy())
                if energy is not None:
                    energies.append(energy.double().cpu().numpy())
        bound_N = np.concatenate(bounds)
        bits = -bound_N / (np.log(2) * images[0].size)
        return Scores(bound_N, bits, np.concatenate(energies) if energies else None)

    def scored(
        self, rows: UserRows, seed: int, done: Callable[[int], None], **settings: Any
    ) -> list[dict[str, Any]]:
        records = rows.records(self.score(rows.values, seed).columns())
        done(len(rows))
        return records

    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        from ldebm.data.packed import Measure
        from ldebm.evaluate.on_images import evaluate_images

        del snapshots
        return evaluate_images(self, packed, config, measure or Measure())


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
