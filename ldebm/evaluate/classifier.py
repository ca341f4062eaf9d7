"""What the evaluation classifiers of images and of texts share: label columns, and the file.

An evaluation classifier learns the labels of a data set apart from every model, and scores what a
model generates. The pipeline trains one for a data set (``stages.judge``).

Shapes: B rows, K classes of a column.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config import ImageClassifierConfig, TextClassifierConfig
from ldebm.data.packed import JUDGE, Packed, Split
from ldebm.errors import REBUILD, UsageError
from ldebm.files import read_model

__all__ = ["EvaluationClassifier"]


class EvaluationClassifier(nn.Module, ABC):
    """A network with a softmax head for every label column.

    Args:
        config: sizes, and how it is trained.
        meta: of the packed data set, with its labels.

    Attributes:
        classes: the names of the classes by label column, in the order of the heads.
        accuracy: by column, of the test rows; empty before the training, and for images.
        smoothing: of the labels in training.
    """

    reads: ClassVar[str]
    """What it classifies, for messages."""
    settings: ClassVar[type[ImageClassifierConfig] | type[TextClassifierConfig]]
    """The class of ``config``."""
    stream_name: ClassVar[str]
    """Part of the seeds: another name gives other bytes."""
    validate_every: ClassVar[int | None] = None
    """Epochs between validations, of which the most accurate weights are kept; None: the last."""
    smoothing: float = 0.0

    def __init__(
        self, config: ImageClassifierConfig | TextClassifierConfig, meta: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.config = config
        self.classes = {name: list(names) for name, names in sorted(meta["labels"].items())}
        self.accuracy: dict[str, float] = {}

    @abstractmethod
    def training_logits(self, split: Split, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        """The logits (B, K) of every column, of training rows as update ``step`` sees them."""

    @abstractmethod
    def predict(self, split: Split) -> dict[str, np.ndarray]:
        """The most probable class of every row of a split, by column."""

    @property
    @abstractmethod
    def feature_size(self) -> int:
        """How many features the heads read."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def columns(self) -> list[str]:
        """The label columns, in the order of the heads."""
        return list(self.classes)

    def require(self, column: str) -> None:
        """Raises :class:`UsageError` where no head is of ``column``."""
        if column not in self.classes:
            known = ", ".join(self.classes) or "none"
            raise UsageError(f"classifier: no label column {column!r}; it knows {known}")

    def contents(self, packed: Packed) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and header of the file, which :meth:`load` reads."""
        header = {"config": self.config.model_dump(mode="json"), "meta": packed.meta}
        return dict(self.state_dict()), header

    def restore(self, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> None:
        """Takes what :meth:`contents` gave."""
        self.load_state_dict(tensors)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The classifier of ``data/judge/D`` (or the file in it), in evaluation mode.

        Raises:
            UsageError: there is none, or the file is damaged.
        """
        file = Path(path) / JUDGE if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise UsageError(
                f"{path}: no classifier of {cls.reads}: it was not built, or the data set is of "
                "another kind, has no labels or, for texts, no section 'text_classifier'"
            )
        tensors, header = read_model(file)
        try:
            network = cls(cls.settings.model_validate(header["config"]), header["meta"])
            network.restore(tensors, header)
        except (KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{file}: not a classifier of {cls.reads} ({reason}); {REBUILD}"
            ) from None
        return network.eval()
