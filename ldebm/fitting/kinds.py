"""What :func:`ldebm.fit` does with each kind of rows: how they are packed, how training begins.

Shapes: N rows, X numbers of a point, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldebm.config import DataConfig
from ldebm.data.documents import bags, document_words, log_frequencies, train_vocabulary
from ldebm.data.token_rows import choose_tokens, cut, unknown_shares, write_rows, write_tokenizer
from ldebm.data.tokenizer import Tokenizer, sample, train_tokenizer
from ldebm.errors import UsageError
from ldebm.files import write_array
from ldebm.fitting import presets
from ldebm.fitting.rows import LABEL, Labels

__all__ = ["KINDS", "KindOfRows"]

VOCABULARY = 30_004  # of documents, at most
FEW = 0.5  # share of labelled rows, below which every batch draws some of them in addition


class KindOfRows:
    """Rows of one kind.

    Attributes:
        usual: number of classes that are looked for; 0: none are.
        from_words: whether classes are found by words.
    """

    usual = 16
    from_words = False

    def write(
        self, values: Any, parts: Mapping[str, np.ndarray], config: DataConfig, target: Path
    ) -> dict[str, Any]:
        """Packs the rows of every split; returns what ``meta.json`` says of them."""
        raise NotImplementedError

    def first_stage(self, values: Any, preset: str) -> dict[str, Any]:
        """What of the section backbone the rows decide."""
        raise NotImplementedError

    def labelled(self, labels: Labels) -> dict[str, Any]:
        """The sections that labels change."""
        sections: dict[str, Any] = {
            "cluster": {"labels": "given", "column": LABEL},
            "prior": {"classes": len(labels.names), "class_weight": 1.0},
        }
        if labels.known < FEW * len(labels.codes):
            sections["prior"]["labelled_batch"] = min(200, max(1, labels.known // 2))
        return sections

    def unlabelled(self, rows: int) -> dict[str, Any]:
        """The sections without labels: fewer classes of very few rows."""
        return {"prior": {"classes": min(self.usual, max(2, rows // 10))}} if self.usual else {}


class _Texts(KindOfRows):
    from_words = True

    def first_stage(self, values: Any, preset: str) -> dict[str, Any]:
        return {} if preset == "large" else presets.text_training(len(values))

    def labelled(self, labels: Labels) -> dict[str, Any]:
        sections = super().labelled(labels)
        if labels.known >= FEW * len(labels.codes):
            weight = presets.SUPERVISION
            sections["backbone"] = {"supervision": {"column": LABEL, "weight": weight}}
        return sections

    def write(
        self, values: Any, parts: Mapping[str, np.ndarray], config: DataConfig, target: Path
    ) -> dict[str, Any]:
        texts = {name: [values[i] for i in part] for name, part in parts.items()}
        tokenizer, config = self._tokenizer(texts, config)
        for split, part in texts.items():
            self._write(target, split, tokenizer, part, config)
        return write_tokenizer(target, tokenizer, config)

    def _tokenizer(
        self, texts: Mapping[str, list[str]], config: DataConfig
    ) -> tuple[Tokenizer, DataConfig]:
        """Trained on the training texts, and the data section that tells of it."""
        train = texts["train"]

        def trial(tokens: Mapping[str, Any]) -> tuple[dict[str, float], Tokenizer]:
            chosen = sample(train, len(train))
            trained = train_tokenizer(chosen, tokens["tokenizer"], tokens["vocab_size"])
            return unknown_shares(trained, texts), trained

        given = {key: getattr(config, key) for key in config.model_fields_set}
        tokens, _ = choose_tokens(texts, given.get("tokenizer"), trial)
        config = config.model_copy(update={**tokens, **given})
        made = {"tokenizer": config.tokenizer, "vocab_size": config.vocab_size}
        return trial(made)[1], config

    def _write(
        self, target: Path, split: str, tokenizer: Tokenizer, texts: list[str], config: DataConfig
    ) -> None:
        encoded = tokenizer.encode_parts(texts)
        parts = ([cut(row, config.max_len) for row in some] for some in encoded)
        write_rows(target, f"{split}.", parts, tokenizer.vocab_size)


class _Documents(_Texts):
    def first_stage(self, values: Any, preset: str) -> dict[str, Any]:
        return presets.document_training(len(values))

    def _tokenizer(
        self, texts: Mapping[str, list[str]], config: DataConfig
    ) -> tuple[Tokenizer, DataConfig]:
        words = [document_words(text) for text in texts["train"]]
        there = len({word for text in words for word in text.split()}) + 4
        most = config.vocab_size if "vocab_size" in config.model_fields_set else VOCABULARY
        return train_vocabulary(words, min(most, max(8, there))), config

    def _write(
        self, target: Path, split: str, tokenizer: Tokenizer, texts: list[str], config: DataConfig
    ) -> None:
        documents = bags(tokenizer, texts)
        for text, (ids, _) in zip(texts, documents, strict=True):
            if not len(ids):
                raise UsageError(
                    f"data: document {text[:40]!r} has no word of the vocabulary; leave such rows "
                    "out, or take kind='sentences'"
                )
        listed = [[ids.tolist() for ids, _ in documents]]
        write_rows(target, f"{split}.", listed, tokenizer.vocab_size)
        counts = np.concatenate([counts for _, counts in documents]).astype(np.int32)
        write_array(target / f"{split}.counts.npy", counts)
        if split == "train":
            ids = np.concatenate([ids for ids, _ in documents])
            logs = log_frequencies(ids, counts, tokenizer.vocab_size)
            write_array(target / "background.npy", logs)


class _Arrays(KindOfRows):
    def write(
        self, values: Any, parts: Mapping[str, np.ndarray], config: DataConfig, target: Path
    ) -> dict[str, Any]:
        for split, part in parts.items():
            write_array(target / f"{split}.x.npy", values[part])
        return self.meta(values[parts["train"]])

    def meta(self, train: np.ndarray) -> dict[str, Any]:
        """What ``meta.json`` says of the training rows."""
        raise NotImplementedError


class _Points(_Arrays):
    usual = 10

    def first_stage(self, values: Any, preset: str) -> dict[str, Any]:
        spread = float(values.astype(np.float64).std(0).mean())
        return {"noise": presets.noise_of_points(spread), "latent": values.shape[1]}

    def meta(self, train: np.ndarray) -> dict[str, Any]:
        exact = train.astype(np.float64)
        spread = np.maximum(exact.std(0), 1e-6)
        return {
            "dimensions": int(train.shape[1]),
            "shift": exact.mean(0).tolist(),
            "scale": spread.tolist(),
        }


class _Images(_Arrays):
    usual = 0

    def first_stage(self, values: Any, preset: str) -> dict[str, Any]:
        groups = presets.groups_of_images(values.shape[2], values.shape[1])
        return {"hvae": groups, **presets.image_length(len(values))}

    def labelled(self, labels: Labels) -> dict[str, Any]:
        classes = {"classes": len(labels.names), "class_weight": 1.0}
        return {
            "cluster": {"labels": "given", "column": LABEL},
            "prior": {**classes, "hierarchy": {"label_groups": [0]}},
        }

    def meta(self, train: np.ndarray) -> dict[str, Any]:
        return {"channels": train.shape[1], "size": train.shape[2]}


KINDS: dict[str, KindOfRows] = {
    "sentences": _Texts(), "documents": _Documents(), "points": _Points(), "images": _Images()
}  # fmt: skip
