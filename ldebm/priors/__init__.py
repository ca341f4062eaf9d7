"""Priors of the latent vector: Gaussian, symbol-vector EBM (SVEBM), diffusion EBMs (LDEBM).

One density per prior, used by the sampler, the training terms, the class logits and the likelihood.
In standardised coordinates u = scale^-1 (z - shift), with F(v, t) = logsumexp_k f_k(v, t):

    SVEBM    p(u)             = exp(F(u)) N(u; 0, I) / Z
    LDEBM    p(v_t | u_{t+1}) = exp(F(v_t, t)) N(v_t; m_t(u_{t+1}), s_t^2 I) / Z_t(u_{t+1})
             p(y | u_0)       = softmax f(v_0, 0),   v_t = c_{t+1} u_t

SVEBM is Pang and Wu (2021), eq. 4; LDEBM is Yu et al. (2022), eq. A2, and at the top level eq. A1;
the classes are Yu et al. (2022), eq. A9. v_t is the papers' z-tilde. docs/method.md, section 2.

The kernel N(v; m, s^2) is the paper's recovery kernel (m = u_{t+1}, s = sigma_{t+1}; at the top
m = 0, s = sigma_T). With ``base`` the energy contains the quadratic under which a constant network
is exactly N(0, I) at every level; it is written into the kernel: m = a^2 u_{t+1}, s = a sigma
(at the top m = 0, s = 1). Of dialogues the energies read the context too, f(v, t, c); the kernels
do not.

Shapes: B batch, D latent dimension, K classes, T levels.
"""

from ldebm.priors.base import ExactPrior, GaussianPrior, Posteriors, Prior
from ldebm.priors.diffusion import DiffusionPrior
from ldebm.priors.energy import EnergyPrior, Pairs
from ldebm.priors.svebm import SymbolPrior

__all__ = [
    "DiffusionPrior",
    "EnergyPrior",
    "ExactPrior",
    "GaussianPrior",
    "Pairs",
    "Posteriors",
    "Prior",
    "SymbolPrior",
]
