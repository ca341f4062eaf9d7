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
    from ldebm.config import CompletionConfig
    from ldebm.modalities.sentences import TextModel
    from ldebm.training.progress import Progress

__all__ = ["TextInPython"]

TRAINED_BY = {"share", "hidden", "observed", "updates", "batch", "lr"}  # of the settings


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

        The first call may train a small network on the training rows: :meth:`find_completer`.

        Args:
            texts: with gaps.
            seed: of the draws.
            done: is told how many are completed.

        Raises:
            UsageError: a text has no gap, or there are no training rows here.
        """
        from ldebm.completion import complete, read_gaps
        from ldebm.devices import one_thread

        model, rows = cast("TextModel", self), as_texts(texts)
        read_gaps(model, rows)  # a mistake is said before anything is trained
        self.find_completer()
        assert self.completer is not None
        with one_thread():
            return complete(model, self.completer, rows, self._completion(), seed, done)

    def _completion(self) -> CompletionConfig:
        from ldebm.config import CompletionConfig

        return cast("TextModel", self).config.evaluate.completion or CompletionConfig()

    def find_completer(self, progress: Callable[[str, int, str], Progress] | None = None) -> str:
        """Finds the network that fills gaps, once for a model.

        It is that of the run's evaluation, or the one in the user's cache, or one that is trained
        now on the training rows: those of the fit, or the project's ``data/packed``.

        Args:
            progress: makes what shows a training, of title, total and unit.

        Returns:
            What should be told: that it was trained and where it is kept, and which file does not
            belong to the model.

        Raises:
            UsageError: there are no training rows here.
        """
        from ldebm.completion import load_completer, save_completer
        from ldebm.user_cache import kept

        model, config, told = cast("TextModel", self), self._completion(), []
        if self.completer is not None:
            return ""
        run = Path("reports", model.experiment, str(model.seed))
        evaluated = run / "details" / "completion.safetensors"
        if model.fitted is None and evaluated.is_file():
            try:
                self.completer = load_completer(evaluated, model)
                return ""
            except UsageError as error:
                told.append(f"not used: {error}")
        if model.fingerprint is None:
            self.completer = self._trained(progress)
            return "\n".join(told)
        about = {"model": model.fingerprint, "seed": model.seed}
        found, said = kept(
            "completion.safetensors",
            {**about, **config.model_dump(mode="json", include=TRAINED_BY)},
            lambda path: load_completer(path, model),
            lambda: self._trained(progress),
            lambda path, made: save_completer(path, made, about),
        )
        self.completer = found
        if said:
            told.append(f"trained the network that fills gaps, once for this model; {said}")
        return "\n".join(told)

    def _trained(self, progress: Callable[[str, int, str], Progress] | None) -> Completer:
        """Trains the network on the rows that the model was trained on."""
        from ldebm.completion import train_completer
        from ldebm.data.packed import open_packed
        from ldebm.devices import one_thread

        model, config = cast("TextModel", self), self._completion()
        packed = None if model.fitted is None else model.fitted.packed
        if packed is None:
            data = Path("data", "packed", model.config.data)
            if not (data / "meta.json").is_file():
                raise UsageError(
                    f"{model.experiment}: filling gaps needs the rows that the model was trained "
                    f"on, and {data} is not here; work in the project's folder, where they were "
                    "packed, or complete with a fitted model before it is saved"
                )
            packed = open_packed(data)
        split = packed.split("train")
        with one_thread():
            if progress is None:
                return train_completer(model, split, config, model.seed)[0]
            with progress("network that fills gaps", config.updates, "updates") as bar:
                return train_completer(model, split, config, model.seed, bar.show)[0]
