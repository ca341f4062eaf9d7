"""Fixtures that several files of unit tests share."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.lineage_project import build


@pytest.fixture(scope="session")
def lineage_built(tmp_path_factory) -> Path:
    """The small project with a lock and records: only to be read."""
    return build(tmp_path_factory.mktemp("lineage"))


@pytest.fixture
def project(lineage_built: Path, tmp_path: Path) -> Path:
    """A copy of it, to tamper with. Files about another project have their own fixture."""
    return shutil.copytree(lineage_built, tmp_path / "project")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs the command ``ldebm``; gives exit code, output and error output."""
    from ldebm.cli import main

    def call(*arguments: object) -> SimpleNamespace:
        with pytest.raises(SystemExit) as stopped:
            main([str(item) for item in arguments])
        captured = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code, out=captured.out, err=captured.err)

    return call
