"""What several files of tests share: a server of Prefect, and the small problem, built once."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.pipeline.prefect_server import ROOT, Server, make_tables
from tests.pipeline.project_copy import ProjectCopy
from tests.warm import warm_python


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """A folder of all processes of pytest-xdist; what is made in it is made under a lock."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tables(shared: Path) -> Path:
    """Prefect's tables, for servers of a test's own."""
    home, done = shared / "tables", shared / "tables-done"
    with FileLock(shared / "tables.lock"):
        if not done.exists():
            make_tables(home)
            done.touch()
    return home / "prefect.db"


@pytest.fixture(scope="module")
def server(tmp_path_factory, tables: Path) -> Iterator[Server]:
    """For flows that are not tested for starting one of their own, which takes longer.

    One for every file: over all tests it would cost more by waiting than by its start.
    """
    with Server(tmp_path_factory.mktemp("server"), tables=tables).running(ROOT) as running:
        yield running


@pytest.fixture
def warm(monkeypatch) -> None:
    """What code in this process starts comes from one that has the libraries loaded."""
    monkeypatch.setenv("PATH", f"{warm_python()}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "executable", str(warm_python() / "python"))


@pytest.fixture(scope="session")
def small_built(shared: Path) -> ProjectCopy:
    """Built by ``dvc repro`` and committed; only to be read and copied.

    The processes of pytest-xdist share it: the first that needs it builds.
    """
    folder, done = shared / "small" / "project", shared / "small" / "done"
    with FileLock(shared / "small.lock"):
        if done.exists():
            return ProjectCopy.at(folder)
        project = ProjectCopy(folder)
        assert "prior" in project.repro()
        project.commit("built")
        done.touch()
        return project


@pytest.fixture(scope="module")
def built(small_built: ProjectCopy, tmp_path_factory) -> ProjectCopy:
    """A copy of it for the tests of one file."""
    return small_built.copied(tmp_path_factory.mktemp("built") / "project")
