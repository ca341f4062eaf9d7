"""What the report draws of a model beside its metrics: latent map, energies, Langevin chains.

All of it is small (some tens of kilobytes) and drawn from random streams of its own, so that adding
a view changes no metric.

Shapes: N rows, B chains, D latent dimension, T levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.data.packed import Packed
from ldebm.evaluate.report import Report, encode_rows, subset
from ldebm.model import Model
from ldebm.priors import EnergyPrior, Prior
from ldebm.seeding import generator

__all__ = [
    "add_views",
    "chain_energy",
    "energy_histograms",
    "latent_map",
    "principal_axes",
    "transitions",
]

MAP_ROWS = 700
ENERGY_ROWS = 4000
BINS = 32
CHAINS = 4
MOMENTS = 24  # of a whole trajectory, over all levels


@torch.no_grad()
def add_views(report: Report, model: Model, packed: Packed) -> None:
    """Adds the tables ``latent_map`` and ``energies`` and the detail ``transitions``.

    Args:
        report: of the same model.
        model: trained.
        packed: its data.
    """
    split = packed.split("test")
    rows = subset(split.n, ENERGY_ROWS, model.seed, "view-rows")
    mu, logvar = encode_rows(model.backbone, split, rows, model.device)
    model = model.in_contexts_of(split, rows)
    stream = generator(model.seed, "views", device=model.device)
    noise = torch.randn(mu.shape, generator=stream, device=mu.device)
    z_posterior = mu + torch.exp(0.5 * logvar) * noise
    u_levels = model.prior.sample_levels(len(rows), stream)
    z_prior = model.prior.from_standard(u_levels[0])
    clusters = [_clusters(model.prior, z) for z in (mu, z_prior)]
    latent_map(report, packed, model.seed, rows, (mu, z_prior), clusters)
    if model.prior.energies is not None:
        header = ["t", "low", "high", "data", "samples"]
        histograms = energy_histograms(model.prior.energies, z_posterior, u_levels, stream)
        report.tables["energies"] = (header, histograms)
        report.details["transitions"] = transitions(model, CHAINS)


def principal_axes(x_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of largest variance, (2, D), and the shares of variance they explain.

    An axis points to where its largest component is positive, so that equal data give equal maps.
    Data of two dimensions keep their own axes; those of one have an empty second one.
    """
    centred = x_ND - x_ND.mean(0)
    variance = centred.var(0)
    total = max(float(variance.sum()), 1e-12)
    if x_ND.shape[1] <= 2:
        size = x_ND.shape[1]
        return np.eye(2, size), np.pad(variance / total, (0, 2 - size))
    _, singular, axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    axes = axes[:2]
    largest = axes[np.arange(2), np.abs(axes).argmax(1)]
    return axes * np.sign(largest)[:, None], singular[:2] ** 2 / len(x_ND) / total


def _clusters(prior: Prior, z_ND: Tensor) -> list[str]:
    """The most likely class of every latent, or nothing where there are none."""
    if not prior.has_classes:
        return [""] * len(z_ND)
    return [str(k) for k in prior.class_logits(z_ND).argmax(-1).tolist()]


def latent_map(
    report: Report,
    packed: Packed,
    seed: int,
    rows: np.ndarray,
    latents: tuple[Tensor, Tensor],
    clusters: list[list[str]],
) -> None:
    """Adds posterior means of test rows and prior samples on the posterior's two principal axes.

    Args:
        report: the table ``latent_map`` and its description are added to.
        packed: the data.
        seed: of the choice of rows.
        rows: of the test split.
        latents: posterior means of these rows, and prior samples, each (N, D).
        clusters: the class of each of them, as text.
    """
    mu, z_prior = latents
    few = subset(len(rows), MAP_ROWS, seed, "map-rows")
    mu_ND, mean_D = mu.cpu().numpy(), mu.cpu().numpy().mean(0)
    axes, explained = principal_axes(mu_ND)
    column = next(iter(packed.meta.get("labels", {})), None)
    names: list[str] = []
    label_N = np.full(len(rows), -1)
    if column is not None:
        names = [str(name) for name in packed.meta["labels"][column]]
        label_N = np.asarray(packed.split("test").labels(column))[rows]
    lines: list[list[Any]] = []
    for kind, z, label, cluster in (
        ("posterior", mu_ND[few], label_N[few], [clusters[0][row] for row in few]),
        ("prior", z_prior[: len(few)].cpu().numpy(), np.full(len(few), -1), clusters[1]),
    ):
        place = (z - mean_D) @ axes.T
        lines += [
            [kind, round(float(x), 3), round(float(y), 3), k, names[i] if i >= 0 else ""]
            for (x, y), k, i in zip(place, cluster[: len(z)], label, strict=True)
        ]
    report.tables["latent_map"] = (["kind", "x", "y", "class", "label"], lines)
    report.details["latent_map"] = {
        "axes": "latent" if mu.shape[1] == 2 else "principal",
        "explained": [round(float(share), 4) for share in explained],
        "label": column,
    }


@torch.no_grad()
def energy_histograms(
    prior: EnergyPrior, z_ND: Tensor, u_levels: list[Tensor], stream: torch.Generator
) -> list[list[float]]:
    """Energies -F(v_t, t) of data and of samples at every level, as counts in common bins.

    Args:
        prior: whose energies.
        z_ND: posterior samples of data rows, in the backbone's coordinates.
        u_levels: states of the prior's trajectories, from level 0 up.
        stream: noise of the forward process, which takes the data to level t.

    Returns:
        Rows (t, lower edge, upper edge, count of data, count of samples). The range leaves out the
        outer 0.25% on either side; what lies there is counted in the outer bins.
    """
    u0 = prior.level_zero(prior.to_standard(z_ND), stream)
    rows: list[list[float]] = []
    for t, u_samples in enumerate(u_levels):
        signal = float(prior.schedule.abar[t] / prior.schedule.abar[0])
        noise = torch.randn(u0.shape, generator=stream, device=u0.device)
        u_data = signal * u0 + max(1 - signal**2, 0.0) ** 0.5 * noise
        scale = float(prior.schedule.scale[t + 1])
        data, samples = (
            -prior.negative_energy(scale * u, t).double().cpu().numpy() for u in (u_data, u_samples)
        )
        both = np.concatenate([data, samples])
        low, high = np.quantile(both, [0.0025, 0.9975])
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, BINS + 1)
        counts = [np.histogram(np.clip(item, low, high), edges)[0] for item in (data, samples)]
        rows += [
            [t, round(float(edges[i]), 4), round(float(edges[i + 1]), 4), *map(int, pair)]
            for i, pair in enumerate(zip(*counts, strict=True))
        ]
    return rows


@torch.no_grad()
def transitions(model: Model, chains: int) -> list[list[dict[str, Any]]]:
    """A few reverse trajectories, followed move by move: what the sampler does to a sample.

    Every moment has the level t, the number of moves since the level's start, the energy
    -F(v, t) / temperature - log N(v; m, s^2) up to a constant of the level (what the chain lowers),
    the class of largest p(y|z_t) with its probability, and the sample decoded from u_t.
    """
    prior = model.prior.energies
    assert prior is not None
    stream = generator(model.seed, "transitions", device=model.device)
    frozen = prior.net.freeze()
    u = torch.randn(chains, prior.latent, generator=stream, device=model.device)
    steps = prior.config.sampler.steps
    stops = min(steps, max(2, MOMENTS // prior.levels - 1))
    marks = sorted({round(steps * i / stops) for i in range(stops + 1)})
    followed: list[list[dict[str, Any]]] = [[] for _ in range(chains)]
    for t in reversed(range(prior.levels)):
        t_B = torch.full((chains,), t, dtype=torch.long, device=u.device)
        scale = float(prior.schedule.scale[t + 1])
        v, done = prior.chain_start(u, t_B, stream), 0
        for mark in marks:
            if mark > done:
                v = prior.chain(u, t_B, stream, frozen, start_BD=v, steps=mark - done).x_BD
                done = mark
            for chain, moment in zip(followed, _moment(model, v, u, t_B, scale), strict=True):
                chain.append({"t": t, "move": done, **moment})
        u = v / scale
    return followed


def _moment(
    model: Model, v: Tensor, u_next: Tensor, t_B: Tensor, scale: float
) -> list[dict[str, Any]]:
    """Energy, class and decoded sample of every chain."""
    prior = model.prior.energies
    assert prior is not None
    logits = prior.net(v, t_B)
    energy = chain_energy(prior, v, u_next, t_B, torch.logsumexp(logits, -1))
    probability, cluster = torch.softmax(logits, -1).max(-1)
    decoded = model.decode(prior.from_standard(v / scale), "greedy", model.seed)
    samples: list[Any] = [
        item if isinstance(item, str) else [round(float(x), 3) for x in item] for item in decoded
    ]
    return [
        {
            "energy": round(float(energy[i]), 4),
            "class": int(cluster[i]),
            "probability": round(float(probability[i]), 4),
            "sample": samples[i],
        }
        for i in range(len(v))
    ]


def chain_energy(
    prior: EnergyPrior, v_BD: Tensor, u_next_BD: Tensor, t_B: Tensor, value_B: Tensor
) -> Tensor:
    """What a chain lowers, -F / temperature - log N(v; m, s^2) up to a constant of the level, (B,).

    Args:
        prior: whose chains.
        v_BD: states.
        u_next_BD: what they are conditioned on.
        t_B: level of each row.
        value_B: F(v, t).
    """
    mean, variance = prior.base_kernel(u_next_BD, t_B)
    network = value_B / prior.temperature_T(of_sampler=True)[t_B]
    return 0.5 * ((v_BD - mean).square() / variance).sum(-1) - network
