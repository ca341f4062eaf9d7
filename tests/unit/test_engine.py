"""Where flows run: in threads here, or on a server that is configured somewhere."""

import io
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from pipelines.build import Watch
from pipelines.engine import Threads, server_lost, server_url
from pipelines.live import LiveTable
from pipelines.types import StageOutcome
from tests.pipeline.tiny_project import Tiny

ROOT = Path(__file__).parents[2]
URL = "http://server:4200/api"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """Nothing is configured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_API_URL", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def test_without_settings_there_is_no_server(home):
    assert server_url() is None


def test_prefect_is_not_loaded_to_find_out(home):
    script = "import sys, pipelines.cli as c; c.server_url(); print('prefect' in sys.modules)"
    script = script.replace("pipelines.cli as c", "pipelines.build, pipelines.engine as c")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("place", ["variable", "profile", "prefect.toml", "pyproject.toml"])
def test_a_server_is_found_wherever_prefect_reads_its_settings(home, tmp_path, place):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if place == "variable":
        env["PREFECT_API_URL"] = URL
    elif place == "profile":
        home.mkdir()
        text = f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{URL}"\n'
        (home / "profiles.toml").write_text(text)
    elif place == "prefect.toml":
        (tmp_path / "prefect.toml").write_text(f'[api]\nurl = "{URL}"\n')
    else:
        (tmp_path / "pyproject.toml").write_text(f'[tool.prefect.api]\nurl = "{URL}"\n')
    script = "from pipelines.engine import server_url; print(server_url())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{URL}\n"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "localhost", "NO_PROXY": "x"}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, "*"),
    ],
)
def test_no_proxy_stands_between_processes_of_one_machine(given, expected):
    env = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | given
    script = "import os, pipelines; print(os.environ['NO_PROXY'])"
    command = [sys.executable, "-c", script]
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


def test_a_stage_that_takes_long_gives_a_sign_of_life_with_its_newest_line(capsys):
    engine = Threads()
    watch = Watch(engine, engine.bar("key", {}), total=2, every=0.05)
    for name in ("fast", "slow"):
        watch.started(name)
    watch.landed("fast", StageOutcome("fast", "built", 2.0, 1))
    watch.tick()
    time.sleep(0.06)
    watch.tick()
    watch.line("slow", "> python -m stages.slow")
    watch.line("slow", "slow: loss 3.2, 40 s left")
    watch.tick()
    time.sleep(0.06)
    watch.tick()
    watch.landed("slow", StageOutcome("slow", "failed", 9.0, 1, "exit code 1\n  its log"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "1/2 fast: built in 2 s",
        "slow: 0 s, still running",
        "slow: 0 s: loss 3.2, 40 s left",
        "2/2 slow: failed (exit code 1)",
    ]


def test_a_table_shows_what_runs_how_long_it_may_take_and_its_newest_line():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    bar = LiveTable({"prior@a-0": 90.0, "prior@b-0": None, "site": 10.0}, console)
    watch = Watch(Threads(), bar, total=3, every=0.0)
    watch.started("site")
    watch.landed("site", StageOutcome("site", "built", 2.0, 1))
    watch.started("prior@a-0")
    watch.line("prior@a-0", "prior: 40/100  loss 3.2")
    watch.tick()
    bar.update(force=True)
    shown = screen.getvalue()
    assert "1/3 stages, about 2.3 min left" in shown  # 90 s, and the usual 50 of the unknown one
    line = next(line for line in shown.splitlines() if line.startswith("prior@a-0"))
    assert line.split() == ["prior@a-0", "0", "s", "1.5", "min", "40/100", "loss", "3.2"]
    assert "still running" not in shown


def test_a_build_in_a_terminal_has_the_table_and_elsewhere_lines(tmp_path):
    """Typed as ``ldebm build``: the same commands, signals and lines as ``python -m pipelines``."""
    tiny = Tiny(tmp_path, parts="a", warm=False)
    words = (sys.executable, "-m", "ldebm.cli", "build")
    command = " ".join(shlex.quote(word) for word in words)
    typed = tiny.call("script", "-qec", command, str(tmp_path / "typescript"))
    assert "stages" in typed.stdout
    assert "base" in typed.stdout
    assert "3 built" in typed.stdout
    plain = tiny.call(*words)
    assert "3 cached" in plain.stdout
    assert "stages," not in plain.stderr


def test_a_server_that_wants_a_password_is_not_called_lost():
    request = httpx.Request("GET", URL)
    for status, text in (
        (401, "wants a password (401): set PREFECT_API_AUTH_STRING"),
        (503, "503"),
    ):
        answer = httpx.Response(status, request=request)
        error = httpx.HTTPStatusError(f"{status}", request=request, response=answer)
        assert text in server_lost(URL, error)
        assert ("does not answer" in server_lost(URL, error)) == (status == 503)


def test_a_step_in_a_thread_gives_its_result_or_its_error():
    engine = Threads()
    assert engine.start("a", lambda: 3).result(5) == 3
    with pytest.raises(ZeroDivisionError):
        engine.start("b", lambda: 1 // 0).result(5)
