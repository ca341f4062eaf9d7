"""Commands that a warm process forks behave as those that Python starts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.warm import WarmPython, warmed
from tests.warm import warm_python

STAGE = """\
import os, signal, subprocess, sys, time

def stop(number, frame):
    time.sleep(0.3)  # a training writes its checkpoint
    open("stopped", "w").write(str(number))
    sys.exit(7)

if sys.argv[1] == "show":
    print(os.getcwd(), os.environ["GIVEN"], sys.stdin.read().strip())
    sys.exit("bad" if len(sys.argv) > 2 else 0)
if sys.argv[1] == "outer":
    sys.exit(subprocess.call(["python", "-m", "stages.work", "inner"]))
if sys.argv[1] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, stop)
open("pid", "w").write(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").write_text("")
    (tmp_path / "stages/work.py").write_text(STAGE)
    return tmp_path


@pytest.fixture(params=["warm", "plain"])
def python(request: pytest.FixtureRequest) -> str:
    """The folder that comes first in PATH."""
    return str(warm_python() if request.param == "warm" else Path(sys.executable).parent)


def start(python: str, folder: Path, *words: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}", "GIVEN": "yes"}
    pipe = subprocess.PIPE
    command = [f"{python}/python", "-m", "stages.work", *words]
    return subprocess.Popen(
        command, cwd=folder, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.02)
    return path.read_text()


def test_streams_folder_environment_and_exit_code_are_the_commands(python: str, folder: Path):
    out, err = (process := start(python, folder, "show")).communicate("asked\n")
    assert (process.returncode, out, err) == (0, f"{folder} yes asked\n", "")
    out, err = (process := start(python, folder, "show", "bad")).communicate("")
    assert (process.returncode, err) == (1, "bad\n")
    process = start(python, folder, "die")
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_signal_reaches_a_command_below_a_command_and_is_waited_for(folder: Path):
    process = start(str(warm_python()), folder, "outer")
    wait_for(folder / "pid")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert (folder / "stopped").read_text() == str(int(signal.SIGTERM))


def test_nothing_is_left_of_a_command_whose_client_is_killed(folder: Path):
    process = start(str(warm_python()), folder, "outer")
    pid = int(wait_for(folder / "pid"))
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "the command went on"
        time.sleep(0.02)
    assert not (folder / "stopped").exists()


def test_without_its_server_it_is_python(folder: Path):
    python = WarmPython(dict(os.environ))
    python._server.kill()
    out, _ = (process := start(python.path, folder, "show")).communicate("asked")
    assert (process.returncode, out) == (0, f"{folder} yes asked\n")
    python.close()
    assert not python.python.exists()


def test_a_build_of_few_stages_starts_none():
    with warmed(["report", "evaluate@a-0", "fetch@a", "code", "bind@a", "pack@a"], {}) as python:
        assert python is None
