"""The evaluation classifier of texts, which scores control over a label.

docs/method.md, section 5.6.

Embedding, a bidirectional GRU, a linear map of its last states to 40 features, and for every label
column an MLP 40-200-200-K with GELU, as published; the sizes before the features are parameters.

Shapes: B rows, K classes of a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.config import TextClassifierConfig
from ldebm.data.batches import TextBatch, collate, collate_ids
from ldebm.data.packed import Packed, Split
from ldebm.data.tokenizer import Tokenizer
from ldebm.evaluate.classifier import EvaluationClassifier
from ldebm.nn.cells import recurrent_cell
from ldebm.seeding import generator

__all__ = ["TextClassifier"]

FEATURES, WIDTH = 40, 200
ROWS_AT_ONCE = 512


class TextClassifier(EvaluationClassifier):
    """A recurrent network with an MLP for every label column.

    Attributes:
        tokenizer: of the texts; None before it is saved.
        stream: source of the dropout masks while training.
    """

    reads = "texts"
    settings = TextClassifierConfig
    stream_name = "text-judge"
    validate_every = 1
    config: TextClassifierConfig
    tokenizer: Tokenizer | None = None
    stream: torch.Generator | None = None

    def __init__(self, config: TextClassifierConfig, meta: Mapping[str, Any]) -> None:
        super().__init__(config, meta)
        self.dropout = config.dropout
        self.embedding = nn.Embedding(int(meta["vocab_size"]), config.embed)
        self.encoder = recurrent_cell("gru", config.embed, config.hidden, bidirectional=True)
        self.features = nn.Linear(2 * config.hidden, FEATURES)
        self.heads = nn.ModuleList(  # in the order of the names, which may be any text
            nn.Sequential(
                nn.Linear(FEATURES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(),
                nn.Linear(WIDTH, len(names)),
            )
            for names in self.classes.values()
        )  # fmt: skip

    @property
    def feature_size(self) -> int:
        return FEATURES

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """The logits (B, K) of every column, in the order the batch was asked for."""
        words = self._drop(self.embedding(batch.tokens_N))
        state = batch.restore(self.encoder.last(words, batch.batch_sizes))
        read = F.gelu(self.features(self._drop(state)))
        return {name: head(read) for name, head in zip(self.classes, self.heads, strict=True)}

    def _drop(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return x
        share = 1 - self.dropout
        mask = torch.empty_like(x).bernoulli_(share, generator=self.stream)
        return x * mask.mul_(1 / share)

    def training_logits(self, split: Split, rows: np.ndarray, step: int) -> dict[str, Tensor]:
        self.stream = generator(self.config.seed, self.stream_name, step, device=self.device)
        return self.forward(collate(split, rows, self.device))

    def predict(self, split: Split) -> dict[str, np.ndarray]:
        return self.classify([split.row(i).tolist() for i in range(split.n)])

    @torch.no_grad()
    def classify(self, rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        """The most probable class, by column, of rows of token ids (BOS to EOS)."""
        parts: dict[str, list[np.ndarray]] = {column: [] for column in self.columns}
        for start in range(0, len(rows), ROWS_AT_ONCE):
            batch = collate_ids(rows[start : start + ROWS_AT_ONCE], self.device)
            for column, logits_BK in self.forward(batch).items():
                parts[column].append(logits_BK.argmax(-1).cpu().numpy())
        return {column: np.concatenate(part) for column, part in parts.items()}

    def labels_of(self, texts: Sequence[str], column: str) -> list[str | None]:
        """The label of each text; ``None`` for an empty one.

        Raises:
            UsageError: there is no such column.
        """
        self.require(column)
        assert self.tokenizer is not None
        rows = [self.tokenizer.encode(text) for text in texts if text.strip()]
        classes = iter(self.classify(rows)[column] if rows else ())
        names = self.classes[column]
        return [names[int(next(classes))] if text.strip() else None for text in texts]

    def contents(self, packed: Packed) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, header = super().contents(packed)
        tokens = torch.tensor(list(packed.tokenizer.to_bytes()), dtype=torch.uint8)
        return {**tensors, "tokenizer": tokens}, {**header, "columns": self.accuracy}

    def restore(self, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> None:
        self.tokenizer = Tokenizer.from_bytes(tensors.pop("tokenizer").numpy())
        self.accuracy = dict(header["columns"])
        super().restore(tensors, header)
