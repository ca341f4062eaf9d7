"""Priors of given vectors: sentence embeddings, features of a network, latents of another VAE.

:func:`ldebm.fit_prior` makes them. What is modelled are the principal coordinates of the vectors
(:mod:`ldebm.backbones.linear`); densities are those of the vectors as they were given.

Shapes: N vectors, X numbers of each, D modelled coordinates, S trajectories, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.linear import ROWS, LinearBackbone
from ldebm.config import EvaluateConfig
from ldebm.devices import one_thread
from ldebm.errors import UsageError, require_count
from ldebm.model import Model, UserRows
from ldebm.priors.known import Known
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.data.packed import Measure, Packed
    from ldebm.evaluate.report import Report

__all__ = ["LogProb", "Strangeness", "VectorPrior", "as_vectors"]

TRAJECTORIES, INNER = 16, 64  # of a vector; draws of an inner normaliser, at most
ROWS_AT_ONCE = 64  # vectors whose trajectories are followed together: bounds the memory


@dataclass(frozen=True)
class LogProb:
    """log p of vectors, or a lower bound of it.

    Attributes:
        value: nats (N,).
        spread: standard error of every value by the draws, nats (N,); 0 where it is exact.
        name: what the values are.
        gap: how far the two sides of the prior's normalisers are apart, nats; 0 where it is exact.
            The bound holds up to that; above 1 do not rely on it.
    """

    value: np.ndarray
    spread: np.ndarray
    name: str
    gap: float = 0.0

    @property
    def mean(self) -> float:
        """Over the vectors."""
        return float(self.value.mean())

    @property
    def standard_error(self) -> float:
        """Of :attr:`mean`, over the vectors; NaN of one."""
        rows = len(self.value)
        return float(self.value.std(ddof=1) / math.sqrt(rows)) if rows > 1 else math.nan

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        gap = f", gap {self.gap:.2g}" if self.gap else ""
        return (
            f"LogProb({self.name}: mean {self.mean:.4g} +- {self.standard_error:.2g} nats, "
            f"{len(self)} rows{gap})"
        )


@dataclass(frozen=True)
class Strangeness:
    """How unlike the vectors that a prior was fitted to others are.

    Attributes:
        score: -log p, nats (N,): higher is stranger.
        tail: share of held-out vectors of the fit that are at least as strange (N,), by
            (count + 1) / (held out + 1): small numbers are strange, as p-values are.
    """

    score: np.ndarray
    tail: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    def __repr__(self) -> str:
        few = float((self.tail <= 0.05).mean())
        return (
            f"Strangeness({len(self)} rows: mean score {float(self.score.mean()):.4g} nats, "
            f"{few:.0%} stranger than 95 of 100 held-out rows)"
        )


def as_vectors(rows: Any, dimensions: int | None = None, what: str = "z") -> np.ndarray:
    """Rows of numbers as one array (N, X), float32 or float64 without a copy where it is one.

    Raises:
        UsageError: it is not such an array, or holds what is no finite number.

    Example:
        >>> as_vectors([[1, 2], [3, 4]]).shape
        (2, 2)
    """
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu()
    if hasattr(rows, "to_numpy"):
        rows = rows.to_numpy()
    wanted = f"(n, {dimensions or 'd'})"
    try:
        array = np.asarray(rows)
    except ValueError as error:
        raise UsageError(f"{what}: expected an array of shape {wanted}; {error}") from None
    if array.dtype.kind not in "fiub":
        raise UsageError(f"{what}: expected numbers of shape {wanted}, got {array.dtype}")
    if array.ndim != 2 or not array.size or dimensions not in (None, array.shape[1]):
        raise UsageError(f"{what}: expected shape {wanted}, got {array.shape}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    for start in range(0, len(array), 1 << 16):
        part = np.isfinite(array[start : start + (1 << 16)]).all(1)
        if not part.all():
            row = start + int(part.argmin())
            raise UsageError(
                f"{what}: row {row} holds NaN or infinity; expected finite numbers: leave such "
                "rows out"
            )
    return array


class VectorPrior(Model):
    """The density of vectors (N, X).

    It is fitted by :func:`ldebm.fit_prior` and read back by :func:`ldebm.load`.
    """

    rows = "vectors"
    task = "vectors"
    at_once = ROWS
    backbone: LinearBackbone

    @property
    def device(self) -> torch.device:
        return self.prior.shift_D.device

    @property
    def dimensions(self) -> int:
        """X."""
        return self.backbone.dimensions

    def batch(self, rows: Any) -> Tensor:
        vectors = as_vectors(rows, self.dimensions)
        return torch.from_numpy(np.ascontiguousarray(vectors)).to(self.device)

    @torch.no_grad()
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> np.ndarray:
        """Vectors of coordinates, float32 (B, X).

        Args:
            z_BD: the modelled ones.
            mode: ``sample`` draws the others, ``greedy`` leaves them at their mean.
            seed: of the draws.
        """
        rest = None
        if mode == "sample":
            shape = len(z_BD), self.dimensions - self.backbone.latent
            rest = torch.randn(shape, generator=generator(seed, "decode")).to(z_BD.device)
        return np.asarray(self.backbone.decode(z_BD, rest).float().cpu().numpy())

    def sample(self, n: int = 10, label: int | str | None = None, seed: int = 0) -> np.ndarray:
        """n vectors from p(z), or from p(z | label), float32 (n, X).

        Args:
            n: how many.
            label: class, by name or number.
            seed: of the draws.

        Raises:
            UsageError: n is not from 1 on, or there is no such class.
        """
        return np.asarray(self.generate(n, label, seed))

    @torch.no_grad()
    def log_prob(self, z: Any, trajectories: int = TRAJECTORIES, seed: int = 0) -> LogProb:
        """log p(z) of vectors: exact, or an importance-weighted lower bound.

        Of a prior of energies with several levels it is the bound of Yu et al. (2022), eq. A4 to
        A6, over latent trajectories (docs/method.md, section 5.1). More of them make it tighter.

        Args:
            z: vectors (N, X).
            trajectories: S, of every vector.
            seed: of the draws.

        Raises:
            UsageError: the vectors do not fit.
        """
        vectors = as_vectors(z, self.dimensions)
        require_count(trajectories, "trajectories")
        prior, exact = self.prior, getattr(self.prior, "log_prob", None)
        trajectories = trajectories if prior.levels > 1 else 1
        values, spreads = [], []
        with one_thread():
            for index, start in enumerate(range(0, len(vectors), ROWS_AT_ONCE)):
                batch = self.batch(vectors[start : start + ROWS_AT_ONCE])
                u_BD = self.backbone.encode(batch)[0]
                if exact is None:
                    weight_SB = self._weights(u_BD, trajectories, seed, index)
                    weight_SB = weight_SB - prior.log_det()
                else:
                    weight_SB = exact(u_BD).double()[None]
                total_B = torch.logsumexp(weight_SB, 0)
                share_B = torch.exp(torch.logsumexp(2 * weight_SB, 0) - 2 * total_B)
                values.append(total_B - math.log(len(weight_SB)) + self.backbone.log_beside(batch))
                spreads.append((share_B - 1 / len(weight_SB)).clamp(min=0).sqrt())
        value, spread = (torch.cat(parts).cpu().numpy() for parts in (values, spreads))
        if exact is not None:
            return LogProb(value, spread, "exact log-density")
        name = f"lower bound by {trajectories} trajectories"
        if prior.levels == 1:
            name = "log-density with an estimated normaliser"
        return LogProb(value, spread, name, self._normalisers[1])

    def _weights(self, u_BD: Tensor, trajectories: int, seed: int, index: int) -> Tensor:
        """log of the terms of the bound, float64 (S, B)."""
        from ldebm.priors.trajectories import LikelihoodSettings, Trajectories

        assert self.prior.energies is not None
        settings = LikelihoodSettings(inner=INNER, anneal_share=0, sandwich=False, seed=seed)
        u_ND = self.prior.to_standard(u_BD).repeat(trajectories, 1)
        stream = generator(seed, "log-prob", index, device=self.device)
        scorer = Trajectories(
            self.prior.energies, settings, u_ND[: len(u_BD)], known=self._normalisers[0]
        )
        own_N, _, _ = scorer(u_ND, stream)
        return own_N.view(trajectories, len(u_BD))

    @cached_property
    def _normalisers(self) -> tuple[Known, float]:
        """What the fit has found of the normalisers, and how far their two sides are apart."""
        found = cast("Mapping[str, Any]", self.meta["normalisers"])
        lists = {name: tuple(found[name]) for name in ("shift", "inner")}
        fields = {name: found[name] for name in Known.__dataclass_fields__}
        return Known(**{**fields, **lists}), float(found["gap"])

    def score(self, rows: Any, seed: int = 0, **settings: Any) -> Strangeness:
        """How unlike the vectors of the fit others are: for finding what is out of distribution.

        Args:
            rows: vectors (N, X).
            seed: of the draws.
            settings: further ones of :meth:`log_prob`.

        Raises:
            UsageError: the vectors do not fit.
        """
        score = -self.log_prob(rows, seed=seed, **settings).value
        held_out = np.asarray(self.meta["held_out_scores"])
        above = len(held_out) - np.searchsorted(held_out, score)
        return Strangeness(score, (above + 1) / (len(held_out) + 1))

    def read(
        self,
        path: Path,
        column: str | None = None,
        context: str | None = None,
        *,
        resize: bool = False,
    ) -> UserRows:
        """The vectors of a ``.npy`` file."""
        if column or context or resize:
            raise UsageError(f"{self.experiment}: vectors have no such options; leave them out")
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UsageError(f"{path}: expected vectors in a .npy file ({error})") from None
        rows = as_vectors(values, self.dimensions, str(path))
        return UserRows(rows, {"row": list(range(1, len(rows) + 1))})

    def scored(
        self, rows: UserRows, seed: int, done: Callable[[int], None], **settings: Any
    ) -> list[dict[str, Any]]:
        del settings  # those of texts
        found = self.score(rows.values, seed)
        done(len(rows))
        return rows.records({"log_prob": -found.score, "tail": found.tail})

    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        raise UsageError(f"{self.experiment}: vectors have no evaluation; use log_prob and score")
