"""What models of texts offer to Python beside the others: words of classes, gaps filled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from ldebm.data.user_texts import as_texts
from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.completion import Completer
    from ldebm.modalities.sentences import TextModel

__all__ = ["TextInPython"]


class TextInPython:
    """A part of :class:`~ldebm.modalities.sentences.TextModel`.

    Attributes:
        completer: the network that fills gaps, as soon as it was needed.
    """

    completer: Completer | None = None

    def _class_words(
        self, rows: Any, probabilities: np.ndarray, words: int
    ) -> dict[int, tuple[str, ...]]:
        from ldebm.evaluate.clusters import describe_clusters

        logits = torch.from_numpy(np.log(np.maximum(probabilities, 1e-30)))
        told = describe_clusters(logits, as_texts(rows), None, exemplars=1, words=words)
        return {item.cluster: tuple(word for word, _ in item.words) for item in told}

    def complete(
        self, texts: Any, seed: int = 0, done: Callable[[int], None] | None = None
    ) -> list[str]:
        """Texts with every ``___`` replaced by a word: docs/method.md, section 5.9.

        The first call trains a small network on the training rows: those of the fit, or the
        project's ``data/packed``.

        Args:
            texts: with gaps.
            seed: of the draws.
            done: is told how many are completed.

        Raises:
            UsageError: a text has no gap, or there are no training rows here.
        """
        from ldebm.completion import complete, read_gaps, train_completer
        from ldebm.config import CompletionConfig
        from ldebm.data.packed import open_packed
        from ldebm.devices import one_thread

        model = cast("TextModel", self)
        rows = as_texts(texts)
        read_gaps(model, rows)  # a mistake is said before anything is trained
        config = model.config.evaluate.completion or CompletionConfig()
        if self.completer is None:
            packed = None if model.fitted is None else model.fitted.packed
            if packed is None:
                data = Path("data", "packed", model.config.data)
                if not (data / "meta.json").is_file():
                    raise UsageError(
                        f"{model.experiment}: filling gaps needs the rows that the model was "
                        f"trained on, and {data} is not here; complete before saving, or work in "
                        "the project's folder"
                    )
                packed = open_packed(data)
            with one_thread():
                train = packed.split("train")
                self.completer, _ = train_completer(model, train, config, model.seed)
        with one_thread():
            return complete(model, self.completer, rows, config, seed, done)
