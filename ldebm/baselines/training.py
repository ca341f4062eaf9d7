"""First stage of a baseline: its own objective in the one trainer.

Shapes: B batch, M variables, k values, D dimensions of z.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ldebm.baselines.codes import gumbel_softmax
from ldebm.baselines.model import Baseline, CodePosterior
from ldebm.baselines.objectives import baseline_terms, elbo_rate
from ldebm.config import ExperimentConfig
from ldebm.data.batches import batch_rows, make_batch
from ldebm.data.packed import Split
from ldebm.seeding import generator
from ldebm.training.backbone_task import VALID_ROWS, BackboneTask
from ldebm.training.objectives import Terms, sample_posterior
from ldebm.training.parallel import row_weight, share

__all__ = ["BaselineTask"]


class BaselineTask(BackboneTask):
    """Trains a baseline; arguments as of :class:`ldebm.training.backbone_task.BackboneTask`."""

    def __init__(
        self,
        backbone: Baseline,
        train: Split,
        valid: Split,
        config: ExperimentConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(backbone, train, valid, config, seed, device)
        self.model = backbone

    def loss(self, step: int) -> Terms:
        rows = batch_rows(self.train_split.n, self.config.training.batch, self.seed, step)
        mine = share(len(rows))
        self.model.stream = generator(self.seed, "dropout", step, device=self.device)
        batch = make_batch(self.train_split, rows[mine], self.device)
        posterior = self.model.posterior(batch)
        noise = self._noise(len(rows), generator(self.seed, "backbone", step))
        read = self._read(posterior, (noise[0][mine], noise[1][mine]), len(batch), hard=False)
        nll = self.model.nll_of_read(batch, read)
        terms = baseline_terms(nll, posterior, self.model, self.config, step)
        return replace(terms, row_weight=row_weight(len(rows)))

    def _noise(self, rows: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """Uniform draws for the code (B, M k) and normal ones for z (B, D)."""
        uniform = torch.rand(rows, self.model.code_size, generator=stream)
        normal = torch.randn(rows, self.model.vector_size, generator=stream)
        return uniform.to(self.device), normal.to(self.device)

    def _read(
        self, posterior: CodePosterior, noise: tuple[Tensor, Tensor], rows: int, *, hard: bool
    ) -> Tensor:
        """What the decoder reads of a draw of q(c, z|x): the code relaxed, or ``hard``."""
        model, baseline = self.model, self.model.baseline
        parts: list[Tensor] = []
        if posterior.log_q_BMK is not None and not baseline.mixture:
            uniform = noise[0].reshape(posterior.log_q_BMK.shape)
            code = gumbel_softmax(posterior.log_q_BMK, uniform, baseline.temperature)
            if hard:
                code = torch.nn.functional.one_hot(code.argmax(-1), baseline.values).float()
            parts.append(code.flatten(1))
        if posterior.mu_BD is not None and posterior.logvar_BD is not None:
            drawn = baseline.form.variational  # the published AE adds noise here
            parts.append(
                sample_posterior(posterior.mu_BD, posterior.logvar_BD, noise[1])
                if drawn
                else posterior.mu_BD
            )
        return torch.cat(parts, -1) if parts else model.decoder_embedding.new_zeros(rows, 1)

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        split, model = self.valid_split, self.model
        rows = np.arange(min(split.n, VALID_ROWS))
        nll, rates, kept = [], [], []
        for start in range(0, len(rows), 256):
            batch = make_batch(split, rows[start : start + 256], self.device)
            posterior = model.posterior(batch)
            noise = self._noise(len(batch), generator(self.seed, "valid", start))
            nll.append(
                model.nll_of_read(batch, self._read(posterior, noise, len(batch), hard=True))
            )
            rate = elbo_rate(posterior, model)
            if rate is not None:
                rates.append(rate.expand(len(batch)))
            kept.append(posterior)
        whole = _joined(kept)
        done = max(step, self.config.kl_warmup * 2)  # the score has the final weights throughout
        terms = baseline_terms(torch.cat(nll), whole, model, self.config, done)
        metrics = {name: float(value) for name, value in terms.parts.items()}
        if rates:
            metrics["elbo"] = -float((torch.cat(nll) + torch.cat(rates)).double().mean())
        # While the weight still rises, a model that ignores its latents would win.
        return metrics if step < self.config.kl_warmup else metrics | {"score": float(terms.total)}


def _joined(parts: list[CodePosterior]) -> CodePosterior:
    """The distributions of all batches as one."""

    def join(values: list[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return torch.cat(known) if known else None

    return CodePosterior(
        join([part.log_q_BMK for part in parts]),
        join([part.mu_BD for part in parts]),
        join([part.logvar_BD for part in parts]),
    )
