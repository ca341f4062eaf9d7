"""A run that is interrupted anywhere and started again ends with the bytes of one that was not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ldebm
from ldebm.config import OptimiserConfig, TrainingConfig
from ldebm.errors import DivergenceError, UsageError
from ldebm.notes import recording_of
from ldebm.optimisers import ParameterGroup, learning_rate_factor, untraced
from ldebm.seeding import generator
from ldebm.training import runs
from ldebm.training.objectives import Terms
from ldebm.training.trainer import train


class Regression:
    """Fits y = 2 x from noisy data drawn per step."""

    steps_per_epoch = 10

    def __init__(self, ema: float | None = None, explode_at: int | None = None) -> None:
        self.module = nn.Linear(1, 1)
        with torch.no_grad():
            self.module.weight.fill_(0.0)
            self.module.bias.fill_(1.0)
        self.ema, self.explode_at = ema, explode_at
        self.epochs_seen: list[int] = []
        self.extra = torch.zeros(1)

    def groups(self) -> list[ParameterGroup]:
        config = OptimiserConfig(lr=0.05, clip=1.0, ema=self.ema, schedule="cosine")
        return [ParameterGroup("all", list(self.module.parameters()), config)]

    def begin_epoch(self, epoch: int) -> None:
        self.epochs_seen.append(epoch)

    def loss(self, step: int) -> Terms:
        stream = generator(0, "regression", step)
        x = torch.randn(16, 1, generator=stream)
        noise = torch.randn(16, 1, generator=stream)
        loss = (self.module(x) - 2 * x - 0.1 * noise).square().mean()
        if step == self.explode_at:
            loss = loss * float("nan")
        return Terms(loss, {"error": loss.detach()})

    def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
        self.extra += step

    def validate(self, step: int) -> dict[str, float]:
        return {"weight": float(self.module.weight.detach())}

    def state(self) -> dict[str, Any]:
        return {"extra": self.extra}

    def load_state(self, state: dict[str, Any]) -> None:
        self.extra = state["extra"]


CONFIG = TrainingConfig(updates=100, checkpoint_seconds=1000.0, validate_every=2.0)


def test_training_fits_the_data() -> None:
    result = train(Regression(), CONFIG, None, title="fit")
    assert float(result.state["weight"]) == pytest.approx(2, abs=0.1)
    assert result.curve[-1]["error"] < 0.1 < result.curve[0]["error"]
    assert [row["update"] for row in result.validation] == [20, 40, 60, 80, 100]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resuming_at_random_steps_changes_nothing(tmp_path: Path, ema: float | None) -> None:
    whole = train(Regression(ema), CONFIG, None, title="whole")
    for stop in np.random.default_rng(0).integers(1, 99, size=4):
        file = tmp_path / f"{stop}.pt"
        with pytest.raises(SystemExit) as stopped:
            train(Regression(ema), CONFIG, file, title="part", stop_after=int(stop))
        assert stopped.value.code == 75
        task = Regression(ema)
        with recording_of("rest") as recording:
            resumed = train(task, CONFIG, file, title="rest")
        assert recording.facts["resumed_at"] == stop
        assert recording.facts["cpu_seconds_before"] > 0
        for name, value in whole.state.items():
            assert torch.equal(value, resumed.state[name]), name
        assert resumed.curve == whole.curve
        assert resumed.validation == whole.validation
        assert float(task.extra) == sum(range(100))


def test_gradients_go_back_to_the_parameters_and_no_further() -> None:
    class Asked(Regression):
        def loss(self, step: int) -> Terms:
            self.x = torch.ones(4, 1, requires_grad=True)
            loss = self.module(self.x).square().mean()
            return Terms(loss, {"error": loss.detach()})

    task = Asked()
    train(task, CONFIG.model_copy(update={"updates": 2}), None, title="asked")
    assert task.module.weight.grad is not None
    assert task.x.grad is None


def test_the_averaged_weights_are_kept_when_asked_for() -> None:
    last = train(Regression(), CONFIG, None, title="last").state["weight"]
    averaged = train(Regression(ema=0.99), CONFIG, None, title="ema").state["weight"]
    assert not torch.equal(last, averaged)


def test_a_non_finite_loss_stops_the_run_and_names_step_and_term(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"nan at update 7 \(terms: error\)"):
        train(Regression(explode_at=7), CONFIG, tmp_path / "x.pt", title="explode")


def test_a_corrupt_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "broken.pt"
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match=r"broken.pt: corrupt checkpoint .* delete it"):
        train(Regression(), CONFIG, file, title="broken")


def test_a_checkpoint_belongs_to_the_code_that_it_imports(tmp_path: Path, monkeypatch) -> None:
    def key(module: str) -> str:
        return runs.run_key("parameters", code=[f"ldebm.{module}"])

    root, copy = Path(runs.__file__).parents[2], tmp_path / "project"
    shutil.copytree(root / "ldebm", copy / "ldebm")
    monkeypatch.setattr(runs, "__file__", str(copy / "ldebm/training/runs.py"))
    before = [key("priors.svebm"), key("backbones.points")]
    energy = copy / "ldebm/priors/energy.py"  # which the first imports, and the second does not
    energy.write_text(energy.read_text() + "# changed\n")
    after = [key("priors.svebm"), key("backbones.points")]
    assert after[0] != before[0]
    assert after[1] == before[1]
    trainer = copy / "ldebm/training/trainer.py"
    trainer.write_text(trainer.read_text() + "# changed\n")
    assert key("backbones.points") != after[1]


def test_schedules_start_and_end_where_they_should() -> None:
    linear = OptimiserConfig(schedule="linear", warmup=10, hold=0.5, final=0.1)
    assert learning_rate_factor(linear, 0, 100) == pytest.approx(0.1)
    assert learning_rate_factor(linear, 50, 100) == 1.0
    assert learning_rate_factor(linear, 100, 100) == pytest.approx(0.1)
    one_cycle = OptimiserConfig(schedule="one_cycle", final=0.02)
    assert learning_rate_factor(one_cycle, 30, 100) == pytest.approx(1.0)
    assert learning_rate_factor(one_cycle, 100, 100) == pytest.approx(0.02)
    assert learning_rate_factor(OptimiserConfig(), 7, 100) == 1.0


@pytest.mark.parametrize("gamma", [0.9, 0.98])
def test_the_exponential_schedule_is_that_of_torch_stepped_after_every_epoch(gamma: float) -> None:
    config = OptimiserConfig(lr=4e-5, schedule="exponential", decay=gamma)
    theirs = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(theirs, gamma)
    for step in range(40):
        ours = config.lr * learning_rate_factor(config, step, 1000, per_epoch=8)
        assert ours == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        assert ours == pytest.approx(4e-5 * gamma ** (step // 8), rel=1e-12)
        theirs.step()
        if step % 8 == 7:
            scheduler.step()


def test_the_trainer_lets_the_learning_rate_fall_after_every_epoch() -> None:
    class Still(Regression):
        """One weight whose gradient is always 1: plain Adam moves it by the learning rate."""

        steps_per_epoch = 5

        def __init__(self) -> None:
            super().__init__()
            self.weights: list[float] = [0.0]

        def groups(self) -> list[ParameterGroup]:
            config = OptimiserConfig(lr=0.1, schedule="exponential", decay=0.5)
            return [ParameterGroup("all", [self.module.weight], config)]  # type: ignore[list-item]

        def loss(self, step: int) -> Terms:
            weight = self.module.weight.sum()  # type: ignore[operator]
            return Terms(weight, {})

        def after_update(self, step: int, averaged: dict[str, Tensor] | None) -> None:
            self.weights.append(float(self.module.weight.detach()))  # type: ignore[operator, arg-type]

    task = Still()
    train(task, TrainingConfig(updates=15), None, title="still")
    moved = -np.diff(task.weights)
    np.testing.assert_allclose(moved, np.repeat([0.1, 0.05, 0.025], 5), rtol=1e-4)


def test_weights_are_kept_at_the_asked_shares_of_the_run() -> None:
    result = train(Regression(), CONFIG, None, title="snapshots", snapshots=(0.1, 1.0))
    assert sorted(result.snapshots) == [10, 100]
    assert not torch.equal(result.snapshots[10]["weight"], result.snapshots[100]["weight"])


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.test_trainer import CONFIG, Regression
from ldebm.training.trainer import train
class Stepped(Regression):
    def after_update(self, step, averaged):
        super().after_update(step, averaged)
        print("step", step, flush=True)
        sys.stdin.readline()
train(Stepped(), CONFIG, Path({file!r}), title="stepped")
"""


def test_sigterm_ends_the_run_after_the_step_in_hand_with_a_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "term.pt"
    script = SCRIPT.format(root=str(Path(__file__).parents[2]), file=str(file))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        if line == "step 5\n":
            process.terminate()
            break
        process.stdin.write("\n")
        process.stdin.flush()
    # The child waits inside step 5, whatever the machine is doing; one more line lets it go on.
    more, said = process.communicate("\n")
    assert process.returncode == 75
    assert more == ""
    assert "interrupted at update 6 of 100; start it again to continue" in said
    resumed = train(Regression(), CONFIG, file, title="rest")
    whole = train(Regression(), CONFIG, None, title="whole")
    assert torch.equal(resumed.state["weight"], whole.state["weight"])


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.Adam, {"fused": True}), (torch.optim.Adamax, {"eps": 1e-6})]
)
def test_optimisers_that_load_no_compiler_take_torchs_own_steps_to_the_bit(kind, options) -> None:
    def trained(make: Any) -> tuple[Tensor, dict[str, Any]]:
        module = nn.Linear(5, 3)
        for number, parameter in enumerate(module.parameters()):
            nn.init.normal_(parameter, generator=generator(0, "start", number))
        optimiser = make(module.parameters(), lr=0.1, **options)
        for step in range(6):
            if step == 3:
                optimiser.load_state_dict(optimiser.state_dict())
            optimiser.zero_grad(set_to_none=True)
            x = torch.randn(8, 5, generator=generator(0, "rows", step))
            module(x).square().mean().backward()
            optimiser.step()
        return torch.cat(
            [p.detach().flatten() for p in module.parameters()]
        ), optimiser.state_dict()

    (weights, state), (expected, own) = trained(untraced(kind)), trained(kind)
    assert torch.equal(weights, expected)
    assert str(state) == str(own)


def test_a_training_loads_no_compiler() -> None:
    sources = [p for p in Path(ldebm.__file__).parent.rglob("*.py") if p.name != "optimisers.py"]
    calls = [
        p.name for p in sources if re.search(r"(?<!untraced\()torch\.optim\.\w+\(", p.read_text())
    ]
    assert not calls, f"optimisers that import one: {calls}"
    script = (
        "import sys\nfrom tests.unit.test_trainer import CONFIG, Regression, train\n"
        "train(Regression(), CONFIG, None, title='fit')\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True)
