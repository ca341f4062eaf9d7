"""The evaluation of models of the plane: exact likelihood, modes, sampler, panels.

Shapes: N rows or samples, D latent dimension, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.data.batches import make_batch, row_batches
from ldebm.data.packed import Packed
from ldebm.data.points import NAMES
from ldebm.evaluate.clusters import add_label_information, cluster_metrics, mutual_information
from ldebm.evaluate.likelihood import LikelihoodSettings, likelihood, mean_interval
from ldebm.evaluate.points import bandwidth, density_panel, mmd2, mode_metrics, nll_true
from ldebm.evaluate.quadrature import Grid, nll_by_quadrature, prior_grid, total_variation
from ldebm.evaluate.report import Report, encode_rows, subset
from ldebm.evaluate.sampling import sampler_acceptance
from ldebm.files import read_model
from ldebm.model import Model
from ldebm.seeding import generator

__all__ = ["evaluate_points", "read_snapshots"]

CHECK_ROWS = 50  # rows of the importance-weighted check of the quadrature
PANEL_ROWS = 20000
SNAPSHOT_ROWS = 2000


@torch.no_grad()
def evaluate_points(
    model: Model,
    packed: Packed,
    config: EvaluateConfig,
    snapshots: Mapping[int, Mapping[str, Tensor]] | None = None,
) -> Report:
    """All metrics and panels of a model of points.

    Args:
        model: trained.
        packed: its data.
        config: the experiment's ``evaluate`` section.
        snapshots: update -> state of the prior at that training time, for the panels.
    """
    report, seed = Report(), model.seed
    prior, backbone = model.prior, model.backbone
    test, source = packed.split("test"), str(packed.meta.get("source", ""))
    rows = subset(test.n, config.rows, seed, "evaluate-rows")
    x_N2 = make_batch(test, rows, model.device)
    mu, logvar = encode_rows(backbone, test, rows, model.device)
    stream = generator(seed, "evaluate", device=model.device)
    posterior = mu + torch.exp(0.5 * logvar) * _noise(mu, stream)
    z_prior = prior.sample(config.samples, stream)
    x_prior = torch.as_tensor(model.decode(z_prior, config.decode, seed), device=model.device)
    x_posterior = torch.as_tensor(model.decode(posterior, config.decode, seed), device=model.device)
    known = source if source in NAMES else None
    if known is not None:
        report.metrics |= mode_metrics(known, x_prior.cpu())
    _likelihood(report, model, packed, config, rows, x_N2, known, (posterior, z_prior))
    _discrepancies(report, packed, x_N2, x_prior, z_prior, posterior)
    report.metrics["recon_nll"] = float(backbone.reconstruction_nll(x_N2, mu).mean())
    report.metrics |= sampler_acceptance(prior, 1000, seed)
    _classes(report, model, packed, config, rows, mu)
    report.panels["scatter"] = _scatter(model, x_N2, mu, x_prior, z_prior)
    reach = 1.15 * float(x_N2.abs().max()), 1.15 * float(posterior[:, :2].abs().max())
    final = _panels(
        reach,
        {"data": x_N2, "posterior": x_posterior, "prior": x_prior},
        {"posterior": posterior, "prior": z_prior},
    )
    report.panels["final"] = final
    report.panels["evolution"] = _evolution(model, config, snapshots or {}, final, reach)
    report.samples = [
        {"kind": "sample", "x": [round(float(v), 4) for v in row]} for row in x_prior[:200]
    ]
    return report


def _noise(like: Tensor, stream: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=stream, device=like.device, dtype=like.dtype)


def _likelihood(
    report: Report,
    model: Model,
    packed: Packed,
    config: EvaluateConfig,
    rows: np.ndarray,
    x_N2: Tensor,
    source: str | None,
    seen: tuple[Tensor, Tensor],
) -> None:
    """Exact where the latent has two dimensions, importance-weighted otherwise and as a check."""
    prior, metrics, seed = model.prior, report.metrics, model.seed
    if source is not None:
        metrics["nll_true"] = float(nll_true(source, x_N2.cpu()) or math.nan)
    check = rows if prior.latent != 2 else rows[:CHECK_ROWS]
    _, batches = row_batches(packed.split("test"), check, CHECK_ROWS, model.device)
    settings = LikelihoodSettings(config.importance, config.inner, seed=seed)
    if prior.latent == 2:
        settings = LikelihoodSettings(100, 32, top_draws=16384, seed=seed)
    estimate = likelihood(model.backbone, prior, batches, settings)["prior"]
    prefix = "nll" if prior.latent != 2 else "nll_weighted"
    metrics |= estimate.metrics(prefix)
    if prior.latent != 2:
        return
    posterior, z_prior = (prior.to_standard(z) for z in seen)
    grid = prior_grid(prior.cpu(), torch.cat([posterior, z_prior]).cpu())
    backbone = model.backbone.cpu()
    nll_N = nll_by_quadrature(backbone, prior, grid, x_N2.cpu())
    mean, error, low, high = mean_interval(nll_N.numpy())
    metrics |= {"nll": mean, "nll_se": error, "nll_low": low, "nll_high": high}
    if source is not None:
        metrics["nll_gap"] = mean - metrics["nll_true"]
    metrics["nll_weighted_error"] = float(estimate.nll_B.mean() - nll_N[: len(check)].mean())
    metrics |= {"grid_border": grid.border, "grid_finest": grid.finest}
    if prior.levels and prior.config.energy_scale == "code":
        stated = prior_grid(prior, torch.cat([posterior, z_prior]).cpu(), of_sampler=False)
        metrics["nll_stated"] = float(nll_by_quadrature(backbone, prior, stated, x_N2.cpu()).mean())
    _sampler(metrics, grid, z_prior.cpu(), posterior.cpu(), seed)
    where = x_N2.device
    prior.to(where)
    backbone.to(where)


def _sampler(
    metrics: dict[str, float], grid: Grid, u_prior: Tensor, posterior: Tensor, seed: int
) -> None:
    """Total variation of chains, and of posterior samples, against the exact density."""
    variation = total_variation(grid, u_prior, seed)
    metrics["tv_sampler"], metrics["tv_floor"] = variation.sampler, variation.floor
    metrics["tv_floor_spread"], metrics["tv_outside"] = variation.floor_spread, variation.outside
    metrics["tv_posterior"] = total_variation(grid, posterior[: len(u_prior)], seed).sampler


def _discrepancies(
    report: Report,
    packed: Packed,
    x_N2: Tensor,
    x_prior: Tensor,
    z_prior: Tensor,
    posterior: Tensor,
) -> None:
    """Kernel discrepancies of x and z, at a fifth of the median distance and at the median."""
    train = packed.split("train")
    count = min(train.n, len(x_N2))
    real = torch.from_numpy(np.array(train.x[:count], dtype=np.float32)).to(x_N2.device)
    width = bandwidth(x_N2)
    report.metrics["mmd2"] = mmd2(x_prior, x_N2, width / 5)
    report.metrics["mmd2_data"] = mmd2(real, x_N2, width / 5)
    report.metrics["mmd2_median"] = mmd2(x_prior, x_N2, width)
    report.metrics["mmd2_z"] = mmd2(z_prior, posterior, bandwidth(posterior) / 5)


def _classes(
    report: Report,
    model: Model,
    packed: Packed,
    config: EvaluateConfig,
    rows: np.ndarray,
    mu: Tensor,
) -> None:
    """Agreement of discovered classes with the data's modes."""
    if not model.prior.levels:
        return
    logits = model.prior.class_logits(mu).cpu()
    report.metrics["mi"] = mutual_information(logits)
    report.metrics["classes_used"] = float(len(torch.unique(logits.argmax(-1))))
    for index, column in enumerate(packed.meta.get("labels", {})):
        label = np.asarray(packed.split("test").labels(column))[rows]
        agreement = cluster_metrics(logits.argmax(-1).numpy(), label, model.seed)
        if index == 0 and agreement:
            report.metrics["ami"], report.metrics["ami_shuffled"] = (
                agreement["ami"],
                agreement["shuffled"],
            )
        report.metrics |= {f"{name}_{column}": value for name, value in agreement.items()}
    add_label_information(report, model.prior, config.samples, 8, model.seed)


def _scatter(
    model: Model, x_N2: Tensor, mu: Tensor, x_prior: Tensor, z_prior: Tensor
) -> dict[str, Any]:
    """Figure 3 of Yu et al. (2022): data and latents coloured by discovered class."""
    of_data = model.prior.class_logits(mu).argmax(-1).cpu().numpy()
    of_samples = model.prior.class_logits(z_prior).argmax(-1).cpu().numpy()
    return {
        "data x": (x_N2.cpu().numpy(), of_data),
        "posterior mean": (mu[:, :2].cpu().numpy(), of_data),
        "prior x": (x_prior.cpu().numpy(), of_samples),
        "prior z": (z_prior[:, :2].cpu().numpy(), of_samples),
    }


def _panels(
    reach: tuple[float, float], x: Mapping[str, Tensor], z: Mapping[str, Tensor]
) -> dict[str, np.ndarray]:
    """Densities of points and of latents on fixed axes, as in a row of figure 2."""
    panels = {
        f"{name} x": density_panel(value[:PANEL_ROWS].cpu(), reach[0]) for name, value in x.items()
    }
    for name, value in z.items():
        panels[f"{name} z"] = density_panel(value[:PANEL_ROWS, :2].cpu(), reach[1])
    return panels


def _evolution(
    model: Model,
    config: EvaluateConfig,
    snapshots: Mapping[int, Mapping[str, Tensor]],
    final: Mapping[str, np.ndarray],
    reach: tuple[float, float],
) -> dict[int, dict[str, np.ndarray]]:
    """The row of figure 2 at several training times (figure A2).

    The backbone does not change in the second stage, so neither do data and posterior.
    """
    rows: dict[int, dict[str, np.ndarray]] = {}
    kept = {name: value.clone() for name, value in model.prior.state_dict().items()}
    for update, state in sorted(snapshots.items()):
        model.prior.load_state_dict(dict(state))
        stream = generator(model.seed, "snapshot", device=model.device)
        z = model.prior.sample(min(config.samples, SNAPSHOT_ROWS), stream)
        x = torch.as_tensor(model.decode(z, config.decode, model.seed))
        rows[update] = {**final, **_panels(reach, {"prior": x}, {"prior": z})}
    model.prior.load_state_dict(kept)
    return rows


def read_snapshots(path: Path) -> dict[int, dict[str, Tensor]]:
    """update -> state of the prior, from the ``<update>/<name>`` tensors of a snapshot file."""
    tensors, _ = read_model(path)
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        update, name = key.split("/", 1)
        states.setdefault(int(update), {})[name.removeprefix("prior.")] = value
    return states
