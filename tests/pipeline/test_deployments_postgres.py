"""A team's set-up: Prefect's server on Postgres, a worker, and one deployment that runs on it."""

import contextlib
import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.numbers_project import NumbersProject
from tests.pipeline.prefect_server import Server, free_port, started, until


def postgres_folder() -> Path | None:
    """Where the distribution has Postgres's programs."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    here = shutil.which("initdb")
    folders = [Path(here).parent, *installed] if here else installed
    return next((f for f in folders if all((f / n).exists() for n in ("initdb", "postgres"))), None)


POSTGRES = postgres_folder()
pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(
        POSTGRES is None, reason="no Postgres is installed (apt install postgresql)"
    ),
]


@contextlib.contextmanager
def cluster() -> Iterator[tuple[str, Path]]:
    """A temporary cluster with a password; yields its connection for Prefect and the log.

    Postgres does not run as root, which tests in a container often are: then it runs as nobody.
    """
    assert POSTGRES is not None
    root = os.geteuid() == 0
    owner = "nobody" if root else getpass.getuser()
    as_owner = {"user": owner, "group": pwd.getpwnam(owner).pw_gid, "extra_groups": []}
    options = {"cwd": "/", **(as_owner if root else {})}
    folder = Path(tempfile.mkdtemp(prefix="ldebm-postgres-"))
    try:
        secret = folder / "password"
        secret.write_text("secret\n")
        if root:
            for path in (folder, secret):
                os.chown(path, pwd.getpwnam(owner).pw_uid, -1)
        data, port, log = folder / "data", free_port(), folder / "postgres.log"
        initdb = [
            str(POSTGRES / "initdb"),
            "-D",
            str(data),
            "-U",
            "prefect",
            "--auth=scram-sha-256",
        ]
        initdb += [f"--pwfile={secret}", "--encoding=UTF8", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, **options)
        command = [str(POSTGRES / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder)]
        command += ["-h", "127.0.0.1", "-c", "fsync=off"]
        with started(command, log, **options) as process:

            def ready() -> bool:
                assert process.poll() is None, log.read_text()
                return "ready to accept connections" in log.read_text()

            until(60, "Postgres is ready", ready)
            url = f"postgresql+asyncpg://prefect:secret@127.0.0.1:{port}/postgres"
            yield url, log
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_deployment_runs_on_a_server_whose_database_is_postgres(tmp_path: Path):
    project = NumbersProject(tmp_path / "project")
    with (
        cluster() as (url, log),
        Server(tmp_path, database=url).running(project.folder) as server,
        server.worker(project.folder) as worker,
    ):
        state = server.finished(server.run("build/build"))
        assert state["type"] == "COMPLETED", worker.read_text()[-3000:]
        assert (project.folder / "reports/gauss/0/metrics.json").is_file()
        assert not list((tmp_path / "home").glob("*.db*")), "the runs are in Postgres"
        assert "ERROR" not in log.read_text()
