"""What prepared data must be like, as Great Expectations suites per kind of data.

Two sorts of frames are checked: ``profile`` has one row per split with shares computed while
preparing (what is too large or too structured for the engine), and each split has its own
rows. Importing this module takes seconds, so only the validate stage does it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
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
PART = 1 << 17  # rows that are checked at a time
SHOWN = 20  # unexpected values that the engine lists
CONSTANT = 0.01  # of images, with one value everywhere


def validate(prepared: str | Path, config: DataConfig) -> dict[str, Any]:
    """Checks ``data/prepared/<name>``: the report, free of times and identifiers."""
    prepared = Path(prepared)
    profile = read_json(prepared / "profile.json")
    kind, labels = profile["kind"], list(profile["labels"])
    classes = {label: sorted(profile["splits"]["train"]["labels"][label]) for label in labels}
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    results = []
    for split in SPLITS:
        path = prepared / f"{split}.parquet"
        if kind == "images":
            facts = profile["splits"]
            checks = image_expectations(facts["train"], classes, facts[split])
            results += _check(context, split, ([_image_frame(path, labels)], checks))
        else:
            results += _check_rows(context, split, path, kind, classes)
    unknown = None
    if kind in ("sentences", "dialogues"):
        texts = {split: pl.read_parquet(prepared / f"{split}.parquet", columns=["text"])["text"]
                 for split in SPLITS}  # fmt: skip
        unknown, _ = unknown_shares(config, {n: part.fill_null("") for n, part in texts.items()})
    facts = shares(profile, unknown)
    checks = profile_expectations(kind, labels)
    found = _check(context, "profile", ([pd.DataFrame(facts)], checks))
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
    checks = _label_expectations(classes)
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
    checks = _id_expectations() + _label_expectations(classes)
    for side in ("height", "width", "channels"):
        checks.append(gxe.ExpectColumnValuesToBeInSet(column=side, value_set=[facts[side]]))
    checks.append(gxe.ExpectColumnValuesToBeInSet(column=PAIRS, value_set=[own["pairs"]]))
    size = facts["height"] * facts["width"] * facts["channels"]
    checks.append(gxe.ExpectColumnValuesToBeInSet(column="bytes", value_set=[size]))
    mostly = 1 - max(CONSTANT, 1 / own["rows"])  # one may have one value everywhere
    checks.append(gxe.ExpectColumnValuesToBeBetween(column="range", min_value=1, mostly=mostly))
    return checks


def _id_expectations() -> list[Any]:
    return [
        gxe.ExpectColumnValuesToNotBeNull(column="id"),
        gxe.ExpectColumnValuesToBeUnique(column="id"),
    ]


def _label_expectations(classes: dict[str, list[str]]) -> list[Any]:
    return [
        gxe.ExpectColumnValuesToBeInSet(column=label_column(label), value_set=names)
        for label, names in classes.items()
    ]


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


def _check_rows(
    context: Any, split: str, path: Path, kind: str, classes: dict[str, list[str]]
) -> list[dict[str, Any]]:
    """Checks the rows of a split in parts, so that memory does not grow with them."""
    table = pl.scan_parquet(path)
    ids = table.select("id").collect()["id"].to_numpy()
    parts = (
        _split_frame(kind, table.slice(start, PART).collect(), list(classes))
        for start in range(0, len(ids), PART)
    )
    first = next(parts)
    checks = split_expectations(kind, list(first.columns), classes)
    frames = itertools.chain([first], parts)
    return _check(
        context, split, ([pd.DataFrame({"id": ids})], _id_expectations()), (frames, checks)
    )


def _split_frame(kind: str, table: pl.DataFrame, labels: list[str]) -> pd.DataFrame:
    columns: dict[str, Any] = {}
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


def _check(
    context: Any, name: str, *suites: tuple[Iterable[pd.DataFrame], list[Any]]
) -> list[dict[str, Any]]:
    """Runs each suite on all parts of its frame; the results by expectation and column."""
    found = []
    for number, (frames, checks) in enumerate(suites):
        key = f"{name} {number}"
        source = context.data_sources.add_pandas(key)
        batch = source.add_dataframe_asset(key).add_batch_definition_whole_dataframe(key)
        suite = context.suites.add(ExpectationSuite(key, expectations=checks))
        definition = context.validation_definitions.add(
            ValidationDefinition(data=batch, suite=suite, name=key)
        )
        runs = [definition.run(batch_parameters={"dataframe": frame}) for frame in frames]
        parts = [sorted(run.to_json_dict()["results"], key=_place) for run in runs]
        found += [_plain(name, _joined(items)) for items in zip(*parts, strict=True)]
    return sorted(found, key=lambda item: (item["expectation"], item["column"]))


def _place(item: dict[str, Any]) -> tuple[str, str]:
    configuration = item["expectation_config"]
    return configuration["type"], configuration["kwargs"].get("column", "")


def _joined(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What an expectation found in all parts of a frame, as it would have in the whole."""
    results = [item.get("result") or {} for item in items]
    whole = dict(results[0])
    for key in ("element_count", "unexpected_count"):
        if all(key in result for result in results):
            whole[key] = sum(result[key] for result in results)
    if "partial_unexpected_list" in whole:
        listed = [value for result in results for value in result["partial_unexpected_list"]]
        whole["partial_unexpected_list"] = listed[:SHOWN]
    failed = [item for item in items if not item["success"]]
    return {**(failed or items)[0], "success": not failed, "result": whole}


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
