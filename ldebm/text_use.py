"""Texts of a user's files for a trained model: how probable they are, and where they lie.

Read with pyarrow alone, so that a machine that only uses models needs no more.

Shapes: N texts, D latent dimension, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.data.batches import TextBatch
    from ldebm.evaluate.known import Known
    from ldebm.evaluate.likelihood import Estimate, LikelihoodSettings
    from ldebm.model import Model

__all__ = [
    "TextScores",
    "Texts",
    "class_probabilities",
    "encode_texts",
    "known_of",
    "read_texts",
    "score_texts",
    "unknown_words",
]

ROWS = 16  # at a time: bounds the memory of the trajectories
ENCODED = 256
DRAWS = 64  # of the posterior of a text that is classified
TABLES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Texts:
    """Texts of a file.

    Attributes:
        texts: those that are not empty.
        rows: the line, or the row of a table, of each, from 1.
        turns: what was said before each, oldest first; None where the file has no contexts.
    """

    texts: list[str]
    rows: list[int]
    turns: list[list[str]] | None = None


def read_texts(path: Path, column: str | None = None, context: str | None = None) -> Texts:
    """The texts of a txt file, one a line, or of a column of a csv, jsonl or parquet file.

    Empty lines are left out.

    Args:
        path: the file.
        column: of a table; by default ``text``, or the only column of text.
        context: column of the turns before, as lists or with a turn a line.

    Raises:
        UsageError: the file is missing, damaged or has no such column; or a row has no text.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix.lower() not in TABLES:
        if context is not None:
            raise UsageError(f"{path}: only a table has a column {context!r} of contexts")
        return _lines(path)
    table = _table(path)
    kinds = {field.name: field.type for field in table.schema}
    worded = [name for name, kind in kinds.items() if _is_text(kind) and name != context]
    chosen = column or ("text" if "text" in worded else worded[0] if len(worded) == 1 else None)
    if chosen not in worded:
        there = ", ".join(kinds) or "none"
        what = f"no column {column!r} of text" if column else "which column is the text?"
        raise UsageError(f"{path}: {what} Give --text; columns there: {there}")
    texts = table.column(chosen).to_pylist()
    for number, text in enumerate(texts, 1):
        if text is None or not str(text).strip():
            raise UsageError(f"{path}: row {number}: no text in column {chosen!r}")
    if not texts:
        raise UsageError(f"{path}: the file has no rows")
    tidy = [" ".join(str(text).split()) for text in texts]
    return Texts(tidy, list(range(1, len(texts) + 1)), _turns(table, context, path))


def _turns(table: pa.Table, context: str | None, path: Path) -> list[list[str]] | None:
    """The turns before every row; empty ones are left out."""
    if context is None:
        return None
    if context not in table.column_names:
        there = ", ".join(table.column_names)
        raise UsageError(f"{path}: no column {context!r} for --context; columns there: {there}")
    found = []
    for value in table.column(context).to_pylist():
        turns = value if isinstance(value, list) else str(value or "").split("\n")
        found.append([" ".join(str(turn).split()) for turn in turns if turn and str(turn).strip()])
    return found


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _table(path: Path) -> pa.Table:
    import pyarrow.csv
    import pyarrow.json
    import pyarrow.parquet

    readers = {
        ".csv": pyarrow.csv.read_csv,
        ".jsonl": pyarrow.json.read_json,
        ".parquet": pyarrow.parquet.read_table,
    }
    try:
        return readers[path.suffix.lower()](path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{path}: cannot be read as {path.suffix[1:].lower()} ({reason})"
        ) from None


def _lines(path: Path) -> Texts:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: expected a UTF-8 text file ({error})") from None
    kept = [(" ".join(line.split()), row) for row, line in enumerate(lines, 1) if line.strip()]
    if not kept:
        raise UsageError(f"{path}: no text in it; expected one a line")
    return Texts([text for text, _ in kept], [row for _, row in kept])


@dataclass(frozen=True)
class TextScores:
    """How probable texts are to a model.

    Attributes:
        bound: importance-weighted lower bound of log p(x), nats (N,) (MR 5.1).
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
        texts: N sentences.
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
    from ldebm.priors import EnergyPrior

    settings = LikelihoodSettings(importance, inner, anneal_share=0, sandwich=False, seed=seed)
    size = 1 if model.is_dialogue else ROWS  # each context has normalisers of its own
    batches = _batches(model, texts, turns, size, done)
    with one_thread():
        found = _estimate(model, batches, settings)
        energy = None
        if isinstance(model.prior, EnergyPrior):
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
    from ldebm.priors import EnergyPrior
    from ldebm.user_cache import kept

    prior, said = model.prior, ""
    if model.known is None and isinstance(prior, EnergyPrior) and not prior.contextual:
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
        texts: N of them.
        turns: of a model of responses the turns before each; None: they begin dialogues.

    Returns:
        Means and logits; the latter are None for a prior without classes.

    Raises:
        UsageError: the model is not one of text, it reads no contexts, or a text is empty.
    """
    import torch

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
        texts: N of them.
        turns: of a model of responses the turns before each; None: they begin dialogues.
        seed: of the draws.
    """
    import torch

    from ldebm.seeding import generator

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
