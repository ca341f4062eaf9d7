"""Models of sentences, and what all models of text share.

Shapes: N texts, D latent dimension, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.data.batches import collate_ids
from ldebm.data.tokenizer import Tokenizer
from ldebm.data.user_texts import as_texts, read_texts
from ldebm.errors import UsageError
from ldebm.modalities.text_in_python import TextInPython
from ldebm.model import Model, UserRows
from ldebm.seeding import generator

if TYPE_CHECKING:
    from ldebm.baselines.model import Baseline
    from ldebm.baselines.prior import BaselinePrior
    from ldebm.data.packed import Measure, Packed, Split
    from ldebm.evaluate.likelihood import Estimate, LikelihoodSettings
    from ldebm.evaluate.report import Report
    from ldebm.priors import Prior
    from ldebm.priors.known import Known

__all__ = ["TextModel", "TextScores"]

ENCODED = 256  # texts that are encoded together
DRAWS = 64  # of the posterior of a text that is classified
TRAJECTORIES = {False: 32, True: 8}  # of a text that is scored; fast
AT_ONCE = 512  # trajectories that are followed together, where texts have few


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

    def columns(self) -> dict[str, np.ndarray]:
        """For tables and JSON."""
        columns = {"bound": self.bound, "tokens": self.tokens}
        columns["perplexity"] = np.exp(-self.bound / np.maximum(self.tokens, 1))
        columns["ess"] = self.ess
        return columns if self.energy is None else {**columns, "energy": self.energy}


class TextModel(TextInPython, Model):
    """A model of texts; :meth:`batch` reads them as sentences.

    Attributes:
        known: what scores have found of its normalisers.
        scored_together: texts whose trajectories are followed together: bounds the memory.
        evaluated_together: the same in the evaluation.
        published_estimators: whether the papers' estimators of the likelihood are of such rows.
    """

    rows = "texts"
    task = "text"
    tokenizer: Tokenizer
    known: Known | None = None
    scored_together = 16
    evaluated_together = 4
    published_estimators = True

    @property
    def own_prior(self) -> BaselinePrior | None:
        """The prior of a baseline, where it has that (docs/method.md, section 7)."""
        return cast("BaselinePrior", self.prior) if self.config.prior.kind == "own" else None

    def batch(self, rows: Any) -> Any:
        return collate_ids([self.ids(text) for text in as_texts(rows)], self.device)

    def after(self, rows: Any, turns: Sequence[Sequence[str]] | None) -> Any:
        """A batch of texts with the turns before each; None: they begin dialogues."""
        if turns is not None:
            raise UsageError(f"{self.experiment}: reads no contexts; leave --context out")
        return self.batch(rows)

    def ids(self, text: str, what: str = "text") -> list[int]:
        """The tokens of a text, cut where the model ends.

        Raises:
            UsageError: it is empty; the message says ``what`` it is.
        """
        limit = int(self.meta["max_len"])
        if not text.strip():
            raise UsageError(f"{what}: expected a sentence, got an empty one")
        ids = self.tokenizer.encode(text)
        return ids if len(ids) <= limit else [*ids[: limit - 1], self.tokenizer.eos_id]

    @torch.no_grad()
    def encode(self, rows: Any) -> np.ndarray:
        return super().encode(as_texts(rows))

    @torch.no_grad()
    def decode(self, z_BD: Tensor, mode: str = "greedy", seed: int = 0) -> list[str]:
        stream = generator(seed, "decode", device=self.device)
        ids = self.backbone.decode(  # type: ignore[operator]
            z_BD,
            mode=mode,
            generator=stream,
            max_len=int(self.meta["max_len"]),
            **self._decoded_with(len(z_BD)),
        )
        return [self.tokenizer.decode(row) for row in ids]

    def _decoded_with(self, rows: int) -> Mapping[str, Tensor]:
        """What else the decoder reads."""
        return {}

    def generate(
        self,
        n: int = 10,
        label: int | str | None = None,
        seed: int = 0,
        mode: str = "sample",
        attributes: Mapping[str, int | str] | None = None,
        draws: int = 1,
    ) -> list[str]:
        """n texts; with ``draws`` the first of so many in which the model finds the label itself.

        :mod:`ldebm.modalities.self_filtered`.
        """
        if draws > 1:
            from ldebm.modalities.self_filtered import self_filtered

            if label is None:
                raise UsageError(f"draws {draws}: give a label, by which to choose among them")
            return self_filtered(self, n, label, draws, mode, seed).texts
        return list(super().generate(n, label, seed, mode, attributes))

    def classify(self, rows: Any, *, at_mean: bool = False) -> np.ndarray:
        if at_mean or not self.prior.levels:
            return super().classify(as_texts(rows))
        return self.class_probabilities(rows)

    def read(
        self,
        path: Path,
        column: str | None = None,
        context: str | None = None,
        *,
        resize: bool = False,
    ) -> UserRows:
        if resize:
            raise UsageError(f"{self.experiment}: a model of text; leave --resize out")
        user_texts = read_texts(path, column, context)
        columns: dict[str, list[Any]] = {"row": user_texts.rows, "text": user_texts.texts}
        return UserRows(user_texts.texts, columns, user_texts.turns, user_texts.left_out)

    def encoded(self, rows: UserRows) -> tuple[np.ndarray, np.ndarray | None]:
        z, logits = self.encode_texts(rows.values, rows.turns)
        if self.prior.levels:
            return z, self.class_probabilities(rows.values, rows.turns)
        if logits is not None:
            logits = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
        return z, logits

    def prepare_scores(self) -> str:
        return self.normalisers()[1]

    def scored(
        self, rows: UserRows, seed: int, done: Callable[[int], None], **settings: Any
    ) -> list[dict[str, Any]]:
        scores = self.score(rows.values, rows.turns, seed, done=done, **settings)
        return rows.records(scores.columns())

    def score(
        self,
        texts: Sequence[str],
        turns: Sequence[Sequence[str]] | None = None,
        seed: int = 0,
        importance: int | None = None,
        inner: int = 64,
        done: Callable[[int], None] | None = None,
        *,
        fast: bool = False,
    ) -> TextScores:
        """Likelihood bounds and energies.

        Bounds are Monte Carlo estimates: with more trajectories they rise, and their noise falls.
        The top normaliser is estimated once for a model (:meth:`normalisers`), and the others with
        as few draws as their spread allows. One thread of the CPU computes, whatever torch is set
        to.

        Args:
            texts: N of them; a bare string is one.
            turns: of a model of responses the turns before each; None: they begin dialogues.
            seed: of the draws.
            importance: trajectories a text; None: 32, or 8 if ``fast``.
            inner: at most so many draws of each inner normaliser; even.
            done: is told how many texts are scored.
            fast: take fewer trajectories and compute the decoder's products in bfloat16. Bounds
                 are lower and vary more, but rank texts nearly alike (docs/measurements.md).

        Raises:
            UsageError: the model has no likelihood or reads no contexts; or a text is empty.
        """
        from ldebm.devices import one_thread
        from ldebm.evaluate.likelihood import LikelihoodSettings

        texts, importance = as_texts(texts), importance or TRAJECTORIES[fast]
        settings = LikelihoodSettings(
            importance, inner, anneal_share=0, sandwich=False, bfloat16=fast, seed=seed
        )
        together = self.scored_together
        if together > 1:  # few trajectories of many texts fill the processor as well
            together = max(together, AT_ONCE // importance)
        batches = self._batches(texts, turns, together, done)
        with one_thread():
            estimate, energy = self._estimate(batches, settings), None
            if self.prior.levels:
                _, logits = self.encode_texts(texts, turns)
                if logits is not None:
                    energy = -np.logaddexp.reduce(logits.astype(np.float64), axis=1)
        return TextScores(-estimate.nll_B, self.tokens(texts), estimate.ess_B, energy)

    def _estimate(self, batches: Iterator[Any], settings: LikelihoodSettings) -> Estimate:
        if (prior := self.own_prior) is not None:
            from ldebm.baselines.likelihood import baseline_likelihood

            backbone, draws = cast("Baseline", self.backbone), settings.trajectories
            own = baseline_likelihood(backbone, prior, batches, draws, settings.seed)
            if own is None:
                raise UsageError(f"{self.experiment}: an auto-encoder has no likelihood")
            return own
        from ldebm.evaluate.likelihood import likelihood

        known, _ = self.normalisers()
        if known is not None:
            fewer = tuple(min(draws, settings.inner) for draws in known.inner)
            known = replace(known, inner=fewer)
        return likelihood(self.backbone, self.prior, batches, settings, known=known)["prior"]

    def normalisers(self) -> tuple[Known | None, str]:
        """What is known of the normalisers of the prior, estimated once for its file.

        Returns:
            It, or nothing for a prior that has no normaliser or one for every context; and, if it
            was estimated now, a sentence on where it is kept.
        """
        from ldebm.priors import known
        from ldebm.user_cache import kept

        prior, said = self.prior.energies, ""
        if self.known is None and prior is not None and not prior.contextual:
            if self.fingerprint is None:
                self.known = known.find_known(prior)
            else:
                key = {"model": self.fingerprint, **known.SETTINGS}
                made = kept(
                    "log-z.json", key, known.read_known, lambda: known.find_known(prior),
                    known.write_known,
                )  # fmt: skip
                self.known, said = made
        return self.known, said

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """What the decoder predicts of every text: its tokens with EOS (N,)."""
        limit = int(self.meta["max_len"])
        rows = self.tokenizer.encode_rows([str(text) for text in texts])
        return np.array([min(len(row), limit) - 1 for row in rows])

    def predicted(self, split: Split) -> np.ndarray:
        """The same of the rows of a split (n,)."""
        return np.asarray(split.lengths - 1)

    def _batches(
        self,
        texts: Sequence[str],
        turns: Sequence[Sequence[str]] | None,
        size: int,
        done: Callable[[int], None] | None = None,
    ) -> Iterator[Any]:
        for start in range(0, len(texts), size):
            part = slice(start, start + size)
            yield self.after(texts[part], None if turns is None else turns[part])
            if done is not None:
                done(min(start + size, len(texts)))

    def prior_of(self, batch: Any) -> Prior:
        """The prior of the rows of a batch: given their contexts, where it reads them."""
        return self.prior

    def encode_texts(
        self, texts: Sequence[str], turns: Sequence[Sequence[str]] | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Posterior means, float32 (N, D), and the class logits there (N, K).

        Args:
            texts: N of them; a bare string is one.
            turns: of a model of responses the turns before each; None: they begin dialogues.

        Returns:
            Means and logits; the latter are None for a prior without classes.

        Raises:
            UsageError: the model reads no contexts, or a text is empty.
        """
        texts = as_texts(texts)
        means, logits = [], []
        with torch.no_grad():
            for batch in self._batches(texts, turns, ENCODED):
                z = self.backbone.encode(batch)[0]
                means.append(z.float().cpu().numpy())
                prior = self.prior_of(batch)
                if prior.has_classes:
                    logits.append(prior.class_logits(z).float().cpu().numpy())
        return np.concatenate(means), np.concatenate(logits) if logits else None

    def class_probabilities(
        self,
        texts: Sequence[str],
        turns: Sequence[Sequence[str]] | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        """p(y | x), float32 (N, K): the mean of p(y | z) over draws of the posterior q(z | x).

        At the posterior mean alone the classes are far too sure of texts unlike the training rows.
        All texts have the same noise, so that what one gets does not depend on the others.

        Args:
            texts: N of them; a bare string is one.
            turns: of a model of responses the turns before each; None: they begin dialogues.
            seed: of the draws.
        """
        texts = as_texts(texts)
        stream = generator(seed, "class-probabilities")
        noise_S1D = torch.randn(DRAWS, 1, self.prior.latent, generator=stream).to(self.device)
        probabilities = []
        with torch.no_grad():
            for batch in self._batches(texts, turns, ENCODED):
                mu, logvar = self.backbone.encode(batch)
                z_SBD = mu + torch.exp(0.5 * logvar) * noise_S1D
                logits = self.prior_of(batch).class_logits(z_SBD.reshape(-1, mu.shape[1]))
                p_SBK = torch.softmax(logits, -1).reshape(DRAWS, len(mu), -1)
                probabilities.append(p_SBK.mean(0).float().cpu().numpy())
        return np.concatenate(probabilities)

    def unknown_words(self, row: Any) -> list[str]:
        unknown = self.tokenizer.unk_id
        return [word for word in str(row).split() if unknown in self.tokenizer.encode(word)]

    def part(self, rows: slice) -> TextModel:
        """The model of some of the rows whose contexts it was given."""
        return self

    def in_contexts_of(self, split: Split, rows: np.ndarray) -> TextModel:
        return self

    def evaluate(
        self,
        packed: Packed,
        config: EvaluateConfig,
        measure: Measure | None = None,
        snapshots: Path | None = None,
    ) -> Report:
        from ldebm.evaluate.control import classifiers_for
        from ldebm.evaluate.on_text import evaluate_text
        from ldebm.evaluate.views import add_views

        del snapshots
        classifier = measure.classifier if measure is not None and config.classifier else None
        report = evaluate_text(self, packed, config, classifiers_for(packed), classifier)
        add_views(report, self, packed)
        return report

    def add_scores(
        self,
        report: Report,
        packed: Packed,
        texts: list[str],
        generated: list[str],
        config: EvaluateConfig,
    ) -> None:
        """What is measured of this kind of text alone: nothing."""
