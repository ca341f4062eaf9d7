"""Images of other kinds, and scores that tell them apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.evaluate.corruptions import corrupt, fit
from ldebm.evaluate.ood import (
    LIKELIHOOD,
    Detection,
    auroc,
    detect,
    score_images,
    states_at_one,
    top_counts,
)
from ldebm.priors.group_energy_net import FrozenGroups
from ldebm.seeding import generator, numpy_generator
from tests.unit.image_models import image_model
from tests.unit.image_worlds import LinearGaussian, tiny_hvae


def numbered(n: int = 5, channels: int = 1, size: int = 8) -> np.ndarray:
    stream = numpy_generator(0, "numbered")
    return stream.integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def patches(image: np.ndarray) -> set[bytes]:
    cut = [image[y : y + 2, x : x + 2] for y in range(0, 8, 2) for x in range(0, 8, 2)]
    return {patch.tobytes() for patch in cut}


def test_changed_images_keep_their_pixels_but_not_their_order():
    images = numbered()
    assert (corrupt("inverted", images) == 255 - images).all()
    rotated = corrupt("rotated", images)
    assert (rotated[0, 0] == np.rot90(images[0, 0])).all()
    shuffled = corrupt("shuffled", images)
    assert (np.sort(shuffled.reshape(5, -1)) == np.sort(images.reshape(5, -1))).all()
    assert patches(shuffled[0, 0]) == patches(images[0, 0])
    assert (shuffled != images).any()
    assert (corrupt("shuffled", images) == shuffled).all()
    assert corrupt("noise", images).shape == images.shape
    with pytest.raises(ValueError, match="upside"):
        corrupt("upside", images)


def test_images_of_another_set_are_padded_scaled_and_recoloured_to_fit():
    small = fit(numbered(size=8), 3, 12)
    assert small.shape == (5, 3, 12, 12)
    assert (small[:, 0, 2:10, 2:10] == numbered()[:, 0]).all()
    assert (small[:, 0] == small[:, 2]).all()
    assert small[:, :, :2].max() == 0
    grey = fit(np.full((2, 3, 64, 64), 90, dtype=np.uint8), 1, 32)
    assert grey.shape == (2, 1, 32, 32)
    assert (grey == 90).all()


def test_auroc_of_shifted_gaussians_is_the_closed_form():
    stream = numpy_generator(0, "auroc")
    familiar, other = stream.normal(1.0, 1.0, 20000), stream.normal(0.0, 1.0, 20000)
    exact = 0.5 * (1 + math.erf(0.5))  # Phi(1 / sqrt 2)
    assert auroc(familiar, other) == pytest.approx(exact, abs=0.01)
    assert auroc(familiar, np.full(10, np.nan)) == 1.0


SHARED = {"classes": 3, "hierarchy": {"channels": 4, "label_groups": [0, 2]}}


@pytest.mark.parametrize(
    ("kind", "labels"), [("diffusion", {}), ("diffusion", SHARED), ("svebm", {})]
)
def test_all_groups_together_score_the_energy_and_fewer_groups_a_part_of_it(
    kind: str, labels: dict[str, Any]
):
    model = image_model(kind, **labels)
    images = numbered(7)
    below = states_at_one(model, 7, 0)
    scores = score_images(model, images, 0, "here", of_prior_ND=below)
    schemes = {"inference", "density", LIKELIHOOD} | (
        {"diffusion"} if kind == "diffusion" else set()
    )
    assert {scheme for scheme, _ in scores} == schemes
    stream = generator(0, "ood", "here")
    noise = torch.randn(7, model.prior.latent, generator=stream)
    with torch.no_grad():
        drawn, nll_B = model.backbone.draw_and_nll(model.batch(images), noise)
        u0 = model.prior.level_zero(drawn.u_BD, stream)
        energy = model.prior.negative_energy(model.prior.scale_zero() * u0, 0)
        top = model.prior.net.freeze().group_energies(model.prior.scale_zero() * u0, 0)[:, 0]
    assert scores["inference", 3] == pytest.approx(energy.numpy(), abs=1e-4)
    assert scores["inference", 1] == pytest.approx(top.numpy(), abs=1e-4)
    whole = energy - 0.5 * u0.square().sum(1)
    assert scores["density", 3] == pytest.approx(whole.numpy(), abs=1e-3)
    bound = -(nll_B + drawn.kl_BG.sum(1))
    assert scores[LIKELIHOOD, 3] == pytest.approx(bound.numpy(), rel=1e-5)


def test_energies_that_are_known_give_the_auroc_that_is_known(monkeypatch: pytest.MonkeyPatch):
    world = LinearGaussian()
    world.register_parameter("anchor", torch.nn.Parameter(torch.zeros(1)))
    model = image_model("svebm", world)
    monkeypatch.setattr(FrozenGroups, "group_energies", lambda _, v, __: v)
    monkeypatch.setattr(LinearGaussian, "draw_and_nll", _posterior_alone)
    away = 1.5

    def images(shift_by: float, name: str) -> np.ndarray:
        stream = generator(0, "world", name)
        z_1 = torch.randn(4000, 1, generator=stream) - shift_by
        z_2 = world.slope * z_1 + world.spread * torch.randn(4000, 1, generator=stream)
        x = torch.cat([z_1, z_2], 1) / 4 + world.noise * torch.randn(4000, 2, generator=stream)
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).reshape(-1, 1, 1, 2).numpy()

    splits = ("valid", "test")
    familiar = {split: images(0.0, f"own-{split}") for split in splits}
    others = {"moved": {split: images(away, split) for split in splits}}
    detection = detect(model, familiar, others, draws=2)
    ends = torch.tensor([[0.0, 0.0], [-away, -away * world.slope]]) / 4
    mean, _ = world.encode(ends.reshape(2, 1, 1, 2))
    apart = float(mean[0, 0] - mean[1, 0])  # the draws of q are N(0, 1) over the data of the model
    exact = 0.5 * (1 + math.erf(apart / 2))
    assert detection.mean["moved", "inference", 1] == pytest.approx(exact, abs=0.015)


def _posterior_alone(self: LinearGaussian, x_BCHW, noise_BD):
    features = self.features(x_BCHW)
    u, kl = [], []

    def pick(g, prior, state):
        q, _ = self.posterior_of(g, features[g], prior, state)
        z = q.mu + q.sigma * noise_BD[:, g : g + 1]
        u.append((z - prior.mu) / prior.sigma)
        kl.append(q.kl(prior))
        return z

    self.descend(pick, len(x_BCHW), finish=False)
    drawn = type("Drawn", (), {"u_BD": torch.cat(u, 1), "kl_BG": torch.stack(kl, 1)})()
    return drawn, torch.zeros(len(x_BCHW))


def test_dark_images_are_told_from_bright_ones_by_likelihood_alone():
    backbone = tiny_hvae()
    with torch.no_grad():
        backbone.head.bias.fill_(-3.0)
    model = image_model("gaussian", backbone)
    dark = numbered(60) // 8
    familiar = {"valid": dark[:20], "test": dark[20:]}
    inverted = {name: corrupt("inverted", images) for name, images in familiar.items()}
    detection = detect(model, familiar, {"inverted": inverted}, draws=2)
    assert detection.chosen is None
    metrics = detection.metrics()
    assert metrics["ood_auroc_likelihood"] == metrics["ood_auroc_likelihood_inverted"] == 1.0
    assert "ood_auroc" not in metrics


def test_the_scheme_is_chosen_for_all_sets_together_and_each_set_is_reported():
    mean = {("a", "inference", 1): 0.9, ("b", "inference", 1): 0.7, ("a", LIKELIHOOD, 3): 0.4}
    mean |= {("b", LIKELIHOOD, 3): 0.6}
    detection = Detection(("inference", 1), mean, dict.fromkeys(mean, 0.01))
    assert detection.metrics() == {
        "ood_auroc": pytest.approx(0.8), "ood_auroc_a": 0.9, "ood_auroc_b": 0.7,
        "ood_auroc_likelihood": 0.5, "ood_auroc_likelihood_a": 0.4, "ood_auroc_likelihood_b": 0.6,
    }  # fmt: skip
    header, rows = detection.table()
    assert header == ["data", "scheme", "groups", "auroc", "spread", "chosen"]
    assert rows[0] == ["a", "inference", 1, 0.9, 0.01, True]


def test_few_groups_are_all_scored_and_many_at_some_numbers():
    assert top_counts(1) == [1]
    assert top_counts(30)[-1] == 30
    assert len(top_counts(30)) <= 6
