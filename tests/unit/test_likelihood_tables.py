"""Tables of priors on one backbone: who may stand in them, and the intervals of the gains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldebm.errors import UsageError
from pipelines.library import Library
from pipelines.results.likelihoods import breaches, interval, likelihood_tables, sides_of

ROOT = Path(__file__).parents[2]
ROWS = 200


def part(nll: np.ndarray, **more: Any) -> dict[str, Any]:
    content = {"nll": float(nll.mean()), "nll_lower": float(nll.mean()), "row_nll": nll.tolist()}
    return {**content, "settings": "now", "dirty": False, "updates": 10, "cpu_seconds": 2.0, **more}


def measured(**priors: float) -> dict[str, Any]:
    """Three seeds in which the rows differ more than the priors do."""
    seeds = {}
    for seed in range(3):
        stream = np.random.default_rng(seed)
        base = 10 + 3 * stream.normal(size=ROWS)
        row = {"draws": 500, "test_rows": ROWS, "rows": list(range(ROWS))[::-1]}
        row["priors"] = {
            name: part(base + shift + 0.1 * stream.normal(size=ROWS))
            for name, shift in priors.items()
        }
        seeds[str(seed)] = row
    return seeds


def change(seeds: dict[str, Any], **values: Any) -> dict[str, Any]:
    for row in seeds.values():
        row["priors"]["a"] |= values
    return seeds


def test_a_prior_that_follows_the_protocol_may_be_compared():
    assert breaches("a", measured(a=0.0), "now") == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dirty": True}, "no commit"),
        ({"dirty": None}, "no commit"),
        ({"settings": "before"}, "superseded"),
        ({"nll_sandwich": 1.5}, "1.5 nats apart"),
        ({"nll_lower": 0.0}, "nats apart"),
    ],
)
def test_what_breaks_the_protocol_is_named(values, said):
    (reason,) = breaches("a", change(measured(a=0.0), **values), "now")
    assert said in reason


def test_too_few_seeds_draws_and_rows_are_named():
    seeds = measured(a=0.0)
    del seeds["2"]
    seeds["0"]["draws"] = 100
    seeds["1"]["rows"] = seeds["1"]["rows"][:50]
    reasons = "; ".join(breaches("a", seeds, "now"))
    assert "2 seeds, 3 are needed" in reasons
    assert "fewer than 500 draws" in reasons
    assert "not all test rows" in reasons


def test_a_refused_estimate_has_no_sides():
    assert sides_of({"nll_refused": 1.0}) == (float("inf"), float("inf"))
    assert sides_of({"nll": 3.0, "nll_lower": 2.9, "nll_sandwich": 0.3}) == pytest.approx(
        (0.1, 0.2)
    )


def test_the_interval_holds_rows_and_seeds_and_the_estimates_own_error():
    stream = np.random.default_rng(0)
    rows_only = 0.5 + stream.normal(size=(3, 400))
    mean, low, high = interval(rows_only)
    assert mean == pytest.approx(0.5, abs=0.1)
    assert 0.05 < high - mean < 0.15
    between_seeds = rows_only + np.array([[-1.0], [0.0], [1.0]])
    assert interval(between_seeds)[2] - mean > 0.5
    same = np.array([[0.2] * 3, [0.3] * 3])
    assert interval(rows_only, same)[1:] == pytest.approx([low - 0.2, high + 0.3])
    # A seed whose estimate is loose widens the mean of three by a third of that, and what depends
    # on how often it is drawn.
    one = interval(rows_only, np.array([[0.3, 0.0, 0.0], [0.0] * 3]))
    assert low - 0.3 < one[1] < low - 0.1
    assert one[2] == pytest.approx(high)


def test_the_table_ranks_priors_and_lists_those_that_may_not_be_compared(tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("conf", "params.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    library = Library(ROOT)
    names = ("chatter-ldebm-long", "chatter-mixture", "chatter-flow")
    seeds = measured(**dict(zip(names, (0.0, 0.5, 0.2), strict=True)), standard_normal=1.0)
    for row in seeds.values():
        for name in names:
            row["priors"][name]["settings"] = library.experiment(name).training_hash
        row["priors"]["chatter-flow"]["settings"] = "before"
        row["priors"]["standard_normal"] = {
            key: row["priors"]["standard_normal"][key] for key in ("nll", "nll_lower", "row_nll")
        }
    path = tmp_path / "results" / "likelihoods-chatter-priors.json"
    path.write_text(json.dumps({"group": "chatter-priors", "seeds": seeds}))
    text = likelihood_tables(tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0][2:] for line in lines] == [
        "chatter-ldebm-long",
        "chatter-mixture",
        "N(0, I)",
    ]
    assert "best" in lines[0]
    low = float(lines[1].split("[")[1].split(",")[0])
    assert 0.4 < low < 0.5
    assert "Not compared: chatter-flow (superseded" in text


@pytest.mark.parametrize("content", ["[]", "{}", '{"group": "x", "seeds": {"0": {}}}'])
def test_a_file_of_another_shape_is_refused_by_name(content, tmp_path):
    path = tmp_path / "results" / "likelihoods-x.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UsageError, match=r"likelihoods-x\.json: not what .* writes"):
        likelihood_tables(tmp_path)
