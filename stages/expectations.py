"""What prepared data must be like, as Great Expectations suites per kind of data.

Two sorts of frames are checked: ``profile`` has one row per split with shares computed while
preparing (what is too large or too structured for the engine), and each split has its own
rows. Importing this module takes seconds, so only the validate stage does it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

import great_expectations as gx
import pandas as pd  # type: ignore[import-untyped]
import polars as pl
from great_expectations.core.expectation_suite import ExpectationSuite
from great_expectations.core.validation_definition import ValidationDefinition
from great_expectations.data_context.types.base import ProgressBarsConfig

from ldebm.config import DataConfig
from ldebm.data.columns import label_column
from ldebm.data.kinds import open_kind
from ldebm.data.kinds.base import PART, Check
from ldebm.data.limits import broken, limits, notes
from ldebm.data.packed import SPLITS
from ldebm.files import read_json

__all__ = ["validate"]

SHOWN = 20  # unexpected values that the engine lists


def validate(
    prepared: str | Path, config: DataConfig, facts: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Checks ``data/prepared/<name>``: the report, free of times and identifiers.

    Args:
        prepared: the folder.
        config: the data set.
        facts: :func:`ldebm.data.limits.measured` of it.
    """
    prepared = Path(prepared)
    profile = read_json(prepared / "profile.json")
    kind = open_kind(config.model_copy(update={"kind": profile["kind"]}))
    splits, labels = profile["splits"], list(profile["labels"])
    known = splits["train"]["labels"]
    of_labels: list[Check] = [
        (
            "ExpectColumnValuesToBeInSet",
            {"column": label_column(label), "value_set": sorted(known[label])},
        )
        for label in labels
    ]
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    results = []
    for split in SPLITS:
        path = prepared / f"{split}.parquet"
        once = _expectations([
            ("ExpectColumnValuesToNotBeNull", {"column": "id"}),
            ("ExpectColumnValuesToBeUnique", {"column": "id"}),
        ])  # fmt: skip
        checks = kind.checks(splits.get(split, splits["train"]), splits["train"])
        parts = map(pd.DataFrame, kind.checked(path, labels))
        of_rows = (parts, _expectations([*of_labels, *checks]))
        results += _check(context, split, (_ids(path), once), of_rows)
    of_profile = _check(context, "profile", ([pd.DataFrame(facts)], _of_profile(profile)))
    said = broken(profile, facts)
    for item in of_profile:
        if item["column"] in said:
            item["detail"] = "; ".join(said[item["column"]])
    results = of_profile + results
    return {
        "success": all(item["success"] for item in results),
        "kind": profile["kind"],
        "source": profile["source"],
        "checked": len(results),
        "failed": sum(not item["success"] for item in results),
        "notes": notes(profile),
        "results": results,
    }


def _ids(path: Path) -> Iterator[pd.DataFrame]:
    """The identifiers: some at a time where they rise, so that none is in two parts; else all."""
    ids = pl.read_parquet(path, columns=["id"])["id"].to_numpy()
    step = PART if bool((ids[1:] > ids[:-1]).all()) else max(1, len(ids))
    return (pd.DataFrame({"id": ids[i : i + step]}) for i in range(0, max(1, len(ids)), step))


def _expectations(checks: Iterable[Check]) -> list[Any]:
    return [getattr(gx.expectations, name)(**arguments) for name, arguments in checks]


def _of_profile(profile: dict[str, Any]) -> list[Any]:
    """All three splits are there, and their shares within :mod:`ldebm.data.limits`."""
    checks: list[Check] = [
        (
            "ExpectColumnValuesToBeBetween",
            {"column": limit.name, "min_value": limit.least, "max_value": limit.most},
        )
        for limit in limits(profile["kind"], list(profile["labels"]))
    ]
    splits = {"column": "split", "value_set": list(SPLITS)}
    return _expectations([("ExpectColumnDistinctValuesToEqualSet", splits), *checks])


def _check(
    context: Any, name: str, *suites: tuple[Iterable[pd.DataFrame], list[Any]]
) -> list[dict[str, Any]]:
    """Runs each suite on all parts of its frame; the results by expectation and column."""
    results = []
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
        results += [_plain(name, _joined(items)) for items in zip(*parts, strict=True)]
    return sorted(results, key=lambda item: (item["expectation"], item["column"]))


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
