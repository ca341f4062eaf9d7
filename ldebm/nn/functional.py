"""Functions with fast paths of their own: the likelihood of tokens under a linear layer, and SiLU.

The logits of a batch (2,800 tokens by 10,001 words) are the largest array of a text model. Here
they are made a few hundred rows at a time; the gradient of each chunk is formed while its logits
are in the cache, so that the backward pass only scales what is there.

Of SiLU, x sigmoid(x), PyTorch computes a gradient of its gradient as some ten operations; where
activations are rounded to bfloat16 a kernel takes one pass. Both sum and round the same up to the
last place of bfloat16.

Shapes: N tokens, D size of the hidden vectors, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm import kernels
from ldebm.kernels import functions

__all__ = ["linear_nll", "silu"]


def linear_nll(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    bfloat16: bool = False,
    chunk: int = 512,
    fused: bool | None = None,
) -> Tensor:
    """-log softmax(weight h)[target] of every token, in nats, shape (N,).

    Equal to ``F.cross_entropy(F.linear(h, weight), targets, reduction="none")``, values and
    gradients. A gradient that is the same for all tokens (a sum, or a mean over sentences) costs
    nothing more in the backward pass; any other is right too, and computes the logits once more.

    Args:
        h_ND: hidden vectors.
        weight_VD: output embedding.
        targets_N: int64 targets.
        bfloat16: products in bfloat16; the softmax and the target's logit in float32.
        chunk: rows at a time.
        fused: False: by plain operations, the default on CUDA, where memory is no concern and the
            check of the incoming gradient would wait for the device.
    """
    if fused is None:
        fused = not h_ND.is_cuda
    needed = torch.is_grad_enabled() and (h_ND.requires_grad or weight_VD.requires_grad)
    if not fused:
        logits = (
            F.linear(h_ND.bfloat16(), weight_VD.bfloat16())
            if bfloat16
            else F.linear(h_ND, weight_VD)
        )
        return F.cross_entropy(logits.to(h_ND.dtype), targets_N, reduction="none")
    if bfloat16 and kernels.usable(h_ND):
        return functions.linear_nll(h_ND, weight_VD, targets_N)
    if bfloat16 and not needed and kernels.usable(h_ND, 1):  # zeros make the size one of theirs
        more = 0, -h_ND.shape[-1] % 64
        return functions.linear_nll(F.pad(h_ND, more), F.pad(weight_VD, more), targets_N)
    if needed:
        return _LinearNLL.apply(h_ND, weight_VD, targets_N, bfloat16, chunk)  # type: ignore[no-any-return,no-untyped-call]
    with torch.no_grad():
        return _values(h_ND, weight_VD, targets_N, bfloat16, chunk)


def _values(
    h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bfloat16: bool, chunk: int
) -> Tensor:
    """The negative log-likelihoods alone."""
    nll_N = h_ND.new_empty(len(h_ND))
    weight = weight_VD.bfloat16() if bfloat16 else weight_VD
    logits_CW = _logits(min(chunk, len(h_ND)), weight)  # of every chunk
    share_CW = torch.empty_like(logits_CW, dtype=h_ND.dtype)
    for span in _spans(len(h_ND), chunk):
        logits, share = (array[: span.stop - span.start] for array in (logits_CW, share_CW))
        torch.mm(h_ND[span].to(weight.dtype), weight.t(), out=logits[:, : len(weight)])
        torch.softmax(logits, -1, dtype=h_ND.dtype, out=share)
        log_total = _log_total(logits, share, targets_N[span])
        nll_N[span] = log_total - _target_logit(h_ND[span], weight_VD, targets_N[span])
    return nll_N


def _logits(rows: int, weight_VD: Tensor) -> Tensor:
    """Where a product with the output embedding is written: (rows, W), W words or a few more.

    In float32 rows begin at multiples of 64 bytes: with 10,001 words the product takes 0.6 of the
    time, for the same bits. The columns beyond the words stay -inf, of which exp is 0.
    """
    words = len(weight_VD)
    width = -(-words // 16) * 16 if weight_VD.dtype == torch.float32 else words
    logits = weight_VD.new_empty(rows, width)
    logits[:, words:] = -torch.inf
    return logits


def _log_total(logits: Tensor, share: Tensor, targets_N: Tensor) -> Tensor:
    """log sum exp of rows, from the softmax that is there anyway: logit - log share, of the target.

    Where the target's share is too small to divide by, the sum is made from the logits.
    """
    at = targets_N.unsqueeze(-1)
    exact = torch.promote_types(logits.dtype, torch.float32)
    target_share = share.gather(-1, at).squeeze(-1).to(exact)
    log_total = logits.gather(-1, at).squeeze(-1) - target_share.log()
    small = (target_share < 1e-30).nonzero().squeeze(-1)
    if len(small):
        log_total = log_total.to(exact)
        log_total[small] = torch.logsumexp(logits[small].to(exact), -1)
    return log_total


def _target_logit(h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """The target's logit in full precision: its rounding would not average out over words."""
    return (h_ND * weight_VD[targets_N]).sum(-1)


class _LinearNLL(torch.autograd.Function):
    """Values, and the gradients of their sum, in one pass over the chunks."""

    @staticmethod
    def forward(
        ctx: Any, h_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bfloat16: bool, chunk: int
    ) -> Tensor:
        need_h, need_weight = ctx.needs_input_grad[:2]
        weight = weight_VD.bfloat16() if bfloat16 else weight_VD
        inputs = h_ND.bfloat16() if bfloat16 else h_ND
        nll_N = h_ND.new_empty(len(h_ND))
        d_h = torch.empty_like(h_ND) if need_h else None
        d_weight = torch.zeros_like(weight_VD) if need_weight else None
        logits_CW = _logits(min(chunk, len(h_ND)), weight)
        error_CW = torch.empty_like(logits_CW)
        scratch = (torch.empty_like(weight), torch.empty_like(weight_VD)) if bfloat16 else None
        for span in _spans(len(h_ND), chunk):
            logits, error = (array[: span.stop - span.start] for array in (logits_CW, error_CW))
            log_total = _error(inputs[span], weight, targets_N[span], logits, error)
            part = error[:, : len(weight)]
            nll_N[span] = log_total - _target_logit(h_ND[span], weight_VD, targets_N[span])
            if d_h is not None:
                d_h[span] = part @ weight
            if d_weight is not None:
                _accumulate(d_weight, part, inputs[span], scratch)
        ctx.save_for_backward(h_ND, weight_VD, targets_N, d_h, d_weight)
        ctx.options = bfloat16, chunk
        return nll_N

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_nll_N: Tensor) -> Any:
        h_ND, weight_VD, targets_N, d_h, d_weight = ctx.saved_tensors
        if d_h is not None:
            d_h = d_h * d_nll_N.unsqueeze(-1)
        if d_weight is not None and len(d_nll_N):
            if bool((d_nll_N == d_nll_N[0]).all()):
                d_weight = d_weight * d_nll_N[0]
            else:
                d_weight = _weighted_gradient(h_ND, weight_VD, targets_N, d_nll_N, *ctx.options)
        return d_h, d_weight, None, None, None


def _weighted_gradient(
    h_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    scale_N: Tensor,
    bfloat16: bool,
    chunk: int,
) -> Tensor:
    """The gradient of sum scale * nll in the weight, from logits made again."""
    total = torch.zeros_like(weight_VD)
    weight = weight_VD.bfloat16() if bfloat16 else weight_VD
    scratch = (torch.empty_like(weight), torch.empty_like(total)) if bfloat16 else None
    for span in _spans(len(h_ND), chunk):
        inputs = h_ND[span].to(weight.dtype)
        logits = _logits(len(inputs), weight)
        error = torch.empty_like(logits)
        _error(inputs, weight, targets_N[span], logits, error)
        error = error[:, : len(weight)]
        _accumulate(total, error.mul_(scale_N[span].unsqueeze(-1)), inputs, scratch)
    return total


def _spans(stop: int, size: int) -> list[slice]:
    """0..stop in pieces of ``size``."""
    return [slice(low, min(low + size, stop)) for low in range(0, stop, size)]


def _error(
    inputs: Tensor, weight: Tensor, targets_N: Tensor, logits: Tensor, error: Tensor
) -> Tensor:
    """Writes softmax - one-hot, the gradient in the logits, to ``error``.

    Args:
        inputs: hidden vectors.
        weight: output embedding.
        targets_N: which words were right.
        logits: of :func:`_logits`.
        error: of the same shape.

    Returns:
        log sum exp of the logits, (N,).
    """
    torch.mm(inputs, weight.t(), out=logits[:, : len(weight)])
    torch.softmax(logits, -1, out=error)
    log_total = _log_total(logits, error, targets_N)
    error[torch.arange(len(inputs), device=inputs.device), targets_N] -= 1
    return log_total


def _accumulate(
    total: Tensor, error: Tensor, inputs: Tensor, scratch: tuple[Tensor, Tensor] | None
) -> None:
    """total += error^T inputs, by way of two scratch arrays if that product is in bfloat16."""
    if scratch is None:
        total.addmm_(error.t(), inputs)
    else:
        rounded, exact = scratch
        torch.mm(error.t(), inputs, out=rounded)
        total.add_(exact.copy_(rounded))


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), of any shape, twice differentiable; float32 is PyTorch's own to the bit."""
    if x.dtype == torch.bfloat16 and kernels.usable(x, 1, torch.bfloat16):
        return torch.ops.ldebm.silu(x)  # type: ignore[no-any-return]
    return F.silu(x)
