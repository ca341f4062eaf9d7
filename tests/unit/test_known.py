"""What is kept of a model so that its texts are scored at once: log Z, estimated once."""

import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ldebm
from ldebm import kernels
from ldebm.cli import main
from ldebm.errors import UsageError
from ldebm.evaluate.likelihood import LikelihoodSettings, likelihood
from ldebm.priors import DiffusionPrior, SymbolPrior, known
from ldebm.priors.conditionals import conditionals
from ldebm.priors.known import find_known, find_proposals, find_top, read_known, write_known
from ldebm.seeding import generator
from tests.unit.evaluate_models import (
    LOG_2PI,
    LinearGaussian,
    config,
    constant_energy,
    wavy_energy,
)
from tests.unit.test_text_use import TEXTS, _model, file

__all__ = ["file"]  # a fixture


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where estimates are kept."""
    monkeypatch.setenv("LDEBM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch):
    """Call it, and from then on an estimate is an error."""

    def fail(*_: object) -> None:
        raise AssertionError("estimated again")

    return lambda: monkeypatch.setattr(known, "find_known", fail)


def test_the_normaliser_is_that_of_quadrature_by_either_estimate() -> None:
    prior = wavy_energy(SymbolPrior(1, config("svebm"), generator(9)), 5.0)
    energies = conditionals(prior)
    grid = torch.linspace(-9, 9, 9001).unsqueeze(1)
    log_density = energies.value(grid, 0).double() - 0.5 * grid.double().square().sum(-1)
    exact = float(torch.logsumexp(log_density, 0)) + math.log(18 / 9000) - 0.5 * LOG_2PI
    known = find_known(prior)
    assert known.log_z == pytest.approx(exact, abs=5 * known.standard_error + 1e-4)
    assert 0 < known.standard_error < 0.02
    assert (known.shift, known.inner) == ((), ()), "there is one level alone"


def test_a_poor_effective_sample_size_asks_for_annealing(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = wavy_energy(SymbolPrior(1, config("svebm"), generator(9)), 5.0)
    energies, zero = conditionals(prior), torch.zeros(1, 1)
    plain = find_top(energies, zero, generator(1), draws=4096)
    assert plain[2] == 4096
    monkeypatch.setattr(known, "plain_normaliser", lambda *_: (math.nan, 0.0))
    annealed = find_top(energies, zero, generator(1), draws=4096, particles=1000)
    assert annealed[2] == 1000
    assert annealed[0] == pytest.approx(plain[0], abs=0.15)


def test_levels_of_constant_energy_need_the_fewest_draws() -> None:
    prior = DiffusionPrior(3, config(levels=4), generator(2))
    constant_energy(prior, 0.7)
    estimate = find_known(prior)
    assert estimate.inner == (known.FEWEST,) * 3
    energies = conditionals(prior)
    sharp = replace(
        energies,
        value=lambda v, _: -40 * v.square().sum(-1),
        gradient=lambda v, _: (-40 * v.square().sum(-1), -80 * v),
    )
    levels = energies.forward(torch.randn(32, 3, generator=generator(5)), generator(6))
    _, inner = find_proposals(sharp, levels, 64, generator(7))
    assert max(inner) > known.FEWEST
    assert max(inner) <= 64
    assert all(draws % 2 == 0 for draws in inner)


def test_bounds_with_a_known_normaliser_agree_with_those_of_the_evaluation() -> None:
    prior = wavy_energy(DiffusionPrior(3, config(levels=3), generator(3)), 2.0)
    model = LinearGaussian(3, blur=1.5)
    x = model.data(12)
    quick = LikelihoodSettings(trajectories=400, anneal_share=0, sandwich=False)
    bound = likelihood(model, prior, [x], quick, known=find_known(prior))["prior"]
    full = likelihood(model, prior, [x], LikelihoodSettings(trajectories=400))["prior"]
    np.testing.assert_allclose(bound.nll_B, full.nll_B, atol=0.4)
    assert bound.nll_B.mean() == pytest.approx(full.nll_B.mean(), abs=0.12)
    assert bound.top is None
    assert full.top is not None


def test_log_z_is_estimated_once_for_a_file_and_its_copies(
    cache: Path, never, file: Path, tmp_path: Path
) -> None:
    model = ldebm.load(file)
    first, said = model.normalisers()
    assert first is not None
    kept = list(cache.iterdir())
    assert said == f"it is kept in {kept[0]}"
    assert json.loads(kept[0].read_text())["log_z"] == first.log_z
    scores = model.score(TEXTS[:4], importance=8)
    never()
    copy = tmp_path / "elsewhere" / "prior"
    shutil.copytree(file.parent, copy)
    again = ldebm.load(copy.parent)
    assert again.normalisers() == (first, "")
    np.testing.assert_array_equal(again.score(TEXTS[:4], importance=8).bound, scores.bound)


def test_without_a_place_to_keep_it_or_with_a_damaged_file_it_is_estimated_again(
    cache: Path, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, _ = ldebm.load(file).normalisers()
    (kept,) = cache.iterdir()
    for damaged in ("", "[]", "{}", '{"log_z": 1}'):
        kept.write_text(damaged)
        assert ldebm.load(file).normalisers() == (first, f"it is kept in {kept}")
    (tmp_path / "full").write_text("a file, where a folder should be")
    monkeypatch.setenv("LDEBM_CACHE", str(tmp_path / "full"))
    known, said = ldebm.load(file).normalisers()
    assert known == first
    assert said.startswith(f"it cannot be kept in {tmp_path / 'full'}: ")


def test_an_estimate_is_written_and_read(tmp_path: Path) -> None:
    prior = DiffusionPrior(2, config(levels=3), generator(4))
    known = find_known(prior, seed=3)
    write_known(tmp_path / "a.json", known)
    assert read_known(tmp_path / "a.json") == known
    assert known.seed == 3
    assert known != find_known(prior, seed=4)
    with pytest.raises(UsageError, match=r"b\.json: no such file"):
        read_known(tmp_path / "b.json")


def test_scores_take_one_thread_whatever_is_set_and_are_the_same() -> None:
    model, threads = _model(), []
    single = model.score(TEXTS[:20], importance=32)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        double = model.score(
            TEXTS[:20], importance=32,
            done=lambda count: threads.append((count, torch.get_num_threads())),
        )  # fmt: skip
        assert torch.get_num_threads() == 2, "as it was"
    finally:
        torch.set_num_threads(before)
    assert threads == [(16, 1), (20, 1)]
    np.testing.assert_array_equal(single.bound, double.bound)


@pytest.mark.parametrize("compiled", [True, False])
def test_fast_scores_are_those_of_eight_trajectories_but_for_rounding(compiled: bool) -> None:
    model = _model()
    exact = model.score(TEXTS[:20], importance=8)
    with nullcontext() if compiled else kernels.plain():
        fast = model.score(TEXTS[:20], fast=True)
    assert 0 < np.abs(fast.bound - exact.bound).max() < 0.05
    assert np.array_equal(fast.energy, exact.energy)
    more = model.score(TEXTS[:20], importance=32, fast=True)
    default = model.score(TEXTS[:20])
    assert np.abs(more.bound - default.bound).max() < 0.05, "importance= wins"


def test_the_command_says_what_it_keeps_and_json_stays_json(
    cache: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS[:3]))
    said = []
    for _ in range(2):
        with pytest.raises(SystemExit) as stopped:
            main(["score", str(file), "--file", str(tmp_path / "a.txt"), "--json"])
        assert stopped.value.code in (0, None)
        printed = capsys.readouterr()
        said.append((json.loads(printed.out), printed.err))
    (first, error), (second, quiet) = said
    assert first == second
    assert error.startswith("talk-ldebm: log Z of its prior is estimated; it is kept in ")
    assert quiet == ""
