"""Priors that are trained together have the bytes that each has alone."""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.assembly import build_prior
from ldebm.config import ExperimentConfig, Params, parse
from ldebm.config.alike import alike
from ldebm.data.packed import Packed
from ldebm.draws import Streams, integers, normal, uniform
from ldebm.errors import UsageError
from ldebm.priors import EnergyPrior
from ldebm.seeding import configure, generator
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.labelling import cluster_stage
from ldebm.training.prior_tasks import PriorTask
from ldebm.training.second_stage import prior_stage
from ldebm.training.stacked_runs import StackedRuns
from ldebm.training.together import Run, prepare, train_together
from ldebm.training.trainer import Loop, TrainResult, train
from pipelines.dag import Dag, Stage
from pipelines.dispatch import Dispatcher
from pipelines.lineage.records import recorded, records
from pipelines.slots import Held, Slots
from pipelines.types import StageOutcome
from stages.prior import others_beside
from tests.unit.text_worlds import packed_documents

LDEBM: dict[str, Any] = {
    "energy": {"hidden": 32, "blocks": 2, "activation": "silu", "spectral_norm": False},
    "score_matching": 0.5,
}
SVEBM: dict[str, Any] = {
    "kind": "svebm",
    "energy": {"arch": "mlp", "hidden": 40, "blocks": 2, "activation": "gelu",
               "spectral_norm": False},
}  # fmt: skip
PUBLISHED: dict[str, Any] = {
    "energy": {"hidden": 24, "blocks": 2, "spectral_norm": True},
    "base": False, "energy_scale": "code",
    "sampler": {"method": "ula", "steps": 4, "rule": "published", "start": "previous"},
}  # fmt: skip


def experiment(updates: int = 24, **prior: Any) -> ExperimentConfig:
    training = {"batch": 64, "validate_every": None}
    optimiser = {"lr": 5e-3, "clip": 0.5, "ema": 0.9}
    content = {
        "data": "documents",
        "backbone": {
            "arch": "bow", "latent": 4, "hidden": 24, "layers": 1, "kl_weight": 0.2,
            "training": {**training, "updates": 40, "optimiser": {"lr": 1e-2}},
        },
        "cluster": {"labels": "gc"},
        "prior": {
            "classes": 3, "levels": 6, "sampler": {"steps": 4}, "standardise": "diagonal",
            "training": {**training, "updates": updates, "optimiser": optimiser},
        } | prior,
    }  # fmt: skip
    return parse(ExperimentConfig, content, "experiment")


def task(seed: int, labels: bool = True, **prior: Any) -> PriorTask:
    """A second stage on latents of its own; the last batch of an epoch is no multiple of 32."""
    configure(1)
    config = experiment(**prior)
    draws = np.random.default_rng(seed)
    mu, logvar = draws.standard_normal((2, 240, 4)).astype(np.float32)
    classes = draws.integers(-1, 3, 240) if labels else None
    energies = build_prior(4, config.prior, generator(seed, "prior-init"))
    assert isinstance(energies, EnergyPrior)
    return PriorTask(energies, mu, logvar - 2, classes, config, seed, torch.device("cpu"))


def four(**prior: Any) -> list[PriorTask]:
    """Two seeds, one without the information term and one without labels."""
    return [task(0, **prior), task(1, **prior), task(1, **prior, mi_weight=0.0),
            task(3, labels=False, **prior)]  # fmt: skip


def loop(of: PriorTask, checkpoint: Path | None = None) -> Loop:
    return Loop(of, of.config.training, checkpoint, "prior", [0.5])


def alone(of: PriorTask) -> TrainResult:
    return train(of, of.config.training, None, title="prior", snapshots=[0.5])


def assert_same(one: TrainResult, other: TrainResult) -> None:
    assert one.curve == other.curve
    assert one.validation == other.validation
    for left, right in [(one.state, other.state), *zip(
        one.snapshots.values(), other.snapshots.values(), strict=True
    )]:  # fmt: skip
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("prior", [LDEBM, SVEBM, PUBLISHED])
def test_weights_curves_and_snapshots_are_those_of_runs_alone(prior: dict[str, Any]) -> None:
    loops = [loop(member) for member in four(**prior)]
    if not train_together(loops):
        pytest.skip("this machine rounds joined products otherwise: nothing is trained together")
    for member, together in zip(four(**prior), loops, strict=True):
        assert_same(alone(member), together.result())


def test_where_a_machine_rounds_otherwise_nothing_is_trained_and_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exact = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda a, b: exact(a, b) * (1 + 1e-6))
    loops = [loop(member) for member in four(**LDEBM)]
    assert train_together(loops) == []
    assert "each is trained alone" in capsys.readouterr().out
    monkeypatch.undo()
    assert_same(alone(task(0, **LDEBM)), alone(loops[0].task))  # type: ignore[arg-type]


def test_a_run_that_diverges_leaves_and_the_others_are_as_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = four(**LDEBM)
    bad = members[1].batch(7)[:3]
    members[1].mu[torch.from_numpy(bad)] = float("nan")
    loops = [loop(member) for member in members]
    done = train_together(loops)
    assert done == [loops[0], loops[2], loops[3]]
    assert "the runs beside it go on" in capsys.readouterr().err
    for member, together in zip(four(**LDEBM), loops, strict=True):
        if together in done:
            assert_same(alone(member), together.result())


def test_a_group_that_was_interrupted_is_taken_up_by_runs_alone_or_together(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.pt" for index in range(4)]
    runs = StackedRuns([loop(m, p) for m, p in zip(four(**LDEBM), paths, strict=True)])
    for _ in range(9):
        for each, terms in runs.update()[0]:
            each.record(terms)
    runs.save()
    loops = [loop(m, p) for m, p in zip(four(**LDEBM), paths, strict=True)]
    for each in loops:
        each.resume()
    assert [each.step for each in loops] == [9] * 4
    again = task(0, **LDEBM)
    single = train(again, again.config.training, paths[0], title="prior", snapshots=[0.5])
    train_together(loops)
    for member, together in zip(four(**LDEBM), loops, strict=True):
        assert_same(alone(member), together.result())
    assert_same(single, loops[0].result())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packed:
    """Data and first stages of three seeds; what trainings leave goes into a folder of the test."""
    monkeypatch.chdir(tmp_path)
    packed = packed_documents(tmp_path / "data")
    config = experiment(**LDEBM)
    for seed in range(3):
        build_backbone_stage(config, packed, seed, tmp_path / f"e/{seed}/backbone")
        latents = tmp_path / f"e/{seed}/latents.parquet"
        cluster_stage(config, packed, seed, tmp_path / f"e/{seed}/backbone", latents)
    return packed


def test_stages_take_up_what_was_trained_beside_another_and_say_so(
    world: Packed, tmp_path: Path
) -> None:
    config = experiment(**LDEBM)
    runs = [Run("e", seed, config, world, tmp_path / f"e/{seed}") for seed in range(3)]
    shutil.copytree("e", "alone")
    names = ["prior@e-0", "prior@e-1", "prior@e-2"]
    assert prepare(runs, None) == names
    for seed in range(3):
        prior_stage(config, world, seed, tmp_path / f"alone/{seed}", "e")
    assert prepare(runs, None) == names  # those checkpoints were taken: their keys are the same
    for seed in range(3):
        with recorded(names[seed], inputs=[], outputs=[], params={}):
            prior_stage(config, world, seed, tmp_path / f"e/{seed}", "e")
        for path in sorted((tmp_path / f"e/{seed}/prior").iterdir()):
            assert path.read_bytes() == (tmp_path / f"alone/{seed}/prior" / path.name).read_bytes()
    record_of = {record["stage"]: record for record in records(tmp_path)}
    assert all(record_of[name]["trained_with"] == names for name in names)
    assert all(record_of[name]["resumed_at"] == 24 for name in names)
    assert all(record_of[name]["trained_seconds"] > 0 for name in names)
    assert all(
        record_of[name]["cpu_seconds"] > record_of[name]["cpu_seconds_before"] > 0 for name in names
    )
    assert not list(Path(".ckpt").glob("prior-*.pt"))


def test_what_is_not_alike_is_left_to_its_own_stage(world: Packed, tmp_path: Path) -> None:
    config, wider = experiment(**LDEBM), experiment(**SVEBM)
    first = Run("e", 0, config, world, tmp_path / "e/0")
    assert prepare([first, Run("f", 1, wider, world, tmp_path / "e/1")], None) == []
    assert prepare([first], None) == []


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"mi_weight": 0.0, "class_weight": 0.0}, True),
        ({"classes": 4}, False),
        ({"sampler": {"steps": 5}}, False),
    ],
)
def test_only_the_weights_of_terms_may_differ(changes: dict[str, Any], same: bool) -> None:
    key = alike(experiment(**LDEBM))
    assert key is not None
    assert (alike(experiment(**LDEBM | changes)) == key) is same


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "joint", "standardise": "none"},
        {"kind": "gaussian"},
        {"t_sampling": "published"},
        {"energy": {"hidden": 30, "activation": "silu"}},
        {"training": {"updates": 5, "batch": 100}},
        {"training": {"updates": 5, "optimiser": {"name": "adamax"}}},
    ],
)
def test_what_has_to_be_trained_alone_has_no_key(changes: dict[str, Any]) -> None:
    assert alike(experiment(**LDEBM | changes)) is None


def test_every_run_draws_from_its_own_stream_what_it_draws_alone() -> None:
    device = torch.device("cpu")

    def streams() -> list[torch.Generator]:
        return [generator(seed, "draws") for seed in range(2)]

    stacked = Streams(tuple(streams()))
    drawn = [normal((8, 3), stacked, device), uniform(8, stacked, device)[:, None],
             integers(5, 8, stacked, device)[:, None]]  # fmt: skip
    for index, stream in enumerate(streams()):
        own = [normal((4, 3), stream, device), uniform(4, stream, device)[:, None],
               integers(5, 4, stream, device)[:, None]]  # fmt: skip
        for both, one in zip(drawn, own, strict=True):
            assert torch.equal(both[4 * index : 4 * index + 4], one)
    with pytest.raises(ValueError, match="7 rows are not those of 2 runs"):
        normal((7, 3), stacked, device)


@pytest.mark.parametrize("text", ["chatter", "chatter-x", "-1"])
def test_a_name_that_is_no_run_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=f"'{text}': expected EXPERIMENT-SEED") as caught:
        others_beside(Params.model_construct(experiments={}), text, ("e", 0))
    assert "\n" not in str(caught.value)


def test_runs_without_a_first_stage_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    params = Params.model_construct(experiments={"e-small": experiment()})
    assert others_beside(params, "e-small-1", ("e-small", 0)) == {}
    assert "there is no models/e-small/1/latents.parquet yet" in capsys.readouterr().err
    with pytest.raises(UsageError, match="experiment 'f' is not in"):
        others_beside(params, "f-1", ("e-small", 0))


def test_a_build_shares_out_what_found_no_slot(tmp_path: Path) -> None:
    names = [f"prior@e-{seed}" for seed in range(5)] + ["prior@other-0", "end"]
    stages = {
        name: Stage(name, "", (), {"place": index}, (), (), changes=("new",))
        for index, name in enumerate(names[:6])
    }
    stages["end"] = Stage("end", "", (), {}, (), tuple(names[:6]), changes=("new",))
    keys = dict.fromkeys(names[:5], "key") | {"prior@other-0": "another"}
    slots = Slots(2, [], tmp_path / "slots")
    dispatcher = Dispatcher(Dag(stages), tmp_path, slots, tmp_path / "keys", {}, {}, alike=keys)
    began: dict[str, tuple[Stage, Held, Future[StageOutcome]]] = {}

    def submit(stage: Stage, held: Held) -> Future[StageOutcome]:
        began[stage.name] = stage, held, Future()
        return began[stage.name][2]

    def finish(name: str) -> None:
        _, held, future = began.pop(name)
        held.release()
        future.set_result(StageOutcome(name, "built"))

    dispatcher.step(submit, stop=False)
    assert {name: stage.beside for name, (stage, _, _) in began.items()} == {
        "prior@e-0": ("prior@e-2", "prior@e-4"),
        "prior@e-1": ("prior@e-3",),
    }
    finish("prior@e-1")
    dispatcher.step(submit, stop=False)  # those that are trained beside e-0 wait for it
    assert sorted(began) == ["prior@e-0", "prior@e-3"]
    finish("prior@e-3")
    dispatcher.step(submit, stop=False)
    assert sorted(began) == ["prior@e-0", "prior@other-0"]
    finish("prior@e-0")
    dispatcher.step(submit, stop=False)  # what was trained once is not trained beside again
    assert {name: stage.beside for name, (stage, _, _) in began.items()} == {
        "prior@e-2": (),
        "prior@other-0": (),
    }
    while not dispatcher.finished:
        finish(next(iter(began)))
        dispatcher.step(submit, stop=False)
    assert dispatcher.outcomes["end"].status == "built"


def test_a_stage_that_trains_others_too_has_their_time() -> None:
    stage = Stage("prior@e-0", "", (), {}, (), (), beside=("prior@e-1", "prior@e-2"))
    assert stage.limit(10.0) == 30.0
    assert stage.limit(None) is None
