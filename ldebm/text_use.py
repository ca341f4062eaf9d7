"""Texts of a user's files for a trained model: how probable they are, and where they lie.

Read with pyarrow alone, so that a machine that only uses models needs no more.

Shapes: N texts, D latent dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.data.batches import TextBatch
    from ldebm.evaluate.likelihood import Estimate, LikelihoodSettings
    from ldebm.model import Model

__all__ = ["TextScores", "Texts", "embed", "read_texts", "score_texts"]

ROWS = 4  # at a time: bounds the memory of the trajectories
ENCODED = 256
TABLES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Texts:
    """Texts of a file.

    Attributes:
        texts: those that are not empty.
        rows: the line, or the row of a table, of each, from 1.
    """

    texts: list[str]
    rows: list[int]


def read_texts(path: Path, column: str | None = None) -> Texts:
    """The texts of a txt file, one a line, or of a column of a csv, jsonl or parquet file.

    Empty lines are left out.

    Args:
        path: the file.
        column: of a table; by default ``text``, or the only column of text.

    Raises:
        UsageError: the file is missing, damaged or has no such column; or a row has no text.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    if path.suffix.lower() not in TABLES:
        return _lines(path)
    table = _table(path)
    kinds = {field.name: field.type for field in table.schema}
    worded = [n for n, kind in kinds.items() if pa.types.is_string(kind) or _is_large(kind)]
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
    return Texts([" ".join(str(text).split()) for text in texts], list(range(1, len(texts) + 1)))


def _is_large(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


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
        energy: -F(z, 0) at the posterior mean (N,); None for a Gaussian prior.
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
    model: Model, texts: Sequence[str], seed: int = 0, importance: int = 100, inner: int = 64
) -> TextScores:
    """Likelihood bounds and energies.

    Bounds are Monte Carlo estimates: with more trajectories they rise, and their noise falls.

    Args:
        model: of text.
        texts: N sentences.
        seed: of the draws.
        importance: trajectories a text.
        inner: draws of each inner normaliser; even.

    Raises:
        UsageError: the model is not one of text or has no likelihood, or a text is empty.
    """
    import torch

    from ldebm.evaluate.likelihood import LikelihoodSettings
    from ldebm.priors import EnergyPrior

    if model.tokenizer is None:
        raise UsageError(f"{model.experiment}: not a model of text")
    size = ROWS
    if model.is_dialogue:  # texts begin a dialogue; every context has a normaliser of its own
        model, size = model.given(model.contexts([[]])), 1
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    settings = LikelihoodSettings(importance, inner, seed=seed)
    batches = (model.batch(part) for part in parts)
    found = _estimate(model, batches, settings)
    energy = None
    if isinstance(model.prior, EnergyPrior):
        with torch.no_grad():
            z = torch.from_numpy(embed(model, texts)).to(model.device)
            energy = -torch.logsumexp(model.prior.class_logits(z), -1).double().cpu().numpy()
    limit = int(model.meta["max_len"])
    assert model.tokenizer is not None
    if model.is_document:
        tokens = np.array([int(counts.sum()) for _, counts in model.bags(texts)])
    else:
        rows = model.tokenizer.encode_rows([str(text) for text in texts])
        tokens = np.array([min(len(row), limit) - 1 for row in rows])
    return TextScores(-found.nll_B, tokens, found.ess_B, energy)


def _estimate(model: Model, batches: Iterable[TextBatch], settings: LikelihoodSettings) -> Estimate:
    from ldebm.baselines.likelihood import own_likelihood
    from ldebm.baselines.model import TextBaseline
    from ldebm.baselines.prior import OwnPrior
    from ldebm.evaluate.likelihood import likelihood

    backbone, prior = model.backbone, model.prior
    if not (isinstance(backbone, TextBaseline) and isinstance(prior, OwnPrior)):
        return likelihood(backbone, prior, batches, settings)["prior"]
    found = own_likelihood(backbone, prior, batches, settings.trajectories, settings.seed)
    if found is None:
        raise UsageError(f"{model.experiment}: an auto-encoder has no likelihood")
    return found


def embed(model: Model, rows: Sequence[str] | np.ndarray) -> np.ndarray:
    """Posterior means, float32 (N, D), encoded some at a time."""
    starts = range(0, len(rows), ENCODED)
    return np.concatenate([model.encode(rows[start : start + ENCODED]) for start in starts])
