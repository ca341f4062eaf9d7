"""``ldebm.fit_prior``: the density of vectors that somebody else's model has made.

The vectors become principal coordinates (:mod:`ldebm.backbones.linear`), exactly and invertibly;
the prior of these is trained as the second stage trains it, by the bound on held-out rows.

Shapes: N rows, X numbers of a vector, D modelled coordinates, K classes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldebm.assembly import build_backbone, build_model, build_prior
from ldebm.backbones.linear import ROWS, LinearBackbone
from ldebm.config import ExperimentConfig, TrainingConfig, nearest, parse
from ldebm.data.packed import Packed
from ldebm.devices import choose_device, one_thread
from ldebm.errors import UsageError
from ldebm.fitting import presets
from ldebm.fitting.fit import NAMES, Fitted
from ldebm.fitting.loop import Trainer, as_configured
from ldebm.fitting.rows import LABEL, Labels, divide, read_labels, require_rows
from ldebm.modalities.vectors import VectorPrior, as_vectors
from ldebm.priors import EnergyPrior, Posteriors
from ldebm.priors.known import Known, find_proposals
from ldebm.priors.trajectories import LikelihoodSettings, Trajectories
from ldebm.seeding import generator, numpy_generator
from ldebm.training.clustering import geometric_clusters
from ldebm.training.inputs import PriorInputs
from ldebm.training.second_stage import train_prior
from ldebm.training.trainer import TrainResult

__all__ = ["KINDS", "fit_prior"]

MODELLED = 32  # coordinates at most, where nothing else is said
NOISE = 0.05  # of a training row, in standard deviations of every coordinate
BATCH, CHECKS, PATIENCE = 256, 250, 4  # updates between validations, and how many may be no better
CLUSTERED = 50_000  # rows that are clustered at most: the others train without a class
SCORED = 200  # held-out rows whose scores are kept
PILOT = 256  # held-out rows at which normalisers are estimated
TOLERANCE = 2.0  # nats between the two sides of the normalisers, beyond which it is said
TILTED = 20  # rows a coordinate from which energies tilt a mixture; fewer: the Gaussian


def fit_prior(
    z: Any,
    labels: Any = None,
    kind: str = "ldebm",
    *,
    dims: int | None = None,
    seed: int = 0,
    seconds: float | None = None,
    name: str = "prior",
    progress: bool = True,
    cluster: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    **prior: Any,
) -> VectorPrior:
    """Fits the density of latents or embeddings, and with labels their classes.

    One row in ten, 2,000 at most, is held out. The bound on their log p(z), with classes that of
    log p(z, y), chooses the weights and when training stops.
    Memory: beside the vectors, the modelled coordinates of all rows in single precision.

    Args:
        z: vectors (N, X): an array, a tensor or a frame of numbers.
        labels: one a row, names or numbers; None, NaN or -1 for a row that has none.
        kind: ``ldebm``, the diffusion prior of Yu et al. (2022), which tilts a fitted mixture of
            Gaussians; ``svebm``, one energy (Pang and Wu 2021); ``mixture``, of Gaussians;
            ``gaussian``; or ``flow``, a neural spline flow.
        dims: principal coordinates that are modelled; the others are independent Gaussians. None:
            all, 32 at most.
        seed: of everything.
        seconds: after how long the training ends, counted from the call; None: when the held-out
            bound no longer rises. The normalisers of ``ldebm`` and ``svebm`` are estimated after
            it, which takes 5 to 15 s more.
        name: of the prior, in messages.
        progress: show it.
        cluster: settings of the section ``cluster``.
        settings: of the section ``prior`` (docs/reference/configuration.md), as a mapping.
        prior: the same by keyword, as in ``levels=4``.

    Returns:
        A prior: ``sample``, ``log_prob``, ``classify``, ``score``, ``save``.

    Raises:
        UsageError: vectors, labels or settings cannot be used; one line says why.

    Example:
        >>> import numpy as np
        >>> from ldebm.fitting.prior import fit_prior
        >>> z = np.random.default_rng(0).normal(size=(200, 3))
        >>> fitted = fit_prior(z, kind="gaussian", progress=False)
        >>> fitted.sample(2).shape, fitted.log_prob(z[:5]).name
        ((2, 3), 'exact log-density')
    """
    begun = time.monotonic()
    if (begin := KINDS.get(kind)) is None:
        raise UsageError(f"kind {kind!r}: no such kind of prior{nearest(kind, KINDS)}")
    vectors = as_vectors(z)
    require_rows(len(vectors), "z")
    given = read_labels(labels, len(vectors))
    modelled = _modelled(vectors.shape[1], dims)
    train, held_out = divide(len(vectors), seed)
    changes = presets.merged(settings or {}, prior)
    content = begin(kind, len(train), modelled, given)
    content = presets.merged(content, {"cluster": cluster or {}, "prior": changes})
    config = parse(ExperimentConfig, content, file="settings")
    trainer = Trainer(seconds, first=True)
    with as_configured(config.prior.training.threads, quiet=not progress):
        model = _fitted(config, vectors, (train, held_out), given, seed, trainer, name)
    rows = {"train": len(train), "valid": len(held_out)}
    took = time.monotonic() - begun
    model.fitted = Fitted(rows, took, trainer.updates, trainer.validation, trainer.ended)
    return model


def _modelled(dimensions: int, dims: int | None) -> int:
    if dims is None:
        return min(dimensions, MODELLED)
    if isinstance(dims, bool) or not isinstance(dims, int) or not 1 <= dims <= dimensions:
        raise UsageError(f"dims {dims!r}: expected a whole number from 1 to {dimensions}")
    return dims


def _content(rows: int, modelled: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment of a prior that suits so many rows of so many coordinates."""
    batch = min(BATCH, rows)
    training = {
        "updates": 1500 if rows < 1000 else 2500,
        "batch": batch,
        "validate_every": CHECKS * batch / rows,
        "patience": PATIENCE,
        "optimiser": presets.TEXT_OPTIMISER,
    }
    return {
        "data": "python",
        "backbone": {"arch": "linear", "latent": modelled, "training": {"updates": 0}},
        "cluster": {"labels": "none"},
        "prior": {"standardise": "none", "training": training, **settings},
    }


def _plain(kind: str, rows: int, modelled: int, labels: Labels | None) -> dict[str, Any]:
    """An exact density."""
    if labels is not None:
        raise UsageError(f"labels: a prior of kind {kind!r} has no classes; leave them out")
    return _content(rows, modelled, {"kind": kind})


def _mixture(kind: str, rows: int, modelled: int, labels: Labels | None) -> dict[str, Any]:
    return presets.merged(_plain(kind, rows, modelled, labels), {"prior": {"mixture": MIXTURE}})


def _energies(kind: str, rows: int, modelled: int, labels: Labels | None) -> dict[str, Any]:
    """Energies that tilt a mixture, or of few rows the Gaussian."""
    prior: dict[str, Any] = {
        "kind": NAMES.get(kind, kind),
        "energy": {"hidden": 96 if modelled <= 16 else 128, **presets.ENERGY},
        "classes": min(10, max(2, rows // 20)) if labels is None else len(labels.names),
        "mi_weight": 0.05 if labels is None else 0.0,
        "class_weight": 0.05 if labels is None else 1.0,
        **LEARNT[kind],
    }
    if rows >= TILTED * modelled:
        prior |= {"base_measure": "mixture", "mixture": MIXTURE}
    content = _content(rows, modelled, prior)
    found = {"labels": "gc", "dims": min(6, modelled), "restarts": 4}
    content["cluster"] = found if labels is None else {"labels": "given", "column": LABEL}
    return content


MIXTURE = {"draws": 1, "components": [1, 2, 5, 10, 20, 40, 80]}
LEARNT: dict[str, dict[str, Any]] = {
    "ldebm": {"sampler": {"steps": 12}, "score_matching": 0.9},
    "svebm": {"sampler": {"steps": 20}, "score_matching": 0.0},
}
KINDS = {
    "ldebm": _energies, "svebm": _energies, "mixture": _mixture, "gaussian": _plain, "flow": _plain
}  # fmt: skip


class _VectorInputs(PriorInputs):
    """Inputs whose columns are views: training rows stand before the held-out ones."""

    def column(self, name: str, split: int = 0) -> np.ndarray:
        count = int(self.latents["rows"][0])
        column: np.ndarray = self.latents[name]
        return column[count:] if split else column[:count]

    def posteriors(self, split: int = 0) -> Posteriors:
        mu = torch.from_numpy(self.column("mu", split)).to(self.device)
        logvar = torch.tensor(2 * np.log(NOISE), dtype=mu.dtype, device=self.device)
        return Posteriors(mu, logvar.expand(mu.shape))


def _fitted(
    config: ExperimentConfig,
    vectors: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
    labels: Labels | None,
    seed: int,
    trainer: Trainer,
    name: str,
) -> VectorPrior:
    """Coordinates, prior and normalisers."""
    train, held_out = parts
    device = choose_device(config.prior.training.device)
    meta: dict[str, Any] = {
        "kind": "vectors",
        "dimensions": vectors.shape[1],
        "labels": {} if labels is None else {LABEL: labels.names},
        "rows": {"train": len(train), "valid": len(held_out)},
    }
    backbone = build_backbone(config.backbone, meta)
    assert isinstance(backbone, LinearBackbone)
    backbone.fit(_Chosen(vectors, train), vectors[held_out])
    rows = np.concatenate([train, held_out])
    mu = _coordinates(backbone, vectors, rows)
    codes = _codes(config, mu, None if labels is None else labels.codes[rows], seed)
    known, other = (None, None) if codes is None else np.split(codes, [len(train)])
    prior = build_prior(backbone, config.prior, generator(seed, "prior-init")).to(device)
    narrow = np.full((1, 1), 2 * np.log(NOISE), dtype=np.float32)
    logvar = np.lib.stride_tricks.as_strided(narrow, mu.shape, (0, 0))
    latents = {"mu": mu, "logvar": logvar, "rows": np.array([len(train)])}
    packed = Packed(Path("none"), meta)
    inputs = _VectorInputs(
        config, packed, seed, device, latents, known, backbone, prior, Path("none")
    )

    def run(task: Any, training: TrainingConfig, *, title: str) -> TrainResult:
        if codes is not None:
            task.held_out_labels = other
        return trainer.run(task, training, title=title)

    train_prior(inputs, run)
    model: VectorPrior = build_model(config, meta, backbone.to(device), prior, None, name, seed)
    if prior.energies is not None:
        pilot = torch.from_numpy(mu[len(train) :]).to(device)
        model.meta["normalisers"] = _normalisers(prior.energies, pilot, seed)
    some = numpy_generator(seed, "scored", len(held_out)).permutation(len(held_out))[:SCORED]
    scores = -model.log_prob(vectors[held_out[some]], seed=seed).value
    model.meta["held_out_scores"] = np.sort(scores).tolist()
    return model


class _Chosen:
    """Some rows of an array, of which only what is asked for is copied."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows = array, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> np.ndarray:
        chosen: np.ndarray = self.array[self.rows[part]]
        return chosen


def _coordinates(backbone: LinearBackbone, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The modelled coordinates of rows, float32 (len(rows), D)."""
    result = np.empty((len(rows), backbone.latent), dtype=np.float32)
    chosen = _Chosen(vectors, rows)
    for start in range(0, len(rows), ROWS):
        part = slice(start, start + ROWS)
        result[part] = backbone.encode(torch.from_numpy(chosen[part]))[0].numpy()
    return result


def _codes(
    config: ExperimentConfig, mu: np.ndarray, given: np.ndarray | None, seed: int
) -> np.ndarray | None:
    """Classes of all rows: as given, found, or none."""
    if config.cluster.labels == "none":
        return None
    if config.cluster.labels == "given":
        if given is None:
            raise UsageError("cluster.labels 'given': give labels too")
        return given.astype(np.int64)
    codes = np.full(len(mu), -1, dtype=np.int64)
    some = numpy_generator(seed, "clustered", len(mu)).permutation(len(mu))[:CLUSTERED]
    codes[some] = geometric_clusters(mu[some], config.prior.classes, config.cluster, seed)
    return codes


@torch.no_grad()
def _normalisers(prior: EnergyPrior, pilot_ND: torch.Tensor, seed: int) -> dict[str, Any]:
    """What densities need of the normalisers, estimated from both sides, as plain values."""
    settings = LikelihoodSettings(top_draws=16384, top_particles=128, seed=seed)
    with one_thread():
        u_ND = prior.to_standard(pilot_ND[:PILOT])
        scorer = Trajectories(prior, settings, u_ND)
        stream = generator(seed, "normalisers", device=u_ND.device)
        levels = scorer.energies.forward(u_ND, stream)
        shift, inner = find_proposals(scorer.energies, levels, settings.inner, stream)
    top = scorer.tops[0]
    gap = abs(top.reverse - top.log_z) + sum(scorer.sides)
    found = float(top.log_z), 0.0, settings.top_draws, float(top.plain_ess)
    known = Known(*found, seed, shift, inner)
    if not gap <= TOLERANCE:
        print(
            f"prior: the two sides of its normalisers are {gap:.1f} nats apart: do not rely on its "
            "densities; lower training.optimiser.lr or training.updates, or take another kind",
            file=sys.stderr,
        )
    return {**asdict(known), "gap": float(gap)}
