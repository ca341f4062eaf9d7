"""A command is run to its end or stopped whole: no process of it is ever left."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines import dispatch
from pipelines.dag import Stage
from pipelines.failures import explain
from pipelines.runner import MARK, run, strays, tail
from pipelines.slots import lock_file

ROOT = Path(__file__).parents[2]
# A parent like dvc: it dies of SIGTERM at once; its child, like a training, needs a moment.
FAMILY = """\
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session="away" in sys.argv)
child.wait()
"""
TRAINING = """\
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path("checkpoint").write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("started").touch()
time.sleep(60)
"""
STUBBORN = TRAINING.replace("    sys.exit(75)\n", "")


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def gone(folder: Path) -> bool:
    return not strays(folder)


def start(folder: Path, *words: str, **options):
    """Runs the family in a thread; gives the thread and where its result will be."""
    results = {}

    def work():
        command = [sys.executable, "-c", FAMILY, *words]
        results["done"] = run(
            command, cwd=folder, log=folder / "log", env={MARK: str(folder)}, **options
        )

    thread = threading.Thread(target=work)
    thread.start()
    wait_for((folder / "started").exists)
    return thread, results


def test_output_exit_code_and_the_last_lines_are_kept(tmp_path):
    script = (
        "import sys; [print(i) for i in range(30)]; print('x\\ry', file=sys.stderr); sys.exit(7)"
    )
    done = run([sys.executable, "-c", script], cwd=tmp_path, log=tmp_path / "a/log")
    assert (done.code, done.ended_by) == (7, None)
    assert len(done.tail) == 20
    assert done.tail[-1] == "y", "of a line that was overwritten the last state counts"
    assert tail(tmp_path / "none") == ()


def test_the_code_of_a_command_that_a_signal_killed_is_128_and_the_signal(tmp_path):
    script = "import os; os.kill(os.getpid(), 9)"
    assert run([sys.executable, "-c", script], cwd=tmp_path, log=tmp_path / "log").code == 137


def test_progress_is_the_newest_line(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.runner.REPORT_SECONDS", 0.0)
    seen = []
    script = "import time\nfor i in range(3):\n    print('epoch', i, flush=True); time.sleep(0.3)"
    run([sys.executable, "-c", script], cwd=tmp_path, log=tmp_path / "log", progress=seen.append)
    assert seen == ["epoch 0", "epoch 1", "epoch 2"]


@pytest.mark.parametrize("where", ["here", "away"])
def test_cancelling_lets_a_training_write_its_checkpoint_and_leaves_nothing(tmp_path, where):
    cancel = threading.Event()
    thread, results = start(tmp_path, TRAINING, where, cancel=cancel)
    cancel.set()
    thread.join(20)
    assert results["done"].ended_by == "cancelled"
    assert (tmp_path / "checkpoint").read_text() == "saved"
    assert gone(tmp_path)


def test_what_ignores_sigterm_is_killed_after_the_grace(tmp_path):
    cancel = threading.Event()
    thread, results = start(tmp_path, STUBBORN, cancel=cancel, grace=1.0)
    cancel.set()
    thread.join(20)
    assert results["done"].seconds < 15
    assert gone(tmp_path)


def test_a_timeout_stops_it(tmp_path):
    thread, results = start(tmp_path, TRAINING, timeout=0.5)
    thread.join(20)
    assert results["done"].ended_by == "timeout"
    assert (tmp_path / "checkpoint").exists()
    assert gone(tmp_path)


def test_what_a_command_leaves_running_ends_with_it(tmp_path):
    script = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    done = run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        log=tmp_path / "log",
        env={MARK: str(tmp_path)},
    )
    assert done.code == 0
    assert gone(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_death_of_the_flow_ends_the_stage_gracefully(tmp_path, number):
    flow = (
        "import sys; from pathlib import Path; from pipelines.runner import run, MARK\n"
        f"run([sys.executable, '-c', {FAMILY!r}, {TRAINING!r}], cwd=Path('.'), log=Path('log'),\n"
        f"    env={{MARK: {str(tmp_path)!r}}})\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", flow], cwd=tmp_path, env=env)
    wait_for((tmp_path / "started").exists)
    process.send_signal(number)
    process.wait(timeout=10)
    wait_for(lambda: gone(tmp_path))
    assert (tmp_path / "checkpoint").read_text() == "saved"


def test_the_death_of_the_supervisor_leaves_nothing(tmp_path):
    thread, results = start(tmp_path, TRAINING)
    supervisor = min(strays(tmp_path))
    os.kill(supervisor, signal.SIGKILL)
    thread.join(20)
    assert results["done"].code == 137
    wait_for(lambda: gone(tmp_path))


def test_the_command_holds_its_locks_until_its_last_process_has_ended(tmp_path):
    fd = lock_file(tmp_path / "lock")
    cancel = threading.Event()
    thread, _ = start(tmp_path, TRAINING, cancel=cancel, held=[fd])
    os.close(fd)  # the flow lets go; the command has it
    assert lock_file(tmp_path / "lock") is None
    cancel.set()
    thread.join(20)
    again = lock_file(tmp_path / "lock")
    assert again is not None
    os.close(again)


@pytest.mark.parametrize(
    ("code", "lines", "retry", "reason"),
    [
        (1, ["ERROR: failed to run: x, exited with 75"], True, "interrupted"),
        (1, ["ERROR: failed to run: x, exited with -9"], True, "killed by signal 9"),
        (1, ["ERROR: failed to run: x, exited with 137"], True, "killed by signal 9"),
        (137, [], True, "killed by signal 9"),
        (1, ["torch.OutOfMemoryError: CUDA out of memory.", "exited with 1"], True, "out of mem"),
        (255, ["ERROR: Unable to acquire lock. Most likely"], True, "a lock of dvc"),
        (255, ["ERROR: 'x' is busy, it is being blocked by:"], True, "a lock of dvc"),
        (
            255,
            ["ERROR: Unable to read RWLock-file"],
            True,
            "a lock of dvc",
        ),
        (255, ["ERROR: unexpected error"], True, "dvc was disturbed"),
        (1, ["error: text: wrong", "ERROR: failed to run: x, exited with 2"], False, "wrong para"),
        (1, ["ERROR: failed to run: x, exited with 1"], False, "exit code 1"),
        (1, ["OSError: [Errno 28] No space left on device"], False, "the disk is full"),
        (1, ["[Errno 30] Read-only file system: 'x'"], False, "cannot be written"),
    ],
)
def test_only_infrastructure_errors_are_tried_again(code, lines, retry, reason):
    failure = explain(code, lines)
    assert failure.retry is retry
    assert reason in failure.reason


def test_a_lock_that_is_being_written_is_waited_for(tmp_path, monkeypatch):
    """DVC empties dvc.lock before it writes it; other stages read it meanwhile."""
    whole = "schema: '2.0'\nstages:\n  a:\n    cmd: x\n    outs:\n    - path: o\n      md5: 1\n"
    lock = tmp_path / "dvc.lock"
    lock.write_text("")
    asked = []

    def answer(name: str, root: Path) -> bool:
        asked.append(name)
        return True

    monkeypatch.setattr(dispatch, "restored_by_chance", answer)
    writer = threading.Timer(0.3, lambda: lock.write_text(whole))
    writer.start()
    stage = Stage("a", "x", (), {}, ("o",), ())
    assert dispatch._restored_by_chance(stage, tmp_path)
    assert asked == ["a"]
