"""Copies of this project in folders of their own, for tests that run it as a user does."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Self

import yaml

from tests.warm import warm_python

ROOT = Path(__file__).parents[2]
IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
CODE = ("ldebm", "pipelines", "plugins", "stages", "dvc.yaml", ".dvcignore", ".gitignore")
SMALL = """\
# A problem of seconds.
run:
  datasets: [dots]
  experiments: [small]
  seeds: [0]
  epochs: null

data:
  dots: {kind: points, source: gaussians16, train: 600, valid: 100, test: 100, labels: [mode]}
  more: {kind: points, source: pinwheel10}

experiments:
  small:
    data: dots
    backbone: {arch: mlp, latent: 2, hidden: 16, noise: 0.5, training: {updates: 20, batch: 64}}
    cluster: {labels: gc, dims: 2}
    prior:
      kind: diffusion
      classes: 16
      levels: 3
      energy: {hidden: 8, blocks: 1, spectral_norm: false}
      sampler: {steps: 2}
      training: {updates: 12, batch: 64}
    evaluate: {samples: 200, rows: 50, importance: 8, inner: 8}
  other:
    data: dots
    backbone: {arch: mlp, latent: 2, hidden: 16, noise: 0.5, training: {updates: 20, batch: 64}}
    cluster: {labels: gc, dims: 2}
    prior:
      kind: diffusion
      classes: 8
      levels: 3
      energy: {hidden: 8, blocks: 1, spectral_norm: false}
      sampler: {steps: 2}
      training: {updates: 12, batch: 64}
    evaluate: {samples: 200, rows: 50, importance: 8, inner: 8}
"""


class ProjectCopy:
    """This project's code in a folder of its own, under git, with a commit.

    Args:
        folder: is made.
        params: text of its params.yaml; None: this project's.
        names: files and folders of this project that it has.
    """

    def __init__(
        self, folder: Path, params: str | None = SMALL, names: Sequence[str] = CODE
    ) -> None:
        self.folder = folder
        (folder / ".dvc").mkdir(parents=True)
        for name in (*names, ".dvc/config", ".dvc/.gitignore", ".dvc/plots"):
            self.bring(name)
        text = (ROOT / "params.yaml").read_text() if params is None else params
        (folder / "params.yaml").write_text(text)
        if params is None:
            self.bring("conf")
        (folder / "results").mkdir()
        (folder / "results/README.md").write_text("recorded runs\n")
        self.fill()
        self.git("init", "-q", "-b", "main")
        self.commit("start")

    @classmethod
    def at(cls, folder: Path) -> Self:
        """One that is there already."""
        project = object.__new__(cls)
        project.folder = folder
        return project

    def fill(self) -> None:
        """Writes what the first commit has besides."""

    def bring(self, name: str) -> None:
        """Copies a file or folder of this project."""
        source, target = ROOT / name, self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)

    def copied(self, folder: Path) -> Self:
        """The same with all that was built, elsewhere; worktrees know where they lie: without."""

        def ignored(parent: str, names: list[str]) -> set[str]:
            return {"runs"} & {*names} if parent.endswith(".dvc/tmp") else set()

        shutil.copytree(self.folder, folder, symlinks=True, ignore=ignored)
        other = self.at(folder)
        other.git("worktree", "prune")
        return other

    more: Mapping[str, str] = MappingProxyType({})  # variables of the environment
    warm = True  # the project's commands start from a process that has the libraries loaded

    @property
    def interpreter(self) -> str:
        """The Python of the project's commands."""
        return str(warm_python() / "python") if self.warm else sys.executable

    def environment(self) -> dict[str, str]:
        """What commands of the project run with."""
        folders = [str(warm_python())] if self.warm else []
        folders += [str(Path(sys.executable).parent), os.environ["PATH"]]
        return {
            **os.environ,
            "PATH": os.pathsep.join(folders),
            "DVC_NO_ANALYTICS": "1",
            "DO_NOT_TRACK": "1",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "OMP_NUM_THREADS": "1",
            **self.more,
        }

    def call(self, command: Sequence[str], code: int | None = 0) -> SimpleNamespace:
        """Runs a command; asserts its exit code unless that is None."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, done.stdout[-4000:] + done.stderr[-4000:]
        return SimpleNamespace(out=done.stdout, err=done.stderr, code=done.returncode)

    def python(self, *words: str, code: int | None = 0) -> SimpleNamespace:
        """Runs ``python -m`` with the words."""
        return self.call([self.interpreter, "-m", *words], code)

    def git(self, *arguments: str) -> str:
        """Output of a git command."""
        return str(self.call(["git", *IDENTITY, *arguments]).out)

    def commit(self, message: str) -> None:
        """Commits everything."""
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def dvc(self, *arguments: str) -> str:
        """Output of a dvc command."""
        return str(self.call(["dvc", *arguments]).out)

    def ldebm(self, *arguments: str, code: int | None = 0) -> SimpleNamespace:
        """Runs the command line."""
        return self.python("ldebm.cli", *arguments, code=code)

    def json(self, *arguments: str) -> Any:
        """What a command of the command line says with ``--json``."""
        return json.loads(self.ldebm(*arguments, "--json").out)

    def repro(self) -> set[str]:
        """Builds; the kinds of the stages that ran."""
        lines = self.dvc("repro").splitlines()
        return {
            line.split("'")[1].split("@")[0] for line in lines if line.startswith("Running stage")
        }

    def outputs(self) -> dict[str, str]:
        """md5 of every output in dvc.lock."""
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
