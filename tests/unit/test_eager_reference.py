"""The published procedure in plain PyTorch gives what the fast code gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.eager import EagerLDEBM
from benchmarks.images import random_images
from benchmarks.problems import META, PUBLISHED, SyntheticSplit
from ldebm.backbones.text import TextVAE
from ldebm.config import ExperimentConfig
from ldebm.data.batches import collate, make_batch
from ldebm.priors import DiffusionPrior
from ldebm.seeding import generator, numpy_generator
from ldebm.training.latents import encode_split
from ldebm.training.prior_objectives import joint_terms

LATENT, CLASSES, ROWS = 4, 3, 7
World = tuple[TextVAE, DiffusionPrior, EagerLDEBM, SyntheticSplit]


@pytest.fixture(scope="module")
def world() -> World:
    meta = META | {"vocab_size": 40, "max_len": 12}
    training = {"epochs": 1, "batch": ROWS}
    backbone: dict[str, Any] = {"arch": "gru", "latent": LATENT, "hidden": 16, "init": "uniform"}
    backbone |= {"embed": 16, "training": training}
    prior: dict[str, Any] = {"scheme": "joint", "standardise": "none", "classes": CLASSES}
    prior["training"] = training
    prior |= {"sampler": PUBLISHED | {"steps": 3}, "t_sampling": "published", "base": False}
    prior |= {"t_weight": "published", "energy_scale": "code", "log_normaliser": False}
    prior["energy"] = {"hidden": 8, "blocks": 2}
    config = ExperimentConfig.model_validate({"data": "ptb", "backbone": backbone, "prior": prior})
    model = TextVAE(config.backbone, meta, generator(0, "model")).eval()
    energies = DiffusionPrior(LATENT, config.prior, generator(0, "prior")).eval()
    eager = EagerLDEBM(model, energies, config.backbone.entropy_mask)
    eager.vae.eval()
    eager.energy.eval()
    draws = numpy_generator(0, "rows")
    lengths = draws.integers(3, 13, ROWS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = draws.integers(4, 40, offsets[-1])
    ids[offsets[:-1]], ids[offsets[1:] - 1] = meta["bos_id"], meta["eos_id"]
    return model, energies, eager, SyntheticSplit(meta, ROWS, ids, offsets, np.empty((0, 2)))


def test_its_features_are_those_of_the_fast_encoder(world: World):
    model, _, eager, split = world
    batch = collate(split, np.arange(ROWS))
    tokens, lengths = eager.vae.padded(batch), torch.from_numpy(split.lengths)
    mean, _ = eager.vae.encode(tokens, lengths)
    fast, _ = encode_split(model, split, torch.device("cpu"))
    np.testing.assert_allclose(mean.detach().numpy(), fast, atol=1e-5)


def test_its_likelihood_of_many_samples_is_that_of_the_fast_one(world: World):
    model, _, eager, split = world
    batch, noise = collate(split, np.array([2])), torch.randn(150, LATENT)
    mu, logvar = model.encode(batch)
    z = mu + (0.5 * logvar).exp() * noise
    plain = eager.vae.nll_samples(torch.from_numpy(split.row(2)), noise)
    torch.testing.assert_close(
        plain[:, None], model.nll_matrix(batch, z[:, None]), rtol=1e-5, atol=1e-4
    )


def test_it_writes_the_same_sentences(world: World):
    model, _, eager, _ = world
    z = 5 * torch.randn(9, LATENT, generator=generator(0, "z"))
    assert eager.vae.write(z) == model.decode(z)


def test_its_samples_are_those_of_the_fast_chains(world: World):
    _, prior, eager, _ = world
    fast = prior.sample_standard(5, generator(0, "sample"))
    torch.testing.assert_close(eager.sample(5, generator(0, "sample")), fast, rtol=1e-4, atol=1e-4)


def test_the_gradients_of_an_update_are_those_of_the_fast_one(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    model, prior, eager, split = world
    batch, labels = collate(split, np.arange(ROWS)), torch.arange(ROWS) % CLASSES
    noise = torch.randn(ROWS, LATENT, generator=generator(0, "noise"))
    mu, logvar = model.encode(batch)
    z = mu + (0.5 * logvar).exp() * noise
    nll = model.reconstruction_nll(batch, z)
    stream = generator(0, "terms")
    terms, chain, _ = joint_terms(prior, nll, mu, logvar, z, labels, stream, eager.mask)
    # Both chains of the fast code are one batch, with other draws: here it has the same states.
    monkeypatch.setattr(eager, "negative", lambda *_: chain.x_BD)
    tokens, lengths = eager.vae.padded(batch), torch.from_numpy(split.lengths)
    plain = eager.loss(tokens, labels, noise, generator(0, "terms"), lengths)
    torch.autograd.backward(plain)
    torch.autograd.backward(terms.total)
    for own, copy in (
        (model.decoder_embedding.grad, eager.vae.decoder_words.grad),
        (model.mean.weight.grad, eager.vae.mean.weight.grad),
        (prior.net.output.weight.grad, eager.energy.output[1].weight_orig.grad),
        (prior.net.merge.weight.grad, eager.energy.merge.weight_orig.grad),
    ):
        torch.testing.assert_close(own, copy, rtol=1e-3, atol=1e-5)


def test_made_up_images_are_read_as_images() -> None:
    batch = make_batch(random_images(8, 3), np.arange(5), torch.device("cpu"))
    assert batch.shape == (5, 3, 8, 8)
