"""Experiments of DVC, model by model: what was changed, and what came out."""

from pathlib import Path
from typing import Any

import pytest

from ldebm.errors import LdebmError
from pipelines.compare.experiments import experiment_tables, rows_of, show_experiments


def state(name: str, nll: dict[str, float], **params: Any) -> dict[str, Any]:
    """As ``dvc exp show --json`` has one; keys of ``params`` with __ for a dot."""
    nested: dict[str, Any] = {}
    for key, value in params.items():
        *above, last = key.split("__")
        place = nested
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    metrics = {f"reports/{e}/0/summary.json": {"data": {"nll": v}} for e, v in nll.items()}
    metrics["data/judge/metrics.json"] = {"data": {"accuracy": 1.0}}
    data = {"params": {"params.yaml": {"data": nested}}, "metrics": metrics}
    return {"rev": "0123456789" * 4, "name": name, "data": data, "experiments": None}


def run(executor: str | None, *revisions: dict[str, Any]) -> dict[str, Any]:
    return {"revs": [*revisions], "executor": {"state": executor} if executor else None}


BASE = {
    "experiments__ring__prior__levels": 6,
    "experiments__ring__data": "dots",
    "experiments__grid__prior__levels": 6,
    "experiments__grid__data": "squares",
}


def shown(*runs: dict[str, Any], tree: dict[str, Any] | None = None) -> list[Any]:
    head = state("main", {"ring": 1.0, "grid": 2.0}, **BASE)
    workspace = tree or {**head, "name": None, "rev": "workspace"}
    return experiment_tables(rows_of([workspace, {**head, "experiments": [*runs]}]))


def test_a_table_has_the_runs_that_concern_its_model_with_what_was_changed() -> None:
    ring = {**BASE, "experiments__ring__prior__levels": 4}
    grid = {**BASE, "experiments__grid__prior__levels": 2}
    tables = shown(
        run("success", state("four", {"ring": 1.1, "grid": 2.0}, **ring)),
        run(None, state("two", {"ring": 1.0, "grid": 2.2}, **grid)),
    )
    assert [table.title for table in tables] == ["grid, seed 0", "ring, seed 0"]
    assert tables[1].header == ["run", "levels", "nll"]
    assert tables[1].rows == [["main", "6", "1.0"], ["four", "4", "1.1"]]
    assert tables[0].rows == [["main", "6", "2.0"], ["two", "2", "2.2"]]


def test_a_queued_run_is_called_so_and_has_no_metrics_yet() -> None:
    changed = {**BASE, "experiments__ring__prior__levels": 4}
    (table,) = shown(run("queued", state("later", {}, **changed)))
    assert table.rows == [["main", "6", "1.0"], ["later (queued)", "4", "-"]]


def test_the_working_tree_is_shown_where_it_differs() -> None:
    changed = {**BASE, "experiments__ring__prior__levels": 5}
    tree = {**state("", {"ring": 1.0, "grid": 2.0}, **changed), "name": None, "rev": "workspace"}
    (table,) = shown(tree=tree)
    assert table.rows == [["main", "6", "1.0"], ["workspace", "5", "1.0"]]


def test_parameters_of_its_data_count_for_a_model() -> None:
    (table,) = shown(run(None, state("more", {"ring": 1.0, "grid": 2.0}, **BASE, data__dots__n=9)))
    assert (table.title, table.header) == ("ring, seed 0", ["run", "n", "nll"])


def test_parameters_of_the_run_count_for_every_model() -> None:
    tables = shown(run(None, state("short", {"ring": 3.0, "grid": 4.0}, **BASE, run__epochs=1)))
    assert [table.header for table in tables] == [["run", "epochs", "nll"]] * 2


def test_keys_are_as_short_as_they_can_be() -> None:
    more = {
        **BASE,
        "experiments__ring__prior__training__updates": 1,
        "experiments__ring__backbone__training__updates": 2,
    }
    (table,) = [t for t in shown(run(None, state("x", {"ring": 1.0, "grid": 2.0}, **more)))]
    assert table.header == ["run", "backbone.training.updates", "prior.training.updates", "nll"]


def test_nothing_is_shown_where_nothing_differs() -> None:
    assert shown() == []


def test_a_failing_dvc_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LdebmError, match="dvc exp show: "):
        show_experiments(tmp_path)
