"""Models of responses to the turns before them.

Shapes: N responses, B contexts, C context size, D latent dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ldebm.config import EvaluateConfig
from ldebm.data.batches import DialogueBatch, TextBatch, collate_ids, with_turns
from ldebm.data.user_texts import as_texts
from ldebm.modalities.sentences import TextModel
from ldebm.priors.energy_net import rows_of

if TYPE_CHECKING:
    from ldebm.data.packed import Packed, Split
    from ldebm.evaluate.report import Report
    from ldebm.priors import Prior

__all__ = ["ResponseModel"]


class ResponseModel(TextModel):
    """A model of responses.

    Attributes:
        context_BC: of a model :meth:`conditioned_on` contexts, else ``None``: it begins dialogues.
    """

    task = "responses"
    scored_together = evaluated_together = 1  # each context has normalisers of its own
    published_estimators = False
    context_BC: Tensor | None = None

    def conditioned_on(self, context_BC: Tensor) -> ResponseModel:
        """The model of responses to these contexts: row i of whatever is asked has context i mod B.

        Args:
            context_BC: what the backbone's context encoder gives.
        """
        bound = copy.copy(self)
        bound.prior, bound.context_BC = self.prior.conditioned_on(context_BC), context_BC
        return bound

    def in_contexts_of(self, split: Split, rows: np.ndarray) -> ResponseModel:
        from ldebm.evaluate.report import context_rows

        return self.conditioned_on(context_rows(self.backbone, split, rows, self.device))

    def part(self, rows: slice) -> ResponseModel:
        return self if self.context_BC is None else self.conditioned_on(self.context_BC[rows])

    def _begun(self) -> ResponseModel:
        """The model with contexts; without any it begins dialogues."""
        return self if self.context_BC is not None else self.conditioned_on(self.contexts([[]]))

    def after(self, rows: Any, turns: Sequence[Sequence[str]] | None) -> Any:
        batch = self.batch(rows)
        return batch if turns is None else self._with_turns(batch, turns)

    def _with_turns(self, batch: TextBatch, turns: Sequence[Sequence[str]]) -> DialogueBatch:
        """A batch with the turns before each of its rows."""
        most = int(self.meta["context_turns"])
        kept = [as_texts(before)[-most:] for before in turns]
        flat = [self.ids(text, "context") for row in kept for text in row]
        packed = collate_ids(flat, self.device) if flat else None
        return with_turns(batch, packed, [len(row) for row in kept])

    @torch.no_grad()
    def contexts(self, turns: Sequence[Sequence[str]]) -> Tensor:
        """Contexts (B, C) of the turns before each of B responses, oldest first; may be none.

        Raises:
            UsageError: a turn is empty.
        """
        empty = [[self.tokenizer.bos_id, self.tokenizer.eos_id]] * len(turns)
        return self.backbone.context(self._with_turns(collate_ids(empty, self.device), turns))

    def prior_of(self, batch: Any) -> Prior:
        return self.prior.conditioned_on(self.backbone.context(batch))

    def _decoded_with(self, rows: int) -> Mapping[str, Tensor]:
        return {} if self.context_BC is None else {"context_BC": rows_of(self.context_BC, rows)}

    def sample_latents(
        self,
        n: int,
        label: int | str | None = None,
        seed: int = 0,
        attributes: Mapping[str, int | str] | None = None,
    ) -> Tensor:
        return super(ResponseModel, self._begun()).sample_latents(n, label, seed, attributes)

    def classify(self, rows: Any, *, at_mean: bool = False) -> np.ndarray:
        if self.prior.levels and not at_mean:
            return super().classify(rows)
        return super(ResponseModel, self._begun()).classify(rows, at_mean=at_mean)

    def respond(
        self,
        context: Sequence[str],
        n: int = 1,
        label: int | str | None = None,
        seed: int = 0,
        mode: str = "greedy",
    ) -> list[str]:
        """n responses to a dialogue so far; they differ by their latent.

        Args:
            context: the previous turns, oldest first; more than the model reads are cut. A bare
                string is one turn.
            n: how many.
            label: class of the responses, by name or number.
            seed: of the draws.
            mode: ``greedy`` or ``sample``: how words are chosen given the latent.

        Raises:
            UsageError: a turn is empty.
        """
        model = self.conditioned_on(self.contexts([as_texts(context)]))
        return model.decode(model.sample_latents(n, label, seed), mode, seed)

    def add_scores(
        self,
        report: Report,
        packed: Packed,
        texts: list[str],
        generated: list[str],
        config: EvaluateConfig,
    ) -> None:
        from ldebm.evaluate.responses import evaluate_responses

        evaluate_responses(report, self, packed, texts, generated, config)
