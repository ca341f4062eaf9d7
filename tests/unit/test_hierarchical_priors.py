"""Priors on u: gradients through T, the public code's step, labels, and an exactly known case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldebm.config import ExperimentConfig, PriorConfig
from ldebm.errors import UsageError
from ldebm.evaluate.quadrature import prior_grid
from ldebm.hierarchical_priors import GroupDiffusionPrior
from ldebm.image_prior_task import ImagePriorTask
from ldebm.nn.group_energy import GroupEnergies
from ldebm.nn.hierarchy import HierarchicalBackbone
from ldebm.priors import Prior, build_prior
from ldebm.seeding import generator
from ldebm.trainer import train
from tests.unit.image_worlds import LinearGaussian, packed_images, tiny_hvae

ENERGY = {
    "hidden": 16,
    "blocks": 2,
    "activation": "silu",
    "spectral_norm": False,
    "init": "orthogonal",
}

EVERY_LEVEL = {"inputs": "context", "label_groups": [0, 1], "label_levels": "all",
               "label_sampling": "langevin", "cached_draws": 4}  # fmt: skip


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


@pytest.mark.parametrize("inputs", ["z", "context", "u"])
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_the_gradient_of_a_chain_is_that_of_the_energies_through_t(
    inputs: str, spectral_norm: bool
) -> None:
    backbone = tiny_hvae().double()
    prior = make(
        backbone,
        energy=ENERGY | {"spectral_norm": spectral_norm},
        hierarchy={"channels": 4, "inputs": inputs},
    ).double()
    shifted(prior)
    v = torch.randn(5, prior.latent, generator=generator(0, "v"), dtype=torch.float64)
    t = torch.tensor([0, 1, 5, 3, 2])
    with torch.no_grad():
        value, gradient = prior.net.fold().value_and_gradient(v, t)
    direction = torch.randn(v.shape, generator=generator(1, "v"), dtype=torch.float64)
    near = [prior.negative_energy(v + step * direction, t) for step in (1e-5, -1e-5)]
    torch.testing.assert_close(value, prior.negative_energy(v, t))
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


def test_the_published_step_is_the_public_codes_update_of_u() -> None:
    """MR 6.3: u <- u + grad F / 2 - s^2 (u + r a (a u - u_{t+1}) / sigma^2) / 2 + s e."""
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


def test_attributes_are_independent_given_u() -> None:
    prior = make(
        classes=4, hierarchy={"channels": 4, "attributes": {"smiling": [1, 2], "male": [0]}}
    )
    prior.backbone.double()
    v = torch.randn(6, prior.latent, generator=generator(0, "v"), dtype=torch.float64)
    net: GroupEnergies = prior.net
    outputs = net.fold().each(prior.place(v, 0), 0)
    assert [output.shape[1] for output in outputs] == [2, 2, 2]
    p = torch.softmax(prior.net(v, 0), 1)
    male = torch.softmax(outputs[0], 1)
    smiling = torch.softmax(outputs[1] + outputs[2], 1)
    torch.testing.assert_close(p, (male[:, :, None] * smiling[:, None, :]).flatten(1))
    among = net.fold().among([2, 3])
    torch.testing.assert_close(
        torch.logsumexp(among.logits(v, 0), 1),
        torch.logsumexp(prior.net(v, 0), 1) + male[:, 1].log(),
    )


def test_rows_with_a_class_have_the_energy_of_their_class() -> None:
    hierarchy = EVERY_LEVEL | {"label_groups": [0, 2]}
    prior = make(tiny_hvae().double(), classes=3, hierarchy=hierarchy).double()
    own_B = torch.tensor([2, -1, 0, 1])
    v = torch.randn(4, prior.latent, generator=generator(0, "v"), dtype=torch.float64)
    folded = prior.net.fold()
    logits = folded.logits(v, 1)
    wanted = torch.stack([logits[0, 2], logits[1].logsumexp(0), logits[2, 0], logits[3, 1]])
    value, gradient = folded.given(own_B).value_and_gradient(v, 1)
    torch.testing.assert_close(value, wanted)
    small = 1e-6 * torch.randn(v.shape, generator=generator(1, "v"), dtype=torch.float64)
    after, _ = folded.given(own_B).value_and_gradient(v + small, 1)
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


# --- A two-layer linear-Gaussian generator, where the aggregate posterior is known exactly.


def mixture_images(apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """300 pictures of 1 x 2 pixels in two heaps, and which heap each is in."""
    stream = np.random.default_rng(0)
    heap = np.arange(300) % 2
    centre = np.where(heap[:, None] == 0, [-0.22, 0.12], [0.2, 0.02])
    x = apart * centre + 0.06 * stream.standard_normal((300, 2))
    return ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8).reshape(300, 1, 1, 2), heap


def experiment(updates: int, **prior: Any) -> ExperimentConfig:
    section: dict[str, Any] = {
        "levels": 3,
        "classes": 2,
        "energy": ENERGY | {"hidden": 32, "blocks": 2},
        "standardise": "diagonal",
        "mi_weight": 0.0,
        "class_weight": 0.5,
        "sampler": {"steps": 10},
        "hierarchy": {"inputs": "context", "label_groups": [0], "cached_draws": 4},
        "score_matching": 0.75,
        "training": {
            "updates": updates,
            "batch": 256,
            "validate_every": None,
            "optimiser": {
                "lr": 2e-3,
                "betas": [0.9, 0.99],
                "clip": 1.0,
                "schedule": "linear",
                "ema": 0.99,
            },
        },
    } | prior
    content = {
        "data": "two-heaps",
        "backbone": {
            "arch": "hvae",
            "hvae": {"layers": [{"dense": 1}], "widths": [1]},
            "training": {"updates": 1},
        },
        "cluster": {"labels": "given", "column": "heap"},
        "prior": section,
    }
    return ExperimentConfig.model_validate(content)


def trained(
    tmp_path: Path, updates: int, apart: float = 1.0, **prior: Any
) -> tuple[Any, np.ndarray]:
    images, heap = mixture_images(apart)
    split = packed_images(tmp_path / "packed", images, {"heap": heap}).split("train")
    config = experiment(updates, **prior)
    learnt: Any = build_prior(LinearGaussian(), config.prior, generator(0, "prior-init"))
    task = ImagePriorTask(learnt, split, heap.astype(np.int64), config, 0, torch.device("cpu"))
    result = train(task, config.prior.training, None, title="test")
    learnt.load_state_dict(result.state)
    return learnt.eval(), images


def divergence(prior: Any, images: np.ndarray) -> float:
    """KL(aggregate posterior || prior) in nats, by quadrature."""
    grid = prior_grid(prior, prior.to_standard(_draws(prior, images)))
    axis = grid.axis_G
    u = torch.cartesian_prod(axis, axis)
    log_q = prior.backbone.aggregate_log_density(prior.from_standard(u), images)
    log_q = log_q + prior.log_det()
    mass = torch.softmax(log_q, 0)
    assert float(torch.logsumexp(log_q, 0).exp() * grid.cell**2) == pytest.approx(1, abs=0.01)
    log_p = grid.mass_GG.flatten().clamp(min=1e-30).log()
    return float((mass * (mass.clamp(min=1e-30).log() - log_p)).sum())


def _draws(prior: Any, images: np.ndarray) -> Tensor:
    x = torch.from_numpy(images).float().div(127.5).sub(1)
    noise = torch.randn(len(x), 2, generator=generator(9, "draws"))
    drawn: Tensor = prior.backbone.posterior(x, noise).u_BD
    return drawn


@pytest.mark.parametrize(
    "hierarchy",
    [
        {"inputs": "context", "label_groups": [0], "cached_draws": 4},
        EVERY_LEVEL | {"label_training": "class"},
    ],
)
def test_the_learnt_prior_is_the_exact_aggregate_posterior(
    tmp_path: Path, hierarchy: dict[str, Any]
) -> None:
    prior, images = trained(tmp_path, 600, hierarchy=hierarchy)
    reference: Any = build_prior(
        LinearGaussian(), PriorConfig.model_validate({"kind": "gaussian", "standardise": "none",
                                                      "training": {"updates": 1}})
    )  # fmt: skip
    assert divergence(reference, images) > 0.3
    assert divergence(prior, images) < 0.05
    drawn = prior.sample(2000, generator(1, "sample"))
    again = torch.cat([_draws(prior, images) for _ in range(4)])
    torch.testing.assert_close(drawn.mean(0), again.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(0), again.std(0), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("training", "sampling"), [("logits", "langevin"), ("class", "langevin"), ("class", "filtered")]
)
def test_conditional_samples_fall_into_their_heap(
    tmp_path: Path, training: str, sampling: str
) -> None:
    hierarchy = EVERY_LEVEL | {"label_training": training, "label_sampling": sampling}
    prior, images = trained(tmp_path, 400, apart=2.0, hierarchy=hierarchy)
    centre = [_draws(prior, images[heap::2]).mean(0) for heap in (0, 1)]
    for heap in (0, 1):
        u = prior.sample(300, generator(heap, "class"), label=heap)
        own, other = ((u - centre[k]).norm(dim=1) for k in (heap, 1 - heap))
        assert float((own < other).float().mean()) > 0.95


@pytest.mark.parametrize("sampler", ["sir", "langevin"])
def test_the_contrastive_prior_resamples_towards_the_aggregate_posterior(
    tmp_path: Path, sampler: str
) -> None:
    prior, images = trained(
        tmp_path,
        300,
        kind="nce",
        score_matching=0.0,
        sampler={"steps": 40},
        standardise="none",
        hierarchy={"inputs": "context", "nce_sampler": sampler, "cached_draws": 4},
    )
    drawn = prior.sample(2000, generator(0, "sample"))
    wanted = torch.cat([_draws(prior, images) for _ in range(4)])
    assert float((drawn.mean(0) - wanted.mean(0)).abs().max()) < 0.15
    assert float((torch.cov(drawn.t()) - torch.cov(wanted.t())).abs().max()) < 0.25


def test_a_resumed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    images, heap = mixture_images()
    split = packed_images(tmp_path / "packed", images, {"heap": heap}).split("train")
    config = experiment(30, hierarchy={"label_groups": [0]})
    states = []
    for stop in (None, 21):
        checkpoint = None if stop is None else tmp_path / "prior.pt"
        for last in (True,) if stop is None else (False, True):
            prior = build_prior(LinearGaussian(), config.prior, generator(0, "prior-init"))
            task = ImagePriorTask(
                prior,  # type: ignore[arg-type]
                split,
                heap.astype(np.int64),
                config,
                0,
                torch.device("cpu"),
            )
            training = config.prior.training
            if last:
                result = train(task, training, checkpoint, title="test")
            else:
                with pytest.raises(SystemExit):
                    train(task, training, checkpoint, title="test", stop_after=stop)
        states.append(result.state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
