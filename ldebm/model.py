"""A trained model as one object: load it, encode, generate, reconstruct, interpolate, classify.

Example:
    >>> from ldebm.model import load
    >>> load("nowhere")
    Traceback (most recent call last):
    ...
    ldebm.errors.UsageError: nowhere: no model there; build it first (`dvc repro`)

Shapes: B batch, D latent dimension, K classes.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ldebm.assembly import build_backbone, build_prior
from ldebm.config import ExperimentConfig, parse
from ldebm.data.batches import DialogueBatch, TextBatch, collate_bags, collate_ids, with_turns
from ldebm.data.tokenizer import Tokenizer
from ldebm.data.user_texts import as_texts
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.files import hash_path, read_model, write_model
from ldebm.nn.backbone import Backbone
from ldebm.nn.energy import rows_of
from ldebm.nn.hierarchy import HierarchicalBackbone
from ldebm.priors import Prior
from ldebm.seeding import generator, start_vector_functions

if TYPE_CHECKING:
    from ldebm.evaluate.known import Known
    from ldebm.image_use import Scores

__all__ = ["Model", "load", "save"]

IMAGES = 250  # decoded at a time


class Model:
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
        context_BC: of a model :meth:`given` contexts, else ``None``.
        source: the file that it was loaded from, else ``None``.
        known: what scores have found of its normalisers.
    """

    context_BC: Tensor | None = None
    source: Path | None = None
    known: Known | None = None

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

    @property
    def is_text(self) -> bool:
        """Whether rows are sentences."""
        return self.tokenizer is not None

    @property
    def is_document(self) -> bool:
        """Whether rows are documents, read as bags of words."""
        return bool(self.meta["kind"] == "documents")

    @property
    def is_dialogue(self) -> bool:
        """Whether rows are responses to previous turns."""
        return self.backbone.context_size > 0

    @property
    def is_image(self) -> bool:
        """Whether rows are images."""
        return bool(self.meta["kind"] == "images")

    def batch(
        self, rows: Sequence[str] | np.ndarray, turns: Sequence[Sequence[str]] | None = None
    ) -> Any:
        """Rows as the backbone reads them: sentences, points (B, 2), or uint8 images (B, C, H, W).

        Args:
            rows: B of them; a bare string is one sentence.
            turns: of responses the turns before each, oldest first; None: they begin dialogues.

        Raises:
            UsageError: a sentence is empty, or points or images have another shape.
        """
        if self.is_image:
            images = np.asarray(rows)
            side = int(self.meta["size"])
            shape = (int(self.meta["channels"]), side, side)
            if images.dtype != np.uint8 or images.shape[1:] != shape:
                raise UsageError(
                    f"images: expected uint8 of shape (n, {', '.join(map(str, shape))}), got "
                    f"{images.dtype} {images.shape}"
                )
            return torch.from_numpy(images.copy()).to(self.device).float().div_(127.5).sub_(1)
        if self.tokenizer is None:
            points = np.asarray(rows, dtype=np.float32)
            if points.ndim != 2 or points.shape[1] != 2:
                raise UsageError(f"points: expected shape (n, 2), got {points.shape}")
            return torch.from_numpy(points).to(self.device)
        if self.is_document:
            return collate_bags(self.bags(rows), self.device)
        limit = int(self.meta["max_len"])
        encoded = [_encode(self.tokenizer, text, limit) for text in as_texts(rows)]
        batch = collate_ids(encoded, self.device)
        return batch if turns is None else self._after(batch, turns)

    def given(self, context_BC: Tensor) -> Model:
        """The model of responses to these contexts: row i of whatever is asked has context i mod B.

        Args:
            context_BC: what the backbone's context encoder gives.
        """
        bound = copy.copy(self)
        bound.prior, bound.context_BC = self.prior.given(context_BC), context_BC
        return bound

    def bags(self, texts: Sequence[str] | np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Known words of documents and their counts.

        Raises:
            UsageError: a document has none.
        """
        from ldebm.data.documents import bags

        assert self.tokenizer is not None
        rows = as_texts(texts)
        found = bags(self.tokenizer, rows)
        for text, (ids, _) in zip(rows, found, strict=True):
            if not len(ids):
                raise UsageError(
                    f"document {text[:60]!r}: no word that the model knows; expected a text "
                    "with words of its training set"
                )
        return found

    @torch.no_grad()
    def contexts(self, turns: Sequence[Sequence[str]]) -> Tensor:
        """Contexts (B, C) of the turns before each of B responses, oldest first; may be none.

        Raises:
            UsageError: the model reads no contexts, or a turn is empty.
        """
        if self.tokenizer is None or not self.is_dialogue:
            raise UsageError(
                f"{self.experiment}: reads no context; responses need backbone.arch 'dialogue'"
            )
        empty = [[self.tokenizer.bos_id, self.tokenizer.eos_id]] * len(turns)
        return self.backbone.context(self._after(collate_ids(empty, self.device), turns))

    def _after(self, batch: TextBatch, turns: Sequence[Sequence[str]]) -> DialogueBatch:
        """A batch with the turns before each of its rows."""
        assert self.tokenizer is not None
        limit, most = int(self.meta["max_len"]), int(self.meta["context_turns"])
        kept = [as_texts(before)[-most:] for before in turns]
        flat = [_encode(self.tokenizer, text, limit, "context") for row in kept for text in row]
        packed = collate_ids(flat, self.device) if flat else None
        return with_turns(batch, packed, [len(row) for row in kept])

    def respond(
        self,
        context: Sequence[str],
        n: int = 1,
        label: int | str | None = None,
        seed: int = 0,
        mode: str = "greedy",
    ) -> list[str]:
        """n responses to a dialogue so far; they differ by their latent.

        Args:
            context: the previous turns, oldest first; more than the model reads are cut. A bare
                string is one turn.
            n: how many.
            label: class of the responses, by name or number.
            seed: of the draws.
            mode: ``greedy`` or ``sample``: how words are chosen given the latent.

        Raises:
            UsageError: the model reads no contexts, or a turn is empty.
        """
        model = self.given(self.contexts([as_texts(context)]))
        return list(model.decode(model.sample_latents(n, label, seed), mode, seed))

    @torch.no_grad()
    def encode(self, rows: Sequence[str] | np.ndarray) -> np.ndarray:
        """Posterior means, float32 (B, D); of images the mean path in u, some at a time.

        Args:
            rows: as of :meth:`batch`; a bare string is one sentence.
        """
        rows = as_texts(rows) if self.is_text else rows
        size = IMAGES if self.is_image else max(1, len(rows))
        starts = range(0, max(1, len(rows)), size)
        means = [self.backbone.encode(self.batch(rows[i : i + size]))[0] for i in starts]
        return np.asarray(torch.cat(means).float().cpu().numpy())

    @torch.no_grad()
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> list[str] | np.ndarray:
        """Sentences, points, or images (uint8, (B, C, H, W)), of latents.

        Args:
            z_BD: latents in the backbone's coordinates.
            mode: ``greedy`` or ``sample`` (text); ``greedy`` is the mean and ``sample`` adds the
                decoder's noise (points, images).
            seed: of the sampling.
        """
        stream = generator(seed, "decode", device=self.device)
        if isinstance(self.backbone, HierarchicalBackbone):
            parts = [self.backbone.decode(part, mode, stream) for part in torch.split(z_BD, IMAGES)]
            return np.asarray(torch.cat(parts).cpu().numpy())
        if self.tokenizer is None:
            x = self.backbone.decode(z_BD)  # type: ignore[operator]
            if mode == "sample":
                noise = torch.randn(x.shape, generator=stream, device=x.device)
                x = x + self.config.backbone.noise * noise
            return np.asarray(x.cpu().numpy())
        more = {}
        if self.context_BC is not None:
            more["context_BC"] = rows_of(self.context_BC, len(z_BD))
        ids = self.backbone.decode(  # type: ignore[operator]
            z_BD, mode=mode, generator=stream, max_len=int(self.meta["max_len"]), **more
        )
        return [self.tokenizer.decode(row) for row in ids]

    def label_index(self, label: int | str | None) -> int | None:
        """The class number of a label given by name or number.

        Raises:
            UsageError: there is no such class.
        """
        if label is None:
            return None
        hierarchy = self.config.prior.hierarchy
        if self.is_image and not (hierarchy and (hierarchy.label_groups or hierarchy.attributes)):
            raise UsageError(f"label {label!r}: no labels were given to the prior of this model")
        if self.config.prior.kind == "gaussian":
            raise UsageError(f"label {label!r}: a Gaussian prior has no classes")
        if self.config.prior.kind == "own" and not self.prior.has_classes:
            raise UsageError(f"label {label!r}: this baseline has no code, or too many of them")
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
        stream = generator(seed, "prior-samples", device=self.device)
        if self.is_dialogue and self.context_BC is None:  # what begins a dialogue
            return self.given(self.contexts([[]])).sample_latents(n, label, seed)
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
    ) -> list[str] | np.ndarray:
        """n sentences, points or images from the model; the same seed gives the same ones.

        Args:
            n: how many.
            label: class, by name or number.
            seed: of the draws.
            mode: as of :meth:`decode`.
            attributes: as of :meth:`sample_latents`.
            draws: of sentences with a label: each is the first of so many in which the model finds
                the label itself (``ldebm.recognised``).

        Raises:
            UsageError: there is no such class, or nothing to choose among several draws by.
        """
        if draws > 1:
            from ldebm.recognised import recognised

            if label is None:
                raise UsageError(f"draws {draws}: give a label, by which to choose among them")
            return recognised(self, n, label, draws, mode, seed).texts
        return self.decode(self.sample_latents(n, label, seed, attributes), mode, seed)

    def reconstruct(self, rows: Sequence[str] | np.ndarray) -> list[str] | np.ndarray:
        """Rows decoded greedily from their posterior means."""
        z = torch.from_numpy(self.encode(rows)).to(self.device)
        return self.decode(z, "greedy")

    def interpolate(self, a: str, b: str, steps: int = 7) -> list[str]:
        """Sentences on the line between the posterior means of two sentences."""
        ends = torch.from_numpy(self.encode([a, b])).to(self.device)
        weights = torch.linspace(0, 1, steps, device=self.device).unsqueeze(1)
        return list(self.decode((1 - weights) * ends[0] + weights * ends[1], "greedy"))

    @torch.no_grad()
    def classify(self, rows: Sequence[str] | np.ndarray, *, at_mean: bool = False) -> np.ndarray:
        """p(y | x) of rows, float32 (B, K).

        Of texts the mean of p(y | z) over the posterior; of points, images and baselines, and with
        ``at_mean``, p(y | z) at the posterior mean, which is surer than it should be of rows unlike
        the training rows.
        """
        if self.is_text and not at_mean and self.prior.levels:
            from ldebm.text_use import class_probabilities

            return class_probabilities(self, as_texts(rows))
        z = torch.from_numpy(self.encode(rows)).to(self.device)
        size = IMAGES if self.is_image else max(1, len(z))
        if self.is_dialogue and self.context_BC is None:
            return self.given(self.contexts([[]])).classify(rows, at_mean=at_mean)
        logits = [self.prior.class_logits(part) for part in torch.split(z, size)]
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

    def score(self, images: np.ndarray, seed: int = 0) -> Scores:
        """How familiar images are: energies by group and the evidence lower bound.

        Args:
            images: uint8 (B, C, H, W).
            seed: of the posterior draws that the scores are the mean of.

        Raises:
            UsageError: the model is not one of images, or the images have another shape.
        """
        from ldebm.image_use import score

        if not self.is_image:
            raise UsageError(f"{self.experiment}: scores are of models of images")
        return score(self, images, seed)


def _encode(tokenizer: Tokenizer, text: str, limit: int, what: str = "text") -> list[int]:
    if not text.strip():
        raise UsageError(f"{what}: expected a sentence, got an empty one")
    ids = tokenizer.encode(text)
    return ids if len(ids) <= limit else [*ids[: limit - 1], tokenizer.eos_id]


def save(
    path: str | Path,
    state: Mapping[str, Tensor],
    header: Mapping[str, Any],
    tokenizer: Tokenizer | None,
) -> None:
    """Writes a complete model file.

    Args:
        path: the ``.safetensors`` file.
        state: tensors named ``backbone.*`` and ``prior.*``.
        header: experiment, seed, config and meta.
        tokenizer: stored as bytes with a text model.
    """
    tensors = dict(state)
    if tokenizer is not None:
        tensors["tokenizer"] = torch.tensor(list(tokenizer.to_bytes()), dtype=torch.uint8)
    write_model(path, tensors, header)


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a model file with the names that their keys have now."""
    context = config.get("backbone", {}).get("context")
    if not context or "size" not in context:
        return config
    kept = {key: value for key, value in context.items() if key != "size"}
    backbone = {**config["backbone"], "context": {**kept, "hidden": context["size"]}}
    return {**config, "backbone": backbone}


def load(path: str | Path, device: str = "auto") -> Model:
    """Loads a model from its file or from a folder of the pipeline (``models/E/S``).

    Raises:
        UsageError: there is no model, or its file is damaged.
    """
    target = Path(path)
    if target.is_file() and target.suffix != ".safetensors":
        raise UsageError(
            f"{path}: not a model; expected an experiment, its folder under models/, or a "
            "model.safetensors file"
        )
    for candidate in (target, target / "model.safetensors", target / "prior" / "model.safetensors"):
        if candidate.is_file():
            break
    else:
        raise UsageError(f"{path}: no model there; build it first (`dvc repro`)")
    tensors, header = read_model(candidate)
    try:
        config = parse(ExperimentConfig, _renamed(header["config"]), file=str(candidate))
        meta, experiment, seed = header["meta"], header["experiment"], int(header["seed"])
        backbone = build_backbone(config.backbone, meta)
        prior = build_prior(backbone, config.prior)
        backbone.load_state_dict(_part(tensors, "backbone."))
        prior.load_state_dict(_part(tensors, "prior."))
    except (KeyError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{candidate}: not a complete ldebm model ({detail}); build it again (`dvc repro`)"
        ) from None
    tokenizer = None
    if "tokenizer" in tensors:
        tokenizer = Tokenizer.from_bytes(tensors["tokenizer"].numpy())
    start_vector_functions()  # the same seed, the same samples
    where = choose_device(device)
    model = Model(config, meta, backbone.to(where), prior.to(where), tokenizer, experiment, seed)
    model.source = candidate
    return model


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
