"""What a model offers to whoever holds it in Python: saving, classes of rows, how it is shown.

Shapes: N rows, K classes.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.nn import Module

from ldebm.data.tokenizer import Tokenizer
from ldebm.errors import UsageError, require_count
from ldebm.files import write_model

if TYPE_CHECKING:
    from ldebm.model import Model

__all__ = ["Clusters", "FoundClass", "InPython", "grid", "save"]

SHOWN = 3  # examples of a class


@dataclass(frozen=True)
class FoundClass:
    """A class of rows.

    Attributes:
        number: k.
        name: of the given label; else its number.
        size: rows that are most probably of it.
        words: of texts those that set it apart, the most distinctive first.
        examples: indices of its most probable rows, best first.
    """

    number: int
    name: str
    size: int
    words: tuple[str, ...]
    examples: tuple[int, ...]


@dataclass(frozen=True)
class Clusters:
    """Rows by class.

    Attributes:
        labels: most probable class of every row, int64 (N,).
        probabilities: p(y | row), (N, K).
        classes: those that have rows, largest first.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    classes: tuple[FoundClass, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def _lines(self) -> list[tuple[str, str, str]]:
        return [(item.name, str(item.size), ", ".join(item.words)) for item in self.classes]

    def __repr__(self) -> str:
        lines = [f"Clusters({len(self)} rows, {len(self.classes)} classes)"]
        lines += [
            f"  {name}: {size} rows{f' ({words})' if words else ''}"
            for name, size, words in self._lines()
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return _table(("class", "rows", "words"), self._lines())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(head, 'th')}</thead><tbody>{body}</tbody></table>"


def grid(images: Any, columns: int | None = None) -> Any:
    """Images side by side as one picture, which notebooks show (``PIL.Image``).

    Args:
        images: uint8 (N, C, H, W), (N, H, W, C) or (N, H, W).
        columns: images of a row; by default as many as make the picture square.

    Raises:
        UsageError: they are no images.

    Example:
        >>> grid(np.zeros((4, 8, 8), dtype=np.uint8), columns=2).mode
        'L'
    """
    from PIL import Image

    from ldebm.grids import tile

    array = np.asarray(images)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim == 4 and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1] not in (1, 3):
        raise UsageError(
            f"images: expected uint8 of shape (n, 1 or 3, height, width), got {array.dtype} of "
            f"shape {np.shape(images)}"
        )
    pixels = tile(np.ascontiguousarray(array), columns)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


class InPython:
    """The part of a model that is for Python alone."""

    def save(self, path: str | Path) -> Path:
        """Writes the model as one file, as a build of the pipeline does; ``ldebm.load`` reads it.

        Args:
            path: of the file; ``.safetensors`` is added where it is missing.

        Returns:
            The path of the file.
        """
        model, target = cast("Model", self), Path(path)
        if target.suffix != ".safetensors":
            target = target.with_name(f"{target.name}.safetensors")
        header = {
            "experiment": model.experiment,
            "seed": model.seed,
            "config": model.config.model_dump(mode="json"),
            "meta": model.meta,
        }
        save(target, model.backbone, model.prior, header, model.tokenizer)
        return target

    def cluster(self, rows: Any, words: int = 8) -> Clusters:
        """The most probable class of every row, and what the classes are.

        Args:
            rows: as of ``encode``.
            words: of texts, how many distinctive words each class has.

        Raises:
            UsageError: the prior has no classes, or the rows do not fit.
        """
        model = cast("Model", self)
        model.label_index(0)  # says what is wrong where the prior has no classes
        probabilities = model.classify(rows)
        labels = probabilities.argmax(1)
        told = self._class_words(rows, probabilities, words)
        names, classes = model.class_labels(), []
        for number, size in enumerate(np.bincount(labels, minlength=probabilities.shape[1])):
            if size:
                mine = np.flatnonzero(labels == number)
                best = mine[np.argsort(-probabilities[mine, number], kind="stable")][:SHOWN]
                found = FoundClass(
                    number, names[number], int(size), told.get(number, ()), tuple(map(int, best))
                )
                classes.append(found)
        classes.sort(key=lambda item: (-item.size, item.number))
        return Clusters(labels, probabilities, tuple(classes))

    def _class_words(
        self, rows: Any, probabilities: np.ndarray, words: int
    ) -> dict[int, tuple[str, ...]]:
        """Distinctive words by class; none but of texts."""
        return {}

    @torch.no_grad()
    def interpolate(self, a: Any, b: Any, steps: int = 7) -> Any:
        """Rows on the line between the posterior means of two rows.

        Raises:
            UsageError: steps is not from 1 on, or the rows do not fit.
        """
        require_count(steps, "steps")
        model = cast("Model", self)
        pair: Any = [a, b] if isinstance(a, str) else np.stack([np.asarray(a), np.asarray(b)])
        ends = torch.from_numpy(model.encode(pair)).to(model.device)
        weights = torch.linspace(0, 1, steps, device=model.device).unsqueeze(1)
        return model.decode((1 - weights) * ends[0] + weights * ends[1], "greedy")

    def complete(self, texts: Any, seed: int = 0, done: Callable[[int], None] | None = None) -> Any:
        """Texts with every gap filled.

        Raises:
            UsageError: the model has no texts.
        """
        model = cast("Model", self)
        raise UsageError(f"{model.experiment}: a model of {model.rows}; only sentences have gaps")

    def _facts(self) -> dict[str, str]:
        """What the model is, by name."""
        model = cast("Model", self)
        config, prior = model.config.prior, model.prior
        named = {"diffusion": "ldebm"}.get(config.kind, config.kind)
        facts = {"rows": model.rows, "latent": f"{prior.latent} numbers", "prior": named}
        if prior.has_classes:
            known = model.class_names or []
            names = ", ".join(known[:6]) + (", ..." if len(known) > 6 else "")
            facts["classes"] = f"{prior.classes}{f' ({names})' if names else ''}"
        count = sum(p.numel() for p in (*model.backbone.parameters(), *prior.parameters()))
        facts["parameters"] = f"{count:,}"
        if model.fitted is not None:
            facts["fit"] = repr(model.fitted).removeprefix("Fitted(").removesuffix(")")
        return facts

    def __repr__(self) -> str:
        model = cast("Model", self)
        facts = "; ".join(f"{name}: {fact}" for name, fact in self._facts().items())
        return f"<{type(self).__name__} {model.experiment!r}, seed {model.seed}; {facts}>"

    def _repr_html_(self) -> str:
        model = cast("Model", self)
        rows = [(name, fact) for name, fact in self._facts().items()]
        return _table((type(self).__name__, f"{model.experiment}, seed {model.seed}"), rows)


def save(
    path: str | Path,
    backbone: Module,
    prior: Module,
    header: Mapping[str, Any],
    tokenizer: Tokenizer | None,
) -> None:
    """Writes a complete model file.

    Args:
        path: the ``.safetensors`` file.
        backbone: its tensors are named ``backbone.*``.
        prior: its tensors are named ``prior.*``.
        header: experiment, seed, config and meta.
        tokenizer: stored as bytes with a text model.
    """
    tensors = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    tensors |= {f"prior.{k}": v for k, v in prior.state_dict().items()}
    if tokenizer is not None:
        tensors["tokenizer"] = torch.tensor(list(tokenizer.to_bytes()), dtype=torch.uint8)
    write_model(path, tensors, header)
