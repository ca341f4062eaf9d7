"""Adding a user's data to params.yaml: what the file is, and an experiment that suits its size."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldebm.config import DataConfig, load_params
from ldebm.data.folders import as_file
from ldebm.data.new_images import (
    data_section,
    holds_images,
    image_experiment,
    inspect_images,
)
from ldebm.errors import UsageError
from ldebm.files import atomic_path, hash_path

__all__ = ["FileFacts", "add_dataset", "data_status", "inspect_file", "sections"]

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
LARGE = 20_000  # rows from which text gets networks of the papers' size
SMALL_UPDATES, MAX_EPOCHS = 1000, 60  # of the first stage on less
TEXT_NAMES = ("text", "sentence", "utterance", "content", "review", "response")


@dataclass(frozen=True)
class FileFacts:
    """What a user's file holds.

    Attributes:
        kind: points, sentences or dialogues.
        columns: role (text, label, context, x) to column name.
        rows: rows of the file.
        words: different words of the text; 0 for points.
        longest: words that 99 of 100 texts do not exceed; 0 for points.
        classes: values of the label; 0 without one.
        spread: standard deviation of the points; 0 for text.
    """

    kind: str
    columns: dict[str, str]
    rows: int
    words: int = 0
    longest: int = 0
    classes: int = 0
    spread: float = 0.0


def inspect_file(
    path: Path, text: str | None = None, label: str | None = None, context: str | None = None
) -> FileFacts:
    """Reads a txt, csv, jsonl or parquet file and decides what it is.

    Text is looked for in ``text`` or a column that is named like it, else in the only column of
    text; a file with numbers alone holds points.

    Raises:
        UsageError: the file cannot be read, a column is missing, or the text column is not clear.
    """
    import numpy as np
    import polars as pl

    from ldebm.data.readers import read_table

    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    table = read_table(path)
    there = ", ".join(table.columns)
    for role, name in (("--text", text), ("--label", label), ("--context", context)):
        if name is not None and name not in table.columns:
            raise UsageError(f"{path}: no column {name!r} for {role}; columns there: {there}")
    columns = {"label": label} if label else {}
    classes = table[label].drop_nulls().n_unique() if label else 0
    if label and classes < 2:
        raise UsageError(f"{path}: label {label!r} has one class only; at least two are needed")
    others = [name for name in table.columns if name not in (label, context, "split", "id")]
    if text is None:
        numeric = [name for name in others if _is_numeric(table, name)]
        if numeric and len(numeric) == len(others):
            columns["x"] = ",".join(numeric)
            return FileFacts(
                "points",
                columns,
                table.height,
                classes=classes,
                spread=_spread(table, path, numeric),
            )
        named = [name for name in TEXT_NAMES if name in others]
        worded = [name for name in others if name not in numeric]
        candidates = named[:1] or worded
        if len(candidates) != 1:
            raise UsageError(
                f"{path}: which column is the text? Give --text; columns there: {there}"
            )
        text = candidates[0]
    columns["text"] = text
    if context:
        columns["context"] = context
    words = table.select(pl.col(text).cast(pl.String).fill_null("").str.split(" "))[text]
    return FileFacts(
        "dialogues" if context else "sentences",
        columns,
        table.height,
        words=words.explode().n_unique(),
        longest=int(np.quantile(words.list.len().to_numpy(), 0.99)),
        classes=classes,
    )


def _is_numeric(table: Any, name: str) -> bool:
    import polars as pl

    if table.schema[name].is_numeric() or isinstance(table.schema[name], pl.List | pl.Array):
        return True
    values = table[name].drop_nulls()
    return bool(values.len() > 0 and values.cast(pl.Float64, strict=False).null_count() == 0)


def _spread(table: Any, path: Path, names: list[str]) -> float:
    """The standard deviation of points, which have to be points of the plane."""
    import polars as pl

    values = [table[name].explode().cast(pl.Float64, strict=False) for name in names]
    numbers = sum(len(column) for column in values)
    if numbers != 2 * table.height:
        raise UsageError(
            f"{path}: points need two coordinates, found {numbers / table.height:g} a row "
            f"({', '.join(names)}); leave two numeric columns, or name the text with --text"
        )
    deviations = [column.filter(column.is_finite()).std() or 0.0 for column in values]
    return float(sum(deviations) / len(deviations))


def sections(name: str, path: str, sha256: str, facts: FileFacts) -> tuple[str, dict[str, Any]]:
    """The data section, as a mapping, and the name of the experiment that goes with it."""
    data: dict[str, Any] = {"kind": facts.kind, "source": "file", "path": path, "sha256": sha256}
    data["columns"] = dict(facts.columns)
    if facts.classes:
        data["labels"] = [facts.columns["label"]]
    if facts.kind != "points":
        if facts.words > 30000:  # words alone would leave most of the vocabulary rare
            data |= {"tokenizer": "bpe", "vocab_size": 8000}
        else:
            data |= {"tokenizer": "word", "vocab_size": min(10001, max(8, facts.words + 4))}
        pieces = 2 if facts.words > 30000 else 1
        data["max_len"] = min(128, max(8, pieces * facts.longest + 2))
    if facts.kind == "dialogues":
        data["context_turns"] = 5
    return f"{name}-ldebm", data


def experiment_section(name: str, facts: FileFacts) -> dict[str, Any]:
    """An LDEBM experiment with sizes that suit the number of rows."""
    points, large = facts.kind == "points", facts.rows > LARGE
    cluster: dict[str, Any] = {"labels": "gc", "dims": 2}
    if not points:
        cluster |= {"dims": 3, "restarts": 4} if large else {"dims": 6, "restarts": 8}
    if facts.classes:
        cluster = {"labels": "given", "column": facts.columns["label"]}
    evaluate: dict[str, Any] = {"samples": 5000}
    if not points:
        rows = 500 if large else 200
        evaluate |= {"rows": rows, "importance": 100, "inner": 64, "reverse_lm_epochs": 2}
    return {
        "data": name,
        "description": f"LDEBM on {name}, {facts.rows} rows",
        "backbone": _points_backbone(facts) if points else _text_backbone(facts),
        "cluster": cluster,
        "prior": _prior(facts),
        "evaluate": evaluate,
    }


def _points_backbone(facts: FileFacts) -> dict[str, Any]:
    return {
        "arch": "mlp", "latent": 2, "hidden": 200,
        "noise": float(f"{0.06 * facts.spread or 0.5:.2g}"),
        "training": {"updates": 2000, "batch": 256, "validate_every": None,
                     "optimiser": {"lr": 2e-3, "schedule": "one_cycle"}},
    }  # fmt: skip


def _text_backbone(facts: FileFacts) -> dict[str, Any]:
    """Of the Penn Treebank's size, or small, with a decoder that has to ask z for the words."""
    if facts.rows > LARGE:
        return {
            "arch": "gru", "latent": 40, "hidden": 512, "embed": 512, "dropout": 0.3,
            "init": "uniform", "kl_weight": 1.0, "kl_floor": 12.0, "kl_warmup": 300,
            "training": {"epochs": 15, "batch": 128, "precision": "bfloat16",
                         "optimiser": {"lr": 1e-3, "clip": 0.5, "schedule": "linear",
                                       "warmup": 200}},
        }  # fmt: skip
    batch = 128 if facts.rows > 5000 else 64
    epochs = min(MAX_EPOCHS, max(12, round(SMALL_UPDATES * batch / facts.rows)))
    return {
        "arch": "gru", "latent": 24, "hidden": 128, "embed": 128, "dropout": 0.2,
        "word_dropout": 0.5, "kl_weight": 0.2,
        "training": {"epochs": epochs, "batch": batch, "validate_every": 2,
                     "optimiser": {"lr": 3e-3, "clip": 5.0, "schedule": "linear", "hold": 0.4}},
    }  # fmt: skip


def _prior(facts: FileFacts) -> dict[str, Any]:
    points, large = facts.kind == "points", facts.rows > LARGE
    hidden = 64 if points else (128 if large else 96)
    updates, batch = (
        (6000, 384 if large and not points else 256) if points or large else (1500, 256)
    )
    return {
        "kind": "diffusion", "classes": facts.classes or (10 if points else 16),
        "energy": {"hidden": hidden, "blocks": 3, "activation": "silu", "spectral_norm": False,
                   "init": "orthogonal"},
        "sampler": {"steps": 12}, "standardise": "diagonal",
        "score_matching": 0.75 if points else 0.5,
        "mi_weight": 0.05, "class_weight": 1.0 if facts.classes else 0.05,
        "training": {"updates": updates, "batch": batch, "validate_every": None,
                     "optimiser": {"lr": 3e-3 if points else 2e-3, "betas": [0.9, 0.99],
                                   "clip": None if points else 1.0, "schedule": "linear",
                                   "warmup": 100, "ema": 0.995 if points else 0.997}},
    }  # fmt: skip


def add_dataset(
    name: str,
    source: str | Path,
    text: str | None = None,
    label: str | None = None,
    context: str | None = None,
    params_path: str | Path = "params.yaml",
) -> str:
    """Adds a data set and an experiment to params.yaml, whose comments and order stay.

    Returns:
        The name of the experiment.

    Raises:
        UsageError: the name is taken or not one, or the file does not fit; params.yaml is then as
            it was.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"name {name!r}: expected small letters, digits, - and _")
    source, params_path = Path(source), Path(params_path)
    params = load_params(params_path)
    if name in params.data:
        raise UsageError(f"data set {name!r} is in {params_path} already; choose another name")
    place = Path(os.path.relpath(source, params_path.parent)).as_posix()
    experiment, data, section = _sections(name, source, place, text, label, context)
    if experiment in params.experiments or experiment in params.groups:
        raise UsageError(f"{experiment!r} is in {params_path} already; choose another name")
    content = params_path.read_text(encoding="utf-8")
    content = _insert(content, "data", {name: data}, params_path)
    content = _insert(content, "experiments", {experiment: section}, params_path)
    with atomic_path(params_path) as temporary:
        temporary.write_text(content, encoding="utf-8", newline="\n")
        load_params(temporary)
    return experiment


def _sections(
    name: str, source: Path, place: str, text: str | None, label: str | None, context: str | None
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name of the experiment, the data section and the experiment's."""
    if not holds_images(source):
        facts = inspect_file(source, text, label, context)
        experiment, data = sections(name, place, hash_path(source), facts)
        return experiment, data, experiment_section(name, facts)
    for option, value in (("--text", text), ("--context", context)):
        if value is not None:
            raise UsageError(f"{source}: images have no {option[2:]}; leave {option} out")
    with as_file(source) as file:
        if not file.is_file():
            raise UsageError(f"{source}: no such file")
        try:
            images = inspect_images(file, label)
        except UsageError as error:  # of a folder the user knows no zip
            raise UsageError(str(error).replace(str(file), str(source))) from None
        data = data_section(place, hash_path(file), images)
    return f"{name}-hvae", data, image_experiment(name, images)


def _insert(content: str, section: str, entry: dict[str, Any], path: Path) -> str:
    """Writes ``entry`` at the end of a top-level section; every other line stays as it is."""
    import yaml

    lines = content.splitlines()
    starts = [i for i, line in enumerate(lines) if re.fullmatch(rf"{section}:\s*(#.*)?", line)]
    if len(starts) != 1:
        raise UsageError(
            f"{path}: section {section!r} is not a block of its own lines; add it by hand"
        )
    end = starts[0] + 1
    while end < len(lines) and (not lines[end].strip() or lines[end][0] in " #"):
        end += 1
    while not lines[end - 1].strip() or lines[end - 1].startswith("#"):
        end -= 1  # comments at the margin belong to the next section
    text = yaml.safe_dump(
        entry, sort_keys=False, default_flow_style=None, width=92, allow_unicode=True
    )
    added = [f"  {line}" for line in text.splitlines()]
    gap = [""] if section == "experiments" else []
    return "\n".join([*lines[:end], *gap, *added, *lines[end:]]) + "\n"


def data_status(
    config: DataConfig, name: str, mirror: str | Path | None, root: str | Path = "."
) -> dict[str, Any]:
    """What is known of a data set of params.yaml and what of it is here.

    Returns:
        name, kind, source, licence, ``origin`` (generator, mirror, https, file or missing) and
        ``here`` (the stages whose output exists: raw, prepared, packed).
    """
    from ldebm.data.fetch import mirror_path
    from ldebm.data.registry import find_source

    here = [
        stage
        for stage, marker in (("raw", ""), ("prepared", "profile.json"), ("packed", "meta.json"))
        if (Path(root) / "data" / stage / name / marker).exists()
    ]
    row: dict[str, Any] = {"name": name, "kind": config.kind, "source": config.source}
    if config.source == "file":
        there = config.path is not None and (Path(root) / config.path).exists()
        origin, licence = ("file" if there else "missing"), "yours"
    else:
        source = find_source(config.source)
        licence = source.licence
        if source.generator:
            origin = "generator"
        elif source.files and all(mirror_path(source, file, mirror) for file in source.files):
            origin = "mirror"
        elif source.files and all(
            mirror_path(source, file, mirror) or file.download for file in source.files
        ):
            origin = "https"
        else:
            origin = "missing"
    return {**row, "licence": licence, "origin": origin, "here": here}
