"""A Prefect server of a test's own, and workers on it: free port, temporary home, password."""

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PASSWORD = "operator:a secret"
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(deadline: float, what: str, probe: Any) -> Any:
    """Asks ``probe`` until it answers something true; fails after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while not (answer := probe()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:.0f} s: {what}")
        time.sleep(0.5)
    return answer


@contextlib.contextmanager
def started(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, which is ended with all its children."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def make_tables(home: Path) -> Path:
    """Prefect's empty tables, in a file: a server that has to make them takes three times as long.

    Args:
        home: folder for it; made.
    """
    command = [str(BIN / "prefect"), "server", "database", "upgrade", "-y"]
    environment = {**os.environ, "PREFECT_HOME": str(home)}
    for name in ("PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL"):
        environment.pop(name, None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return home / "prefect.db"


class Server:
    """A running server.

    Args:
        folder: for its home and logs.
        database: connection of a database; None: a file in its home.
        tables: a file that :func:`make_tables` made, of which its home gets a copy.
    """

    def __init__(
        self, folder: Path, database: str | None = None, tables: Path | None = None
    ) -> None:
        self.folder = folder
        if tables:
            (folder / "home").mkdir()
            shutil.copy(tables, folder / "home")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        here = str(ROOT)  # a project's folder has code of its own
        places = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != here]
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_AUTH_STRING": PASSWORD,
            "LDEBM_SLOTS": str(folder / "slots"),
            "LDEBM_CPU_SLOTS": "2",
            "DVC_NO_ANALYTICS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PYTHONPATH": os.pathsep.join(places),
        }
        self.settings = {"PREFECT_SERVER_API_AUTH_STRING": PASSWORD}
        self.workers: dict[str, int] = {}  # process ids, by the name of the folder
        if database:
            self.settings["PREFECT_API_DATABASE_CONNECTION_URL"] = database

    @contextlib.contextmanager
    def running(self, project: Path) -> Iterator["Server"]:
        """The server, started as docs/operations.md tells, in a project's folder."""
        command = [str(BIN / "prefect"), "server", "start", "--port", str(self.port)]
        environment = {**self.environment, **self.settings}
        log = self.folder / "server.log"
        with started(command, log, cwd=project, env=environment) as process:

            def healthy() -> bool:
                assert process.poll() is None, log.read_text()[-3000:]
                with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                    return self.get("/health") is True
                return False

            until(300, "the server answers", healthy)
            yield self

    @contextlib.contextmanager
    def worker(self, project: Path, *options: str, register: bool = True) -> Iterator[Path]:
        """A worker in a project's folder; yields its log."""
        log = self.folder / f"worker-{project.name}.log"
        environment = {**self.environment, "LDEBM_REGISTER": "yes" if register else "no"}
        command = [str(project / "deploy/worker.sh"), *options]
        with started(command, log, cwd="/", env=environment) as process:
            self.workers[project.name] = process.pid
            until(300, f"worker starts: {log}", lambda: b"started!" in log.read_bytes())
            yield log

    def get(self, path: str, body: Any = None, password: str | None = PASSWORD) -> Any:
        """An answer of the API: GET, or POST of ``body``."""
        request = urllib.request.Request(self.url + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if password:
            token = base64.b64encode(password.encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        for attempt in range(20):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == 19:  # the database is busy: clients try again
                    raise
                time.sleep(1)

    def run(self, deployment: str, **parameters: Any) -> str:
        """Schedules a run of ``flow/deployment`` for now and gives its id."""
        registered = self.get(f"/deployments/name/{deployment}")
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.get(f"/deployments/{registered['id']}/create_flow_run", body)["id"])

    def finished(self, run: str, seconds: float = 400) -> dict[str, Any]:
        """The final state of a run."""

        def final() -> dict[str, Any] | None:
            state = self.get(f"/flow_runs/{run}")["state"]
            return state if state["type"] in FINAL else None

        state: dict[str, Any] = until(seconds, f"run {run} ends", final)
        return state
