"""Distributions over codes: divergences, draws, joint classes, and mixtures of Gaussians by code.

A code has M independent variables of k values; q(c|x) is given by log-probabilities (B, M, k).

Shapes: B batch, M variables, k values, d dimensions of z that belong to one variable, K = k^M.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "FLOOR",
    "average_divergence",
    "averaged_gaussian",
    "code_divergence",
    "code_information",
    "digits",
    "gumbel_softmax",
    "joint_log_probability",
    "kl_gaussians",
    "log_one_hot",
    "of_variables",
]

FLOOR = -50.0  # log-probability of a value that a drawn code does not have
TINY = 1e-15


def of_variables(flat: Tensor, variables: int, values: int) -> Tensor:
    """The values of all variables in a row, (..., M k), as (..., M, k)."""
    return flat.reshape(*flat.shape[:-1], variables, values)


def code_divergence(log_q_BMK: Tensor, log_p_BMK: Tensor | None = None) -> Tensor:
    """KL(q(c|x) || p) per row, summed over the variables, shape (B,).

    The published code divides by the number of variables and multiplies by k/M
    (docs/method.md, section 7).

    Args:
        log_q_BMK: q(c|x).
        log_p_BMK: p, such as a policy given the context; None: uniform.
    """
    log_p = -math.log(log_q_BMK.shape[-1]) if log_p_BMK is None else log_p_BMK
    return (log_q_BMK.exp() * (log_q_BMK - log_p)).sum((-1, -2))


def average_divergence(log_q_BMK: Tensor) -> Tensor:
    """KL(mean over rows of q(c|x) || uniform), summed over the variables, a scalar."""
    mean = log_q_BMK.exp().mean(0)
    return (mean * ((mean + TINY).log() + math.log(mean.shape[-1]))).sum()


def code_information(log_q_BMK: Tensor) -> Tensor:
    """I(x, c) = H(mean q) - mean H(q), summed over the variables, a scalar
    (docs/method.md, section 7).

    With :func:`average_divergence` it adds up to the mean of :func:`code_divergence`.
    """
    return code_divergence(log_q_BMK).mean() - average_divergence(log_q_BMK)


def gumbel_softmax(log_q_BMK: Tensor, uniform_BMK: Tensor, temperature: float) -> Tensor:
    """A relaxed draw of every variable (Jang et al. 2017), rows summing to one, (B, M, k).

    Args:
        log_q_BMK: log-probabilities.
        uniform_BMK: draws from (0, 1).
        temperature: 1 as published; towards 0 the draw becomes one-hot.
    """
    gumbel = -torch.log(-torch.log(uniform_BMK.clamp(1e-7, 1 - 1e-7)))
    return torch.softmax((log_q_BMK + gumbel) / temperature, -1)


def log_one_hot(index_BM: Tensor, values: int) -> Tensor:
    """Log-probabilities of codes that are known, (B, M, k): 0, elsewhere ``FLOOR``."""
    one_hot = torch.nn.functional.one_hot(index_BM, values).float()
    return (1 - one_hot) * FLOOR


def digits(label_B: Tensor, variables: int, values: int) -> Tensor:
    """The values of the variables of joint classes, (B, M): first variable most significant.

    Example:
        >>> digits(torch.tensor([7]), 2, 5).tolist()
        [[1, 2]]
    """
    powers = values ** torch.arange(variables - 1, -1, -1, device=label_B.device)
    return label_B.unsqueeze(-1) // powers % values


def joint_log_probability(log_q_BMK: Tensor) -> Tensor:
    """Log-probabilities of all k^M codes, (B, K), numbered as :func:`digits` does."""
    joint = log_q_BMK[:, 0]
    for variable in log_q_BMK.unbind(1)[1:]:
        joint = (joint.unsqueeze(-1) + variable.unsqueeze(-2)).flatten(1)
    return joint


def kl_gaussians(mean: Tensor, logvar: Tensor, other_mean: Tensor, other_logvar: Tensor) -> Tensor:
    """KL of diagonal Gaussians, elementwise: to be summed over the dimensions."""
    ratio = (logvar - other_logvar).exp() + (mean - other_mean).square() * (-other_logvar).exp()
    return 0.5 * (ratio - 1 + other_logvar - logvar)


def averaged_gaussian(
    log_q_BMK: Tensor, mean_MKD: Tensor, logvar_MKD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The Gaussian of the averaged natural parameters, and what the average loses.

    Shi et al. (2020); docs/method.md, section 7.

    With eta_1 = mean / var, eta_2 = -1 / (2 var) and A the log-normaliser:

        E_{q(c|x)} KL(r || N_c) = KL(r || N(E eta)) + dispersion,
        dispersion = E A(eta_c) - A(E eta) >= 0

    Args:
        log_q_BMK: q(c|x).
        mean_MKD: of the Gaussian of every value of every variable, (M, k, d).
        logvar_MKD: likewise.

    Returns:
        Mean and log-variance (B, M, d), and the dispersion (B,).
    """
    q = log_q_BMK.exp()
    precision_MKD = (-logvar_MKD).exp()
    log_normaliser_MKD = 0.5 * (mean_MKD.square() * precision_MKD + logvar_MKD)

    def expected(table_MKD: Tensor) -> Tensor:
        return torch.einsum("bmk,mkd->bmd", q, table_MKD)

    precision = expected(precision_MKD)
    mean, logvar = expected(mean_MKD * precision_MKD) / precision, -precision.log()
    own = 0.5 * (mean.square() * precision + logvar)
    return mean, logvar, (expected(log_normaliser_MKD) - own).sum((-1, -2))
