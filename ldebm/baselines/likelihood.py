"""The likelihood of a baseline by importance sampling, with the code summed out where it can be.

    RNN-LM            exact
    VAE               z ~ q(z|x),       w = p(x|z) N(z; 0, I) / q(z|x)
    GM-VAE, DGM-VAE   z ~ q(z|x),       w = p(x|z) p(z) / q(z|x), p(z) the mixture, summed exactly
    DVAE, DI-VAE      exact by a sum over all codes if there are few, else c ~ q(c|x),
                      w = p(x|c) p(c) / q(c|x)
    semi-VAE          c, z ~ q,         w = p(x|c, z) p(c) p(z) / (q(c|x) q(z|x))

Of responses everything is given the context, p(c) by the policy. AE and DAE train no density and
have none. ``nll`` is -log mean w: at or above the NLL on average.

Shapes: B rows, S draws, M variables, k values, D dimensions of z.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from ldebm.baselines.codes import code_divergence, digits, log_one_hot
from ldebm.baselines.model import Baseline, CodePosterior
from ldebm.baselines.prior import BaselinePrior
from ldebm.data.batches import TextBatch
from ldebm.evaluate.likelihood import Estimate, collect
from ldebm.priors.base import LOG_2PI
from ldebm.seeding import generator as make_generator

__all__ = ["baseline_likelihood"]


@torch.no_grad()
def baseline_likelihood(
    model: Baseline, prior: BaselinePrior, batches: Iterable[TextBatch], draws: int, seed: int
) -> Estimate | None:
    """The NLL of rows under a baseline and its own prior.

    Args:
        model: trained.
        prior: its own; of a model of responses it is given the contexts of each batch.
        batches: rows, a few each.
        draws: S, of each row; at least as many codes are summed over.
        seed: of all draws.

    Returns:
        Estimates in the order of the rows; ``None`` for AE and DAE.
    """
    model.eval()
    baseline = model.baseline
    if not baseline.form.density:
        return None
    few = prior.classes > 1 and prior.classes <= max(draws, 512)
    columns: dict[str, list[np.ndarray]] = {}
    exact: list[np.ndarray] = []
    for index, batch in enumerate(batches):
        posterior = model.posterior(batch)
        stream = make_generator(seed, "own-nll", index, device=model.decoder_embedding.device)
        mine = prior.conditioned_on(model.context(batch)) if prior.contextual else prior
        if not baseline.encodes:
            nll = model.reconstruction_nll(batch, torch.zeros(len(batch), 1, device=stream.device))
            nll = nll.double()
            ones = torch.ones_like(nll)
            exact.append(torch.stack([nll, nll, nll, nll, nll, ones, nll]).cpu().numpy())
        elif few and not baseline.continuous:
            exact.append(_summed(model, mine, batch, posterior).cpu().numpy())
        else:
            recon_SB, weight_SB = _weights(model, mine, batch, posterior, draws, stream)
            collect(columns, "own", recon_SB, weight_SB, weight_SB, weight_SB)
    table = np.concatenate(exact or columns["own"], axis=1)
    return Estimate(*table)


def _summed(
    model: Baseline, prior: BaselinePrior, batch: TextBatch, posterior: CodePosterior
) -> Tensor:
    """The columns of an estimate by the sum over all codes, (7, B)."""
    log_q = posterior.log_q_BMK
    assert log_q is not None
    baseline = model.baseline
    all_codes = torch.arange(prior.classes, device=log_q.device)
    codes_KM = digits(all_codes, baseline.variables, baseline.values)
    latent_KD = log_one_hot(codes_KM, baseline.values).flatten(1)
    recon_KB = model.nll_matrix(batch, latent_KD.unsqueeze(1).expand(-1, len(batch), -1)).double()
    log_p = prior.code_log_prior(len(batch))
    joint_KB = _joint(log_p, codes_KM) - recon_KB
    nll_B = -torch.logsumexp(joint_KB, 0)
    q_KB = _joint(log_q, codes_KM).exp().double()
    expected_B = (q_KB * recon_KB).sum(0)
    upper_B = expected_B + code_divergence(log_q.double(), log_p)
    ess_B = torch.exp(-2 * nll_B - torch.logsumexp(2 * joint_KB, 0))
    return torch.stack([nll_B, nll_B, upper_B, nll_B, nll_B, ess_B, expected_B])


def _joint(log_p_BMK: Tensor, codes_KM: Tensor) -> Tensor:
    """Log-probabilities of given codes, (K, B)."""
    variable = torch.arange(codes_KM.shape[1], device=codes_KM.device)
    return log_p_BMK[:, variable, codes_KM].sum(-1).t()


def _weights(
    model: Baseline,
    prior: BaselinePrior,
    batch: TextBatch,
    posterior: CodePosterior,
    draws: int,
    stream: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """-log p(x|c, z) and log w of draws of q, each (S, B), float64."""
    rows, device = len(batch), stream.device
    log_w = torch.zeros(draws, rows, dtype=torch.float64, device=device)
    parts: list[Tensor] = []
    log_q, mu, logvar = posterior.log_q_BMK, posterior.mu_BD, posterior.logvar_BD
    if log_q is not None and model.baseline.mixture:  # unread: its place is filled
        parts.append(log_q.flatten(1).expand(draws, -1, -1))
    elif log_q is not None:
        codes_SBM = _draw(log_q, draws, stream)
        ratio = prior.code_log_prior(rows) - log_q.double()  # log p(c) - log q(c|x)
        chosen = ratio.expand(draws, -1, -1, -1).gather(-1, codes_SBM.unsqueeze(-1))
        log_w += chosen.sum((-1, -2))
        parts.append(log_one_hot(codes_SBM, log_q.shape[2]).flatten(2))
    if mu is not None and logvar is not None:
        noise = torch.randn(draws, *mu.shape, generator=stream, device=device)
        z_SBD = mu + (0.5 * logvar).exp() * noise
        log_density = -0.5 * (noise.double().square() + logvar.double() + LOG_2PI).sum(-1)
        log_w += prior.log_prob(z_SBD) - log_density
        parts.append(z_SBD)
    recon_SB = model.nll_matrix(batch, torch.cat(parts, -1)).double()
    return recon_SB, log_w - recon_SB


def _draw(log_q_BMK: Tensor, draws: int, stream: torch.Generator) -> Tensor:
    """Codes from q(c|x), (S, B, M)."""
    flat = log_q_BMK.exp().flatten(0, 1)
    codes = torch.multinomial(flat, draws, replacement=True, generator=stream)
    return codes.t().reshape(draws, *log_q_BMK.shape[:2])
