"""A project with plugins of every group is built by ``dvc repro``; a change runs what uses it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ldebm.files import read_json, write_csv
from tests.pipeline.project_copy import ROOT, ProjectCopy

pytestmark = [pytest.mark.long, pytest.mark.pipeline]
PARAMS = """\
run: {datasets: [dots, visits], experiments: [plain, heavy, counted], seeds: [0], epochs: null}
data:
  dots: {kind: points, source: gaussians16, train: 600, valid: 100, test: 100, labels: [mode]}
  visits: {kind: counts, source: file, path: visits.csv, valid: 30, test: 30}
experiments:
  plain:
    data: dots
    backbone: {arch: mlp, latent: 2, hidden: 16, noise: 0.5, training: {updates: 20, batch: 64}}
    cluster: {labels: none}
    prior: {kind: gaussian, classes: 2, training: {updates: 1}}
    evaluate: {samples: 200, rows: 50, importance: 8, inner: 8}
  heavy:
    data: dots
    backbone: {arch: ppca, latent: 2, noise: 0.5, training: {updates: 20, batch: 64}}
    cluster: {labels: none}
    prior: {kind: student_t, classes: 2, options: {degrees: 5}, training: {updates: 12, batch: 64}}
    evaluate: {samples: 200, rows: 50, importance: 8, inner: 8, metrics: [tail]}
  counted:
    data: visits
    backbone: {arch: poisson, latent: 2, hidden: 16, training: {updates: 20, batch: 64}}
    cluster: {labels: none}
    prior: {kind: gaussian, classes: 2, training: {updates: 1}}
    evaluate: {samples: 200, rows: 30, importance: 8, inner: 8}
"""


class Plugged(ProjectCopy):
    """A project with the plugins of docs/extending.md."""

    def fill(self) -> None:
        shutil.copytree(ROOT / "tests/plugins", self.folder / "plugins", dirs_exist_ok=True)
        rates = np.random.default_rng(0).choice([1.0, 9.0], (300, 1)) * np.array([1, 2, 0.5])
        rows = np.random.default_rng(1).poisson(rates).tolist()
        write_csv(self.folder / "visits.csv", ["a", "b", "c"], rows)

    def ran(self) -> set[str]:
        """Builds; the stages that ran, but for the report."""
        lines = [line for line in self.dvc("repro").splitlines() if "Running stage" in line]
        return {line.split("'")[1] for line in lines} - {"report"}

    def edit(self, name: str) -> None:
        """Appends a comment to a plugin."""
        with (self.folder / "plugins" / name).open("a") as stream:
            stream.write("# changed\n")


def test_a_build_trains_and_measures_plugins_and_follows_their_files(tmp_path: Path):
    project = Plugged(tmp_path / "project", PARAMS)
    first = project.ran()
    assert {"pack@visits", "prior@heavy-0", "evaluate@counted-0"} <= first
    metrics = read_json(project.folder / "reports/heavy/0/metrics.json")
    assert {"nll", "tail", "tail_radius"} <= metrics.keys()
    assert "tail" in read_json(project.folder / "reports/heavy/0/summary.json")
    pages = "".join(path.read_text() for path in (project.folder / "site").rglob("*.html"))
    assert "share of prior samples farther out" in pages
    bound = read_json(project.folder / "data/bound/heavy.json")["plugins"]["files"]
    assert list(bound) == ["plugins/backbones/ppca.py", "plugins/priors/student_t.py"]
    assert "plugins" not in read_json(project.folder / "data/bound/plain.json")
    project.commit("built")
    assert project.ran() == set()

    binds = {"code", "bind@plain", "bind@heavy", "bind@counted"}
    project.edit("metrics/tail.py")
    assert project.ran() == {*binds, "evaluate@heavy-0"}
    project.edit("priors/student_t.py")
    ran = project.ran()
    assert {*binds, "prior@heavy-0"} <= ran
    assert {name for name in ran if "@" in name and "heavy" not in name} == binds - {
        "code",
        "bind@heavy",
    }
    project.edit("kinds/counts/rows.py")
    ran = project.ran()
    assert {"prepare@visits", "backbone@counted-0"} <= ran
    assert not {name for name in ran if name.endswith(("plain-0", "heavy-0"))}

    wrong = PARAMS.replace("degrees: 5", "degrees: 1")
    (project.folder / "params.yaml").write_text(wrong)
    refused = project.call(["dvc", "repro"], code=None)
    assert "prior.options.degrees: expected a number greater than 2, got 1" in refused.err
