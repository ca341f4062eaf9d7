"""The builds' quick ``python`` (:mod:`pipelines.warm`), for tests that start hundreds of commands.

It gives commands of ``pipelines`` and some scripts to the same process, which has what Prefect
imports as well; and what a command starts with its ``sys.executable`` comes from there again. What
differs from Python itself: the seed of hashes is the same for all, modules are not taken apart at
the end, and neither files that the caller holds open nor its name in /proc are the command's. Tests
of those things, and of whether a second build gives the same bytes, use Python for one of two.
"""

import functools
import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from pipelines.warm import CLIENT, WARM

__all__ = ["warm_python"]

SCRIPTS = ("describe.py", "build.py")  # of pipelines and of tests, started with -P
# The variable TESTS_WARM names packages, and all others are Python's own.
OURS = """\
how, what = [*words, "", ""][:2]
if how == "-P" and os.path.basename(what) in {scripts!r}:
    words = ["-m", "pipelines.script", *words[1:]]
elif how == "-m" and what.split(".")[0] not in os.environ.get("TESTS_WARM", {all!r}).split():
    plain()
"""


@functools.cache
def warm_python() -> Path:
    """A folder with a quick ``python``, one for all processes of pytest-xdist.

    Its server ends with the process that started the tests.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    owner = os.getppid() if run else os.getpid()
    folder = Path(tempfile.gettempdir(), f"warm-{run or owner}")
    folder.mkdir(exist_ok=True)
    client = folder / "bin/python"
    with FileLock(folder / "lock"):
        if not client.exists():
            _serve(folder / "socket", owner, client)
            _write(client, folder / "socket")
    return client.parent


def _serve(path: Path, owner: int, client: Path) -> None:
    """Starts the server; it listens at ``path`` until the process ``owner`` ends."""
    settings = {"OMP_NUM_THREADS": "1", "GX_ANALYTICS_ENABLED": "false"}
    script = Path(__file__).with_name("warm_server.py")
    command = [sys.executable, "-I", str(script), str(path), str(owner), str(client)]
    null = subprocess.DEVNULL
    server = subprocess.Popen(command, env={**os.environ, **settings}, stdin=null, stdout=null)
    deadline = time.monotonic() + 300
    while not path.exists():
        assert server.poll() is None, "the server of commands did not start"
        assert time.monotonic() < deadline, "the server of commands takes over five minutes"
        time.sleep(0.02)


def _write(client: Path, path: Path) -> None:
    """Writes the programs."""
    client.parent.mkdir()
    names = (*WARM, "pipelines")
    text = CLIENT.format(python=sys.executable, path=str(path), names=names)
    head, mark, rest = text.partition("if words[:1]")
    assert mark
    client.with_name("dvc").symlink_to(client)
    new = client.with_name("new")
    new.write_text(head + OURS.format(scripts=SCRIPTS, all=" ".join(names)) + mark + rest)
    new.chmod(new.stat().st_mode | stat.S_IXUSR)
    new.rename(client)
