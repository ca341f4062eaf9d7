"""Priors, backbones, metrics and kinds of data that are added from outside (docs/extending.md)."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

from ldebm import plugins
from ldebm.api import load
from ldebm.assembly import architecture, build_prior
from ldebm.config import DataConfig, ExperimentConfig, parse
from ldebm.config.sections import explicit
from ldebm.data.fetch import fetch
from ldebm.data.packed import Packed, open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.data.registry import find_source
from ldebm.errors import UsageError
from ldebm.evaluate.plugged import add_metrics
from ldebm.evaluate.quadrature import prior_grid
from ldebm.files import read_json, write_csv
from ldebm.seeding import generator
from ldebm.sources import files_of
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.labelling import cluster_stage
from ldebm.training.second_stage import prior_stage
from pipelines.lineage import origins
from pipelines.results.glossary import describe

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests/plugins"
TRAINING = {"updates": 60, "batch": 64, "optimiser": {"lr": 0.01}}
EXPERIMENT = {
    "data": "dots",
    "backbone": {"arch": "mlp", "latent": 2, "hidden": 16, "noise": 0.5, "training": TRAINING},
    "prior": {"kind": "gaussian", "training": TRAINING},
    "evaluate": {"samples": 200, "rows": 50, "importance": 8, "inner": 8},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A project whose folder of plugins has the examples."""
    root = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(EXAMPLES, root / "plugins", ignore=ignored)
    monkeypatch.setattr(plugins, "ROOT", root)
    monkeypatch.syspath_prepend(root)
    monkeypatch.chdir(tmp_path)
    _forget()
    yield root / "plugins"
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("plugins", "installed_t")]:
        del sys.modules[name]
    describe.cache_clear()


def experiment(**changes: object) -> ExperimentConfig:
    """The small experiment, with keys of its sections changed."""
    content = {
        name: {**part, **changes.get(name, {})} if isinstance(part, dict) else part
        for name, part in EXPERIMENT.items()
    }
    return parse(ExperimentConfig, content)


def packed(tmp_path: Path, **data: object) -> Packed:
    """A data set as the stages make it."""
    config = parse(DataConfig, {"kind": "points", "source": "gaussians16", **data})
    source = None if config.source == "file" else find_source(config.source)
    fetch(source, config, tmp_path / "raw", None)
    prepare(config, tmp_path / "raw", tmp_path / "prepared")
    pack(config, tmp_path / "prepared", tmp_path / "packed")
    return open_packed(tmp_path / "packed")


def trained(config: ExperimentConfig, data: Packed, tmp_path: Path):
    """A model as the stages train it, loaded again."""
    folder = tmp_path / "model"
    build_backbone_stage(config, data, 0, folder / "backbone")
    cluster_stage(config, data, 0, folder / "backbone", folder / "latents.parquet")
    prior_stage(config, data, 0, folder, "toy")
    return load(folder)


@pytest.fixture
def dots(tmp_path: Path) -> Packed:
    return packed(tmp_path, train=600, valid=100, test=100)


def test_a_prior_from_outside_is_trained_evaluated_and_loaded(dots: Packed, tmp_path: Path):
    config = experiment(prior={"kind": "student_t", "options": {"degrees": 30}})
    model = trained(config, dots, tmp_path)
    assert type(model.prior).__name__ == "StudentTPrior"
    assert 2 < float(model.prior.degrees.detach()) != pytest.approx(30)
    metrics = model.evaluate(dots, config.evaluate).metrics
    assert math.isfinite(metrics["nll"])
    assert model.generate(3).shape == (3, 2)
    with pytest.raises(UsageError, match="this prior has no classes"):
        model.generate(3, label=0)


def test_the_student_t_is_the_one_of_scipy_with_unit_covariance():
    prior = build_prior(3, experiment(prior={"kind": "student_t", "options": {"degrees": 5}}).prior)
    u = torch.randn(50, 3, generator=generator(0))
    reference = multivariate_t(np.zeros(3), 0.6 * np.eye(3), df=5).logpdf(u.numpy())
    assert np.allclose(prior.log_prob(u).detach().numpy(), reference, atol=1e-5)
    draws = prior.sample(20_000, generator(1))
    assert torch.allclose(torch.cov(draws.t()), torch.eye(3), atol=0.15)
    scipys = multivariate_t(np.zeros(3), 0.6 * np.eye(3), df=5).rvs(20_000, random_state=0)
    quantiles = [np.quantile(np.linalg.norm(x, axis=1), [0.5, 0.9, 0.99]) for x in (draws, scipys)]
    assert np.allclose(*quantiles, rtol=0.06)


def test_quadrature_reads_the_density_of_a_prior_from_outside():
    prior = build_prior(2, experiment(prior={"kind": "student_t", "options": {"degrees": 9}}).prior)
    u = 2 * torch.randn(200, 2, generator=generator(2))
    grid = prior_grid(prior, u)
    nearest = [(u[:, i, None].double() - grid.axis_G).abs().argmin(1) for i in range(2)]
    exact = prior.log_standard(torch.stack([grid.axis_G[item] for item in nearest], 1)).detach()
    assert torch.allclose(grid.log_density(u), exact, atol=0.01)


def test_a_backbone_from_outside_is_trained_and_only_for_its_kind_of_data(
    dots: Packed, tmp_path: Path
):
    config = experiment(backbone={"arch": "ppca"})
    model = trained(config, dots, tmp_path)
    assert type(model.backbone).__name__ == "LinearVAE"
    assert math.isfinite(model.evaluate(dots, config.evaluate).metrics["nll"])
    with pytest.raises(UsageError, match="'ppca' does not model images: it is for points"):
        architecture(config.backbone, "images")


def test_a_metric_from_outside_joins_the_others_with_its_words(dots: Packed, tmp_path: Path):
    config = experiment(evaluate={"metrics": ["tail"]})
    model = trained(config, dots, tmp_path)
    report = model.evaluate(dots, config.evaluate)
    shown = add_metrics(report, model, dots, config.evaluate)
    assert 0 <= report.metrics["tail"] < 0.5 < report.metrics["tail_radius"]
    assert shown == {"tail": round(report.metrics["tail"], 3)}
    assert describe("tail").meaning.startswith("share of prior samples")
    assert describe("tail_radius").better == ""
    with pytest.raises(UsageError, match="'tail' is a metric already"):
        add_metrics(report, model, dots, config.evaluate)


def test_a_kind_of_data_from_outside_is_prepared_trained_and_evaluated(tmp_path: Path):
    rates = np.random.default_rng(0).choice([1.0, 9.0], (300, 1)) * np.array([1, 2, 0.5])
    rows = np.random.default_rng(1).poisson(rates).tolist()
    rows[7][1], rows[8][2] = -1, 0.5
    write_csv(tmp_path / "visits.csv", ["a", "b", "c"], rows)
    data = packed(tmp_path, kind="counts", source="file", path="visits.csv", valid=30, test=30)
    assert read_json(tmp_path / "prepared/profile.json")["rejects"]["reasons"] == {"not counts": 2}
    assert data.meta["rows"] == {"train": 238, "valid": 30, "test": 30}
    longer = {**TRAINING, "updates": 300}
    poisson = {"arch": "poisson", "options": {"log_counts": True}, "training": longer}
    config = experiment(backbone=poisson)
    model = trained(config, data, tmp_path)
    metrics = model.evaluate(data, config.evaluate).metrics
    assert metrics["mean_count"] == pytest.approx(metrics["mean_count_test"], rel=0.5)
    assert math.isfinite(metrics["nll"])
    drawn = model.generate(4)
    assert drawn.shape == (4, 3)
    assert (drawn == np.floor(drawn)).all()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prior as an installed package, with the metadata that pip would write."""
    site = tmp_path / "site"
    info = site / "ldebm_student_t-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(EXAMPLES / "priors/student_t.py", site / "installed_t.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ldebm-student-t\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ldebm.priors]\nother_t = installed_t:plugin\n")
    monkeypatch.syspath_prepend(site)
    return site


def test_an_installed_package_adds_a_prior_by_an_entry_point(installed: Path):
    assert plugins.names("priors") == ["other_t", "student_t"]
    prior = build_prior(2, experiment(prior={"kind": "other_t"}).prior)
    assert type(prior).__module__ == "installed_t"
    files = files_of("installed_t", ROOT)
    assert files["ldebm-student-t 1.0/installed_t.py"] == installed / "installed_t.py"
    assert "ldebm/priors/base.py" in files  # what it imports counts too
    hashes = plugins.hashes([("priors", "other_t")])
    assert list(hashes) == ["ldebm-student-t 1.0/installed_t.py"]


def test_a_stage_refuses_another_version_of_a_plugin_than_the_build_began_with(installed: Path):
    named = [("priors", "other_t")]
    recorded = plugins.hashes(named)
    plugins.require_same(recorded, named, "data/bound/toy.json")
    with (installed / "installed_t.py").open("a") as stream:
        stream.write("\n")
    with pytest.raises(UsageError, match=r"toy.json: plugin file ldebm-student-t 1.0/installed_t"):
        plugins.require_same(recorded, named, "data/bound/toy.json")


def test_the_files_of_a_plugin_count_with_what_they_import(folder: Path):
    assert list(plugins.plugin_files("kinds")) == [
        "plugins/kinds/counts/__init__.py",
        "plugins/kinds/counts/model.py",
        "plugins/kinds/counts/rows.py",
    ]


def test_one_call_registers_a_plugin_in_a_program(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_registered", {group: {} for group in plugins.TYPES})
    student = plugins.find("priors", "student_t")
    plugins.register("mine", student)
    assert build_prior(2, experiment(prior={"kind": "mine"}).prior).latent == 2
    with pytest.raises(UsageError, match=r"plugin 'x': expected one of PriorPlugin, .* got int"):
        plugins.register("x", 3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prior": {"kind": "studentt"}},
         "prior.kind: expected .* or a plugin, got 'studentt'; did you mean 'student_t'"),
        ({"backbone": {"arch": "ppc"}},
         "backbone.arch: expected 'mlp', .* did you mean 'ppca'"),
        ({"evaluate": {"metrics": ["tial"]}}, "evaluate.metrics: expected a list of plugins, got"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_those_that_are_known(changes, said):
    with pytest.raises(UsageError, match=said):
        experiment(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prior": {"kind": "student_t", "options": {"degree": 3}}},
         "unknown key 'e.prior.options.degree'; did you mean 'degrees'"),
        ({"prior": {"kind": "student_t", "options": {"degrees": 1}}},
         "e.prior.options.degrees: expected a number greater than 2, got 1"),
        ({"prior": {"options": {"degrees": 3}}}, "e.prior.options: is for plugins; 'gaussian' has"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line_before_anything_runs(changes, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        experiment(**changes).check_plugins("e")


def test_a_plugin_that_cannot_be_imported_is_one_line_that_names_it(folder: Path):
    (folder / "priors/broken.py").write_text("import nothing_of_that_name\n")
    (folder / "priors/empty.py").write_text("plugin = 3\n")
    with pytest.raises(UsageError, match=r"'broken' \(plugins/priors/broken.py\): cannot be impor"):
        plugins.find("priors", "broken")
    with pytest.raises(UsageError, match=r"'empty' .* is of type int; expected PriorPlugin"):
        plugins.find("priors", "empty")
    with pytest.raises(UsageError, match="'gone' of priors: there is none"):
        plugins.find("priors", "gone")


@pytest.mark.parametrize(
    ("group", "section", "key", "name"),
    [("priors", "prior", "kind", "svebm"), ("backbones", "backbone", "arch", "linear")],
)
def test_a_plugin_called_like_something_built_in_is_refused(
    folder: Path, group: str, section: str, key: str, name: str
):
    file = folder / group / f"{name}.py"
    file.write_text("plugin = None\n")
    with pytest.raises(UsageError, match=rf"plugins/{group}/{name}\.py.*built in.*another name"):
        experiment(**{section: {key: name}})
    file.unlink()
    experiment(**{section: {key: name}})


def test_a_comparison_counts_the_files_of_plugins_as_code():
    sides = []
    for sha in ("old", "new"):
        content = {"path": "data/packed/dots", "files": {"meta.json": "same"}}
        content |= {"plugins": {"named": [], "files": {"plugins/priors/student_t.py": sha}}}
        text = json.dumps(content).encode()
        snapshot = SimpleNamespace(read=lambda _, text=text: text)
        side = origins.Origin()
        side.code["sha256"] = {}
        run = SimpleNamespace(experiment="toy", snapshot=snapshot)
        origins._read_data(side, run, hashlib.md5(text).hexdigest())
        sides.append(side)
    assert origins.changed_code(*sides) == {"plugins/priors/student_t.py": ("old", "new")}
    assert origins.changed_data(*sides) == {}


def test_joint_training_asks_for_energies(dots: Packed, tmp_path: Path):
    joint = {"kind": "student_t", "scheme": "joint", "standardise": "none"}
    config = experiment(prior=joint)
    with pytest.raises(UsageError, match=r"prior.scheme 'joint': .* 'student_t' has no"):
        trained(config, dots, tmp_path)


def test_experiments_without_plugins_are_written_as_before():
    plain, other = experiment(), experiment(prior={"kind": "student_t", "options": {"degrees": 9}})
    assert "options" not in explicit(plain)["prior"]
    assert "options" not in explicit(plain)["backbone"]
    assert "metrics" not in explicit(plain)["evaluate"]
    assert "options" not in plain.model_dump()["prior"]
    assert explicit(other)["prior"]["options"] == {"degrees": 9}


def test_the_guide_shows_the_files_of_the_examples():
    guide = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    for path in sorted(EXAMPLES.rglob("*.py")):
        name = f"plugins/{path.relative_to(EXAMPLES).as_posix()}"
        assert f"`{name}`:\n\n```python\n{path.read_text()}```" in guide, name


def test_the_metadata_of_the_guide_are_valid():
    guide = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    block = re.search(r"```toml\n(.*?)```", guide, re.DOTALL)
    assert block is not None
    assert "ldebm.priors" in tomllib.loads(block[1])["project"]["entry-points"]
