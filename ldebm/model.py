"""A trained model as one object: encode, generate, reconstruct, classify, score.

What a row is and how it is read, written, scored and evaluated is the business of the model's kind
of data: :mod:`ldebm.modalities` has a class for each. :func:`ldebm.load` gives the right one.

Shapes: B batch, D latent dimension, K classes.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ldebm.backbones.base import Backbone
from ldebm.config import EvaluateConfig, ExperimentConfig
from ldebm.data.tokenizer import Tokenizer
from ldebm.errors import UsageError, require_count
from ldebm.files import hash_path
from ldebm.in_python import InPython, save
from ldebm.priors import Prior
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.data.packed import Measure, Packed, Split
    from ldebm.evaluate.report import Report

__all__ = ["Model", "UserRows", "save"]


@dataclass(frozen=True)
class UserRows:
    """Rows of a user's file, as a model reads them.

    Attributes:
        values: texts, or uint8 images (N, C, H, W).
        columns: what names every row in an output: its number and text, or its place.
        turns: of a model of responses the turns before each.
        left_out: rows of the file that hold nothing.
    """

    values: Any
    columns: dict[str, list[Any]]
    turns: Sequence[Sequence[str]] | None = None
    left_out: int = 0

    @property
    def name(self) -> str:
        """The column of the row itself: its text, or its place."""
        return list(self.columns)[-1]

    def __len__(self) -> int:
        return len(self.values)

    def records(self, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> list[dict[str, Any]]:
        """One record a row, for tables and JSON.

        Args:
            columns: further ones.
        """
        table = {**self.columns, **columns}
        names = list(table)
        return [
            dict(zip(names, (_plain(value) for value in row), strict=True))
            for row in zip(*table.values(), strict=True)
        ]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class Model(InPython, ABC):
    """Backbone and prior of one experiment.

    Attributes:
        config: the experiment's parameters.
        meta: the packed data set's description (labels, vocabulary size).
        experiment: name of the experiment.
        seed: seed of the run.
        backbone: encoder and decoder, in evaluation mode.
        prior: density of the latent vector.
        tokenizer: of text models, else ``None``.
        class_names: names of the classes where labels were given, else ``None``.
        source: the file that it was loaded from, else ``None``.
        fitted: how :func:`ldebm.fit` has made it, else ``None``.
        rows: what its rows are called: points, texts or images.
        task: what its metrics are summarised as.
        at_once: rows that are encoded or decoded together; ``None``: all.
        threads: whether more threads than its evaluation has would make it faster.
    """

    rows = "rows"
    task = "points"
    at_once: int | None = None
    threads = False
    source: Path | None = None
    fitted: Any = None

    def __init__(
        self,
        config: ExperimentConfig,
        meta: Mapping[str, Any],
        backbone: Backbone,
        prior: Prior,
        tokenizer: Tokenizer | None,
        experiment: str,
        seed: int,
    ) -> None:
        self.config, self.meta, self.experiment, self.seed = config, dict(meta), experiment, seed
        self.backbone, self.prior = backbone.eval(), prior.eval()
        self.tokenizer = tokenizer
        self.class_names: list[str] | None = None
        if config.cluster.labels == "given" and config.cluster.column:
            self.class_names = list(meta["labels"][config.cluster.column])

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        return next(self.backbone.parameters()).device

    @cached_property
    def fingerprint(self) -> str | None:
        """The sha256 of its file; None for a model that was not loaded from one."""
        return None if self.source is None else hash_path(self.source)

    @abstractmethod
    def batch(self, rows: Any) -> Any:
        """Rows as the backbone reads them.

        Raises:
            UsageError: they are not rows of this kind of data.
        """

    @abstractmethod
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> Any:
        """Rows of latents in the backbone's coordinates.

        Args:
            z_BD: latents.
            mode: ``greedy``: the most probable words, or the mean of points and pixels;
                ``sample``: words are drawn, the decoder's noise is added.
            seed: of the sampling.
        """

    def read(
        self,
        path: Path,
        column: str | None = None,
        context: str | None = None,
        *,
        resize: bool = False,
    ) -> UserRows:
        """The rows of a user's file.

        Args:
            path: the file; of images also a folder.
            column: of a table, that of the texts.
            context: of a table, that of the previous turns.
            resize: crop and scale images that need it.

        Raises:
            UsageError: it cannot be read, or an option is not for this kind of data.
        """
        raise self._not_here("files are read for")

    def scored(
        self, rows: UserRows, seed: int, done: Callable[[int], None], **settings: Any
    ) -> list[dict[str, Any]]:
        """Likelihood bound and energy of every row, as records.

        Args:
            rows: read by :meth:`read`.
            seed: of the draws.
            done: is told how many rows are scored.
            settings: further ones of this kind of data.
        """
        raise self._not_here("scores are of")

    @abstractmethod
    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        """The report of the model with everything that its kind of data allows.

        Args:
            packed: its data.
            config: the experiment's ``evaluate`` section.
            measure: classifier (images, text) and other data sets (images).
            snapshots: file with the prior at several training times (points).
        """

    def score(self, rows: Any, *_: Any, **__: Any) -> Any:
        """How probable rows are.

        Raises:
            UsageError: the model gives no scores of its rows.
        """
        raise self._not_here("scores are of")

    def _not_here(self, what: str) -> UsageError:
        mine = f"{self.experiment}: a model of {self.rows}"
        return UsageError(f"{mine}; {what} models of text and of images")

    def respond(self, context: Sequence[str], *_: Any, **__: Any) -> list[str]:
        """Responses to a dialogue.

        Raises:
            UsageError: the model reads no contexts.
        """
        raise UsageError(
            f"{self.experiment}: reads no context; responses need backbone.arch 'dialogue'"
        )

    def prepare_scores(self) -> str:
        """Estimates what scores of all rows need; a sentence on where that is kept, if anywhere."""
        return ""

    def unknown_words(self, row: Any) -> list[str]:
        """Words of a row that the model reads as its unknown word."""
        return []

    def in_contexts_of(self, split: Split, rows: np.ndarray) -> Model:
        """The model given the contexts of rows of a split; itself where it reads none."""
        return self

    def encoded(self, rows: UserRows) -> tuple[np.ndarray, np.ndarray | None]:
        """Posterior means of a user's rows, float32 (N, D), and p(y|x) (N, K) with classes."""
        p = self.classify(rows.values) if self.prior.has_classes else None
        return self.encode(rows.values), p

    @torch.no_grad()
    def encode(self, rows: Any) -> np.ndarray:
        """Posterior means, float32 (B, D); of images the mean path in u.

        Args:
            rows: as of :meth:`batch`.
        """
        size = self.at_once or max(1, len(rows))
        starts = range(0, max(1, len(rows)), size)
        means = [self.backbone.encode(self.batch(rows[i : i + size]))[0] for i in starts]
        return np.asarray(torch.cat(means).float().cpu().numpy())

    def label_index(self, label: int | str | None) -> int | None:
        """The class number of a label given by name or number.

        Raises:
            UsageError: there is no such class.
        """
        if label is None:
            return None
        hierarchy = self.config.prior.hierarchy
        if self.backbone.hierarchical and not (
            hierarchy and (hierarchy.label_groups or hierarchy.attributes)
        ):
            raise UsageError(f"label {label!r}: no labels were given to the prior of this model")
        if not self.prior.has_classes:
            raise UsageError(f"label {label!r}: {self.prior.without_classes}")
        names = self.class_names or []
        number = names.index(label) if label in names else label
        if isinstance(number, str) and number.isdecimal():
            number = int(number)
        if isinstance(number, int) and 0 <= number < self.prior.classes:
            return number
        numbers = f"a class from 0 to {self.prior.classes - 1}"
        named = f"one of {', '.join(names)}, or " if names else ""
        raise UsageError(f"label {label!r}: expected {named}{numbers}")

    def attribute_classes(self, attributes: Mapping[str, int | str]) -> list[int]:
        """The classes in which attributes have the given values, 0 or 1; others are left open.

        Raises:
            UsageError: the prior knows no such attribute, or the value is none of its two.
        """
        hierarchy = self.config.prior.hierarchy
        known = sorted(hierarchy.attributes) if hierarchy is not None else []
        classes = list(range(self.prior.classes))
        for name, value in attributes.items():
            if name not in known:
                there = ", ".join(known) or "none"
                raise UsageError(f"attribute {name!r}: expected one of the model's ({there})")
            names = [str(item) for item in self.meta["labels"][name]]
            if str(value) not in names:
                raise UsageError(f"attribute {name}={value}: expected {' or '.join(names)}")
            bit = len(known) - 1 - known.index(name)
            wanted = names.index(str(value))
            classes = [item for item in classes if item >> bit & 1 == wanted]
        return classes

    @torch.no_grad()
    def sample_latents(
        self,
        n: int,
        label: int | str | None = None,
        seed: int = 0,
        attributes: Mapping[str, int | str] | None = None,
    ) -> Tensor:
        """n latents from the prior, or from p(z | label), shape (n, D).

        Args:
            n: how many.
            label: class, by name or number.
            seed: of the draws.
            attributes: values of label columns (``hierarchy.attributes``) that samples shall have.
        """
        require_count(n, "n")
        stream = generator(seed, "prior-samples", device=self.device)
        if attributes:
            return self.prior.sample(n, stream, self.attribute_classes(attributes))
        return self.prior.sample(n, stream, self.label_index(label))

    def generate(
        self,
        n: int = 10,
        label: int | str | None = None,
        seed: int = 0,
        mode: str = "sample",
        attributes: Mapping[str, int | str] | None = None,
        draws: int = 1,
    ) -> Any:
        """n sentences, points or images from the model; the same seed gives the same ones.

        Args:
            n: how many.
            label: class, by name or number.
            seed: of the draws.
            mode: as of :meth:`decode`.
            attributes: as of :meth:`sample_latents`.
            draws: of sentences with a label: each is the first of so many in which the model finds
                the label itself .

        Raises:
            UsageError: there is no such class, or nothing to choose among several draws by.
        """
        if draws > 1:
            raise UsageError(f"draws {draws}: only models of sentences choose among several")
        return self.decode(self.sample_latents(n, label, seed, attributes), mode, seed)

    def reconstruct(self, rows: Sequence[str] | np.ndarray) -> Any:
        """Rows decoded greedily from their posterior means."""
        z = torch.from_numpy(self.encode(rows)).to(self.device)
        return self.decode(z, "greedy")

    @torch.no_grad()
    def classify(self, rows: Any, *, at_mean: bool = False) -> np.ndarray:
        """p(y | x) of rows, float32 (B, K).

        Of texts the mean of p(y | z) over the posterior; of points, images and baselines, and with
        ``at_mean``, p(y | z) at the posterior mean, which is surer than it should be of rows unlike
        the training rows.
        """
        z = torch.from_numpy(self.encode(rows)).to(self.device)
        parts = torch.split(z, self.at_once or max(1, len(z)))
        logits = [self.prior.class_logits(part) for part in parts]
        return np.asarray(torch.softmax(torch.cat(logits), -1).cpu().numpy())

    def class_labels(self) -> list[str]:
        """What every class is called: the given label, values of all attributes, or its number."""
        hierarchy = self.config.prior.hierarchy
        if hierarchy is None or not hierarchy.attributes:
            names = self.class_names or []
            rest = range(len(names), self.prior.classes)  # more classes than labels: no name
            return [*names, *map(str, rest)]
        columns = sorted(hierarchy.attributes)
        values = itertools.product(*(self.meta["labels"][name] for name in columns))
        return [
            ", ".join(f"{name}={value}" for name, value in zip(columns, item, strict=True))
            for item in values
        ]
