"""What a build will take: the nearest record counts, and nothing is promised without one."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.dag import Dag, Stage
from pipelines.estimate import OVERHEAD, Estimate, Kin, Past, estimate, past_runs

KIN = {
    "one": Kin("gru", "chatter"),
    "two": Kin("gru", "chatter"),
    "far": Kin("gru", "ptb"),
    "other": Kin("hvae", "digits"),
}


def prior(updates: int | None = 100, epochs: float | None = None, **more: Any) -> dict[str, Any]:
    """A section."""
    length = {"updates": updates, "epochs": epochs}
    return {"kind": "diffusion", "levels": 4, "training": {**length, "lr": 0.1}, **more}


def stage(name: str, section: dict[str, Any], epochs: float | None = None) -> Dag:
    """A DAG of one stage that trains a prior."""
    experiment = name.partition("@")[2].rpartition("-")[0]
    params = {f"experiments.{experiment}.prior": section, "run.epochs": epochs}
    return Dag({name: Stage(name, "cmd", (), params, (), ())})


def flat(section: dict[str, Any], epochs: float | None = None) -> dict[str, Any]:
    """The settings of a record."""
    values = {f"prior.{key}": value for key, value in section.items() if key != "training"}
    training = {f"prior.training.{key}": value for key, value in section["training"].items()}
    return values | training | {"run.epochs": epochs}


def past(subject: str, section: dict[str, Any], seconds: float, seed: str = "0") -> Past:
    """A record of this machine."""
    return Past("prior", subject, seed, flat(section), seconds, here=True)


def guess(dag: Dag, *pasts: Past) -> tuple[float | None, str]:
    """Seconds of its only stage, and their basis."""
    (name,) = dag.stages
    result = estimate(dag, [name], pasts, 2, KIN)
    return result.seconds[name], result.basis.get(name, "unknown")


def test_the_same_settings_count_before_all_others():
    pasts = [past("one", prior(50), 7.0), past("one", prior(), 30.0), past("two", prior(), 9.0)]
    assert guess(stage("prior@one-0", prior()), *pasts) == (30.0, "recorded")
    assert guess(stage("prior@one-1", prior()), *pasts) == (30.0, "recorded for another seed")


def test_a_record_with_other_settings_is_scaled_by_the_length_and_halfway_by_amounts():
    record = past("one", prior(100), 30.0)
    assert guess(stage("prior@one-0", prior(300)), record) == (90.0, "scaled from other settings")
    assert guess(stage("prior@one-0", prior(100, levels=16)), record)[0] == pytest.approx(60.0)
    assert guess(stage("prior@one-0", prior(100, mi_weight=3)), record)[0] == pytest.approx(30.0)


def test_the_length_that_run_gives_is_that_of_trainings_in_epochs():
    record = Past("prior", "one", "0", flat(prior(None, 4), 2), 10.0, here=True)
    assert guess(stage("prior@one-0", prior(None, 4), epochs=None), record)[0] == 20.0
    assert guess(stage("prior@one-0", prior(None, 4), epochs=1), record)[0] == 5.0


def test_updates_and_epochs_are_not_compared():
    record = past("one", prior(None, 4), 10.0)
    assert guess(stage("prior@one-0", prior(400)), record) == (None, "unknown")


def test_a_similar_experiment_of_the_same_architecture_stands_in():
    pasts = [past("other", prior(), 500.0), past("two", prior(50), 15.0)]
    assert guess(stage("prior@one-0", prior(100)), *pasts) == (30.0, "scaled from prior@two-0")
    assert guess(stage("prior@one-0", prior(100)), pasts[0]) == (None, "unknown")
    epochs = past("two", prior(None, 4), 10.0)
    assert guess(stage("prior@far-0", prior(None, 8)), epochs) == (None, "unknown"), "other rows"
    assert guess(stage("prior@one-0", prior(None, 8)), epochs)[0] == 20.0


def test_a_training_that_went_on_from_a_checkpoint_does_not_count_as_short():
    pasts = [past("one", prior(), 0.4), past("two", prior(), 95.0)]
    assert guess(stage("prior@one-0", prior()), *pasts) == (95.0, "recorded")


def test_recorded_runs_of_other_machines_stand_in_with_their_fastest_seed(tmp_path):
    for seed, seconds in enumerate((40.0, 25.0)):
        run = {
            "params": {"backbone": {"arch": "gru"}, "data": "chatter", "prior": prior()},
            "epochs": {"prior": None},
            "stage_seconds": {"prior": seconds},
        }
        path = tmp_path / f"results/one/{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(run))
    (tmp_path / "results/one/broken.json").write_text("{")
    pasts = past_runs(tmp_path)
    assert guess(stage("prior@one-0", prior(200)), *pasts) == (50.0, "recorded elsewhere")
    assert guess(stage("prior@two-0", prior()), *pasts) == (25.0, "scaled from prior@one")


def test_the_newest_record_of_a_stage_and_its_settings_counts(tmp_path):
    def record(name: str, started: str, updates: int, seconds: float) -> None:
        params = {"experiments.one.prior": prior(updates), "run.epochs": None}
        content = {"stage": "prior@one-0", "started": started, "params": params}
        path = Path(tmp_path, "lineage", f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**content, "seconds": seconds}))

    record("a", "2026-01-02", 100, 20.0)
    record("b", "2026-01-01", 100, 90.0)
    record("c", "2026-01-03", 50, 5.0)
    assert guess(stage("prior@one-0", prior(100)), *past_runs(tmp_path)) == (20.0, "recorded")


def test_nothing_is_promised_where_nothing_is_known():
    unknown = Estimate({"a": None, "b": None}, 8.0, 4.0, ("a", "b"))
    assert "how long is not known" in unknown.line()
    partly = Estimate({"a": 60.0, "b": None}, 60 + 2 * OVERHEAD, 68.0, ("b",), {"a": "recorded"})
    assert partly.line() == (
        "at most 2 stages to run, more than 1.1 min (1.1 min of work, as recorded here); "
        "not known for 1: b"
    )


def test_a_first_stage_that_two_experiments_share_is_counted_once():
    section = {"arch": "gru", "training": {"updates": 100, "epochs": None}}
    stages = {}
    for name in ("one-0", "two-0", "far-0", "two-1"):
        params = {f"experiments.{name[:-2]}.backbone": section}
        stages[f"backbone@{name}"] = Stage(f"backbone@{name}", "cmd", (), params, (), ())
    settings: dict[str, Any] = {"backbone.arch": "gru", "backbone.training.updates": 100}
    settings["backbone.training.epochs"] = None
    pasts = [Past("backbone", "one", "0", settings, 60.0, here=True)]
    pasts.append(Past("backbone", "far", "0", settings, 90.0, here=True))
    result = estimate(Dag(stages), list(stages), pasts, 1, KIN)
    assert result.seconds["backbone@one-0"] == 60
    assert result.seconds["backbone@two-0"] == 0
    assert result.seconds["backbone@far-0"] == 90  # of another data set
    assert result.seconds["backbone@two-1"] == 60  # of another seed
    assert result.total == 210 + 4 * OVERHEAD
