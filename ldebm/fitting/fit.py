"""``ldebm.fit``: from rows in memory to a trained model, by the stages' own trainer and tasks.

    rows -> packed arrays in a temporary folder -> first stage -> classes -> second stage

Shapes: N rows, C channels, H height, W width.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.assembly import architecture, build_model, build_prior
from ldebm.config import DataConfig, ExperimentConfig, nearest, parse
from ldebm.data.packed import Packed, check_classes, open_packed
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.files import write_array, write_json
from ldebm.fitting import presets
from ldebm.fitting.kinds import KINDS
from ldebm.fitting.loop import Trainer, as_configured
from ldebm.fitting.rows import LABEL, Labels, Rows, divide, read_labels, read_rows
from ldebm.fitting.words import classes_from_words
from ldebm.model import Model
from ldebm.seeding import generator
from ldebm.training.first_stage import train_backbone
from ldebm.training.inputs import PriorInputs
from ldebm.training.labelling import latent_columns
from ldebm.training.second_stage import train_prior

__all__ = ["NAMES", "Fitted", "fit"]

SHARE = 0.6  # of a time budget that the first stage may spend
SECTIONS = ("data", "backbone", "cluster", "prior", "evaluate")
WITH_CLASSES = {"diffusion", "svebm"}  # of the kinds of priors
NAMES = {"ldebm": "diffusion"}  # how a kind of prior is called here -> in the configuration


@dataclass(frozen=True)
class Fitted:
    """How a model came to be.

    Attributes:
        rows: training and validation rows.
        seconds: that it took.
        updates: of each training.
        validation: of each training, one row per validation.
        ended: trainings that ended before their length, and how: ``Ctrl-C`` or ``time``.
        packed: the rows, as long as this object lives; a model that was read from a file has none.
    """

    rows: dict[str, int]
    seconds: float
    updates: dict[str, int]
    validation: dict[str, list[dict[str, float]]]
    ended: dict[str, str]
    packed: Packed | None = None
    folder: Any = None

    def __repr__(self) -> str:
        parts = [f"{count} {name}" for name, count in self.rows.items()]
        parts += [f"{name} {count} updates" for name, count in self.updates.items()]
        parts += [f"{name} ended by {why}" for name, why in self.ended.items()]
        return f"Fitted({', '.join(parts)}, {self.seconds:.0f} s)"


def fit(
    data: Any,
    labels: Any = None,
    preset: str = "small",
    *,
    kind: str | None = None,
    seed: int = 0,
    seconds: float | None = None,
    name: str = "fit",
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> Any:
    """Trains a model of rows: a variational autoencoder, and an energy-based prior of its latents.

    With labels the prior has their classes. Without, classes of texts are found by their words,
    those of points by geometric clustering of the latents (Yu et al. 2022, section 3.3), which
    ``cluster={"labels": "gc"}`` takes for texts too.
    Ctrl-C ends the stage that is being trained and keeps the best weights so far: in the first
    stage the prior is then still trained, until Ctrl-C is pressed again.

    Args:
        data: texts; images (N, H, W) or (N, H, W, C), uint8, square; or points (N, d). Lists,
            arrays, tensors and columns of polars or pandas are taken.
        labels: one a row, names or numbers; None, NaN or -1 for a row that has none.
        preset: ``small``, ``medium`` or ``large``: sizes of the networks of text. The length of the
            training follows from the number of rows.
        kind: ``documents`` for texts of which only the words count; else it is found out.
        seed: of everything; the same seed gives the same model on the same machine.
        seconds: how long the call may take; None: as long as both trainings are. Tokenizing the
            rows, finding their classes and encoding them count too, and the trainings get what
            is left, so that the call ends within a second of it. Only these steps are not cut
            short: where they alone take longer (about 25 s for 60,000 texts), so does the call.
            Nothing is evaluated.
        name: of the model, in messages.
        progress: show it.
        settings: of the configuration, as nested mappings: sections data, backbone, cluster, prior
            and evaluate (docs/reference/configuration.md).
        sections: the same by keyword, as in ``prior={"levels": 4}``.

    Returns:
        A model: ``generate``, ``encode``, ``decode``, ``score``, ``classify``, ``cluster``,
        ``reconstruct``, ``save``, and of sentences ``interpolate`` and ``complete``.

    Raises:
        UsageError: rows, labels or settings cannot be used; one line says why.

    Example:
        >>> import numpy as np
        >>> from ldebm.fitting.fit import fit
        >>> points = np.random.default_rng(0).normal(size=(200, 2))
        >>> model = fit(points, seconds=2, progress=False)
        >>> model.generate(3).shape
        (3, 2)
    """
    trainer, begun = Trainer(seconds), time.monotonic()
    rows = _of_kind(read_rows(data), kind)
    labelled = read_labels(labels, len(rows))
    changes = _settings(presets.merged(settings or {}, sections))
    section = {"kind": rows.kind, "source": "file", **changes.pop("data", {})}
    data_config = parse(DataConfig, section, file="settings", where="data")
    config, labelled = _config(rows, labelled, preset, changes, seed)
    folder = tempfile.TemporaryDirectory(prefix="ldebm-fit-")
    with as_configured(config.backbone.training.threads, quiet=not progress):
        packed = _pack(rows, labelled, data_config, Path(folder.name), seed)
        model = _trained(config, packed, seed, trainer, name)
    model.fitted = Fitted(
        dict(packed.meta["rows"]), time.monotonic() - begun, trainer.updates, trainer.validation,
        trainer.ended, packed, folder,
    )  # fmt: skip
    return model


def _of_kind(rows: Rows, kind: str | None) -> Rows:
    """Rows, of the kind that was asked for."""
    if not kind:
        return rows
    wanted = KINDS.get(kind)
    if wanted is None:
        raise UsageError(f"kind {kind!r}: no such kind{nearest(kind, KINDS)}")
    if wanted.from_words != KINDS[rows.kind].from_words or not (
        wanted.from_words or wanted is KINDS[rows.kind]
    ):
        raise UsageError(f"kind {kind!r}: the data are {rows.kind}; leave kind out")
    return Rows(kind, rows.values)


def _settings(changes: dict[str, Any]) -> dict[str, Any]:
    """Settings by section, with the configuration's name of a kind of prior."""
    unknown = [key for key in changes if key not in SECTIONS]
    if unknown:
        raise UsageError(f"settings: unknown section {unknown[0]!r}{nearest(unknown[0], SECTIONS)}")
    for key, section in changes.items():
        if not isinstance(section, Mapping):
            raise UsageError(f"settings: {key}: expected a mapping, got {section!r:.40}")
    prior = changes.get("prior", {})
    if (name := NAMES.get(prior.get("kind"))) is not None:
        changes = {**changes, "prior": {**prior, "kind": name}}
    return changes


def _config(
    rows: Rows, labels: Labels | None, preset: str, changes: Mapping[str, Any], seed: int
) -> tuple[ExperimentConfig, Labels | None]:
    """The preset for these rows with the user's changes, and the labels, given or found."""
    mine = KINDS[rows.kind]
    own: dict[str, Any] = {"data": "python", "backbone": mine.first_stage(rows.values, preset)}
    without = presets.merged(own, mine.unlabelled(len(rows)))
    if labels is not None:
        return presets.compose(rows.kind, preset, own, mine.labelled(labels), changes), labels
    config = presets.compose(rows.kind, preset, without, changes)
    asked = "labels" in changes.get("cluster", {})
    if not mine.from_words or asked or not {config.prior.kind} & WITH_CLASSES:
        return config, None
    labels = classes_from_words(rows.values, config.prior.classes, seed)
    if labels is None:
        return config, None
    return presets.compose(rows.kind, preset, own, mine.labelled(labels), changes), labels


def _pack(rows: Rows, labels: Labels | None, config: DataConfig, target: Path, seed: int) -> Packed:
    """Writes rows as a packed data set of two splits, train and valid.

    Raises:
        UsageError: no tokenizer can be trained.
    """
    parts = dict(zip(("train", "valid"), divide(len(rows), seed), strict=True))
    names = {} if labels is None else {LABEL: labels.names}
    meta: dict[str, Any] = {"kind": config.kind, "source": "python", "labels": names}
    meta["rows"] = {split: len(part) for split, part in parts.items()}
    meta |= KINDS[rows.kind].write(rows.values, parts, config, target)
    for split, part in parts.items():
        write_array(target / f"{split}.id.npy", part.astype(np.int64))
        if labels is not None:
            write_array(target / f"{split}.labels.npy", labels.codes[part][None])
    write_json(target / "meta.json", meta)
    return open_packed(target)


def _trained(
    config: ExperimentConfig, packed: Packed, seed: int, trainer: Trainer, name: str
) -> Model:
    """Both stages."""
    if config.cluster.labels == "gc":
        check_classes(config.prior.classes, packed.split("train").n)
    device = choose_device(config.backbone.training.device)
    architecture(config.backbone, packed.kind)  # says what does not fit
    run = partial(trainer.run, share=SHARE)
    backbone, _, _ = train_backbone(config, packed, seed, device, run)
    backbone.eval()
    columns = latent_columns(config, packed, seed, backbone, device, ("train", "valid"))
    labels = columns["label"][columns["split"] == 0].astype(np.int64)
    prior = build_prior(backbone, config.prior, generator(seed, "prior-init")).to(device)
    inputs = PriorInputs(
        config, packed, seed, device, columns, None if (labels < 0).all() else labels, backbone,
        prior, Path("none"),
    )  # fmt: skip
    train_prior(inputs, trainer.run)
    tokenizer = None if packed.split("train").flat else packed.tokenizer
    model: Model = build_model(config, packed.meta, backbone, prior, tokenizer, name, seed)
    return model
