"""What a user's table is: points, sentences, dialogues or documents, and whether it can be used.

The rows go through the code that prepares, validates and packs them in a build, so that what a
build refuses is refused here, before anything is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ldebm.config import DataConfig
from ldebm.data.columns import Table, is_list, kind_of, require_column, text_column
from ldebm.data.kinds import open_kind
from ldebm.data.limits import failures
from ldebm.data.prepare import Prepared, examine
from ldebm.data.text_files import read_table
from ldebm.errors import UsageError
from ldebm.fitting.presets import (
    LARGE,
    SMALL,
    SUPERVISION,
    document_training,
    noise_of_points,
    text_training,
)
from pipelines.new.summary import Summary, start_from

__all__ = ["FileFacts", "data_section", "inspect_file", "table_experiment"]

ROLES = ("context", "dialogue", "turn", "speaker")
TURNS = 5  # of context


@dataclass(frozen=True)
class FileFacts:
    """What a user's file holds.

    Attributes:
        config: its kind, its labels, and which column has which role.
        rows: usable rows that a model reads: points, texts, or turns of dialogues.
        classes: values of the first label in the training split; 0 without one.
        labelled: rows that have the first label.
        spread: mean standard deviation of the coordinates of points; 0 for text.
        tokens: of text the keys tokenizer, vocab_size and max_len of the data section.
        summary: all this for people.
    """

    config: DataConfig
    rows: int
    classes: int
    labelled: int
    spread: float
    tokens: dict[str, Any]
    summary: Summary


def inspect_file(
    path: Path,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    kind: str | None = None,
    tokenizer: str | None = None,
) -> FileFacts:
    """Reads a table and decides what it is.

    Text is looked for in ``text`` or a column that is named like it, else in the only column of
    text; a file with numbers alone holds points. Dialogues have a column of contexts, one that
    their turns have in common, or lists of turns. An empty label is none.

    Args:
        path: a file of lines, or a csv, tsv, jsonl, json or parquet table.
        columns: role to column, where it is not clear.
        labels: label columns.
        kind: ``documents``, where that is wanted.
        tokenizer: word, unigram or bpe; None: what suits the text.

    Raises:
        UsageError: the file cannot be read, a column is missing or not clear, or a build would
            refuse its rows.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    table = read_table(path)
    config = _config(table, path, dict(columns or {}), labels, kind)
    try:
        kind_of_it = open_kind(config)
        frame = kind_of_it.from_table(table, path)
        made = examine(kind_of_it, frame, path)
        tokens, unknown = kind_of_it.sizes(made.tables, tokenizer)
    except UsageError as error:
        said = str(error)
        raise UsageError(said if str(path) in said else f"{path}: {said}") from None
    problems = failures(made.profile, unknown)
    if problems:
        raise UsageError(f"{path}: {'; '.join(problems)}")
    return _facts(config, made, tokens, path, own_splits=frame["split"].null_count() == 0)


def _config(
    table: Table, path: Path, given: dict[str, str], labels: Sequence[str], kind: str | None
) -> DataConfig:
    """The kind of data, and which columns are what."""
    for role, name in (*given.items(), *(("label", name) for name in labels)):
        require_column(table, name, f"--{role}", path)
    taken = {*labels, *(given[role] for role in ROLES if role in given), "split", "id"}
    others = [name for name in table if name not in taken]
    kinds = {name: kind_of(table[name]) for name in others}
    numeric = [name for name in others if kinds[name] in ("numbers", "vectors")]
    section: dict[str, Any] = {"source": "file", "labels": list(labels)}
    if labels:
        given["label"] = labels[0]
    if "text" not in given and kind is None and numeric and len(numeric) == len(others):
        _plane(table, path, numeric)
        given["x"] = ",".join(numeric)
        return DataConfig.model_validate({"kind": "points", "columns": given, **section})
    given = {"text": given.get("text") or text_column(table, path, taken), **given}
    speaks = is_list(table[given["text"]]) or "context" in given or "dialogue" in given
    chosen = kind or ("dialogues" if speaks else "sentences")
    if chosen != "dialogues" and speaks:
        raise UsageError(
            f"{path}: kind {chosen!r} has no turns; leave --context and --dialogue out"
        )
    if chosen == "dialogues":
        section["context_turns"] = TURNS
    return DataConfig.model_validate({"kind": chosen, "columns": given, **section})


def _plane(table: Table, path: Path, names: list[str]) -> None:
    """Checks that points have two coordinates."""
    first = [next((v for v in table[name] if v is not None), None) for name in names]
    numbers = sum(len(value) if isinstance(value, list) else 1 for value in first)
    if numbers != 2:
        raise UsageError(
            f"{path}: points need two coordinates, found {numbers} a row ({', '.join(names)}); "
            "leave two numeric columns, or name the text with --text"
        )


def _facts(
    config: DataConfig, made: Prepared, tokens: dict[str, Any], path: Path, *, own_splits: bool
) -> FileFacts:
    splits = made.profile["splits"]
    every = pl.concat(list(made.tables.values()))
    roles = [f"{role} {name}" for role, name in config.columns.items() if role != "label"]
    said, spread = {"columns": ", ".join(roles)}, 0.0
    if "text" in every.columns:
        said["lengths"] = _lengths(every["text"])
    else:
        spread = float(every["x"].to_numpy().astype(np.float64).std(axis=0).mean())
    if "tokenizer" in tokens:
        unit = {"word": "words", "unigram": "pieces of words (unigram)",
                "bpe": "pieces of words (bpe)"}[tokens["tokenizer"]]  # fmt: skip
        said["tokens"] = f"{unit}, a vocabulary of at most {tokens['vocab_size']}"
    counts: dict[str, Counter[str]] = {label: Counter() for label in config.labels}
    for part in splits.values():
        for label, counter in counts.items():
            counter.update(part["labels"][label])
    first = next(iter(counts), None)
    rows = {split: part["rows"] for split, part in splits.items()}
    reasons = made.profile["rejects"]["reasons"]
    return FileFacts(
        config,
        rows=every.height,
        classes=len(splits["train"]["labels"][first]) if first else 0,
        labelled=counts[first].total() if first else 0,
        spread=spread,
        tokens=tokens,
        summary=Summary(config.kind, str(path), rows, own_splits, reasons, counts, said),
    )


def _lengths(texts: pl.Series) -> str:
    words = texts.str.split(" ").list.len().to_numpy()
    marks = texts.str.len_chars().to_numpy()
    name, lengths = ("words", words) if np.median(words) > 1 else ("characters", marks)
    half, most = (int(np.quantile(lengths, q)) for q in (0.5, 0.95))
    return f"median {half} {name}, 95 of 100 rows at most {most}"


def data_section(path: str, sha256: str, facts: FileFacts) -> dict[str, Any]:
    """The data set's section; ``path`` of the file is relative to params.yaml."""
    config = facts.config
    data: dict[str, Any] = {"kind": config.kind, "source": "file", "path": path, "sha256": sha256}
    data["columns"] = {str(role): name for role, name in config.columns.items()}
    if config.labels:
        data["labels"] = list(config.labels)
    data |= facts.tokens
    if config.context_turns:
        data["context_turns"] = config.context_turns
    return data


def table_experiment(name: str, facts: FileFacts) -> dict[str, Any]:
    """An LDEBM experiment with sizes and lengths of training that suit the number of rows."""
    few = bool(facts.classes) and facts.labelled < facts.rows / 2
    described = f"LDEBM on {name}, {facts.rows} rows"
    if facts.classes and facts.labelled < facts.rows:
        described += f", {facts.labelled} of them labelled"
    begin = BEGINNINGS[facts.config.kind]
    content: dict[str, Any] = {
        **start_from(begin.template(facts)),
        "data": name,
        "description": described,
        "backbone": begin.first_stage(facts),
    }
    if facts.classes:
        content["backbone"] |= {} if few else begin.supervision(facts)
        content["cluster"] = {"labels": "given", "column": facts.config.labels[0]}
        content["prior"] = {"classes": facts.classes, "class_weight": 1.0}
        if few:
            content["prior"]["labelled_batch"] = min(200, facts.labelled)
    return {key: value for key, value in content.items() if value != {}}


class _Texts:
    """How an experiment on texts begins: template, and what of its first stage the rows decide."""

    def template(self, facts: FileFacts) -> str:
        size = "large" if facts.rows > LARGE else "medium" if facts.rows > SMALL else "small"
        return f"{facts.config.kind}-{size}"

    def first_stage(self, facts: FileFacts) -> dict[str, Any]:
        """Length and batch; the templates of large data have their own."""
        if facts.rows > LARGE:
            return {}
        return text_training(facts.rows)

    def supervision(self, facts: FileFacts) -> dict[str, Any]:
        """The labels as a part of the first stage, where most rows have one.

        The first stage is frozen when the prior sees the labels: a latent that does not tell them
        by then never will.
        """
        return {"supervision": {"column": facts.config.labels[0], "weight": SUPERVISION}}


class _Documents(_Texts):
    def first_stage(self, facts: FileFacts) -> dict[str, Any]:
        return document_training(facts.rows)


class _Points(_Texts):
    """Points are their own latent."""

    def template(self, facts: FileFacts) -> str:
        return "points"

    def first_stage(self, facts: FileFacts) -> dict[str, Any]:
        return {"noise": noise_of_points(facts.spread)}

    def supervision(self, facts: FileFacts) -> dict[str, Any]:
        return {}


BEGINNINGS = {
    "points": _Points(), "sentences": _Texts(), "dialogues": _Texts(), "documents": _Documents()
}  # fmt: skip
