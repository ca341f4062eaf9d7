"""What several files of tests share: a server of Prefect, and the small problem, built once."""

import os
from collections.abc import Iterator

import pytest
from filelock import FileLock

from tests.pipeline.prefect_server import ROOT, Server
from tests.pipeline.project_copy import ProjectCopy


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    """For flows that are not tested for starting one of their own, which takes longer.

    One for every file: over all tests it would cost more by waiting than by its start.
    """
    with Server(tmp_path_factory.mktemp("server")).running(ROOT) as running:
        yield running


@pytest.fixture(scope="session")
def small_built(tmp_path_factory) -> ProjectCopy:
    """Built by ``dvc repro`` and committed; only to be read and copied.

    The processes of pytest-xdist share it: the first that needs it builds.
    """
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
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
