"""What prepared data must be like, as Great Expectations suites per kind of data.

Two sorts of frames are checked: ``profile`` has one row per split with shares computed while
preparing (what is too large or too structured for the engine, C27), and each split has its own
rows. Importing this module takes seconds, so only the validate stage does it (C28).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations as gx
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pyarrow.parquet as pq
from great_expectations.core.expectation_suite import ExpectationSuite
from great_expectations.core.validation_definition import ValidationDefinition
from great_expectations.data_context.types.base import ProgressBarsConfig

from ldebm.config import DataConfig
from ldebm.data.images import image_digest, pairs_hash
from ldebm.data.label_columns import label_column
from ldebm.data.limits import broken, limits, notes, shares, unknown_shares
from ldebm.data.packed import SPLITS
from ldebm.data.prepare import MAX_CHARACTERS
from ldebm.files import read_json

__all__ = ["profile_expectations", "split_expectations", "validate"]

gxe: Any = gx.expectations  # its names are not declared for type checkers
PAIRS = "images and labels"  # a hash of all of a split
CONSTANT = 0.01  # of images, with one value everywhere


def validate(prepared: str | Path, config: DataConfig) -> dict[str, Any]:
    """Checks ``data/prepared/<name>``: the report, free of times and identifiers (C32)."""
    prepared = Path(prepared)
    profile = read_json(prepared / "profile.json")
    kind, labels = profile["kind"], list(profile["labels"])
    classes = {label: sorted(profile["splits"]["train"]["labels"][label]) for label in labels}
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    frames, results = {}, []
    for split in SPLITS:
        path = prepared / f"{split}.parquet"
        if kind == "images":
            frames[split] = _image_frame(path, labels)
            facts = profile["splits"]
            checks = image_expectations(facts["train"], classes, facts[split])
        else:
            frames[split] = _split_frame(kind, pl.read_parquet(path), labels)
            checks = split_expectations(kind, list(frames[split].columns), classes)
        results += _check(context, split, frames[split], checks)
    unknown = None
    if kind in ("sentences", "dialogues"):
        texts = {split: frame["text"].fillna("").to_list() for split, frame in frames.items()}
        unknown, _ = unknown_shares(config, texts)
    facts = shares(profile, unknown)
    checks = profile_expectations(kind, labels)
    found = _check(context, "profile", pd.DataFrame(facts), checks)
    said = broken(profile, facts)
    for item in found:
        if item["column"] in said:
            item["detail"] = "; ".join(said[item["column"]])
    results = found + results
    return {
        "success": all(item["success"] for item in results),
        "kind": kind,
        "source": profile["source"],
        "checked": len(results),
        "failed": sum(not item["success"] for item in results),
        "notes": notes(profile),
        "results": results,
    }


def profile_expectations(kind: str, labels: list[str]) -> list[Any]:
    """All three splits are there, and their shares within :mod:`ldebm.data.limits`."""
    splits = gxe.ExpectColumnDistinctValuesToEqualSet(column="split", value_set=list(SPLITS))
    return [splits] + [
        gxe.ExpectColumnValuesToBeBetween(
            column=limit.name, min_value=limit.least, max_value=limit.most
        )
        for limit in limits(kind, labels)
    ]


def split_expectations(kind: str, columns: list[str], classes: dict[str, list[str]]) -> list[Any]:
    """What the rows of a split must be; labels of every split have to be classes of training."""
    checks = _row_expectations(classes)
    if kind == "points":
        axes = [column for column in columns if column.startswith("x")]
        return checks + [gxe.ExpectColumnValuesToNotBeNull(column=axis) for axis in axes]
    checks.append(gxe.ExpectColumnValuesToNotBeNull(column="text"))
    checks.append(
        gxe.ExpectColumnValueLengthsToBeBetween(
            column="text", min_value=1, max_value=MAX_CHARACTERS
        )
    )
    checks.append(gxe.ExpectColumnValuesToNotMatchRegex(column="text", regex=r"^\s|\s$|\s\s"))
    if kind == "dialogues":
        checks.append(gxe.ExpectColumnValuesToBeBetween(column="turn", min_value=0, max_value=1000))
    if kind == "documents":
        checks.append(gxe.ExpectColumnValuesToBeBetween(column="known", min_value=1))
    return checks


def image_expectations(
    facts: dict[str, Any], classes: dict[str, list[str]], own: dict[str, Any]
) -> list[Any]:
    """What the images of a split must be.

    Args:
        facts: of the training split, which state the size.
        classes: of every label.
        own: of the split, with a hash of the images and labels as they were read.
    """
    checks = _row_expectations(classes)
    for side in ("height", "width", "channels"):
        checks.append(gxe.ExpectColumnValuesToBeInSet(column=side, value_set=[facts[side]]))
    checks.append(gxe.ExpectColumnValuesToBeInSet(column=PAIRS, value_set=[own["pairs"]]))
    size = facts["height"] * facts["width"] * facts["channels"]
    checks.append(gxe.ExpectColumnValuesToBeInSet(column="bytes", value_set=[size]))
    mostly = 1 - max(CONSTANT, 1 / own["rows"])  # one may have one value everywhere
    checks.append(gxe.ExpectColumnValuesToBeBetween(column="range", min_value=1, mostly=mostly))
    return checks


def _row_expectations(classes: dict[str, list[str]]) -> list[Any]:
    checks: list[Any] = [
        gxe.ExpectColumnValuesToNotBeNull(column="id"),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
    ]
    for label, names in classes.items():
        column = label_column(label)
        checks.append(gxe.ExpectColumnValuesToBeInSet(column=column, value_set=names))
    return checks


def _image_frame(path: Path, labels: list[str]) -> pd.DataFrame:
    """Facts of every image, read a row group at a time."""
    parts, hashes = [], []
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            columns = {n: table.column(n).to_numpy() for n in ("id", "height", "width", "channels")}
            images = [np.frombuffer(image, np.uint8) for image in table.column("image").to_pylist()]
            columns["bytes"] = np.array([image.size for image in images])
            columns["range"] = np.array(
                [int(np.ptp(image)) if image.size else 0 for image in images]
            )
            for label in labels:
                values = table.column(label_column(label)).to_pylist()
                columns[label_column(label)] = [
                    None if value is None else str(value) for value in values
                ]
            parts.append(pd.DataFrame(columns))
            hashes += [image_digest(image.tobytes()) for image in images]
    frame = pd.concat(parts, ignore_index=True)
    frame[PAIRS] = pairs_hash(hashes, [frame[label_column(label)] for label in labels])
    return frame


def _split_frame(kind: str, table: pl.DataFrame, labels: list[str]) -> pd.DataFrame:
    columns: dict[str, Any] = {"id": table["id"].to_numpy()}
    for label in labels:
        column = label_column(label)
        columns[column] = table[column].cast(pl.String).to_list()
    if kind == "points":
        for index, values in enumerate(table["x"].to_numpy().T):
            columns[f"x{index}"] = values
    else:
        columns["text"] = table["text"].to_list()
    if kind == "dialogues":
        columns["turn"] = table["turn"].to_numpy()
    if kind == "documents":
        columns["known"] = table["known"].to_numpy()
    return pd.DataFrame(columns)


def _check(context: Any, name: str, frame: pd.DataFrame, checks: list[Any]) -> list[dict[str, Any]]:
    """Runs a suite on one frame; the results in the order of the suite."""
    source = context.data_sources.add_pandas(name)
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    suite = context.suites.add(ExpectationSuite(name, expectations=checks))
    definition = context.validation_definitions.add(
        ValidationDefinition(data=batch, suite=suite, name=name)
    )
    outcome = definition.run(batch_parameters={"dataframe": frame}).to_json_dict()
    found = [_plain(name, item) for item in outcome["results"]]
    return sorted(found, key=lambda item: (item["expectation"], item["column"]))


def _plain(frame: str, item: dict[str, Any]) -> dict[str, Any]:
    configuration = item["expectation_config"]
    rule = {
        key: value
        for key, value in configuration["kwargs"].items()
        if key not in ("batch_id", "column") and value is not None
    }
    column = configuration["kwargs"].get("column", "")
    result = item.get("result") or {}
    observed = {
        key: result[key]
        for key in ("element_count", "unexpected_count", "partial_unexpected_list")
        if key in result
    }
    detail = f"{frame}.{column} {rule}" if rule else f"{frame}.{column}"
    failure = (item.get("exception_info") or {}).get("exception_message")
    if not item["success"]:
        worst = observed.get("partial_unexpected_list", [])[:3]
        detail += (
            f": {failure}" if failure else f": {observed.get('unexpected_count')} rows, {worst}"
        )
    return {
        "expectation": configuration["type"],
        "frame": frame,
        "column": column,
        "rule": rule,
        "success": bool(item["success"]),
        "observed": observed,
        "detail": detail,
    }
