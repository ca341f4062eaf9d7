"""Groups kept and groups drawn anew, labels that lead there, chains that are followed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ldebm.assembly import build_model, build_prior
from ldebm.evaluate.synthesis import (
    _of_every_class,
    by_attributes,
    by_class,
    of_images,
    redraw,
    step_by_step,
)
from ldebm.evaluate.transitions import HEADER, follow
from ldebm.priors.group_energy_net import FrozenGroups
from ldebm.seeding import generator
from tests.unit.image_models import Brightness, image_model
from tests.unit.image_worlds import LinearGaussian

ATTRIBUTES = {"attributes": {"bright": [0], "wide": [1, 2]}, "channels": 4}
SIZES = (3, 8, 32)


@pytest.mark.parametrize("kind", ["diffusion", "svebm", "gaussian"])
@pytest.mark.parametrize("standardise", ["none", "diagonal"])
def test_kept_groups_stay_and_free_ones_change(kind: str, standardise: str):
    model = image_model(kind, standardise=standardise)
    stream = generator(5, "u")
    if standardise == "diagonal":
        model.prior.fit_draws(2 * torch.randn(200, 43, generator=stream) + 1)
    u = torch.randn(6, 43, generator=stream)
    new = redraw(model, u, [1], generator(0, "redraw"))
    parts, before = torch.split(new, SIZES, 1), torch.split(u, SIZES, 1)
    torch.testing.assert_close(parts[0], before[0])
    torch.testing.assert_close(parts[2], before[2])
    assert (parts[1] != before[1]).any(1).all()
    assert torch.equal(new, redraw(model, u, [1], generator(0, "redraw")))


def test_a_free_group_follows_its_conditional_density(monkeypatch: pytest.MonkeyPatch):
    """exp(-c (u_1 - u_2)^2 / 2) N(u; 0, I) has u_1 | u_2 ~ N(c u_2 / (1 + c), 1 / (1 + c))."""
    c = 3.0

    def quadratic(_, v, __):
        apart = v[:, 0] - v[:, 1]
        gradient = torch.stack([-c * apart, c * apart], 1)
        return -0.5 * c * apart.square(), gradient

    monkeypatch.setattr(FrozenGroups, "value_and_gradient", quadratic)
    world = LinearGaussian()
    sampler = {"steps": 60, "step": 0.3}
    base = image_model("svebm", sampler=sampler)
    prior = build_prior(world, base.config.prior, generator(0))
    world.register_parameter("anchor", torch.nn.Parameter(torch.zeros(1)))
    model = build_model(base.config, base.meta, world, prior, None, "e", 0)
    u = torch.tensor([[9.0, 1.2]]).repeat(4000, 1)
    drawn = redraw(model, u, [0], generator(1, "redraw"))
    assert (drawn[:, 1] == 1.2).all()
    assert float(drawn[:, 0].mean()) == pytest.approx(c * 1.2 / (1 + c), abs=0.03)
    assert float(drawn[:, 0].var()) == pytest.approx(1 / (1 + c), abs=0.02)


def test_without_energies_free_groups_are_the_reference_at_the_end_of_all_levels():
    model = image_model("diffusion", sampler={"steps": 12, "step": 0.5})
    with torch.no_grad():
        for net in model.prior.net.nets:
            net.output.weight.zero_()
    u = 3 * torch.ones(1500, 43)
    drawn = redraw(model, u, [0, 1], generator(2, "redraw"))[:, :11]
    assert float(drawn.mean()) == pytest.approx(0, abs=0.03)
    assert float(drawn.std()) == pytest.approx(1, abs=0.03)


def test_an_attribute_added_below_keeps_the_groups_above():
    model = image_model(
        classes=4,
        hierarchy={**ATTRIBUTES, "label_sampling": "langevin"},
        cluster={"labels": "given"},
    )
    first, second = step_by_step(model, {"wide": 1, "bright": 0}, 4, generator(0, "steps"))
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert (first[:, 3:] != second[:, 3:]).all(1).all()


def test_the_classifier_counts_images_that_agree_in_every_attribute(
    monkeypatch: pytest.MonkeyPatch,
):
    model = image_model(
        classes=4,
        hierarchy={**ATTRIBUTES, "label_sampling": "langevin"},
        cluster={"labels": "given"},
    )
    asked = []

    def latents(n, stream, labels=None):
        asked.append(labels)
        return torch.zeros(n, 43)

    monkeypatch.setattr(model.prior, "sample", latents)
    dark_above = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    dark_above[:, :, 4:] = 255
    monkeypatch.setattr(model, "decode", lambda *_: dark_above)
    control = by_attributes(model, Brightness(), 3)
    assert asked[:4] == [0, 1, 2, 3]  # langevin: every class by itself
    assert asked[4:] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert control.metrics["control_accuracy"] == 0.25  # bright=0, wide=1, of four combinations
    assert control.metrics["control_bright"] == control.metrics["control_wide"] == 0.5
    assert control.metrics["control_accuracy_steps"] == 0.25
    assert ["bright=0, wide=1 (joint)", 3, 1.0] in control.table
    assert control.shown["bright=1, wide=1 (steps)"].shape == (3, 1, 8, 8)


def test_the_bound_of_control_counts_every_combination_alike():
    images = np.zeros((4, 1, 8, 8), dtype=np.uint8)
    images[:, :, 4:] = 255  # the classifier: not bright, wide
    labels = {"bright": np.array([0, 0, 1, 0]), "wide": np.array([1, 1, 1, -1])}
    metrics = of_images(Brightness(), images, labels, "test")
    assert metrics == {
        "control_accuracy_test": 0.5,  # of (0, 1) and (1, 1); the row without a label is left out
        "control_bright_test": 0.5,
        "control_wide_test": 1.0,
    }


def test_every_class_is_asked_for_and_pooled(monkeypatch: pytest.MonkeyPatch):
    model = image_model(
        classes=2, hierarchy={"channels": 4, "label_groups": [0], "label_sampling": "langevin"},
        cluster={"labels": "given", "column": "bright"},
    )  # fmt: skip

    def latents(n, stream, label=None):
        return torch.full((n, 43), float(label))

    def decode(u, mode, seed):
        images = np.zeros((len(u), 1, 8, 8), dtype=np.uint8)
        images[:2] = 255  # two bright ones, whatever was asked for
        return images

    monkeypatch.setattr(model.prior, "sample", latents)
    monkeypatch.setattr(model, "decode", decode)
    control = by_class(model, Brightness(), "bright", 8)
    assert control.metrics["control_accuracy"] == (6 + 2) / 16
    assert control.metrics["control_accuracy_low"] < 0.5 < control.metrics["control_accuracy_high"]
    assert control.table == [["bright 0", 8, 0.75], ["bright 1", 8, 0.25]]


def test_one_draw_of_the_prior_serves_every_class_that_it_has(monkeypatch: pytest.MonkeyPatch):
    """Four rounds of 3 x 20 draws hold enough of the classes of 0.6 and 0.4, none of the third."""
    model = image_model(
        classes=3, hierarchy={"channels": 4, "label_groups": [0]},
        cluster={"labels": "given", "column": "digit"},
    )  # fmt: skip
    asked = []

    def latents(n, stream, label=None):
        asked.append((n, label))
        drawn = torch.rand(n, 43, generator=stream)
        return drawn if label is None else torch.full((n, 43), 9.0)

    def logits(u):
        first = (u[:, 0] < 0.6).float()
        return 100 * torch.stack([first, 1 - first, torch.full_like(first, -1.0)], 1)

    monkeypatch.setattr(model.prior, "sample", latents)
    monkeypatch.setattr(model.prior, "class_logits", logits)
    drawn = _of_every_class(model, 20, generator(0, "classes"))
    assert asked == [(60, None)] * 4 + [(20, 2)]
    assert (drawn[0][:, 0] < 0.6).all()
    assert (drawn[1][:, 0] >= 0.6).all()
    assert (drawn[2] == 9.0).all()
    assert [len(u) for u in drawn] == [20, 20, 20]


@pytest.mark.parametrize("kind", ["diffusion", "svebm"])
def test_chains_are_followed_through_all_levels_for_as_long_as_asked(kind: str):
    model = image_model(kind, sampler={"steps": 5})
    features = np.random.default_rng(0).normal(size=(20, 2))
    transitions = follow(model, 6, Brightness(), features, shown=4)  # type: ignore[arg-type]
    levels = model.prior.levels
    moves = {
        run: [row[2] for row in transitions.rows if row[0] == run] for run in ("short", "long")
    }
    assert moves["short"] == [0, 1, 2, 3, 4, 5] * levels
    assert moves["long"] == [0, 10, 20, 30, 40, 50] * levels
    assert [row[1] for row in transitions.rows if row[0] == "short"][:6] == [levels - 1] * 6
    assert len(transitions.rows[0]) == len(HEADER)
    assert transitions.shown["long"].shape == (4, 6 * levels, 1, 8, 8)
    assert all(0.5 <= row[4] <= 1 and row[5] >= 0 for row in transitions.rows)
    assert transitions.saturation["long"] == transitions.rows[-1][6]
    again = follow(model, 6, Brightness(), features, shown=4)  # type: ignore[arg-type]
    assert again.rows == transitions.rows


def test_chains_without_energy_differences_keep_the_energy_of_the_reference():
    model = image_model("svebm", sampler={"steps": 8, "step": 0.5})
    with torch.no_grad():
        for net in model.prior.net.nets:
            net.output.weight.zero_()
            net.output.bias.zero_() if net.output.bias is not None else None
    transitions = follow(model, 200)
    energies = [row[3] for row in transitions.rows if row[0] == "long"]
    assert np.mean(energies) == pytest.approx(43 / 2, rel=0.1)  # of N(0, I) in 43 dimensions
    assert transitions.rows[0][4] == ""
