"""What a user's table is: points, sentences, dialogues or documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldebm.config import DataConfig
from ldebm.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FileFacts", "data_section", "inspect_file"]

MANY_WORDS = 30_000  # beyond, words alone would leave most of the vocabulary rare
TEXT_NAMES = ("text", "sentence", "utterance", "utterances", "content", "review", "response")
ROLES = ("text", "context", "dialogue", "turn", "speaker")
TURNS = 5  # of context


@dataclass(frozen=True)
class FileFacts:
    """What a user's file holds.

    Attributes:
        kind: points, sentences, dialogues or documents.
        columns: role (text, label, context, dialogue, turn, speaker, x) to column name.
        labels: label columns.
        rows: rows that a model reads: points, texts, or turns of dialogues.
        words: different words of the text; 0 for points.
        longest: words that 99 of 100 texts do not exceed; 0 for points.
        classes: values of the first label; 0 without one.
        labelled: rows that have the first label.
        spread: standard deviation of the points; 0 for text.
    """

    kind: str
    columns: dict[str, str]
    labels: list[str]
    rows: int
    words: int = 0
    longest: int = 0
    classes: int = 0
    labelled: int = 0
    spread: float = 0.0


def inspect_file(
    path: Path,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    kind: str | None = None,
) -> FileFacts:
    """Reads a txt, csv, jsonl or parquet file and decides what it is.

    Text is looked for in ``text`` or a column that is named like it, else in the only column of
    text; a file with numbers alone holds points. Dialogues have a column of contexts, one that
    their turns have in common, or lists of turns. An empty label is none.

    Raises:
        UsageError: the file cannot be read, a column is missing, a label has one class only, the
            text column is not clear, or dialogues or documents are not what they have to be.
    """
    from ldebm.data.text_files import read_table

    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    table = read_table(path)
    given = dict(columns or {})
    there = ", ".join(table.columns)
    for role, name in (*given.items(), *(("label", name) for name in labels)):
        if name not in table.columns:
            raise UsageError(f"{path}: no column {name!r} for --{role}; columns there: {there}")
    used = {*labels, *(given[role] for role in ROLES[1:] if role in given), "split", "id"}
    others = [name for name in table.columns if name not in used]
    if "text" not in given:
        numeric = [name for name in others if _is_numeric(table, name)]
        if numeric and len(numeric) == len(others):
            return _points(table, path, numeric, labels)
        named = [name for name in TEXT_NAMES if name in others]
        candidates = named[:1] or [name for name in others if name not in numeric]
        if len(candidates) != 1:
            raise UsageError(
                f"{path}: which column is the text? Give --text; columns there: {there}"
            )
        given["text"] = candidates[0]
    return _texts(table, path, given, labels, kind)


def _points(table: pl.DataFrame, path: Path, names: list[str], labels: Sequence[str]) -> FileFacts:
    columns = {"x": ",".join(names), **_label_role(labels)}
    classes, labelled = _classes(table, path, labels)
    return FileFacts(
        "points",
        columns,
        list(labels),
        table.height,
        classes=classes,
        labelled=labelled,
        spread=_spread(table, path, names),
    )


def _texts(
    table: pl.DataFrame,
    path: Path,
    columns: dict[str, str],
    labels: Sequence[str],
    kind: str | None,
) -> FileFacts:
    import numpy as np
    import polars as pl

    from ldebm.data.label_columns import label_column
    from ldebm.data.readers import read_user_table

    listed = isinstance(table.schema[columns["text"]], pl.List)
    speaks = listed or "context" in columns or "dialogue" in columns
    found = kind or ("dialogues" if speaks else "sentences")
    if found != "dialogues" and speaks:
        raise UsageError(f"{path}: kind {found!r} has no turns; leave --context and --dialogue out")
    config = DataConfig.model_validate(
        {"kind": found, "source": "file", "columns": columns, "labels": list(labels),
         "context_turns": TURNS}
    )  # fmt: skip
    frame = read_user_table(config, table, path)
    classes, labelled = _classes(frame, path, labels, label_column)
    texts = frame["text"].fill_null("")
    if found == "documents":
        texts = _document_words(path, texts)
    words = texts.str.split(" ")
    return FileFacts(
        found,
        columns | _label_role(labels),
        list(labels),
        frame.height,
        words=words.explode().n_unique(),
        longest=int(np.quantile(words.list.len().to_numpy(), 0.99)),
        classes=classes,
        labelled=labelled,
    )


def _document_words(path: Path, texts: pl.Series) -> pl.Series:
    import polars as pl

    from ldebm.data.documents import document_words

    words = pl.Series([document_words(text) for text in texts], dtype=pl.String)
    if (words == "").all():
        raise UsageError(
            f"{path}: no document has a known word; words are runs of 3 to 30 letters that are no "
            "English stop words"
        )
    return words


def _label_role(labels: Sequence[str]) -> dict[str, str]:
    return {"label": labels[0]} if labels else {}


def _classes(
    table: pl.DataFrame, path: Path, labels: Sequence[str], column: Callable[[str], str] = str
) -> tuple[int, int]:
    """Classes of the first label, and rows that have it; every label needs two classes."""
    import polars as pl

    counts = []
    for label in labels:
        values = table[column(label)].cast(pl.String).replace("", None).drop_nulls()
        if values.n_unique() < 2:
            found = "one class only" if len(values) else "no value"
            raise UsageError(
                f"{path}: label {label!r} has {found}; at least two classes are needed"
            )
        counts.append((values.n_unique(), len(values)))
    return counts[0] if counts else (0, 0)


def _is_numeric(table: pl.DataFrame, name: str) -> bool:
    import polars as pl

    kind = table.schema[name]
    if isinstance(kind, pl.List | pl.Array):
        return kind.inner != pl.String
    if kind.is_numeric():
        return True
    values = table[name].drop_nulls()
    return bool(values.len() > 0 and values.cast(pl.Float64, strict=False).null_count() == 0)


def _spread(table: pl.DataFrame, path: Path, names: list[str]) -> float:
    """The standard deviation of points, which have to be points of the plane."""
    import polars as pl

    values = [table[name].explode().cast(pl.Float64, strict=False) for name in names]
    numbers = sum(len(column) for column in values)
    if numbers != 2 * table.height:
        raise UsageError(
            f"{path}: points need two coordinates, found {numbers / table.height:g} a row "
            f"({', '.join(names)}); leave two numeric columns, or name the text with --text"
        )
    deviations = [_deviation(column) for column in values]
    return float(sum(deviations) / len(deviations))


def _deviation(column: pl.Series) -> float:
    value = column.filter(column.is_finite()).std()
    return float(value) if isinstance(value, float) else 0.0


def data_section(path: str, sha256: str, facts: FileFacts, tokenizer: str | None) -> dict[str, Any]:
    """The data set's section.

    Args:
        path: of the file, relative to params.yaml.
        sha256: of the file.
        facts: what it holds.
        tokenizer: word, unigram or bpe; None: words, or pieces where there are very many.
    """
    data: dict[str, Any] = {"kind": facts.kind, "source": "file", "path": path, "sha256": sha256}
    data["columns"] = dict(facts.columns)
    if facts.labels:
        data["labels"] = list(facts.labels)
    if facts.kind == "points":
        return data
    if facts.kind == "documents":
        return data | {"vocab_size": min(30_004, max(8, facts.words + 4))}
    chosen = tokenizer or ("bpe" if facts.words > MANY_WORDS else "word")
    if chosen == "word":
        size = min(10001, max(8, facts.words + 4))
    else:  # pieces: enough that frequent words are one, few enough that all are seen often
        size = min(8000, max(200, facts.words // 2))
    data |= {"tokenizer": chosen, "vocab_size": size}
    pieces = 1 if chosen == "word" else 2
    data["max_len"] = min(128, max(8, pieces * facts.longest + 2))
    if facts.kind == "dialogues":
        data["context_turns"] = TURNS
    return data
