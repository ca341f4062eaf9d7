"""T is invertible and its log-determinant right; posteriors and their KL are what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldebm.assembly import build_backbone
from ldebm.backbones.hierarchical import Gaussian, HierarchicalBackbone
from ldebm.config import BackboneConfig
from ldebm.errors import UsageError
from ldebm.seeding import generator

META = {"kind": "images", "size": 8, "channels": 1}
TINY: dict[str, dict[str, Any]] = {
    "hvae": {
        "layers": [{"dense": 4}, {"conv": [2, 2]}, {"conv": [1, 4]}],
        "widths": [4, 6],
        "hidden": 8,
        "mixtures": 2,
    },
    "hvae-conv": {"layers": [{"conv": [2, 2]}, {"conv": [1, 4]}], "widths": [4, 6], "mixtures": 1},
    "nvae": {"channels": 4, "scales": 2, "groups": [1, 2], "latents": 2, "mixtures": 1},
    "nvae-flow": {
        "channels": 4,
        "scales": 1,
        "groups": [2],
        "latents": 2,
        "flows": 1,
        "squeeze_excitation": False,
        "mixtures": 1,
    },
}


def make(name: str, meta: dict[str, Any] = META, *, perturb: bool = True) -> HierarchicalBackbone:
    """A tiny backbone with weights away from their initial symmetry, in evaluation mode."""
    arch = name.split("-")[0]
    content = {"arch": arch, arch: TINY[name], "training": {"updates": 1}}
    config = BackboneConfig.model_validate(content)
    backbone = build_backbone(config, meta, generator(0, name))
    assert isinstance(backbone, HierarchicalBackbone)
    if perturb:
        stream = generator(1, name)
        for parameter in backbone.parameters():
            noise = torch.randn(parameter.shape, generator=stream)
            parameter.data += 0.3 * noise / max(1.0, parameter[0].numel() ** 0.5)
    return backbone.eval()


def images(rows: int, meta: dict[str, Any] = META) -> Tensor:
    shape = (rows, meta["channels"], meta["size"], meta["size"])
    return torch.randint(0, 256, shape, generator=generator(0, "images")).float() / 127.5 - 1


def noise(backbone: nn.Module, rows: int, *path: str) -> Tensor:
    return torch.randn(rows, int(backbone.latent), generator=generator(0, "noise", *path))


@pytest.mark.parametrize("name", TINY)
def test_z_and_u_turn_into_each_other(name):
    backbone = make(name)
    u = 2 * noise(backbone, 16)
    with torch.no_grad():
        z = backbone.to_z(u)
        assert (backbone.to_u(z) - u).abs().max() < 1e-5
    assert [tuple(part.shape[1:]) for part in z] == [group.shape for group in backbone.groups]
    assert u.shape[1] == sum(group.size for group in backbone.groups)


@pytest.mark.parametrize("name", TINY)
def test_the_log_determinant_is_that_of_the_jacobian(name):
    backbone = make(name).double()
    u = noise(backbone, 3).double()

    def flat(row: Tensor) -> Tensor:
        return torch.cat([part.flatten() for part in backbone.to_z(row[None])])

    for row, expected in zip(u, backbone.log_det(u), strict=True):
        jacobian = torch.autograd.functional.jacobian(flat, row)
        assert torch.allclose(torch.linalg.slogdet(jacobian)[1], expected, atol=1e-6)
        upper = jacobian.triu(1)
        sizes = torch.tensor([group.size for group in backbone.groups])
        block = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        assert float(upper[block[:, None] < block].abs().max() if len(sizes) > 1 else 0) == 0


@pytest.mark.parametrize("name", TINY)
def test_the_prior_of_u_is_standard_normal_and_that_of_z_differs_by_the_determinant(name):
    backbone = make(name)
    u = noise(backbone, 5)
    log_p: list[Tensor] = []
    with torch.no_grad():
        z = backbone.to_z(u)

        def pick(g: int, prior: Gaussian, state: Tensor) -> Tensor:
            log_p.append(prior.log_density(z[g]))
            return z[g]

        backbone.descend(pick, 5, finish=False)
        standard = torch.distributions.Normal(0, 1).log_prob(u).sum(1)
        expected = standard - backbone.log_det(u)
    torch.testing.assert_close(torch.stack(log_p).sum(0), expected, atol=1e-3, rtol=1e-5)


def test_the_kl_and_density_are_those_of_torch_distributions():
    stream = generator(0, "gaussians")
    mu, other = torch.randn(2, 4, 3, 2, 2, generator=stream)
    sigma, wide = torch.rand(2, 4, 3, 2, 2, generator=stream) + 0.1
    q, p = torch.distributions.Normal(mu, sigma), torch.distributions.Normal(other, wide)
    expected = torch.distributions.kl_divergence(q, p).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian(mu, sigma).kl(Gaussian(other, wide)), expected)
    z = torch.randn(4, 3, 2, 2, generator=stream)
    density = q.log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(Gaussian(mu, sigma).log_density(z), density)


@pytest.mark.parametrize("name", TINY)
def test_the_posterior_is_one_density_in_u_and_in_z(name):
    backbone = make(name)
    x, draws = images(4), 400
    with torch.no_grad():
        many = backbone.posterior(x.repeat(draws, 1, 1, 1), noise(backbone, 4 * draws, "many"))
        standard = torch.distributions.Normal(0, 1).log_prob(many.u_BD).sum(1)
        sampled = (many.log_q_B - standard).reshape(draws, 4)
        closed = many.kl_BG.sum(1).reshape(draws, 4)
    error = (sampled - closed).std(0) / draws**0.5
    assert ((sampled.mean(0) - closed.mean(0)).abs() < 5 * error + 1e-4).all()
    assert many.kl_BG.shape == (4 * draws, len(backbone.groups))
    torch.testing.assert_close(backbone.to_u(many.z), many.u_BD, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_encoding_follows_the_mean_path(name):
    backbone = make(name)
    x = images(3)
    with torch.no_grad():
        mean, logvar = backbone.encode(x)
        zero = torch.zeros(3, backbone.latent)
        torch.testing.assert_close(backbone.posterior(x, zero).u_BD, mean)
        shifted = backbone.posterior(x, noise(backbone, 3)).u_BD
    size = backbone.groups[0].size  # the group with nothing above it
    expected = mean[:, :size] + (0.5 * logvar[:, :size]).exp() * noise(backbone, 3)[:, :size]
    difference = float((shifted[:, :size] - expected).abs().max())
    assert difference > 1e-3 if backbone.has_flows else difference < 1e-5


@pytest.mark.parametrize("name", TINY)
def test_several_draws_of_one_encoding_are_those_of_the_posterior_to_the_bit(name):
    backbone = make(name)
    x, noises = images(3), [noise(backbone, 3, str(number)) for number in range(2)]
    with torch.no_grad():
        for e, u_BD in zip(noises, backbone.draws(x, noises), strict=True):
            assert torch.equal(u_BD, backbone.posterior(x, e).u_BD)


@pytest.mark.parametrize("name", TINY)
def test_one_pass_gives_what_drawing_and_decoding_give(name):
    backbone = make(name)
    x, e = images(3), noise(backbone, 3)
    with torch.no_grad():
        drawn, nll = backbone.draw_and_nll(x, e)
        again = backbone.reconstruction_nll(x, drawn.u_BD)
        torch.testing.assert_close(nll, again, atol=1e-2, rtol=1e-4)
        one = backbone.decode(drawn.u_BD, "sample", generator(0))
        assert one.shape == x.shape
        assert one.dtype == torch.uint8
        assert torch.equal(one, backbone.decode(drawn.u_BD, "sample", generator(0)))


@pytest.mark.parametrize("name", TINY)
def test_an_image_does_not_depend_on_its_batch(name):
    backbone = make(name)
    x = images(4)
    with torch.no_grad():
        together, _ = backbone.encode(x)
        alone, _ = backbone.encode(x[2:3])
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_learns(name):
    backbone = make(name).train()
    drawn, nll = backbone.draw_and_nll(images(4), noise(backbone, 4))
    (nll.mean() + drawn.kl_BG.sum(1).mean()).backward()
    silent = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", TINY)
def test_before_training_the_posterior_is_near_the_prior(name):
    backbone = make(name, perturb=False)
    with torch.no_grad():
        drawn = backbone.posterior(images(4), noise(backbone, 4))
    assert float(drawn.kl_BG.abs().max()) < 50
    assert torch.isfinite(drawn.u_BD).all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([{"conv": [1, 3]}], "size 3: the image is halved to 4, 2"),
        ([{"conv": [1, 4]}, {"conv": [1, 2]}], "dense groups first, then growing sizes"),
        ([{"conv": [1, 2]}, {"dense": 4}], "dense groups first"),
        ([{"conv": [1, 4]}], "the top one dense or of size 2"),
    ],
)
def test_groups_that_the_decoder_cannot_take_in_are_named(layers, message):
    content = {"arch": "hvae", "hvae": {"layers": layers, "widths": [4, 4]}}
    config = BackboneConfig.model_validate({**content, "training": {"updates": 1}})
    with pytest.raises(UsageError, match=message):
        build_backbone(config, META)


def test_text_has_no_hierarchical_model():
    content = {"arch": "hvae", "hvae": TINY["hvae"], "training": {"updates": 1}}
    with pytest.raises(UsageError, match="does not model sentences: set it to 'gru'"):
        build_backbone(BackboneConfig.model_validate(content), {"kind": "sentences"})
