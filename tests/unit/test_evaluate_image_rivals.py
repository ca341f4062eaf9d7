"""Simpler priors of an image model's backbone: what they are fitted to, and when they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ldebm.config import ClusterConfig, MixtureConfig
from ldebm.data.packed import open_packed
from ldebm.evaluate import image_rivals
from ldebm.evaluate.image_rivals import fit_rivals, fitted_gaussian
from ldebm.seeding import generator
from tests.unit.image_models import image_model, pictures
from tests.unit.image_worlds import LinearGaussian, packed_images, tiny_hvae

GIVEN = ClusterConfig(labels="given", column="side")
SIZES = MixtureConfig(components=[1, 2, 4])


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """400 images of two classes, 1 to 3, whose posterior draws are far apart: at -5 and 5."""
    label = (np.arange(400) % 4 > 0).astype(int)
    images = np.broadcast_to((label * 200).astype(np.uint8)[:, None, None, None], (400, 1, 8, 8))
    packed = packed_images(tmp_path / "packed", images.copy(), {"side": label})

    def draw(backbone, images, stream):
        side = torch.from_numpy(images[:, 0, 0, 0] > 100).float()[:, None]
        u = 10 * side - 5 + torch.randn(len(images), backbone.latent, generator=stream)
        return u, torch.zeros(len(u)), torch.zeros(len(u), 3)

    monkeypatch.setattr(image_rivals, "posterior_draw", draw)
    return packed


def rivals_of(packed, cluster: ClusterConfig, settings: MixtureConfig = SIZES):
    return fit_rivals(tiny_hvae(), packed, np.arange(400), cluster, settings, 0)


def test_mixtures_find_the_classes_and_draw_them_as_often_as_the_data_hold_them(rows):
    rivals = rivals_of(rows, GIVEN)
    for name in ("mixture", "mixture_classes"):
        u = rivals.draws[name](4000, generator(1, name))
        upper = u.mean(1) > 0
        assert float(upper.float().mean()) == pytest.approx(0.75, abs=0.03)
        assert float(u[upper].mean()) == pytest.approx(5, abs=0.1)
        assert float(u[~upper].std()) == pytest.approx(1, abs=0.1)
        assert rivals.metrics[f"{name}_components"] == 2
    fitted = rivals.draws["fitted"](4000, generator(1, "fitted"))
    assert float((fitted.mean(1).abs() < 2).float().mean()) > 0.2  # between the classes


def test_without_labels_or_with_some_of_them_no_mixture_knows_them(rows):
    assert "mixture_classes" not in rivals_of(rows, ClusterConfig()).draws
    some = rivals_of(rows, ClusterConfig(labels="given", column="side", share=0.5))
    assert "mixture_classes" not in some.draws
    assert some.details["mixture_classes"].startswith("none: the prior is trained with some")


def test_a_class_without_validation_rows_is_fitted_all_the_same(rows):
    labels = rows.split("valid").path / "valid.labels.npy"
    np.save(labels, np.zeros_like(np.load(labels)))
    u = rivals_of(open_packed(rows.path), GIVEN).draws["mixture_classes"](400, generator(1, "u"))
    assert float((u.mean(1) > 0).float().mean()) == pytest.approx(0.75, abs=0.1)


def test_where_latents_are_too_many_the_details_say_so(rows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(image_rivals, "LARGEST", 20)
    rivals = rivals_of(rows, GIVEN)
    assert set(rivals.draws) == {"gaussian", "fitted"}
    latent = tiny_hvae().latent
    expected = f"none: {latent} latents, full covariances are fitted up to 20"
    assert rivals.details["mixture"] == expected


def test_the_fitted_gaussian_has_the_moments_of_the_aggregate_posterior():
    world = LinearGaussian()
    world.register_parameter("anchor", torch.nn.Parameter(torch.zeros(1)))
    stream = generator(0, "world")
    z_1 = torch.randn(4000, 1, generator=stream) * 0.5 + 1.0
    z_2 = world.slope * z_1 + world.spread * torch.randn(4000, 1, generator=stream)
    images = ((torch.cat([z_1, z_2], 1) / 4 + 1) * 127.5).round().to(torch.uint8)
    draw, form = fitted_gaussian_of(world, images.reshape(-1, 1, 1, 2).numpy())
    drawn = draw(20000, generator(1, "drawn"))
    x = images.float() / 127.5 - 1
    mean, logvar = world.encode(x.reshape(-1, 1, 1, 2))
    assert form == "full"
    torch.testing.assert_close(drawn.mean(0), mean.mean(0), atol=0.03, rtol=0)
    expected = mean.var(0)[0] + logvar[0, 0].exp()
    assert float(drawn[:, 0].var()) == pytest.approx(float(expected), abs=0.02)


def fitted_gaussian_of(world: LinearGaussian, images: np.ndarray):
    from tests.unit.test_evaluate_corruptions import _posterior_alone

    world.draw_and_nll = lambda x, noise: _posterior_alone(world, x, noise)  # type: ignore[method-assign]
    return fitted_gaussian(world, images, 0)


def test_few_draws_for_many_latents_fit_a_diagonal():
    model = image_model("gaussian")
    draw, form = fitted_gaussian(model.backbone, pictures(60), 0)  # type: ignore[arg-type]
    assert form == "diagonal"
    assert draw(3, generator(0)).shape == (3, 43)
