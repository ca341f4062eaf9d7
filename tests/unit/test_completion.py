"""Gaps: what is masked and clamped, what the decoder fills in, and that nobody peeks."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ldebm.assembly import build_prior
from ldebm.backbones.filling import fill
from ldebm.backbones.text import TextVAE
from ldebm.cli import completing, models
from ldebm.completion import (
    Completer,
    complete,
    complete_rows,
    given_observed,
    load_completer,
    mask_words,
    save_completer,
    train_completer,
)
from ldebm.config import CompletionConfig, EvaluateConfig
from ldebm.data.batches import collate_ids
from ldebm.errors import UsageError
from ldebm.files import write_model
from ldebm.priors import DiffusionPrior
from ldebm.seeding import generator, numpy_generator
from tests.unit.baseline_models import META, section
from tests.unit.evaluate_models import config, constant_energy
from tests.unit.test_evaluate_run import packed_text, untrained

SMALL = CompletionConfig(rows=20, hidden=16, updates=30, batch=16, draws=3, steps=4)


def test_masks_take_a_share_of_the_known_words_only():
    row = np.array([2, 5, 1, 6, 7, 8, 3])
    for seed in range(20):
        ids, gaps = mask_words(row, 0.5, numpy_generator(seed), 3)
        assert ids == row.tolist()
        assert sum(gaps) == 2
        assert not any(gaps[i] for i in (0, 2, 6))
    assert sum(mask_words(np.array([2, 5, 3]), 0.01, numpy_generator(0), 3)[1]) == 1
    assert sum(mask_words(np.array([2, 1, 3]), 0.5, numpy_generator(0), 3)[1]) == 0


@pytest.mark.parametrize("kind", ["gaussian", "svebm", "diffusion"])
def test_observed_coordinates_stay_and_the_others_follow_the_prior(kind: str):
    prior = build_prior(4, config(kind, levels=3), generator(0))
    if kind != "gaussian":
        prior = constant_energy(prior, 1.5)  # type: ignore[arg-type]
    u = torch.randn(3000, 1, generator=generator(1, "u"))
    drawn = given_observed(prior, u, 10, generator(2, "chains"))
    assert drawn.shape == (3000, 4)
    assert torch.equal(drawn[:, :1], u)
    rest = drawn[:, 1:]  # the prior is N(0, I): independent of what was observed
    assert float(rest.mean(0).abs().max()) < 0.1
    assert float((rest.std(0) - 1).abs().max()) < 0.1
    correlation = torch.corrcoef(torch.cat([u, rest], 1).t())[0, 1:]
    assert float(correlation.abs().max()) < 0.08


def test_an_energy_that_ties_coordinates_together_is_heeded():
    class Tied(torch.nn.Module):
        """F(u) = -5 (u_0 - u_1)^2: given u_0, u_1 has mean 10 u_0 / 11 and variance 1 / 11."""

        def value_and_gradient(self, x, t):
            away = x[:, 0] - x[:, 1]
            gradient = torch.zeros_like(x)
            gradient[:, 0], gradient[:, 1] = -10 * away, 10 * away
            return -5 * away.square(), gradient

    prior = build_prior(2, config("svebm"), generator(0))
    prior.net.freeze = Tied  # type: ignore[union-attr, method-assign, assignment]
    prior.step_T.fill_(0.1)
    u = torch.linspace(-2, 2, 4000).unsqueeze(1)
    drawn = given_observed(prior, u, 100, generator(0, "chains"))
    away = drawn[:, 1] - 10 / 11 * u[:, 0]
    assert float(away.mean().abs()) < 0.03
    assert float(away.std()) == pytest.approx(math.sqrt(1 / 11), rel=0.06)
    assert isinstance(build_prior(2, config("diffusion", levels=3), generator(0)), DiffusionPrior)


def most_probable(model: TextVAE, rows: list[list[int]], z: torch.Tensor) -> list[int]:
    """The row whose mean probability over samples of z is largest."""
    nll = model.nll_matrix(collate_ids(rows), z.expand(-1, len(rows), -1)).double()
    return rows[int(torch.logsumexp(-nll, 0).argmax())]


def test_a_beam_that_is_wide_enough_finds_the_most_probable_rows():
    model = TextVAE(section("vae"), META, generator(0)).eval()
    with torch.no_grad():  # sharper words than those of an untrained decoder
        model.decoder_embedding.mul_(8)
    z = torch.randn(3, 1, 4, generator=generator(0, "z"))
    words = range(4, META["vocab_size"])  # type: ignore[call-overload]
    one = most_probable(model, [[2, 9, word, 11, 3] for word in words], z)
    two = most_probable(model, [[2, a, 8, b, 10, 3] for a in words for b in words], z)
    rows, gaps = (
        [[2, 9, 1, 11, 3], [2, 5, 3], [2, 1, 8, 1, 10, 3]],
        [
            [False, False, True, False, False],
            [False] * 3,
            [False, True, False, True, False, False],
        ],
    )
    samples = z.expand(3, 3, 4)
    assert fill(model, rows, gaps, samples, len(words) ** 2) == [one, [2, 5, 3], two]
    narrow = fill(model, rows, gaps, samples, 1)
    prefix = most_probable(model, [[2, word] for word in words], z)
    assert narrow[2][1] == prefix[1], "one hypothesis does not see what follows"


@pytest.mark.parametrize("kind", ["gaussian", "diffusion"])
def test_training_lowers_the_loss_of_known_words_and_nobody_sees_the_gaps(
    tmp_path: Path, kind: str
):
    packed = packed_text(tmp_path)
    model = untrained(packed, kind, 4)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    settings = SMALL.model_copy(update={"updates": 150, "lr": 0.05})
    completer, losses = train_completer(model, packed.split("train"), settings, 0)
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.3
    assert all(torch.equal(value, before[k]) for k, value in model.backbone.state_dict().items())
    assert all(p.requires_grad for p in model.backbone.parameters())
    rows = [packed.split("test").row(i).tolist() for i in range(6)]
    gaps = [mask_words(np.array(row), 0.5, numpy_generator(i), 3)[1] for i, row in enumerate(rows)]
    completed = complete_rows(model, completer, rows, gaps, SMALL, 0)
    other = [[7 if gap else token for token, gap in zip(row, mask, strict=True)]
             for row, mask in zip(rows, gaps, strict=True)]  # fmt: skip
    assert completed == complete_rows(model, completer, other, gaps, SMALL, 0)
    for row, answer, mask in zip(rows, completed, gaps, strict=True):
        assert [a for a, gap in zip(answer, mask, strict=True) if not gap] == [
            token for token, gap in zip(row, mask, strict=True) if not gap
        ]
        assert min(a for a, gap in zip(answer, mask, strict=True) if gap) > 3


def test_the_evaluation_has_the_metrics_and_keeps_the_network(tmp_path: Path):
    packed = packed_text(tmp_path)
    model = untrained(packed, "diffusion", 4)
    settings = EvaluateConfig(
        samples=20, rows=4, importance=4, inner=4, reverse_lm="none", completion=SMALL
    )
    report = model.evaluate(packed, settings)
    for name in ("completion", "completion_ngram", "completion_frequent"):
        low, value, high = (report.metrics[f"{name}{end}"] for end in ("_low", "", "_high"))
        assert 0 <= low <= value <= high <= 1
    assert report.metrics["completion_ngram"] > report.metrics["completion_frequent"]
    assert report.metrics["completion_places"] >= 20
    shown = next(item for item in report.samples if item["kind"] == "completion")
    assert "<unk>" in shown["masked"]
    assert "<unk>" not in shown["completed"]
    report.write(tmp_path / "m.json", tmp_path / "details")
    kept = load_completer(tmp_path / "details" / "completion.safetensors", model)
    text = "hello ___ flabbergasted ___ you"
    answer = complete(model, kept, [text], SMALL, 1)[0].split()
    assert (answer[0], answer[2], answer[4]) == ("hello", "flabbergasted", "you"), "no gap"
    assert not {"___", "<unk>"} & {*answer}
    assert complete(model, kept, [text], SMALL, 1) == complete(model, kept, [text], SMALL, 1)


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    packed = packed_text(tmp_path)
    model = untrained(packed, "gaussian", 4)
    completer = Completer(4, 8, 2)
    with pytest.raises(UsageError, match="write ___ for a missing word"):
        complete(model, completer, ["nothing is missing"], SMALL)
    with pytest.raises(UsageError, match="the model reads up to 22"):
        complete(model, completer, ["hello " * 30 + "___"], SMALL)
    with pytest.raises(UsageError, match="expected less than the 4 dimensions"):
        train_completer(model, packed.split("train"), SMALL.model_copy(update={"observed": 4}), 0)
    write_model(tmp_path / "other.safetensors", Completer(6, 8, 2).state_dict(), {"observed": 2})
    with pytest.raises(UsageError, match="not a completion of this model"):
        load_completer(tmp_path / "other.safetensors", model)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="needs the rows that the model was trained on"):
        model.find_completer()


def test_the_command_prints_what_it_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "packed" / "d"
    folder.mkdir(parents=True)
    model = untrained(packed_text(folder), "gaussian", 4)
    monkeypatch.setattr(models, "load_target", lambda target, device="auto": model)
    monkeypatch.setattr(
        "ldebm.config.CompletionConfig", lambda: SMALL.model_copy(update={"updates": 2})
    )
    completing.complete("e", ["the ___ is", "___ you"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert not any("___" in line or "<unk>" in line for line in lines)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(UsageError, match="nothing to complete"):
        completing.complete("e")


def test_the_network_is_trained_once_for_a_model_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("LDEBM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "packed" / "d"
    folder.mkdir(parents=True)
    model = untrained(packed_text(folder), "gaussian", 4)
    model.fingerprint = "a hash"

    def loaded(target: str, device: str = "auto") -> object:
        model.completer = None
        return model

    monkeypatch.setattr(models, "load_target", loaded)
    settings = SMALL.model_copy(update={"updates": 2})
    monkeypatch.setattr("ldebm.config.CompletionConfig", lambda: settings)

    def completed() -> tuple[str, str]:
        completing.complete("e", ["the ___ is"])
        printed = capsys.readouterr()
        return printed.out, printed.err

    first, said = completed()
    assert "trained the network that fills gaps, once for this model" in said
    assert f"it is kept in {tmp_path / 'cache' / 'completion-'}" in said
    trained: list[str] = []
    monkeypatch.setattr(
        type(model), "_trained", lambda *_: trained.append("again") or Completer(4, 16, 2)
    )
    assert completed() == (first, ""), "the second call says and trains nothing"
    settings = settings.model_copy(update={"draws": 2})
    completed()
    assert trained == [], "how it is used does not change how it was trained"
    settings = settings.model_copy(update={"updates": 3})
    completed()
    model.fingerprint = "another hash"
    completed()
    assert trained == ["again", "again"]


def test_the_evaluated_network_of_another_model_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LDEBM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    model = untrained(packed_text(tmp_path), "gaussian", 4)
    model.fingerprint = "a hash"
    kept = tmp_path / "reports" / model.experiment / str(model.seed) / "details"
    mine = Completer(4, 8, 2)
    monkeypatch.setattr(type(model), "_trained", lambda *_: Completer(4, 16, 2))
    save_completer(kept / "completion.safetensors", mine, {"model": "a hash"})
    assert model.find_completer() == ""
    assert model.completer.inner.out_features == 8
    model.completer = None
    save_completer(kept / "completion.safetensors", mine, {"model": "an older one"})
    assert "completion.safetensors: a completion of another model" in model.find_completer()
    assert model.completer.inner.out_features == 16
