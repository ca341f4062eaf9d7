"""Slots belong to the process that works, and go with it."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ldebm.errors import UsageError
from pipelines.candidates import Candidate, Folder
from pipelines.reevaluation import FILES, reevaluate
from pipelines.selection import params_of
from pipelines.slots import Need, Slots, need_of, visible_gpus

ROOT = Path(__file__).parents[2]


def test_no_more_than_there_are_and_again_after_release(tmp_path):
    slots = Slots(2, [], tmp_path)
    first, second = slots.take(Need()), slots.take(Need())
    assert {*first.names, *second.names} == {"cpu-0", "cpu-1"}
    assert slots.take(Need()) is None
    first.release()
    assert slots.take(Need()).names == first.names


def test_another_process_of_the_machine_counts_too(tmp_path):
    held = Slots(1, [], tmp_path).take(Need())
    script = (
        "from pathlib import Path; from pipelines.slots import Need, Slots\n"
        f"print(Slots(1, [], Path({str(tmp_path)!r})).take(Need()))"
    )
    command = [sys.executable, "-c", script]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.check_output(command, env=env, text=True).strip() == "None"
    held.release()
    assert "cpu-0" in subprocess.check_output(command, env=env, text=True)


def test_a_slot_handed_to_a_process_is_free_when_that_is_killed(tmp_path):
    slots = Slots(1, [], tmp_path)
    held = slots.take(Need())
    worker = subprocess.Popen(["sleep", "60"], pass_fds=held.fds)
    held.release()
    assert slots.take(Need()) is None
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deadline = time.monotonic() + 10
    while (again := slots.take(Need())) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    again.release()


def test_a_stage_of_two_threads_takes_two_slots_or_none(tmp_path):
    slots = Slots(3, [], tmp_path)
    wide = slots.take(Need(cpu=2))
    assert len(wide.fds) == 2
    assert slots.take(Need(cpu=2)) is None
    assert slots.take(Need()).names == ("cpu-2",), "a failed attempt keeps nothing"
    assert len(Slots(2, [], tmp_path / "other").take(Need(cpu=9)).fds) == 2


def test_a_gpu_is_one_stages_and_its_environment_names_it(tmp_path):
    slots = Slots(1, ["0", "1"], tmp_path)
    first, second = slots.take(Need(gpu=True)), slots.take(Need(gpu=True))
    assert first.env == {"CUDA_VISIBLE_DEVICES": "0"}
    assert second.env == {"CUDA_VISIBLE_DEVICES": "1"}
    assert slots.take(Need(gpu=True)) is None
    assert slots.take(Need()) is not None, "the CPU is free"


def test_needs_come_from_the_parameters_of_the_experiment():
    wanted = ("cifar10-nvae", "mnist-nvae-small", "chatter-ldebm")
    params = params_of(ROOT / "params.yaml", wanted, [0])
    assert params.experiment("cifar10-nvae").backbone.training.threads == 2
    assert need_of("backbone@cifar10-nvae-0", params, []) == Need(cpu=2)
    assert need_of("prior@mnist-nvae-small-0", params, []) == Need(cpu=1)
    assert need_of("backbone@cifar10-nvae-0", params, ["0"]) == Need(gpu=True)
    assert need_of("pack@chatter", params, ["0"]) == Need()
    assert params.classifier("mnist").threads == 1
    assert need_of("judge@mnist", params, []) == Need(cpu=1)
    assert need_of("judge@mnist", params, ["0"]) == Need(gpu=True)
    assert need_of("judge@chatter", params, ["0"]) == Need()
    assert need_of("anything", None, ["0"]) == Need()


def test_the_machine_is_asked_for_its_gpus_only_where_nobody_says(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert visible_gpus() == ["2", "3"]
    monkeypatch.setenv("LDEBM_GPU_SLOTS", "")
    assert visible_gpus() == []
    monkeypatch.delenv("LDEBM_GPU_SLOTS")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    listing = SimpleNamespace(returncode=0, stdout="0\n1\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: listing)
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize("text", ["0", "two", "-1"])
def test_a_wrong_number_of_slots_is_one_line(monkeypatch, text):
    monkeypatch.setenv("LDEBM_CPU_SLOTS", text)
    with pytest.raises(UsageError, match="LDEBM_CPU_SLOTS"):
        Slots()


# A stage that reports which slots and devices are in use while it runs.
EVALUATE = """\
import fcntl, json, os, sys
from pathlib import Path

def busy(path):
    with path.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

taken = [p.stem for p in sorted(Path(os.environ["LDEBM_SLOTS"]).glob("[cg]pu-*")) if busy(p)]
folder = Path("reports", sys.argv[2], sys.argv[4])
folder.mkdir(parents=True)
device = os.environ.get("CUDA_VISIBLE_DEVICES")
(folder / "metrics.json").write_text(json.dumps({"taken": taken, "device": device}))
Path(__file__).with_name("ran").touch()
"""


@pytest.fixture
def rebuilt(tmp_path: Path, monkeypatch) -> Path:
    """Where a challenger was built, with a champion's models beside it; three slots."""
    monkeypatch.setenv("LDEBM_SLOTS", str(tmp_path / "slots"))
    monkeypatch.setenv("LDEBM_CPU_SLOTS", "3")
    monkeypatch.setenv("LDEBM_GPU_SLOTS", "")
    project = tmp_path / "project"
    (project / "stages").mkdir(parents=True)
    (project / "data").mkdir()
    (project / "stages/evaluate.py").write_text(EVALUATE)
    params = {
        "run": {"datasets": ["d"], "experiments": ["e"], "seeds": [0]},
        "data": {"d": {"kind": "points", "source": "gaussians16"}},
        "experiments": {
            "e": {
                "data": "d",
                "backbone": {"arch": "mlp", "latent": 2, "training": {"epochs": 1}},
                "prior": {"training": {"updates": 10}},
                "evaluate": {"threads": 2},
            }
        },
    }
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    for name in FILES:
        (project / "models/e/0/prior").mkdir(parents=True, exist_ok=True)
        (project / "models/e/0/prior" / name).touch()
    return project


def again(project: Path) -> dict:
    """What the evaluation of the champion saw."""
    side = Candidate("e", "here", "d", {0: {}})
    return reevaluate(Folder(project), side, side, project).metrics[0]


def test_the_champion_is_evaluated_again_under_slots_like_any_stage(rebuilt: Path, monkeypatch):
    assert again(rebuilt)["taken"] == ["cpu-0", "cpu-1"], "as many as its threads"
    held = Slots().take(Need(cpu=3))
    assert len(held.fds) == 3, "and they are free again"
    held.release()
    monkeypatch.setenv("LDEBM_GPU_SLOTS", "7")
    assert again(rebuilt) == {"taken": ["gpu-7"], "device": "7"}


def test_the_champion_waits_until_its_slots_are_free(rebuilt: Path):
    held = Slots().take(Need(cpu=2))
    worker = threading.Thread(target=again, args=(rebuilt,))
    worker.start()
    worker.join(1.0)
    assert not (rebuilt / "stages/ran").exists()
    held.release()
    worker.join(30)
    assert (rebuilt / "stages/ran").exists()
