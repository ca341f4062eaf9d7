"""Models with LSTM cells and contexts: packing changes nothing, and contexts reach every part."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldebm.backbones.dialogue import DialogueVAE
from ldebm.backbones.recurrent import RecurrentVAE
from ldebm.config import BackboneConfig
from ldebm.data.batches import DialogueBatch, collate_ids, with_turns
from ldebm.errors import UsageError
from ldebm.seeding import generator

META = {
    "vocab_size": 30, "max_len": 12, "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3,
    "context_turns": 3,
}  # fmt: skip
ROWS = [[2, 7, 9, 3], [2, 3], [2, 4, 5, 6, 7, 8, 3], [2, 9, 9, 1, 3], [2, 20, 3]]
TURNS: list[list[list[int]]] = [
    [[2, 5, 3]],
    [],
    [[2, 6, 7, 3], [2, 8, 3], [2, 9, 10, 11, 3]],
    [[2, 12, 3], [2, 13, 14, 3]],
    [[2, 15, 3]],
]


def settings(arch: str, **changes: Any) -> BackboneConfig:
    content: dict[str, Any] = {"arch": arch, "latent": 4, "hidden": 8, "embed": 6}
    content |= {"training": {"epochs": 1}, "init": "uniform", "cell": "lstm"}
    if arch == "dialogue":
        content["context"] = {"utterance": 5, "hidden": 7}
    return BackboneConfig(**(content | changes))


def vae(arch: str = "rnn", **changes: Any) -> Any:
    kind = DialogueVAE if arch == "dialogue" else RecurrentVAE
    model = kind(settings(arch, **changes), META, generator(0, "init"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model.double().eval()


def dialogue(rows: list[int] | None = None) -> DialogueBatch:
    rows = list(range(len(ROWS))) if rows is None else rows
    flat = [turn for row in rows for turn in TURNS[row]]
    turns = collate_ids(flat) if flat else None
    batch = collate_ids([ROWS[row] for row in rows])
    return with_turns(batch, turns, [len(TURNS[row]) for row in rows])


def latents(*shape: int) -> Tensor:
    return torch.randn(*shape, 4, generator=generator(0, "z", *shape), dtype=torch.float64)


def nll_by_definition(model: Any, row: list[int], z: Tensor, c: Tensor | None) -> Tensor:
    """One word at a time with torch's cells."""
    state = [part[None] for part in model.start(z).chunk(model.decoder.states)]
    rnn, total = model.decoder.rnn, z.new_zeros(())
    weights = [rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0]
    for word, target in pairwise(row):
        x = torch.cat([model.decoder_embedding[word], z])[None]
        if c is not None:
            x = x + model.to_inputs(c)
        if model.decoder.states == 2:
            state = list(torch.lstm_cell(x, state, *weights))
        else:
            state = [torch.gru_cell(x, state[0], *weights)]
        h = state[0][0]
        out = h if model.adapter is None else model.adapter(h)
        weight = model.decoder_embedding if model.output is None else model.output
        total = total - F.log_softmax(weight @ out, -1)[target]
    return total


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("tied", [True, False])
def test_reconstruction_is_the_sum_over_the_words_after_bos(cell: str, tied: bool) -> None:
    model, z = vae(cell=cell, tied=tied), latents(len(ROWS))
    got = model.reconstruction_nll(collate_ids(ROWS), z)
    want = [nll_by_definition(model, row, z[i], None) for i, row in enumerate(ROWS)]
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", ["rnn", "dialogue"])
def test_latents_contexts_and_likelihoods_do_not_depend_on_the_batch(arch: str) -> None:
    model, z = vae(arch), latents(len(ROWS))
    mu, logvar = model.encode(dialogue())
    nll = model.reconstruction_nll(dialogue(), z)
    assert float(mu.detach().std(0).min()) > 1e-3
    for i in range(len(ROWS)):
        alone = dialogue([i])
        torch.testing.assert_close(model.encode(alone)[0][0], mu[i], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.encode(alone)[1][0], logvar[i], rtol=1e-10, atol=1e-10)
        own = model.reconstruction_nll(alone, z[i : i + 1])[0]
        torch.testing.assert_close(own, nll[i], rtol=1e-10, atol=1e-10)
        if arch == "dialogue":
            context = model.context(alone)[0]
            torch.testing.assert_close(context, model.context(dialogue())[i])


def test_the_context_is_attention_over_words_and_a_gru_over_turns() -> None:
    model = vae("dialogue")
    for i, turns in enumerate(TURNS):
        state = model.no_turns[None, None]
        for turn in turns:
            words = model.encoder_embedding[torch.tensor(turn)]
            h, _ = model.turn_encoder.rnn(words[:, None])
            h = h[:, 0]
            share = torch.softmax(model.attention_score(torch.tanh(model.attention(h))), 0)
            _, state = model.turns.rnn((share * h).sum(0)[None, None], state)
        torch.testing.assert_close(model.context(dialogue())[i], state[0, 0])


def test_the_decoder_reads_the_context_at_every_word() -> None:
    model, z = vae("dialogue"), latents(len(ROWS))
    c = model.context(dialogue())
    got = model.reconstruction_nll(dialogue(), z)
    want = [nll_by_definition(model, row, z[i], c[i]) for i, row in enumerate(ROWS)]
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-10, atol=1e-10)
    bare = with_turns(collate_ids(ROWS), None, [0] * len(ROWS))
    changed = (model.reconstruction_nll(bare, z) - got).abs() > 1e-6
    assert changed.tolist() == [bool(turns) for turns in TURNS]


def test_a_kept_context_is_computed_again_when_the_parameters_change() -> None:
    model, batch = vae("dialogue"), dialogue()
    before = model.context(batch)
    assert model.context(batch) is before
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert float((model.context(batch) - before).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("arch", ["rnn", "dialogue"])
@pytest.mark.parametrize("samples", [1, 3, 300])
def test_the_matrix_of_many_samples_is_the_reconstruction_of_each(arch: str, samples: int) -> None:
    model, batch, z = vae(arch), dialogue(), latents(samples, len(ROWS))
    got = model.nll_matrix(batch, z)
    assert got.shape == (samples, len(ROWS))
    for index in {0, samples // 2, samples - 1}:
        want = model.reconstruction_nll(batch, z[index]).detach()
        torch.testing.assert_close(got[index], want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", ["rnn", "dialogue"])
def test_greedy_decoding_writes_the_most_probable_word_until_eos(arch: str) -> None:
    model, z = vae(arch), latents(4)
    context = model.context(dialogue([0, 2, 3, 4])) if arch == "dialogue" else None
    for index, words in enumerate(model.decode(z, context_BC=context)):
        prefix = [META["bos_id"]]
        for word in [*words, META["eos_id"]][: META["max_len"] - 2]:
            c = None if context is None else context[index]
            own = torch.stack(
                [nll_by_definition(model, [*prefix, w], z[index], c) for w in range(30)]
            )
            own[[META["pad_id"], META["bos_id"]]] = torch.inf
            assert int(own.argmin()) == word
            prefix.append(word)


def test_sampled_sentences_do_not_depend_on_the_others_of_their_batch() -> None:
    model, z = vae("dialogue"), latents(5)
    context = model.context(dialogue())
    all_rows = model.decode(z, "sample", generator(3, "words"), context_BC=context)
    again = model.decode(z, "sample", generator(3, "words"), context_BC=context)
    first = model.decode(z[:2], "sample", generator(3, "words"), context_BC=context[:2])
    assert all_rows == again
    assert first == all_rows[:2]
    with pytest.raises(ValueError, match="generator"):
        model.decode(z, "sample")


def test_data_without_previous_turns_are_refused() -> None:
    with pytest.raises(UsageError, match="context_turns"):
        DialogueVAE(settings("dialogue"), META | {"context_turns": 0})


def test_dropout_uses_the_stream_alone() -> None:
    model = vae("dialogue", dropout=0.5, word_dropout=0.5).train()
    losses = []
    for seed in (0, 0, 1):
        model.stream = generator(seed, "dropout")
        losses.append(float(model.reconstruction_nll(dialogue(), latents(len(ROWS))).sum()))
    assert losses[0] == losses[1] != losses[2]
