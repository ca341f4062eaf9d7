"""The document model: word counts, background frequencies, and its likelihood by definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.assembly import build_backbone
from ldebm.backbones.documents import BagVAE
from ldebm.config import BackboneConfig
from ldebm.data.batches import BagBatch, collate_bags, collate_documents, make_batch
from ldebm.errors import UsageError
from ldebm.seeding import generator
from tests.unit.text_worlds import packed_documents

META = {"kind": "documents", "vocab_size": 12}
BAGS = [([4, 7, 9], [1, 2, 1]), ([], []), ([5], [3])]


def batch(rows: list[int] | None = None) -> BagBatch:
    rows = [0, 1, 2] if rows is None else rows
    return collate_bags([(np.array(BAGS[i][0], dtype=int), np.array(BAGS[i][1])) for i in rows])


def vae(**changes: Any) -> BagVAE:
    content: dict[str, Any] = {"arch": "bow", "latent": 3, "hidden": 6, "layers": 2}
    config = BackboneConfig(**(content | {"training": {"epochs": 1}} | changes))
    model = build_backbone(config, META, generator(0, "bow"))
    assert isinstance(model, BagVAE)
    with torch.no_grad():
        model.background_V.copy_(torch.linspace(-3, 0, 12))
        model.normalise.running_mean.uniform_(-1, 1, generator=generator(1))
    return model.double().eval()


def test_the_likelihood_is_that_of_independent_words_with_the_background_added() -> None:
    model = vae()
    z = torch.randn(3, 3, generator=generator(2), dtype=torch.float64)
    got = model.reconstruction_nll(batch(), z)
    p_BV = torch.softmax(model.logits(z), -1)
    for i, (words, counts) in enumerate(BAGS):
        want = -sum(
            c * float(p_BV[i, w].detach().log()) for w, c in zip(words, counts, strict=True)
        )
        assert float(got[i].detach()) == pytest.approx(want, rel=1e-9)
    with torch.no_grad():
        for layer in model.decoder:
            layer.weight.zero_()
            layer.bias.zero_()
        model.normalise.running_mean.zero_()
        torch.testing.assert_close(model.logits(z), model.background_V.expand(3, -1))


def test_encodings_are_those_of_the_dense_counts_and_do_not_depend_on_the_batch() -> None:
    model = vae()
    mu, logvar = model.encode(batch())
    dense = torch.zeros(3, 12, dtype=torch.float64)
    for i, (words, counts) in enumerate(BAGS):
        for word, count in zip(words, counts, strict=True):
            dense[i, word] = count
    h = torch.relu(dense @ model.words + model.words_bias)
    h = torch.relu(model.encoder[0](h))
    torch.testing.assert_close(mu, model.mean(h))
    for i in range(3):
        torch.testing.assert_close(model.encode(batch([i]))[0][0], mu[i])
        torch.testing.assert_close(model.encode(batch([i]))[1][0], logvar[i])


def test_the_matrix_of_many_samples_is_the_likelihood_of_each() -> None:
    model = vae()
    z = torch.randn(600, 3, 3, generator=generator(3), dtype=torch.float64)
    got = model.nll_matrix(batch(), z)
    for index in (0, 299, 599):
        want = model.reconstruction_nll(batch(), z[index]).detach()
        torch.testing.assert_close(got[index], want)


def test_the_scale_of_the_normalisation_stays_one() -> None:
    model = vae().train()
    model.stream = generator(0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        z = torch.randn(3, 3, generator=generator(4), dtype=torch.float64)
        (model.reconstruction_nll(batch(), z).sum() + model.encode(batch())[0].sum()).backward()
        optimiser.step()
    assert model.normalise.weight.tolist() == [1.0] * 12
    assert float(model.normalise.bias.detach().abs().max()) > 0


def test_packed_documents_are_read_as_bags(tmp_path: Path) -> None:
    packed = packed_documents(tmp_path / "packed")
    split = packed.split("test")
    rows = np.array([5, 0, 7])
    batch = make_batch(split, rows, torch.device("cpu"))
    assert isinstance(batch, BagBatch)
    direct = collate_documents(split, rows)
    torch.testing.assert_close(batch.words_N, direct.words_N)
    assert float(batch.counts_N.sum()) == 30
    model = build_backbone(
        BackboneConfig(arch="bow", latent=3, hidden=6, training={"epochs": 1}), packed.meta
    )
    model.prepare(packed)
    assert isinstance(model, BagVAE)
    assert float(model.background_V.exp().sum()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(UsageError, match="'bow'"):
        build_backbone(BackboneConfig(arch="gru", latent=3, training={"epochs": 1}), packed.meta)


def test_topics_are_the_words_that_gain_over_the_background() -> None:
    model = vae()
    z = torch.randn(2, 3, generator=generator(5), dtype=torch.float64)
    words = model.decode(z, max_len=4)
    assert [len(row) for row in words] == [4, 4]
    log_p = torch.log_softmax(model.logits(z), -1)
    gain = log_p.exp() * (log_p - model.background_V)
    assert words[0] == gain[0].argsort(descending=True)[:4].tolist()
    drawn = model.decode(z, "sample", generator(6))
    assert drawn == model.decode(z, "sample", generator(6))
