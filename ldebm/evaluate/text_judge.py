"""The judge of a text data set: the independent classifier that scores control.

docs/method.md, section 5.6.

Embedding, a bidirectional GRU, a linear map of its last states to 40 features, and for every label
column an MLP 40-200-200-K with GELU, as published; the sizes before the features are parameters.

Shapes: B rows, K classes of a column.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldebm.config import TextJudgeConfig
from ldebm.data.batches import TextBatch, collate_ids
from ldebm.data.packed import JUDGE
from ldebm.data.tokenizer import Tokenizer
from ldebm.errors import UsageError
from ldebm.files import read_model
from ldebm.nn.cells import recurrent_cell

__all__ = ["TextJudge", "labels_of", "load_text_judge", "text_classifier"]

FEATURES, WIDTH = 40, 200
ROWS_AT_ONCE = 512


class TextJudge(nn.Module):
    """A classifier of the label columns of a text data set.

    Args:
        config: sizes.
        meta: of the packed data set: vocabulary and labels.

    Attributes:
        stream: source of the dropout masks while training.
    """

    stream: torch.Generator | None = None

    def __init__(self, config: TextJudgeConfig, meta: Mapping[str, Any]) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.classes = {name: list(names) for name, names in sorted(meta["labels"].items())}
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

    def forward(self, batch: TextBatch) -> dict[str, Tensor]:
        """The logits (B, K) of every column, in the order the batch was asked for."""
        words = self._drop(self.embedding(batch.tokens_N))
        state = batch.restore(self.encoder.last(words, batch.batch_sizes))
        read = F.gelu(self.features(self._drop(state)))
        return {name: head(read) for name, head in zip(self.classes, self.heads, strict=True)}

    def _drop(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return x
        keep = 1 - self.dropout
        mask = torch.empty_like(x).bernoulli_(keep, generator=self.stream)
        return x * mask.mul_(1 / keep)


@torch.no_grad()
def labels_of(judge: TextJudge, rows: Sequence[Sequence[int]], column: str) -> list[int]:
    """The most probable class of rows of token ids (BOS to EOS), as numbers."""
    judge.eval()
    device = judge.features.weight.device
    found: list[int] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        logits = judge(collate_ids(rows[start : start + ROWS_AT_ONCE], device))
        found += logits[column].argmax(-1).tolist()
    return found


def load_text_judge(path: str | Path) -> tuple[TextJudge, Tokenizer, dict[str, Any]]:
    """The judge of ``data/judge/D``, its tokenizer, and its accuracies.

    Raises:
        UsageError: there is none, or the file is damaged.
    """
    file = Path(path) / JUDGE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UsageError(
            f"{path}: no classifier of texts; give the data set a section 'classifier'"
        )
    tensors, header = read_model(file)
    try:
        tokenizer = Tokenizer.from_bytes(tensors.pop("tokenizer").numpy())
        judge = TextJudge(TextJudgeConfig.model_validate(header["config"]), header["meta"])
        judge.load_state_dict(tensors)
        columns: dict[str, Any] = header["columns"]
    except (KeyError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{file}: not a judge of texts ({reason}); build it again") from None
    return judge.eval(), tokenizer, columns


def text_classifier(
    judge: TextJudge, tokenizer: Tokenizer, column: str
) -> Callable[[Sequence[str]], list[str | None]]:
    """Names the label of texts; ``None`` for an empty one.

    Raises:
        UsageError: the judge does not know the column.
    """
    if column not in judge.classes:
        known = ", ".join(judge.classes) or "none"
        raise UsageError(f"classifier: no label column {column!r}; it knows {known}")
    names = judge.classes[column]

    def classify(texts: Sequence[str]) -> list[str | None]:
        full = [text for text in texts if text.strip()]
        rows = [tokenizer.encode(text) for text in full]
        found = iter(labels_of(judge, rows, column))
        return [names[next(found)] if text.strip() else None for text in texts]

    return classify
