"""Priors on u: gradients through T, where chains start and step, labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldebm.assembly import build_prior
from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import PriorConfig
from ldebm.errors import UsageError
from ldebm.priors import Prior
from ldebm.priors.group_energy_net import GroupEnergies
from ldebm.priors.hierarchical import GroupDiffusionPrior
from ldebm.seeding import generator
from ldebm.training.prior_objectives import prior_terms
from tests.unit.image_worlds import ENERGY, EVERY_LEVEL, LinearGaussian, tiny_hvae


def make(backbone: HierarchicalBackbone | None = None, **changes: Any) -> Any:
    content: dict[str, Any] = {
        "training": {"updates": 1},
        "energy": ENERGY,
        "standardise": "diagonal",
        "hierarchy": {"channels": 4},
    } | changes
    prior = build_prior(
        backbone or tiny_hvae(), PriorConfig.model_validate(content), generator(0, "prior")
    )
    return prior.double() if backbone is None else prior


def shifted(prior: Prior) -> None:
    """Standardisation and input statistics that are not those of N(0, I)."""
    stream = generator(3, "shifted")
    u = torch.randn(400, prior.latent, generator=stream).to(prior.shift_D.dtype)
    prior.fit_draws(0.5 + 1.5 * u)  # type: ignore[operator]


def two_groups(n: int, latent: int, name: str) -> torch.Tensor:
    """Draws of a mixture: around 2 with probability 1/4, else around -1, spread 0.3."""
    stream = generator(0, name)
    near = torch.where(torch.rand(n, 1, generator=stream) < 0.25, 2.0, -1.0)
    return near + 0.3 * torch.randn(n, latent, generator=stream)


def tilted(prior: Any) -> Any:
    """The same prior with its standardisation and base measure fitted to :func:`two_groups`."""
    draws = [two_groups(4000, prior.latent, name).to(prior.shift_D) for name in ("train", "valid")]
    prior.fit_draws(draws[0])
    prior.fit_mixture(*draws, 0)
    return prior


MIXTURE = {"base_measure": "mixture", "mixture": {"components": [2]}}


@pytest.mark.parametrize("inputs", ["z", "context", "u"])
@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("base_measure", ["normal", "mixture"])
def test_the_gradient_of_a_chain_is_that_of_the_energies_through_t(
    inputs: str, spectral_norm: bool, base_measure: str
) -> None:
    backbone = tiny_hvae().double()
    prior = make(
        backbone,
        energy=ENERGY | {"spectral_norm": spectral_norm},
        hierarchy={"channels": 4, "inputs": inputs},
        **(MIXTURE if base_measure == "mixture" else {}),
    ).double()
    if base_measure == "mixture":
        tilted(prior)
    shifted(prior)
    v = torch.randn(5, prior.latent, generator=generator(0, "v"), dtype=torch.float64)
    t = torch.tensor([0, 1, 5, 3, 2])
    with torch.no_grad():
        value, gradient = prior.net.freeze().value_and_gradient(v, t)
    direction = torch.randn(v.shape, generator=generator(1, "v"), dtype=torch.float64)
    near = [prior.negative_energy(v + step * direction, t) for step in (1e-5, -1e-5)]
    torch.testing.assert_close(value, prior.negative_energy(v, t))
    with torch.no_grad():
        by_group = prior.net.freeze().group_energies(v, t)
    torch.testing.assert_close(by_group.sum(1), value)
    difference = (near[0] - near[1]) / 2e-5
    torch.testing.assert_close((gradient * direction).sum(1), difference, rtol=1e-5, atol=1e-8)


def test_small_convolutional_groups_may_be_read_flat() -> None:
    prior = make(hierarchy={"channels": 4, "flat": 8, "inputs": "context"})
    inputs = [getattr(prior.net, f"mean_{g}").shape[0] for g in range(3)]
    assert inputs == [3, 3 + 2 * 2 * 2, 2 * 2]  # dense, flat with what is above, z and u as maps


def test_a_constant_network_samples_the_reference() -> None:
    prior = make(LinearGaussian(), sampler={"steps": 6}, levels=3)
    with torch.no_grad():
        for net in prior.net.nets:
            net.output.weight.zero_()
    shifted(prior)
    u = prior.sample(6000, generator(1, "sample"))
    torch.testing.assert_close(u.mean(0), prior.shift_D, atol=0.06, rtol=0)
    torch.testing.assert_close(u.std(0), prior.scale_D, atol=0, rtol=0.03)


@pytest.mark.parametrize("kind", ["diffusion", "svebm"])
def test_a_constant_network_samples_the_mixture_that_it_tilts(kind: str) -> None:
    sampler = {"steps": 4, "start": "base"}
    prior = make(LinearGaussian(), kind=kind, sampler=sampler, levels=4, **MIXTURE)
    with torch.no_grad():
        for net in prior.net.nets:
            net.output.weight.zero_()
    tilted(prior)
    u = prior.sample(8000, generator(1, "sample"))
    high = u.mean(1) > 0.5
    assert float(high.float().mean()) == pytest.approx(0.25, abs=0.02)
    for part, mean in ((u[high], 2.0), (u[~high], -1.0)):
        torch.testing.assert_close(part.mean(0), torch.full((2,), mean), atol=0.04, rtol=0)
        torch.testing.assert_close(part.std(0), torch.full((2,), 0.3), atol=0.02, rtol=0)


def test_a_mixture_of_too_many_latents_is_refused() -> None:
    with pytest.raises(UsageError, match="134 latents, full covariances are fitted up to 128"):
        make(tiny_hvae([{"dense": 126}, {"conv": [2, 2]}]), **MIXTURE)


def test_the_published_step_is_the_public_codes_update_of_u() -> None:
    """u <- u + grad F / 2 - s^2 (u + r a (a u - u_{t+1}) / sigma^2) / 2 + s e.

    docs/method.md, section 3.2.
    """
    sampler = {
        "method": "ula",
        "steps": 1,
        "rule": "published",
        "delta": 3e-3,
        "start": "previous",
    }
    prior: GroupDiffusionPrior = make(
        standardise="none", energy_scale="code", levels=3, sampler=sampler, t_weight="step"
    )
    prior.backbone.double()
    u_next = torch.randn(4, prior.latent, generator=generator(0, "u"), dtype=torch.float64)
    schedule = prior.schedule
    for t in range(3):
        t_B = torch.full((4,), t)
        u = prior.chain(u_next, t_B, generator(2, "noise")).x_BD / float(schedule.scale[t + 1])
        step2 = schedule.sbar[t] / schedule.sbar[0] * 3e-3 * schedule.sigma[t + 1] ** 2
        noise = torch.randn(u.shape, generator=generator(2, "noise"), dtype=torch.float64)
        start = u_next.clone().requires_grad_()
        scale = float(schedule.scale[t + 1])
        (force,) = torch.autograd.grad(prior.negative_energy(scale * start, t_B).sum(), start)
        a, sigma = schedule.a[t + 1], schedule.sigma[t + 1]
        pull = start + (0 if t == 2 else 1) * a * (a * start - u_next) / sigma**2
        wanted = start + 0.5 * force - 0.5 * step2 * pull + step2**0.5 * noise
        torch.testing.assert_close(u, wanted.detach(), rtol=1e-6, atol=1e-8)
        assert float(prior.weight_T()[t]) == pytest.approx(1 / step2)


def test_chains_of_training_start_at_the_data_where_that_is_asked_for() -> None:
    still = {"steps": 1, "method": "ula", "step": 1e-14}
    starts = {}
    for start in ("same", "data"):
        prior = make(tiny_hvae().double(), sampler=still | {"training_start": start}).double()
        u = torch.randn(8, prior.latent, generator=generator(0, "u"), dtype=torch.float64)
        terms, chain, pairs = prior_terms(prior, u, None, generator(1, "terms"))
        starts[start] = float((chain.x_BD - pairs.v_BD).abs().max())
        if start == "data":
            assert float(terms.parts["contrastive"]) == pytest.approx(0, abs=1e-5)
    assert starts["data"] < 1e-5 < 0.1 < starts["same"]


def test_attributes_are_independent_given_u() -> None:
    prior = make(
        classes=4, hierarchy={"channels": 4, "attributes": {"smiling": [1, 2], "male": [0]}}
    )
    prior.backbone.double()
    v = torch.randn(6, prior.latent, generator=generator(0, "v"), dtype=torch.float64)
    net: GroupEnergies = prior.net
    outputs = net.freeze().each(prior.place(v, 0), 0)
    assert [output.shape[1] for output in outputs] == [2, 2, 2]
    p = torch.softmax(prior.net(v, 0), 1)
    male = torch.softmax(outputs[0], 1)
    smiling = torch.softmax(outputs[1] + outputs[2], 1)
    torch.testing.assert_close(p, (male[:, :, None] * smiling[:, None, :]).flatten(1))
    among = net.freeze().among([2, 3])
    torch.testing.assert_close(
        torch.logsumexp(among.logits(v, 0), 1),
        torch.logsumexp(prior.net(v, 0), 1) + male[:, 1].log(),
    )


def test_rows_with_a_class_have_the_energy_of_their_class() -> None:
    hierarchy = EVERY_LEVEL | {"label_groups": [0, 2]}
    prior = make(tiny_hvae().double(), classes=3, hierarchy=hierarchy).double()
    class_B = torch.tensor([2, -1, 0, 1])
    v = torch.randn(4, prior.latent, generator=generator(0, "v"), dtype=torch.float64)
    frozen = prior.net.freeze()
    logits = frozen.logits(v, 1)
    wanted = torch.stack([logits[0, 2], logits[1].logsumexp(0), logits[2, 0], logits[3, 1]])
    value, gradient = frozen.conditioned_on(class_B).value_and_gradient(v, 1)
    torch.testing.assert_close(value, wanted)
    small = 1e-6 * torch.randn(v.shape, generator=generator(1, "v"), dtype=torch.float64)
    after, _ = frozen.conditioned_on(class_B).value_and_gradient(v + small, 1)
    torch.testing.assert_close(after - value, (gradient * small).sum(1), atol=1e-10, rtol=1e-3)
    with pytest.raises(ValueError, match="needs label_levels 'all'"):
        make(hierarchy={"label_groups": [0], "label_training": "class"})


def test_a_label_on_a_missing_group_is_refused() -> None:
    with pytest.raises(UsageError, match="a label is put on group 7; the backbone has groups 0 to"):
        make(hierarchy={"label_groups": [7]})


def test_the_backbone_is_no_part_of_the_priors_tensors() -> None:
    prior = make()
    assert not [name for name in prior.state_dict() if "backbone" in name or "_held" in name]
    assert not any(parameter.requires_grad for parameter in prior.backbone.parameters())
