"""The section ``evaluate``: what is measured."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ldebm.config.completion import CompletionConfig
from ldebm.config.sections import Section

__all__ = ["OOD_TRANSFORMS", "EvaluateConfig"]

OOD_TRANSFORMS = ("rotated", "inverted", "shuffled", "noise")


class EvaluateConfig(Section):
    """What is measured, and with how many samples."""

    added: ClassVar[frozenset[str]] = frozenset(
        {
            "chains", "inception", "ood", "ood_rows", "judge", "word_vectors", "completion",
            "control_draws",
        }
    )  # fmt: skip
    threads: int = Field(1, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    samples: int = Field(5000, gt=0)  # drawn from the prior
    rows: int | None = Field(None, gt=0)  # test rows of the likelihood, a random subset; None: all
    importance: int = Field(500, gt=1)  # trajectories per row
    inner: int = Field(64, gt=1)  # proposals per normaliser
    decode: Literal["greedy", "sample"] = "sample"
    reverse_lm: Literal["gru", "awd_lstm", "none"] = "gru"
    reverse_lm_epochs: int = Field(4, gt=0)
    label_column: list[str] = []  # clusters are compared with these; [] : all the data has
    per_label: int = Field(200, gt=0)  # samples per class for control accuracy
    completion: CompletionConfig | None = None  # text: fill masked words
    ood: list[str] = []  # images: data sets, or transforms of the test images (OOD_TRANSFORMS)
    ood_rows: int = Field(500, gt=1)  # test images, of either kind, that are told apart
    chains: int = Field(64, ge=0)  # images: Langevin chains that are followed; 0: none
    judge: str | None = None  # text: the data set whose classifier scores control
    control_draws: int = Field(1, gt=0)  # draws a sample, of which the model recognises one; 1: off
    word_vectors: str | None = None  # responses: GloVe file; None: vectors of the training text
    inception: str | None = None  # images: local file of Inception's weights; None: no FID
