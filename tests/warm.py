"""A ``python`` that starts the project's commands at once, for tests that start hundreds.

Over a second of every ``python -m stages.prior`` is the import of torch. The folder of
:func:`warm_python`, first in PATH, has a ``python`` and a ``dvc`` that give commands of ``stages``,
``ldebm`` and ``dvc`` to a process that has the libraries loaded and forks
(:mod:`tests.warm_server`); every other command is Python's own. Working folder, environment,
streams, signals and exit codes are those of the real command, and the project's code is read where
it runs. What differs: the seed of hashes is the same for all, and modules are not taken apart at
the end; tests of whether a second build gives the same bytes use the real Python for one of two.
"""

import atexit
import functools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["warm_python"]

WARM = ("stages", "ldebm", "dvc")
CLIENT = """\
#!{python} -IS
import os, sys
words = sys.argv[1:]
if os.path.basename(sys.argv[0]) == "dvc":
    words = ["-m", "dvc", *words]
if words[:1] != ["-m"] or words[1:2] == [] or words[1].split(".")[0] not in {names!r}:
    os.execv({python!r}, [{python!r}, *words])
import json, signal, socket
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
command = {{"argv": words[1:], "cwd": os.getcwd(), "env": dict(os.environ)}}
socket.send_fds(server, [b"{{"], [0, 1, 2])
server.sendall(json.dumps(command).encode()[1:] + b"\\n")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: server.send(bytes([number])))
code = int(server.recv(16))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def warm_python() -> Path:
    """A folder with a quick ``python``; its server ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    path = folder / "socket"
    script = Path(__file__).with_name("warm_server.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GX_ANALYTICS_ENABLED": "false"}
    server = subprocess.Popen([sys.executable, str(script), str(path)], env=environment)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    deadline = time.monotonic() + 120
    while not path.exists():
        assert server.poll() is None, "the server of commands did not start"
        assert time.monotonic() < deadline, "the server of commands takes over two minutes"
        time.sleep(0.02)
    client = folder / "bin/python"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, path=str(path), names=WARM))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    client.with_name("dvc").symlink_to(client)
    return client.parent
