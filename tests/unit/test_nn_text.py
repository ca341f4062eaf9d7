"""The text VAE: what it computes does not depend on how sentences are put into batches."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm.backbones.text import TextVAE
from ldebm.config import BackboneConfig
from ldebm.data.batches import collate_ids
from ldebm.seeding import generator

META = {"vocab_size": 30, "max_len": 12, "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
ROWS = [[2, 7, 9, 3], [2, 3], [2, 4, 5, 6, 7, 8, 3], [2, 9, 9, 1, 3], [2, 20, 3]]


def vae(dtype: torch.dtype = torch.float64, **changes: Any) -> TextVAE:
    settings: dict[str, Any] = {"arch": "gru", "latent": 4, "hidden": 8, "embed": 8}
    settings |= {"training": {"epochs": 1}, "init": "uniform"} | changes
    model = TextVAE(BackboneConfig(**settings), META, generator(0, "init"))
    with torch.no_grad():  # larger weights than at the start: sentences that differ
        for parameter in model.parameters():
            parameter.mul_(6)
    return model.to(dtype).eval()


def latents(rows: int = len(ROWS), samples: int | None = None) -> Tensor:
    shape = (rows, 4) if samples is None else (samples, rows, 4)
    return torch.randn(shape, generator=generator(0, "z", *shape), dtype=torch.float64)


def nll_by_definition(model: TextVAE, row: list[int], z: Tensor) -> Tensor:
    """One word at a time with nn.GRU's cell on [word; z]."""
    h, total = F.linear(z, model.initial.weight), z.new_zeros(())
    for word, target in pairwise(row):
        x = torch.cat([model.decoder_embedding[word], z])
        h = torch.gru_cell(x[None], h[None], *model.decoder.weights())[0]
        out = h if model.adapter is None else F.linear(h, model.adapter.weight)
        logits = model.decoder_embedding @ out
        total = total - F.log_softmax(logits, -1)[target]
    return total


@pytest.mark.parametrize("embed", [8, 5])
def test_reconstruction_is_the_sum_over_the_words_after_bos(embed: int) -> None:
    model, z = vae(embed=embed), latents()
    got = model.reconstruction_nll(collate_ids(ROWS), z)
    want = torch.stack([nll_by_definition(model, row, z[i]) for i, row in enumerate(ROWS)])
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_latents_come_in_the_order_asked_for_and_do_not_depend_on_the_batch() -> None:
    model = vae()
    mu, logvar = model.encode(collate_ids(ROWS))
    assert float(mu.detach().std(0).min()) > 1e-3
    for index, row in enumerate(ROWS):
        alone, alone_logvar = model.encode(collate_ids([row]))
        torch.testing.assert_close(mu[index], alone[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(logvar[index], alone_logvar[0], rtol=1e-10, atol=1e-10)


def test_encoding_from_vocabulary_tables_gives_the_same_latents() -> None:
    model = vae()
    with torch.no_grad():
        mu, logvar = model.encode(collate_ids(ROWS))
        with model.tables():
            table_mu, table_logvar = model.encode(collate_ids(ROWS))
    torch.testing.assert_close(table_mu, mu, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(table_logvar, logvar, rtol=1e-10, atol=1e-10)


def test_posterior_activation_can_be_left_out() -> None:
    with_it, without = vae(), vae(posterior_activation=False)
    batch = collate_ids(ROWS)
    assert float((with_it.encode(batch)[0] - without.encode(batch)[0]).abs().max().detach()) > 1e-3


def test_the_objective_has_the_right_gradient_in_latents_and_parameters() -> None:
    model = vae(hidden=3, embed=3)
    z = latents().requires_grad_()
    weigh = torch.rand(len(ROWS), generator=generator(0, "weigh"), dtype=torch.float64)
    batch = collate_ids(ROWS)
    inputs = [z, model.decoder_embedding, *model.decoder.weights(), model.initial.weight]
    got = torch.autograd.grad((model.reconstruction_nll(batch, z) * weigh).sum(), inputs)
    by_definition = torch.stack([nll_by_definition(model, row, z[i]) for i, row in enumerate(ROWS)])
    want = torch.autograd.grad((by_definition * weigh).sum(), inputs)
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("samples", [1, 3, 1500])
def test_the_matrix_of_many_samples_is_the_reconstruction_of_each(samples: int) -> None:
    model, batch = vae(), collate_ids(ROWS)
    z = latents(samples=samples)
    got = model.nll_matrix(batch, z)
    assert got.shape == (samples, len(ROWS))
    for index in {0, samples // 2, samples - 1}:
        want = model.reconstruction_nll(batch, z[index]).detach()
        torch.testing.assert_close(got[index], want, rtol=1e-10, atol=1e-10)


def test_greedy_decoding_writes_the_most_probable_word_until_eos() -> None:
    model, z = vae(), latents(6)
    for index, words in enumerate(model.decode(z)):
        h, previous = F.linear(z[index], model.initial.weight), META["bos_id"]
        for word in [*words, META["eos_id"]][: META["max_len"] - 2]:
            x = torch.cat([model.decoder_embedding[previous], z[index]])
            h = torch.gru_cell(x[None], h[None], *model.decoder.weights())[0]
            logits = model.decoder_embedding @ h
            logits[[META["pad_id"], META["bos_id"]]] = -torch.inf
            assert int(logits.argmax()) == word
            previous = word


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_a_sentence_is_written_the_same_alone_and_in_a_batch(mode: Any) -> None:
    model, z = vae(), latents(40)
    together = model.decode(z, mode, generator(0, "decode"))
    assert len({tuple(words) for words in together}) > 3
    assert max(map(len, together)) <= META["max_len"] - 2
    assert together == model.decode(z, mode, generator(0, "decode"))
    assert together[:1] == model.decode(z[:1], mode, generator(0, "decode"))


def test_sampling_follows_the_softmax() -> None:
    model = vae()
    z = latents(1).expand(4000, -1)
    words = model.decode(z, "sample", generator(0, "decode"), max_len=3)
    counts = torch.zeros(META["vocab_size"], dtype=torch.float64)
    for row in words:
        counts[row[0] if row else META["eos_id"]] += 1
    h = F.linear(z[0], model.initial.weight)
    x = torch.cat([model.decoder_embedding[META["bos_id"]], z[0]])
    h = torch.gru_cell(x[None], h[None], *model.decoder.weights())[0]
    logits = model.decoder_embedding @ h
    logits[[META["pad_id"], META["bos_id"]]] = -torch.inf
    expected = torch.softmax(logits, -1).detach()
    assert float((counts / len(words) - expected).abs().sum()) < 0.1


def test_dropout_follows_the_stream_and_is_off_in_evaluation() -> None:
    model, batch, z = vae(dropout=0.5).train(), collate_ids(ROWS), latents()
    values = []
    for seed in (0, 0, 1):
        model.stream = generator(seed, "dropout")
        values.append(model.reconstruction_nll(batch, z).detach())
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    model.eval()
    assert torch.equal(model.reconstruction_nll(batch, z), model.reconstruction_nll(batch, z))


def test_dropout_keeps_the_expectation() -> None:
    model = vae(dropout=0.25).train()
    model.stream = generator(0, "dropout")
    dropped = model._drop(torch.ones(300, 101))
    assert float((dropped == 0).double().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)


def test_training_with_dropout_needs_a_stream() -> None:
    with pytest.raises(ValueError, match="stream"):
        vae().train().reconstruction_nll(collate_ids(ROWS), latents())


def test_word_dropout_replaces_words_but_no_control_tokens() -> None:
    model = vae(word_dropout=0.5, dropout=0.0).train()
    model.stream = generator(0, "words")
    tokens = torch.tensor([2, 3, 0, 9] * 500)
    replaced = model._drop_words(tokens)
    assert torch.equal(replaced[tokens != 9], tokens[tokens != 9])
    share = float((replaced[tokens == 9] == META["unk_id"]).double().mean())
    assert share == pytest.approx(0.5, abs=0.07)


def test_uniform_initialisation_covers_every_parameter_and_follows_the_generator() -> None:
    config = BackboneConfig(arch="gru", latent=4, hidden=8, init="uniform", training={"epochs": 1})
    one, two = (TextVAE(config, META, generator(0, "init")) for _ in range(2))
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)
        assert float(left.abs().max().detach()) <= 0.1
        assert float(left.std().detach()) == pytest.approx(0.1 / 3**0.5, rel=0.5)


def test_bfloat16_training_stays_near_float32() -> None:
    batch, values = collate_ids(ROWS * 4), []
    for precision in ("float32", "bfloat16"):
        model = vae(
            torch.float32, hidden=64, embed=64, training={"epochs": 1, "precision": precision}
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.div_(4)
        model.train()
        model.stream = generator(0, "dropout")
        mu, _ = model.encode(batch)
        values.append(float(model.reconstruction_nll(batch, mu).mean().detach()))
    assert values[0] != values[1]
    assert values[1] == pytest.approx(values[0], rel=2e-3)


def test_sentences_without_words_cost_only_their_end() -> None:
    model, z = vae(), latents(2)
    got = model.reconstruction_nll(collate_ids([[2, 3], [2]]), z)
    assert float(got[0].detach()) > 0
    assert float(got[1].detach()) == 0


def test_likelihoods_with_rounded_products_are_near_the_exact_ones() -> None:
    model, batch = vae().float(), collate_ids(ROWS)
    z = latents(samples=50).float()
    exact, rounded = model.nll_matrix(batch, z), model.nll_matrix(batch, z, bfloat16=True)
    assert not torch.equal(exact, rounded)
    assert float((rounded - exact).abs().max()) < 0.01 * float(exact.abs().mean())
    assert abs(float((rounded - exact).mean())) < 0.002 * float(exact.abs().mean())


def test_latents_from_rounded_tables_are_near_the_exact_ones() -> None:
    model, batch = vae().float(), collate_ids(ROWS)
    with torch.no_grad():
        exact, _ = model.encode(batch)
        with model.tables(bfloat16=True):
            rounded, _ = model.encode(batch)
    assert not torch.equal(exact, rounded)
    assert float((rounded - exact).norm()) < 0.02 * float(exact.norm())


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_tables_do_not_change_what_is_written(mode: Any) -> None:
    model, z = vae(), latents(40)
    plain = model.decode(z, mode, generator(0, "decode"))
    with model.tables():
        for _ in range(2):
            assert model.decode(z, mode, generator(0, "decode")) == plain
