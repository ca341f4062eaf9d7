"""What every first-stage model offers: an encoder, a decoder and their likelihood terms.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Backbone"]


class Backbone(nn.Module, ABC):
    """A variational auto-encoder of one kind of data.

    Attributes:
        latent: D.
        context_size: C of the context that the decoder and the prior read; 0: none.
        hierarchical: whether its latents are those of several groups (``nn.hierarchy``).
        rows_at_once: how many are encoded together in a pass over a data set.
        stream: source of dropout noise while training; set by the trainer before each update.
    """

    latent: int
    context_size: int = 0
    hierarchical: bool = False
    rows_at_once: int = 256
    stream: torch.Generator | None = None

    @abstractmethod
    def encode(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D)."""

    def summary(self, x_BD: Tensor) -> Tensor:
        """What is stored of means or log-variances of latents: all of them."""
        return x_BD

    def tables(self, *, bfloat16: bool = False) -> AbstractContextManager[None]:
        """A block in which parameters do not change, so that encoding may look things up.

        Args:
            bfloat16: the encoder may round its products.
        """
        return nullcontext()

    def prepare(self, packed: Any) -> None:
        """Takes what else it needs of a packed data set, before training; most need nothing."""

    def dropout_noise(self) -> torch.Generator:
        """``stream``.

        Raises:
            ValueError: it is not set.
        """
        if self.stream is None:
            raise ValueError("set `stream` to a generator before training with dropout")
        return self.stream

    def context(self, batch: Any) -> Tensor:
        """The context of every row, (B, C).

        Raises:
            TypeError: the model reads no context.
        """
        raise TypeError(f"{type(self).__name__} reads no context")

    @abstractmethod
    def reconstruction_nll(self, batch: Any, z_BD: Tensor) -> Tensor:
        """-log p(x|z) in nats per row, shape (B,)."""
