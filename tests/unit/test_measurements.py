"""Measurements of the flows that are kept in results/, and their tables."""

from pathlib import Path

import pytest
import torch

from benchmarks import growth, timing
from benchmarks.chains import parse_moves
from benchmarks.full_size import PARTS, UPDATES, record, shortened
from benchmarks.recorded import ROOT, Rounds
from benchmarks.run import fallen
from benchmarks.sweeps import Built, differences
from ldebm.errors import UsageError
from ldebm.files import read_json, write_json
from pipelines.library import Library
from pipelines.results.tables import (
    chains_table,
    faults_table,
    full_size_table,
    speed_table,
    sweeps_table,
)

FAULT = {"kind": "stage", "finished": True, "same": True, "twice": 0, "alive": 0, "corrupt": 0}
SWEEP = {"kind": "small", "versions": 6, "seeds": 2, "slots": 2, "same": True, "lock_errors": 0}


def test_the_file_is_complete_after_every_round_and_a_second_start_goes_on(tmp_path: Path):
    path = tmp_path / "faults.json"
    first = Rounds(path)
    first.add({**FAULT, "number": 0, "ok": True, "seconds": 2.0})
    first.add({**FAULT, "number": 1, "ok": False, "same": False, "seconds": 3.0})
    again = Rounds(path)
    assert again.has("stage", 0)
    assert not again.has("stage", 1), "a round that lost something runs again"
    assert not again.has("flow", 0)
    assert not again.ok


def test_a_round_that_failed_is_kept_beside_its_repetition(tmp_path: Path):
    path = tmp_path / "faults.json"
    Rounds(path).add({**FAULT, "number": 0, "ok": False, "alive": 1, "seconds": 3.0})
    write_json(path, {**read_json(path), "commit": "of the first round"})
    Rounds(path).add({**FAULT, "number": 0, "ok": True, "seconds": 2.0})
    content = read_json(path)
    assert content["ok"]
    assert content["seconds"] == 5.0
    assert [item["ok"] for item in content["rounds"]] == [True]
    assert [item["alive"] for item in content["repeated"]] == [1]
    assert content["commit"].startswith(content["rounds"][0]["commit"])
    assert "1 rounds failed" in faults_table(path)


def test_the_table_of_faults_adds_up_each_kind(tmp_path: Path):
    rounds = Rounds(tmp_path / "faults.json")
    for number in range(3):
        rounds.add({**FAULT, "number": number, "ok": True, "twice": number, "seconds": 60.0})
    rounds.add({**FAULT, "kind": "disk", "number": 0, "ok": True, "same": False, "seconds": 60.0})
    lines = faults_table(rounds.path).splitlines()
    assert "| stage | 3 | 3 | 3 | 3 | 0 | 0 |" in lines
    assert "| disk | 1 | 1 | 0 | 0 | 0 | 0 |" in lines
    assert "4 min" in lines[-1]


def test_the_table_of_sweeps_has_the_median_of_the_times(tmp_path: Path):
    rounds = Rounds(tmp_path / "sweeps.json")
    for number, seconds in enumerate((30.0, 50.0, 40.0)):
        times = {"serial_seconds": 80.0, "flow_seconds": seconds, "ratio": seconds / 80}
        rounds.add({**SWEEP, **times, "number": number, "ok": True, "seconds": 120.0})
    assert "| small | 3 | 6 x 2 | 2 | 80 | 40 | 0.5 | 3 | 0 |" in sweeps_table(rounds.path)


def test_the_table_of_full_size_models_has_both_stages_and_names_what_failed(tmp_path: Path):
    parts = {part: {"ok": part != "prior-resumed", "seconds": 9.0} for part in PARTS}
    for number, part in enumerate(("backbone", "backbone-resumed", "prior", "prior-resumed")):
        parts[part] |= {"step_seconds": [[99.0, 10.0 + number]], "peak_bytes": (1 + number) * 2**30}
        parts[part]["checkpoint_bytes"] = 0 if part.endswith("resumed") else 3e9 + number * 1e8
    parts["sample"] |= {"backbone_parameters": 130e6, "prior_parameters": 7e6, "latent": 640}
    parts["sample"] |= {"model_bytes": 1, "peak_bytes": 1, "sample_seconds": [99.0, 42.0]}
    parts["sample"]["device"] = "cpu"
    rounds = Rounds(tmp_path / "full-size.json")
    rounds.add({"kind": "large", "number": 0, "seconds": 60.0, **record(parts, 2, 1)})
    row = "| large | 2 | 640 | 130 + 7 | 10.5 + 12.5 | 2 + 4 | 3 + 3.2 | 42 | cpu, 1 thread |"
    assert f"{row} failed: prior-resumed |" in full_size_table(rounds.path)
    assert not rounds.ok


@pytest.mark.parametrize("name", ["cifar10-nvae", "celebahq256-nvae", "church64-nvae"])
def test_a_full_size_measurement_changes_nothing_but_length_and_batch(name):
    config = Library(ROOT).experiment(name)
    short = shortened(config, 1, 1).model_dump()
    allowed = {"epochs", "updates", "batch", "threads", "bn_passes"}
    changed = set()

    def compare(ours, theirs, key=""):
        if isinstance(ours, dict):
            assert ours.keys() == theirs.keys()
            for name in ours:
                compare(ours[name], theirs[name], name)
        elif ours != theirs:
            changed.add(key)

    compare(short, config.model_dump())
    assert {"updates", "batch"} <= changed <= allowed
    assert short["backbone"]["training"]["updates"] == UPDATES


def test_what_was_not_measured_has_no_table(tmp_path: Path):
    none = tmp_path / "none.json"
    assert faults_table(none) == sweeps_table(none) == full_size_table(none) == ""


def test_an_output_that_differs_or_is_missing_in_one_version_is_named():
    serial = Built(versions=[{"models/a": "1", "dvc.lock x": "2"}, {"models/a": "3"}])
    assert differences(serial, serial) == []
    flow = Built(versions=[{"models/a": "9", "dvc.lock x": "2"}, {}])
    assert differences(serial, flow) == ["0: models/a", "1: models/a"]
    assert differences(serial, Built()) == ["2 versions, not 0"]


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("Running stage 'a'\nERROR: Unable to acquire lock. Most likely another DVC", 1),
        ("ERROR: '/x/rwlock' is busy, it is being blocked by:\nsqlite: database is locked", 2),
        ("Stage 'a' is cached\nUpdating lock file 'dvc.lock'", 0),
    ],
)
def test_lines_about_locks_are_counted_and_the_name_of_the_lock_file_is_not(said, count):
    assert Built(said=said).lock_errors == count


@pytest.mark.parametrize("text", ["", "0", "6,4", "6,a,4", "-1"])
def test_moves_that_are_no_numbers_of_moves_are_named(text: str):
    with pytest.raises(UsageError, match="expected a number from 1 on, or 3 with commas"):
        parse_moves(text, 3)


def test_the_table_of_chains_has_a_row_for_every_measurement(tmp_path: Path):
    row = {"experiment": "e", "kl_weight": 1.0, "epochs": 3.0, "method": "pcnl", "draws": 8000}
    row |= {"moves": [6, 4], "long": [48, 48], "sampler_auc": 0.5041, "sampler_energy_gap": -0.057}
    write_json(tmp_path / "chains.json", {"rows": [row | {"commit": "0123456789"}]})
    wanted = "| e | 1 | 3 | pcnl | 6, 4 | 48, 48 | 8000 | 0.504 | -0.057 | 01234567 |"
    assert wanted in chains_table(tmp_path / "chains.json").splitlines()
    assert chains_table(tmp_path / "none.json") == ""


def test_a_ratio_that_fell_is_named_and_times_are_not_compared():
    recorded = [{"name": "matmul", "threads": 1}, {"name": "a", "threads": 1, "ratio": 6.0}]
    now = {"name": "a", "threads": 1, "ratio": 3.1, "value": 100.0}
    assert fallen([now, {"name": "b", "threads": 1, "ratio": 0.1}], recorded) == []
    (line,) = fallen([now | {"ratio": 2.9}], recorded)
    assert line == "a: 2.9 times as fast as plain PyTorch, recorded 6.0"


def test_a_ratio_is_of_the_same_turn_and_a_roofline_of_the_products(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(timing, "rates", lambda _: {"float32": 2e9, "bfloat16": 4e9})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    turns = {
        "eager": timing.Turns([9.0] * 3, [2.0, 4.0, 8.0], scale=10.0),  # a tenth was timed
        "own": timing.Turns([9.0] * 3, [1.0, 2.0, 4.0]),
        "rounded": timing.Turns([9.0] * 3, [1.0, 1.0, 1.0]),
    }
    flops = {"own": {"float32": 10**9}, "rounded": {"float32": 10**9, "bfloat16": 2 * 10**9}}
    own, rounded = timing.compare("work", turns, flops)
    assert (own["name"], rounded["name"]) == ("work", "work_rounded")
    assert own["ratio"] == 20.0
    assert own["ratio_quartiles"] == [20.0, 20.0]
    assert own["roofline"] == 2.0 / 0.5
    assert rounded["roofline"] == 1.0


@pytest.mark.parametrize("name", growth.CASES)
def test_an_experiment_of_every_size_is_one_that_can_be_built(name: str):
    base = growth.IMAGES if name == "side" else growth.TEXT
    config = growth.experiment(base | {name: growth.CASES[name]})
    sizes = {"latent": config.backbone.latent, "levels": config.prior.levels}
    assert sizes.get(name, growth.CASES[name]) == growth.CASES[name]
    assert config.prior.training.updates == growth.UPDATES


def test_the_table_of_speeds_has_the_ratios(tmp_path: Path):
    assert speed_table(tmp_path) == ""
    (tmp_path / "results").mkdir()
    line = {"name": "nll500", "threads": 1, "value": 0.5, "eager": 2.0, "ratio": 4.0}
    line |= {"ratio_quartiles": [3.5, 4.5], "roofline": 1.25, "public_elsewhere": 1.685}
    rate = {"name": "matmul", "threads": 1, "value": 100.0, "bfloat16": 200.0}
    write_json(tmp_path / "results/bench.json", [rate, line])
    rows = speed_table(tmp_path).splitlines()
    assert "| nll500 | 1 | 0.5 | 2 | 4.0 | 3.5 to 4.5 | 1.2 | 1.685 |" in rows
    assert "(100 GFLOP/s in float32, 200 in bfloat16)" in rows[2]
