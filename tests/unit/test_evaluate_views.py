"""What the report draws of a model: map, energies, chains."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ldebm.evaluate.report import Report
from ldebm.evaluate.views import add_views, energy_histograms, principal_axes, transitions
from ldebm.priors import DiffusionPrior, SymbolPrior
from ldebm.seeding import generator
from tests.unit.evaluate_models import config, constant_energy, wavy_energy
from tests.unit.test_evaluate_run import packed_points, packed_text, untrained


def test_principal_axes_are_those_of_the_covariance_with_a_fixed_sign():
    stream = np.random.default_rng(0)
    basis = np.linalg.qr(stream.normal(size=(5, 5)))[0]
    x = stream.normal(size=(4000, 5)) * [3, 2, 0.5, 0.4, 0.3] @ basis.T + 7
    axes, shares = principal_axes(x)
    assert np.abs(axes @ basis[:, :2]).round(1).tolist() == [[1, 0], [0, 1]]
    assert shares == pytest.approx([9 / 13.5, 4 / 13.5], abs=0.02)
    assert np.allclose(principal_axes(x[::-1])[0], axes)
    assert np.allclose(principal_axes(-x)[0], axes)


def test_data_of_two_dimensions_keep_their_axes():
    axes, shares = principal_axes(np.array([[0.0, 0.0], [4.0, 2.0]]))
    assert axes.tolist() == [[1, 0], [0, 1]]
    assert shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", [DiffusionPrior, SymbolPrior])
def test_energies_of_equal_distributions_have_equal_histograms(kind):
    name = "diffusion" if kind is DiffusionPrior else "svebm"
    prior = wavy_energy(kind(2, config(name, levels=3), generator(0)), 1.0)
    stream = generator(1)
    u0 = torch.randn(3000, 2, generator=stream)
    levels = [torch.randn(3000, 2, generator=stream)]
    if kind is DiffusionPrior:
        prior = constant_energy(prior, 0.0)  # then the prior is exactly N(0, I) at every level
        prior.net.output.weight.data.normal_(0, 1e-3, generator=generator(2))
        levels = prior.sample_levels(3000, stream)
    rows = energy_histograms(prior, u0, levels, stream)
    for t in range(prior.levels):
        mine = [row for row in rows if row[0] == t]
        data, samples = (np.array([row[i] for row in mine]) for i in (3, 4))
        assert data.sum() == samples.sum() == 3000
        assert np.abs(data - samples).sum() / 6000 < 0.08
        assert [row[2] for row in mine[:-1]] == [row[1] for row in mine[1:]]


def test_chains_go_from_the_top_level_down_and_name_class_and_sample(tmp_path: Path):
    packed = packed_text(tmp_path)
    model = untrained(packed, "diffusion", 4)
    chains = transitions(model, 3)
    assert len(chains) == 3
    for chain in chains:
        levels = [moment["t"] for moment in chain]
        assert levels == sorted(levels, reverse=True)
        assert set(levels) == {0, 1, 2}
        assert next(m["move"] for m in chain if m["t"] == 0) == 0
        assert max(m["move"] for m in chain) == model.config.prior.sampler.steps
        assert all(0 <= m["class"] < 5 and 0.2 <= m["probability"] <= 1 for m in chain)
        assert all(isinstance(m["sample"], str) for m in chain)
    assert transitions(model, 3) == chains


@pytest.mark.parametrize("kind", ["diffusion", "svebm", "gaussian"])
def test_views_are_small_and_the_same_every_time(tmp_path: Path, kind: str):
    packed = packed_points(tmp_path)
    model = untrained(packed, kind, 2)
    reports = []
    for _ in range(2):
        reports.append(Report())
        add_views(reports[-1], model, packed)
    assert reports[0] == reports[1]
    header, rows = reports[0].tables["latent_map"]
    assert header == ["kind", "x", "y", "class", "label"]
    assert {row[0] for row in rows} == {"posterior", "prior"}
    assert ("energies" in reports[0].tables) == (kind != "gaussian")
    assert all(row[3] == "" for row in rows) == (kind == "gaussian")
    assert len(json.dumps(reports[0].details)) < 50_000
