"""Sentence completion with a frozen model.

Yu et al. (2022), appendix B.3; docs/method.md, section 5.9.

A shallow network maps the latent of a sentence with gaps to (u_obs, u_unk), trained so that the
decoder, reading both, writes the words that are there. To complete a sentence, u_obs is kept and
u_unk is drawn from the prior given it, by Langevin chains at every level of the prior in which the
observed coordinates follow their own forward path. The gaps are then filled with the words that
make the sentence most probable, p(x) ~ sum_s p(x | u_s), by a beam search; the network's own
(u_obs, u_unk) is one of the draws. Coordinates are the prior's: u is standardised.

Shapes: B rows, S draws, N tokens of all rows, D latent dimension, O of them observed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.backbones.filling import fill
from ldebm.backbones.text import TextVAE
from ldebm.config import CompletionConfig
from ldebm.data.batches import batch_rows, collate_ids
from ldebm.data.packed import Split
from ldebm.errors import UsageError
from ldebm.files import read_model, write_model
from ldebm.model import Model
from ldebm.optimisers import untraced
from ldebm.priors import Prior
from ldebm.priors.langevin import Conditional
from ldebm.seeding import generator, numpy_generator

if TYPE_CHECKING:
    from ldebm.modalities.sentences import TextModel

__all__ = [
    "Completer",
    "complete",
    "complete_rows",
    "given_observed",
    "hide",
    "load_completer",
    "mask_words",
    "read_gaps",
    "save_completer",
    "train_completer",
]

ROWS_AT_ONCE = 64
GAPS = ("___", "<unk>")  # how a user writes a missing word


class Completer(nn.Module):
    """u -> (u_obs, u_unk): a residual network with one hidden layer, the identity at first.

    Args:
        latent: D.
        hidden: of the layer.
        observed: O.
        stream: initial weights.
    """

    def __init__(
        self, latent: int, hidden: int, observed: int, stream: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.observed = observed
        self.inner, self.outer = nn.Linear(latent, hidden), nn.Linear(hidden, latent)
        with torch.no_grad():
            for parameter in self.inner.parameters():
                parameter.uniform_(-(latent**-0.5), latent**-0.5, generator=stream)
            for parameter in self.outer.parameters():
                parameter.zero_()

    def forward(self, u_BD: Tensor) -> Tensor:
        """(u_obs, u_unk), shape (B, D)."""
        moved: Tensor = self.outer(nn.functional.leaky_relu(self.inner(u_BD), 0.2))
        return u_BD + moved


def mask_words(
    row: np.ndarray, share: float, draws: np.random.Generator, control: int
) -> tuple[list[int], list[bool]]:
    """A row with some of its words missing.

    Args:
        row: token ids, BOS to EOS.
        share: of its known words that are masked, at least one.
        draws: chooses them.
        control: ids up to this one (unknown word, BOS, EOS) are never masked.

    Returns:
        The row, and which of its tokens are masked.
    """
    words = np.flatnonzero(row > control)
    count = min(len(words), max(1, round(share * len(words))))
    gaps = np.zeros(len(row), dtype=bool)
    gaps[draws.permutation(words)[:count]] = True
    return [int(token) for token in row], gaps.tolist()


def hide(rows: Sequence[list[int]], gaps: Sequence[list[bool]], unknown: int) -> list[list[int]]:
    """The rows with the unknown word at every gap."""
    return [
        [unknown if gap else token for token, gap in zip(row, mask, strict=True)]
        for row, mask in zip(rows, gaps, strict=True)
    ]


def _text(model: Model) -> TextVAE:
    """The backbone of a model that can complete.

    Raises:
        UsageError: the model has no such backbone, or a prior without density over one vector.
    """
    if not isinstance(model.backbone, TextVAE):
        raise UsageError(f"{model.experiment}: completion needs a model of text with arch 'gru'")
    if cast("TextModel", model).own_prior is not None:
        raise UsageError(
            f"{model.experiment}: completion needs a prior over one vector, not a baseline's own"
        )
    return model.backbone


def _known_nll(
    text: TextVAE, rows: Sequence[list[int]], gaps: Sequence[list[bool]], z_BD: Tensor
) -> Tensor:
    """-log p(known words | all words before, z) per row, (B,): gaps are read but not predicted.

    Args:
        text: encoder and decoder.
        rows: token ids, BOS to EOS.
        gaps: which tokens are missing.
        z_BD: latents.
    """
    batch = collate_ids(rows, z_BD.device)
    marks = collate_ids([[int(gap) for gap in gap_row] for gap_row in gaps], z_BD.device)
    nll_N, row_N = text.token_nll(batch, z_BD)
    known_N = marks.tokens_N[len(batch) :] == 0
    nll_B = nll_N.new_zeros(len(batch)).index_add(0, row_N, nll_N * known_N)
    return batch.restore(nll_B)


def train_completer(
    model: Model,
    split: Split,
    config: CompletionConfig,
    seed: int,
    show: Callable[[int, dict[str, float]], None] | None = None,
) -> tuple[Completer, list[float]]:
    """Trains the network on training rows of which a share of the words is missing.

    Args:
        model: frozen.
        split: training rows.
        config: sizes and length.
        seed: of masks, order and initial weights.
        show: is told the number of every update and its loss.

    Returns:
        The network and its loss (nats a row of known words) of every update.

    Raises:
        UsageError: the model cannot complete.
    """
    text, prior = _text(model), model.prior
    latent = text.latent
    observed = config.observed or max(1, latent // 2)
    if observed >= latent:
        raise UsageError(
            f"evaluate.completion.observed {observed}: expected less than the {latent} dimensions"
        )
    completer = Completer(latent, config.hidden, observed, generator(seed, "completer"))
    completer = completer.to(model.device)
    optimiser = untraced(torch.optim.Adam)(completer.parameters(), lr=config.lr)
    frozen = [(p, p.requires_grad) for p in (*text.parameters(), *prior.parameters())]
    for parameter, _ in frozen:
        parameter.requires_grad_(False)
    losses = []
    with torch.enable_grad():
        for step in range(config.updates):
            optimiser.param_groups[0]["lr"] = config.lr * (1 - step / config.updates)
            chosen = batch_rows(split.n, config.batch, seed, step)
            draws = numpy_generator(seed, "completion-masks", step)
            pairs = [mask_words(split.row(i), config.share, draws, text.eos_id) for i in chosen]
            rows, gaps = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            with torch.no_grad():
                hidden = collate_ids(hide(rows, gaps, text.unk_id), model.device)
                u = prior.to_standard(text.encode(hidden)[0])
            loss = _known_nll(text, rows, gaps, prior.from_standard(completer(u))).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            losses.append(float(loss.detach()))
            if show is not None:
                show(step + 1, {"loss": losses[-1]})
    for parameter, wanted in frozen:
        parameter.requires_grad_(wanted)
    return completer.eval(), losses


@torch.no_grad()
def given_observed(density: Prior, u_BO: Tensor, steps: int, stream: torch.Generator) -> Tensor:
    """Draws of u whose first O coordinates are given, (B, D).

    Args:
        density: Gaussian or of energies.
        u_BO: the observed coordinates.
        steps: moves of every level's chain.
        stream: source of all noise.
    """
    rows, observed = u_BO.shape
    device, rest = u_BO.device, density.latent - observed
    if (prior := density.energies) is None:
        return torch.cat([u_BO, torch.randn(rows, rest, generator=stream, device=device)], -1)
    path, scale = [u_BO], [float(value) for value in prior.schedule.scale[1:]]
    for level in range(1, prior.levels):
        noise = torch.randn(u_BO.shape, generator=stream, device=device)
        level_B = torch.full((rows,), level, dtype=torch.long, device=device)
        path.append(prior.schedule.step(path[-1], level_B, noise))
    frozen, sampler = prior.net.freeze(), prior.config.sampler
    inverse_temperature_T = 1 / prior.temperature_T(of_sampler=True)
    u_BD = torch.randn(rows, prior.latent, generator=stream, device=device)
    for t in reversed(range(prior.levels)):
        t_B = torch.full((rows,), t, dtype=torch.long, device=device)
        kept = scale[t] * path[t]

        def energy(x_BR: Tensor, level_B: Tensor, kept: Tensor = kept) -> tuple[Tensor, Tensor]:
            whole = torch.cat([kept, x_BR], -1)
            value, gradient = frozen.value_and_gradient(whole, level_B)
            return value, gradient[:, observed:]

        mean, variance = prior.base_kernel(u_BD, t_B)
        start = prior.chain_start(u_BD, t_B, stream)[:, observed:]
        inverse_temperature, step2 = (
            table[t_B].unsqueeze(-1) for table in (inverse_temperature_T, prior.step2_T())
        )
        problem = Conditional(start, mean[:, observed:], variance, inverse_temperature, step2, t_B)
        x = problem.run(sampler.method, energy, steps, stream).x_BD
        u_BD = torch.cat([path[t], x / scale[t]], -1)
    return u_BD


@torch.no_grad()
def complete_rows(
    model: Model,
    completer: Completer,
    rows: Sequence[list[int]],
    gaps: Sequence[list[bool]],
    config: CompletionConfig,
    seed: int,
    done: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Rows with their gaps filled; a row's result does not depend on what stands in its gaps.

    Args:
        model: frozen.
        completer: of the same model.
        rows: token ids, BOS to EOS.
        gaps: which tokens are missing.
        config: draws, moves and hypotheses.
        seed: of the chains.
        done: is told how many rows are filled.
    """
    text, prior = _text(model), model.prior
    filled: list[list[int]] = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        hidden = hide(rows[part], gaps[part], text.unk_id)
        mu, _ = text.encode(collate_ids(hidden, model.device))
        u_BD = completer(prior.to_standard(mu))
        stream = generator(seed, "completion", start, device=model.device)
        draws = [u_BD]
        if config.draws > 1:
            seen = u_BD[:, : completer.observed].repeat(config.draws - 1, 1)
            draws.append(given_observed(prior, seen, config.steps, stream))
        z_SBD = prior.from_standard(torch.cat(draws)).view(config.draws, len(hidden), -1)
        filled += fill(text, hidden, gaps[part], z_SBD, config.beam)
        if done is not None:
            done(len(filled))
    return filled


def read_gaps(model: Model, texts: Sequence[str]) -> tuple[list[list[int]], list[list[bool]]]:
    """Token ids of texts, the unknown word at every gap, and which tokens are gaps.

    A word that the model does not know is no gap: it is left as it is.

    Raises:
        UsageError: a text has no gap or is too long, or the model cannot complete.
    """
    text, tokenizer = _text(model), model.tokenizer
    assert tokenizer is not None
    rows, gaps = [], []
    for item in texts:
        words = item.split()
        if not any(word in GAPS for word in words):
            raise UsageError(f"text {item!r}: no gap; write {GAPS[0]} for a missing word")
        row, gap = [tokenizer.bos_id], [False]
        for is_gap, part in groupby(words, GAPS.__contains__):
            known = list(part)
            ids = [text.unk_id] * len(known)
            if not is_gap:
                ids = tokenizer.encode(" ".join(known))[1:-1]
            row, gap = row + ids, gap + [is_gap] * len(ids)
        rows.append([*row, tokenizer.eos_id])
        gaps.append([*gap, False])
        limit = int(model.meta["max_len"])
        if len(rows[-1]) > limit:
            raise UsageError(
                f"text {item!r}: {len(rows[-1]) - 2} tokens; the model reads up to {limit - 2}"
            )
    return rows, gaps


def complete(
    model: Model,
    completer: Completer,
    texts: Sequence[str],
    config: CompletionConfig,
    seed: int = 0,
    done: Callable[[int], None] | None = None,
) -> list[str]:
    """Texts with every ``___`` (or ``<unk>``) replaced by a word.

    ``done`` is told how many are completed.

    Raises:
        UsageError: as :func:`read_gaps`.
    """
    tokenizer = model.tokenizer
    assert tokenizer is not None
    rows, gaps = read_gaps(model, texts)
    filled = complete_rows(model, completer, rows, gaps, config, seed, done)
    completed = []
    for item, row, mask in zip(texts, filled, gaps, strict=True):
        answers = iter([token for token, gap in zip(row, mask, strict=True) if gap])
        words = [
            tokenizer.decode([next(answers)]) if word in GAPS else word for word in item.split()
        ]
        completed.append(" ".join(words))
    return completed


def save_completer(path: str | Path, completer: Completer, about: dict[str, Any]) -> None:
    """Writes the network for :func:`load_completer`.

    Args:
        path: the ``.safetensors`` file.
        completer: trained.
        about: for its header: what it was trained from.
    """
    write_model(path, completer.state_dict(), {**about, "observed": completer.observed})


def load_completer(path: str | Path, model: Model) -> Completer:
    """The network that an evaluation has written, or :func:`save_completer`.

    Raises:
        UsageError: the file is damaged, or belongs to another model.
    """
    tensors, header = read_model(path)
    if header.get("model") not in (None, model.fingerprint):
        raise UsageError(f"{path}: a completion of another model")
    latent = model.prior.latent
    try:
        completer = Completer(latent, len(tensors["inner.bias"]), int(header["observed"]))
        completer.load_state_dict(tensors)
    except (KeyError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: not a completion of this model ({detail})") from None
    return completer.to(model.device).eval()
