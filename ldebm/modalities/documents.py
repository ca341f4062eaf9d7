"""Models of documents, read as bags of words.

Shapes: N documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldebm.config import EvaluateConfig
from ldebm.data.batches import collate_bags
from ldebm.data.documents import bags
from ldebm.data.user_texts import as_texts
from ldebm.errors import UsageError
from ldebm.modalities.sentences import TextModel

if TYPE_CHECKING:
    from ldebm.data.packed import Measure, Packed, Split
    from ldebm.evaluate.report import Report

__all__ = ["DocumentModel"]


class DocumentModel(TextModel):
    """A model of bags of words."""

    task = "documents"
    published_estimators = False

    def batch(self, rows: Any) -> Any:
        return collate_bags(self.bags(rows), self.device)

    def bags(self, texts: Sequence[str] | np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Known words of documents and their counts.

        Raises:
            UsageError: a document has none.
        """
        rows = as_texts(texts)
        pairs = bags(self.tokenizer, rows)
        for text, (ids, _) in zip(rows, pairs, strict=True):
            if not len(ids):
                raise UsageError(
                    f"document {text[:60]!r}: no word that the model knows; expected a text "
                    "with words of its training set"
                )
        return pairs

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([counts.sum() for _, counts in self.bags(texts)])

    def predicted(self, split: Split) -> np.ndarray:
        return np.asarray(np.add.reduceat(split.counts, split.offsets[:-1]))

    def unknown_words(self, row: Any) -> list[str]:
        return []

    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        from ldebm.evaluate.on_documents import evaluate_documents
        from ldebm.evaluate.views import add_views

        del measure, snapshots
        report = evaluate_documents(self, packed, config)
        add_views(report, self, packed)
        return report
