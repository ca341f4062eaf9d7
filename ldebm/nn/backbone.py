"""What every first-stage model offers: an encoder, a decoder and their likelihood terms.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ldebm.config import BackboneConfig
from ldebm.errors import UsageError

__all__ = ["Backbone", "architecture", "build_backbone"]


class Backbone(nn.Module, ABC):
    """A variational auto-encoder of one kind of data.

    Attributes:
        latent: D.
        context_size: C of the context that the decoder and the prior read; 0: none.
        stream: source of dropout noise while training; set by the trainer before each update.
    """

    latent: int
    context_size: int = 0
    stream: torch.Generator | None = None

    @abstractmethod
    def encode(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x), each (B, D)."""

    def tables(self, *, bfloat16: bool = False) -> AbstractContextManager[None]:
        """A block in which parameters do not change, so that encoding may look things up.

        Args:
            bfloat16: the encoder may round its products.
        """
        del bfloat16
        return nullcontext()

    def prepare(self, packed: Any) -> None:
        """Takes what else it needs of a packed data set, before training; most need nothing."""
        del packed

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
        del batch
        raise TypeError(f"{type(self).__name__} reads no context")

    @abstractmethod
    def reconstruction_nll(self, batch: Any, z_BD: Tensor) -> Tensor:
        """-log p(x|z) in nats per row, shape (B,)."""


def architecture(config: BackboneConfig, kind: str) -> Callable[..., Backbone]:
    """Makes a backbone of (config, a packed set's meta, generator) for data of ``kind``.

    Only the module that is asked for is imported.

    Raises:
        UsageError: the architecture cannot model this kind of data.
    """
    if config.arch == "mlp" and kind == "points":
        from ldebm.nn.mlp import PointVAE

        return lambda config, meta, generator: PointVAE(
            config, generator, meta.get("shift", 0.0), meta.get("scale")
        )
    if config.arch == "gru" and kind in ("sentences", "dialogues"):
        if config.baseline is not None:
            from ldebm.baselines.model import TextBaseline

            return TextBaseline
        from ldebm.nn.text import TextVAE

        return TextVAE
    if config.arch == "rnn" and kind in ("sentences", "dialogues"):
        from ldebm.nn.recurrent import RecurrentVAE

        return RecurrentVAE
    if config.arch == "dialogue" and kind == "dialogues":
        if config.baseline is not None:
            from ldebm.baselines.model import DialogueBaseline

            return DialogueBaseline
        from ldebm.nn.dialogue import DialogueVAE

        return DialogueVAE
    if config.arch == "bow" and kind == "documents":
        from ldebm.nn.bow import BagVAE

        return BagVAE
    if config.arch == "hvae" and kind == "images":
        from ldebm.nn.hvae import HVAE

        return HVAE
    if config.arch == "nvae" and kind == "images":
        from ldebm.nn.nvae import NVAE

        return NVAE
    wanted = {"points": "'mlp'", "images": "'hvae' or 'nvae'", "documents": "'bow'"}.get(
        kind, "'gru' or 'rnn'"
    )
    if kind == "dialogues":
        wanted += " (or 'dialogue')"
    raise UsageError(f"backbone.arch {config.arch!r} does not model {kind}: set it to {wanted}")


def build_backbone(
    config: BackboneConfig, meta: Mapping[str, Any], generator: torch.Generator | None = None
) -> Backbone:
    """The backbone that ``config.arch`` names, for data described by a packed set's ``meta``.

    Raises:
        UsageError: the architecture cannot model this kind of data.
    """
    return architecture(config, str(meta["kind"]))(config, meta, generator)
