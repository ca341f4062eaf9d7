"""Measurements of the flows that are kept in results/, and their tables."""

from pathlib import Path

import pytest

from benchmarks.recorded import Rounds
from benchmarks.sweeps import Built, differences
from ldebm.files import read_json, write_json
from ldebm.tables import faults_table, sweeps_table

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


def test_what_was_not_measured_has_no_table(tmp_path: Path):
    assert faults_table(tmp_path / "none.json") == sweeps_table(tmp_path / "none.json") == ""


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
