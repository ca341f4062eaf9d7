"""Texts of a user's files for a trained model: how probable they are, and where they lie.

Shapes: N texts, D latent dimension, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ldebm.data.user_texts import Texts, as_texts
from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.data.batches import TextBatch
    from ldebm.evaluate.known import Known
    from ldebm.evaluate.likelihood import Estimate, LikelihoodSettings
    from ldebm.model import Model

__all__ = [
    "TextScores",
    "class_probabilities",
    "encode_texts",
    "known_of",
    "score_texts",
    "unknown_words",
]

ROWS = 16  # at a time: bounds the memory of the trajectories
ENCODED = 256
DRAWS = 64  # of the posterior of a text that is classified


@dataclass(frozen=True)
class TextScores:
    """How probable texts are to a model.

    Attributes:
        bound: importance-weighted lower bound of log p(x), nats (N,).
        tokens: what was predicted of each text: its tokens with EOS (N,).
        ess: effective number of the trajectories of the bound (N,): near 1, it is loose.
        energy: -F(z, 0) at the posterior mean (N,); None where the prior has no energies.
    """

    bound: np.ndarray
    tokens: np.ndarray
    ess: np.ndarray
    energy: np.ndarray | None

    def records(self, texts: Texts) -> list[dict[str, Any]]:
        """One record a text, for tables and JSON."""
        found = []
        for index, (text, row) in enumerate(zip(texts.texts, texts.rows, strict=True)):
            bound, tokens = float(self.bound[index]), int(self.tokens[index])
            record: dict[str, Any] = {"row": row, "text": text, "bound": bound, "tokens": tokens}
            record["perplexity"] = float(np.exp(-bound / max(tokens, 1)))
            record["ess"] = float(self.ess[index])
            if self.energy is not None:
                record["energy"] = float(self.energy[index])
            found.append(record)
        return found


def score_texts(
    model: Model,
    texts: Sequence[str],
    turns: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
    importance: int = 100,
    inner: int = 64,
    done: Callable[[int], None] | None = None,
) -> TextScores:
    """Likelihood bounds and energies.

    Bounds are Monte Carlo estimates: with more trajectories they rise, and their noise falls. The
    top normaliser is estimated once for a model (:func:`known_of`), and the others with as few
    draws as their spread allows. One thread of the CPU computes, whatever torch is set to.

    Args:
        model: of text.
        texts: N sentences; a bare string is one.
        turns: of a model of responses the turns before each; None: they begin dialogues.
        seed: of the draws.
        importance: trajectories a text.
        inner: at most so many draws of each inner normaliser; even.
        done: is told how many texts are scored.

    Raises:
        UsageError: the model is not one of text, has no likelihood or reads no contexts; or a text
            is empty.
    """
    from ldebm.devices import one_thread
    from ldebm.evaluate.likelihood import LikelihoodSettings

    texts = as_texts(texts)
    settings = LikelihoodSettings(importance, inner, anneal_share=0, sandwich=False, seed=seed)
    size = 1 if model.is_dialogue else ROWS  # each context has normalisers of its own
    batches = _batches(model, texts, turns, size, done)
    with one_thread():
        found = _estimate(model, batches, settings)
        energy = None
        if model.prior.levels:
            _, logits = encode_texts(model, texts, turns)
            if logits is not None:
                energy = -np.logaddexp.reduce(logits.astype(np.float64), axis=1)
    return TextScores(-found.nll_B, _tokens(model, texts), found.ess_B, energy)


def _estimate(model: Model, batches: Iterable[TextBatch], settings: LikelihoodSettings) -> Estimate:
    from ldebm.baselines.likelihood import own_likelihood
    from ldebm.baselines.model import Baseline
    from ldebm.baselines.prior import OwnPrior
    from ldebm.evaluate.likelihood import likelihood

    backbone, prior = model.backbone, model.prior
    if not (isinstance(backbone, Baseline) and isinstance(prior, OwnPrior)):
        known, _ = known_of(model)
        if known is not None:
            fewer = tuple(min(draws, settings.inner) for draws in known.inner)
            known = replace(known, inner=fewer)
        return likelihood(backbone, prior, batches, settings, known=known)["prior"]
    found = own_likelihood(backbone, prior, batches, settings.trajectories, settings.seed)
    if found is None:
        raise UsageError(f"{model.experiment}: an auto-encoder has no likelihood")
    return found


def known_of(model: Model) -> tuple[Known | None, str]:
    """What is known of the normalisers of a model, estimated once for its file.

    Returns:
        It, or nothing for a prior that has no normaliser or one for every context; and, if it was
        estimated now, a sentence on where it is kept.
    """
    from ldebm.evaluate import known
    from ldebm.user_cache import kept

    prior, said = model.prior.energies, ""
    if model.known is None and prior is not None and not prior.contextual:
        if model.fingerprint is None:
            model.known = known.find_known(prior)
        else:
            key = {"model": model.fingerprint, **known.SETTINGS}
            made = kept(
                "log-z.json", key, known.read_known, lambda: known.find_known(prior),
                known.write_known,
            )  # fmt: skip
            model.known, said = made
    return model.known, said


def _tokens(model: Model, texts: Sequence[str]) -> np.ndarray:
    """What the decoder predicts of every text: tokens with EOS, or known words of a document."""
    assert model.tokenizer is not None
    if model.is_document:
        return np.array([counts.sum() for _, counts in model.bags(texts)])
    limit = int(model.meta["max_len"])
    rows = model.tokenizer.encode_rows([str(text) for text in texts])
    return np.array([min(len(row), limit) - 1 for row in rows])


def _batches(
    model: Model,
    texts: Sequence[str],
    turns: Sequence[Sequence[str]] | None,
    size: int,
    done: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    if model.tokenizer is None:
        raise UsageError(f"{model.experiment}: not a model of text")
    if turns is not None and not model.is_dialogue:
        raise UsageError(f"{model.experiment}: reads no contexts; leave --context out")
    for start in range(0, len(texts), size):
        part = slice(start, start + size)
        yield model.batch(texts[part], None if turns is None else turns[part])
        if done is not None:
            done(min(start + size, len(texts)))


def encode_texts(
    model: Model, texts: Sequence[str], turns: Sequence[Sequence[str]] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Posterior means, float32 (N, D), and the class logits there (N, K).

    Args:
        model: of text.
        texts: N of them; a bare string is one.
        turns: of a model of responses the turns before each; None: they begin dialogues.

    Returns:
        Means and logits; the latter are None for a prior without classes.

    Raises:
        UsageError: the model is not one of text, it reads no contexts, or a text is empty.
    """
    import torch

    texts = as_texts(texts)
    means, logits = [], []
    with torch.no_grad():
        for batch in _batches(model, texts, turns, ENCODED):
            z = model.backbone.encode(batch)[0]
            means.append(z.float().cpu().numpy())
            prior = model.prior
            if model.is_dialogue:
                prior = prior.given(model.backbone.context(batch))
            if prior.has_classes:
                logits.append(prior.class_logits(z).float().cpu().numpy())
    return np.concatenate(means), np.concatenate(logits) if logits else None


def class_probabilities(
    model: Model,
    texts: Sequence[str],
    turns: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """p(y | x) of texts, float32 (N, K): the mean of p(y | z) over draws of the posterior q(z | x).

    At the posterior mean alone the classes are far too sure of texts unlike the training rows. All
    texts have the same noise, so that what one gets does not depend on the others.

    Args:
        model: of text, with a prior of energies.
        texts: N of them; a bare string is one.
        turns: of a model of responses the turns before each; None: they begin dialogues.
        seed: of the draws.
    """
    import torch

    from ldebm.seeding import generator

    texts = as_texts(texts)
    stream = generator(seed, "class-probabilities")
    noise_S1D = torch.randn(DRAWS, 1, model.prior.latent, generator=stream).to(model.device)
    found = []
    with torch.no_grad():
        for batch in _batches(model, texts, turns, ENCODED):
            mu, logvar = model.backbone.encode(batch)
            prior = model.prior
            if model.is_dialogue:
                prior = prior.given(model.backbone.context(batch))
            z_SBD = mu + torch.exp(0.5 * logvar) * noise_S1D
            logits = prior.class_logits(z_SBD.reshape(-1, mu.shape[1]))
            p_SBK = torch.softmax(logits, -1).reshape(DRAWS, len(mu), -1)
            found.append(p_SBK.mean(0).float().cpu().numpy())
    return np.concatenate(found)


def unknown_words(model: Model, text: str) -> list[str]:
    """Words of a text that the model reads as its unknown word; of documents none are told."""
    tokenizer = model.tokenizer
    if tokenizer is None or model.is_document:
        return []
    return [word for word in text.split() if tokenizer.unk_id in tokenizer.encode(word)]
