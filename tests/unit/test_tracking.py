"""Curves go to the programs that LDEBM_TRACK names, and change nothing that is trained."""

import sys
from types import SimpleNamespace

import pytest
import torch

from ldebm.config import TrainingConfig
from ldebm.errors import UsageError
from ldebm.notes import recording_of
from ldebm.training.tracking import TRACKERS, Tracking
from ldebm.training.trainer import train
from tests.unit.test_trainer import Regression


class Fake:
    """All four packages: keeps what they are told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, str, float]] = []
        self.names: list[str] = []
        self.open = 0
        self.step = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(
            sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=self._writer)
        )
        monkeypatch.setitem(sys.modules, "dvclive", SimpleNamespace(Live=self._live))
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=self._run))
        mlflow = SimpleNamespace(
            set_tracking_uri=self.names.append,
            set_experiment=lambda name: None,
            start_run=lambda run_name: self._opened(run_name),
            log_metrics=lambda metrics, step: self._take("mlflow", step, metrics),
            end_run=self._close,
        )
        monkeypatch.setitem(sys.modules, "mlflow", mlflow)

    def _opened(self, name: object) -> None:
        self.names.append(str(name))
        self.open += 1

    def _close(self) -> None:
        self.open -= 1

    def _take(self, program: str, step: int, metrics: dict[str, float]) -> None:
        self.said += [(program, step, key, value) for key, value in metrics.items()]

    def _writer(self, place):
        self._opened(place)
        add = lambda key, value, step: self._take("tensorboard", step, {key: value})  # noqa: E731
        return SimpleNamespace(add_scalar=add, close=self._close)

    def _live(self, place, **options):
        assert options["save_dvc_exp"] is False
        self._opened(place)
        live = SimpleNamespace(end=self._close, make_summary=lambda: None, step=0)
        live.log_metric = lambda key, value: self._take("dvclive", live.step, {key: value})
        return live

    def _run(self, project, name, dir):
        self._opened(name)
        log = lambda metrics, step: self._take("wandb", step, metrics)  # noqa: E731
        return SimpleNamespace(log=log, finish=self._close)


CONFIG = TrainingConfig.model_validate({"updates": 20, "validate_every": 1})


def test_every_program_gets_the_rows_of_the_curves(tmp_path, monkeypatch):
    fake = Fake()
    fake.install(monkeypatch)
    plain = train(Regression(), CONFIG, None, title="prior")
    monkeypatch.setenv("LDEBM_TRACK", ", ".join(TRACKERS))
    monkeypatch.setenv("LDEBM_TRACK_DIR", str(tmp_path / "track"))
    with recording_of("prior@talk-0"):
        result = train(Regression(), CONFIG, None, title="prior")
    assert fake.open == 0  # all were closed
    assert sum("prior@talk-0" in name for name in fake.names) == 4
    for program in TRACKERS:
        mine = {(step, key): value for name, step, key, value in fake.said if name == program}
        for row in result.curve:
            assert mine[int(row["update"]), "prior/loss"] == row["loss"]
        for row in result.validation:
            keys = {key for step, key in mine if step == int(row["update"])}
            assert {f"prior/valid/{key}" for key in row if key != "update"} <= keys
    for name, value in plain.state.items():
        assert torch.equal(value, result.state[name])


def test_what_cannot_be_used_is_said_before_anything_is_trained(monkeypatch):
    monkeypatch.setenv("LDEBM_TRACK", "tensorbord")
    with pytest.raises(UsageError, match="'tensorbord': expected some of tensorboard, dvclive"):
        Tracking("prior")
    monkeypatch.setenv("LDEBM_TRACK", "wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="names wandb, which is not installed: pip install wandb"):
        train(Regression(), CONFIG, None, title="prior")


def test_a_training_that_fails_closes_its_programs(monkeypatch):
    fake = Fake()
    fake.install(monkeypatch)
    monkeypatch.setenv("LDEBM_TRACK", "wandb")
    with pytest.raises(SystemExit):
        train(Regression(), CONFIG, None, title="prior", stop_after=3)
    assert fake.open == 0
