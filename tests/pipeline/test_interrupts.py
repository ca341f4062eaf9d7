"""Ctrl-C, SIGTERM, a closed terminal: the prompt is back in seconds, and nothing still runs."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.tiny_project import ROOT, Tiny

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
BUILD = ("-m", "pipelines", "build", "--slots", "2")
STOPPED = "pipelines: interrupted; the next start continues from what is finished"


class Terminal:
    """A command in a terminal of its own: leader of a session, its group in the foreground."""

    def __init__(self, tiny: Tiny, *words: str) -> None:
        self.mark = f"LDEBM_TEST={uuid.uuid4()}"
        self.shown = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(tiny.root)
            name, value = self.mark.split("=")
            os.execve(sys.executable, [sys.executable, *words], {**tiny.env, name: value})

    def read(self, seconds: float = 0.0) -> bool:
        """Takes what was printed; False when the command has closed the terminal."""
        while self.fd >= 0 and select.select([self.fd], [], [], seconds)[0]:
            try:
                text = os.read(self.fd, 65536)
            except OSError:
                return False
            if not text:
                return False
            self.shown += text
        return True

    def until(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
        """Waits; the command must not end before."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.read(0.05), self.shown.decode()
            assert time.monotonic() < deadline, self.shown.decode()

    def end(self, seconds: float) -> int:
        """The exit code; it has to come within some seconds."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.read()
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                pytest.fail(f"it still ran after {seconds:.0f} s: {self.shown.decode()[-2000:]}")
            self.read()
            time.sleep(0.02)

    def left(self) -> list[str]:
        """Everything that the command has started, at whatever distance, and that still runs."""
        commands = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes():
                    commands.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return commands

    def nothing_left(self, seconds: float = 20.0) -> None:
        """Fails if anything is left after a while."""
        deadline = time.monotonic() + seconds
        while commands := self.left():
            assert time.monotonic() < deadline, commands
            time.sleep(0.1)


def plain(shown: bytes) -> str:
    """What a terminal has been sent, without the sequences that move its cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def training(tmp_path: Path, slow: float = 0.0) -> Tiny:
    """A project whose first stage trains for a minute, with a checkpoint when it is told to end."""
    do = {"checkpoint": str(tmp_path / "checkpoint"), "slow": slow, "sleep": 60}
    return Tiny(tmp_path, {"base": do}, parts="a", warm=False)


def interrupted(terminal: Terminal, how: str) -> None:
    """What a user, a scheduler or a terminal that is closed does."""
    if how == "Ctrl-C":
        os.write(terminal.fd, b"\x03")
    elif how == "SIGTERM to the group":
        os.killpg(terminal.pid, signal.SIGTERM)
    elif how == "SIGTERM":
        os.kill(terminal.pid, signal.SIGTERM)
    elif how == "SIGKILL":
        os.kill(terminal.pid, signal.SIGKILL)
    else:
        os.close(terminal.fd)
        terminal.fd = -1


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("Ctrl-C", 130),
        ("SIGTERM to the group", 143),
        ("SIGTERM", 143),
        ("closed", 129),
        ("SIGKILL", -9),
    ],
)
def test_a_build_that_is_stopped_ends_in_seconds_with_its_checkpoint_and_leaves_nothing(
    tmp_path, how, code
):
    tiny = training(tmp_path)
    terminal = Terminal(tiny, *BUILD)
    terminal.until(lambda: bool(tiny.ran("listens")))
    interrupted(terminal, how)
    assert terminal.end(30) == code
    terminal.nothing_left()
    assert (tmp_path / "checkpoint").read_text() == "saved"
    if code > 129:
        lines = plain(terminal.shown).replace("^C", "").splitlines()
        assert lines.count(STOPPED) == 1
        assert "Traceback" not in terminal.shown.decode()


def test_a_second_ctrl_c_ends_at_once_and_the_stages_end_by_themselves(tmp_path):
    tiny = training(tmp_path, slow=5)
    terminal = Terminal(tiny, *BUILD)
    terminal.until(lambda: bool(tiny.ran("listens")))
    interrupted(terminal, "Ctrl-C")
    time.sleep(1.5)
    interrupted(terminal, "Ctrl-C")
    assert terminal.end(2) == 130
    assert not (tmp_path / "checkpoint").exists()
    terminal.nothing_left()
    assert (tmp_path / "checkpoint").read_text() == "saved"


@pytest.mark.parametrize("words", [["build", "--dry"], ["sweep", "parts.a=5,6"]])
def test_ctrl_c_before_any_stage_runs_is_one_line(tmp_path, words):
    terminal = Terminal(Tiny(tmp_path, parts="a", warm=False), "-m", "pipelines", *words)
    terminal.until(lambda: any("describe.py" in line for line in terminal.left()))
    interrupted(terminal, "Ctrl-C")
    assert terminal.end(15) == 130
    assert terminal.shown.decode().replace("^C", "").split("\r\n")[-2:] == [STOPPED, ""]
    terminal.nothing_left()


def test_make_passes_ctrl_c_on(tmp_path):
    tiny = training(tmp_path)
    (tiny.root / "Makefile").write_text(f"repro:\n\t@{sys.executable} {' '.join(BUILD)}\n")
    script = "import os; os.execvp('make', ['make', 'repro'])"
    terminal = Terminal(tiny, "-c", script)
    terminal.until(lambda: bool(tiny.ran("listens")))
    interrupted(terminal, "Ctrl-C")
    assert terminal.end(15) in (2, -signal.SIGINT)
    terminal.nothing_left()
    assert STOPPED in terminal.shown.decode()
    assert (tmp_path / "checkpoint").read_text() == "saved"


SWALLOWED = """\
import os, signal, sys, time
from pipelines import signals
signals.listen()
for number in (int(word) for word in sys.argv[1:]):
    try:
        os.kill(os.getpid(), number)
        time.sleep(0.1)
    except signals.Interrupted:
        print("caught", flush=True)
try:
    signals.check()
except signals.Interrupted as error:
    sys.exit(error.number)
"""


def test_a_signal_that_is_sent_twice_counts_once_and_none_is_lost():
    term = str(int(signal.SIGTERM))
    command = [sys.executable, "-c", SWALLOWED, term, term]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (signal.SIGTERM, "caught\n")


def test_nohup_keeps_a_build_from_hearing_that_the_terminal_was_closed():
    script = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SWALLOWED
    command = [sys.executable, "-c", script, str(int(signal.SIGHUP))]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
