"""Several second stages that take their updates together: every operation serves all of them.

An update of a prior is a thousand small operations, whose launching costs as much as their work.
Here it is paid once for all runs. Each run keeps its own streams, optimiser state, averages, curve,
validation and checkpoint, and computes what it computes alone, bit by bit. Batches that do not fill
the vector loops (the last of an epoch) are computed run by run.

Shapes: M runs, B rows of each, N = M B, D latent dimension.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldebm.config.alike import WHOLE
from ldebm.draws import Streams
from ldebm.errors import DivergenceError
from ldebm.optimisers import untraced
from ldebm.priors import EnergyPrior, Pairs
from ldebm.priors.langevin import Chain
from ldebm.priors.stacked import stack
from ldebm.priors.stacked_energy_net import StackedEnergies
from ldebm.training.objectives import Terms
from ldebm.training.prior_objectives import Contrast, Weights, contrast_rows, contrast_terms
from ldebm.training.prior_tasks import PriorTask
from ldebm.training.score_matching import Matching, matching_rows, matching_terms, standardised
from ldebm.training.trainer import Loop

__all__ = ["StackedRuns"]

State = dict[Any, dict[str, Tensor]]
"""An optimiser's state, by parameter."""


class _Leaf:
    """One parameter of all runs.

    Args:
        stack: its values, (M, ...), of which those of the runs are views.
        members: the parameter in every run.
    """

    def __init__(self, stack: Tensor, members: list[nn.Parameter]) -> None:
        self.stack, self.members = stack, members
        self.whole = members[0].numel() % WHOLE == 0
        self.trained: list[Tensor] = [stack] if self.whole else list(members)

    def gather(self) -> None:
        """Gradients to where the optimiser looks for them."""
        if self.stack.grad is None:  # the runs were computed one by one
            self.stack.grad = torch.stack([_gradient(member) for member in self.members])
        if not self.whole:
            for member, part in zip(self.members, self.stack.grad.unbind(), strict=True):
                member.grad = part

    def join(self, joint: State, states: Sequence[State]) -> None:
        """Takes over the optimiser states of the runs."""
        own = [state[member] for state, member in zip(states, self.members, strict=True)]
        if not self.whole:
            joint.update(zip(self.members, own, strict=True))
        elif own[0]:
            joint[self.stack] = {
                key: value if value.ndim == 0 else torch.stack([one[key] for one in own])
                for key, value in own[0].items()
            }

    def part(self, joint: State, states: Sequence[State]) -> None:
        """Gives the runs copies of their optimiser states."""
        for index, (state, member) in enumerate(zip(states, self.members, strict=True)):
            if self.whole:
                own = {k: v if v.ndim == 0 else v[index] for k, v in joint[self.stack].items()}
            else:
                own = joint[member]
            state[member] = {key: value.clone() for key, value in own.items()}


class StackedRuns:
    """M runs that stand at the same update.

    Args:
        loops: of tasks whose configurations differ in seed, data, labels and the weights of the
            class and information terms at most.
    """

    def __init__(self, loops: Sequence[Loop]) -> None:
        self.loops = list(loops)
        self.tasks = [loop.task for loop in loops if isinstance(loop.task, PriorTask)]
        self.prior = stack([task.prior for task in self.tasks])
        assert isinstance(self.prior.net, StackedEnergies)
        self.net = self.prior.net
        own = [dict(task.prior.net.named_parameters()) for task in self.tasks]
        stacks = self.net.stacks.items()
        self.leaves = [_Leaf(values, [one[name] for one in own]) for name, values in stacks]
        self.states: list[State] = [loop.optimisers[0].state for loop in loops]
        config = loops[0].groups[0].config
        self.clip = config.clip
        self.optimiser = untraced(torch.optim.Adam)(
            [part for leaf in self.leaves for part in leaf.trained],
            **{"lr": config.lr, "betas": config.betas, "eps": config.eps},
            **{"weight_decay": config.weight_decay, "fused": True},
        )
        for leaf in self.leaves:
            leaf.join(self.optimiser.state, self.states)
        configs = [task.prior.config for task in self.tasks]
        self.weights = Weights(
            torch.tensor([config.mi_weight for config in configs]),
            torch.tensor([config.class_weight for config in configs]),
        )
        self.averages: list[Tensor] = []
        for name in self.net.stacks if loops[0].averaged is not None else ():
            kept = [loop.averaged for loop in loops if loop.averaged is not None]
            self.averages.append(torch.stack([one[f"net.{name}"] for one in kept]))
            for one, part in zip(kept, self.averages[-1].unbind(), strict=True):
                one[f"net.{name}"] = part

    @property
    def step(self) -> int:
        """Updates done."""
        return self.loops[0].step

    def update(self) -> tuple[list[tuple[Loop, Terms]], list[Loop]]:
        """One update of every run.

        Returns:
            The runs that go on, with their terms; and those that have diverged.
        """
        for loop in self.loops:
            loop.begin_update()
        for leaf in self.leaves:
            leaf.stack.grad = None
        terms = dict(zip(self.loops, self._terms(self.step), strict=True))
        lost = [loop for loop in self.loops if _diverges(partial(loop.guard, terms[loop]))]
        going = [loop for loop in self.loops if loop not in lost]
        if going:
            torch.autograd.backward([terms[loop].total for loop in going])
            self._move()
            lost += [loop for loop in going if _diverges(loop.end_update)]
        return [(loop, terms[loop]) for loop in self.loops if loop not in lost], lost

    @torch.no_grad()
    def _move(self) -> None:
        """Clipping, optimiser and averages."""
        for leaf in self.leaves:
            leaf.gather()
        if self.clip is not None:
            gradients = [_gradient(leaf.stack) for leaf in self.leaves]
            norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
            total_M = torch.linalg.vector_norm(torch.stack(norms, 1), dim=1)
            factor_M = (self.clip / (total_M + 1e-6)).clamp(max=1.0)
            for gradient in gradients:
                gradient.mul_(factor_M.view(-1, *[1] * (gradient.ndim - 1)))
        self.optimiser.param_groups[0]["lr"] = self.loops[0].optimisers[0].param_groups[0]["lr"]
        self.optimiser.step()
        if self.averages:
            present = [leaf.stack for leaf in self.leaves]
            torch._foreach_lerp_(self.averages, present, 1 - self.loops[0].decay)

    def save(self) -> None:
        """Writes the checkpoint of every run, as it writes it alone."""
        for leaf in self.leaves:
            leaf.part(self.optimiser.state, self.states)
        for loop in self.loops:
            views = loop.averaged
            if views is not None:
                loop.averaged = {key: value.clone() for key, value in views.items()}
            loop.save()
            loop.averaged = views

    def part(self) -> None:
        """Gives every run storage of its own again, with what it needs to go on alone."""
        for leaf in self.leaves:
            leaf.part(self.optimiser.state, self.states)
        for loop in self.loops:
            if loop.averaged is not None:
                loop.averaged = {key: value.clone() for key, value in loop.averaged.items()}
        self.net.release()

    def agrees(self) -> bool:
        """Whether this machine rounds the operations of all runs as those of each.

        The gradients of an update of each kind are compared, bit by bit; nothing is changed.
        """
        if not self.loops:
            return False
        buffers = [dict(task.prior.named_buffers()) for task in self.tasks]
        before = [{name: value.clone() for name, value in own.items()} for own in buffers]
        steps = {self.step, max(self.step, self.tasks[0].warm_updates)}
        same = True
        for step in steps:
            gradients = []
            for work in (self._terms, self._one_by_one):
                for loop in self.loops:
                    loop.begin_update()
                for own, kept in zip(buffers, before, strict=True):
                    for name, value in kept.items():
                        own[name].copy_(value)
                gradients.append(self._gradients(work(step)))
            same = same and all(map(torch.equal, *gradients))
        for own, kept in zip(buffers, before, strict=True):
            for name, value in kept.items():
                own[name].copy_(value)
        return same

    def _gradients(self, terms: Sequence[Terms]) -> list[Tensor]:
        """Of all parameters, (M, ...) each."""
        for leaf in self.leaves:
            leaf.stack.grad = None
        torch.autograd.backward([own.total for own in terms])
        for leaf in self.leaves:
            leaf.gather()
        return [_gradient(leaf.stack) for leaf in self.leaves]

    def _one_by_one(self, step: int) -> Sequence[Terms]:
        return [task.loss(step) for task in self.tasks]

    def _terms(self, step: int) -> Sequence[Terms]:
        rows = [task.batch(step) for task in self.tasks]
        size = len(rows[0])
        if size % WHOLE or any(len(part) != size for part in rows):
            return self._one_by_one(step)
        for task in self.tasks:
            task.begin_loss()
        streams = Streams(tuple(task.stream(step) for task in self.tasks))
        nobody = torch.full((size,), -1)
        known = [task.labels_of(part) for task, part in zip(self.tasks, rows, strict=True)]
        label_MB = torch.stack([nobody if labels is None else labels for labels in known])
        if step < self.tasks[0].warm_updates and self.prior.levels > 1:
            terms = self._matching(self.prior, rows, label_MB, streams)
        else:
            terms = self._contrast(rows, label_MB, streams)
        named = {name: value.unbind() for name, value in terms.parts.items()}
        return [
            Terms(total, {name: values[index] for name, values in named.items()})
            for index, total in enumerate(terms.total.unbind())
        ]

    def _matching(
        self, prior: EnergyPrior, rows: list[np.ndarray], label_MB: Tensor, streams: Streams
    ) -> Terms:
        latents = []
        for task, part in zip(self.tasks, rows, strict=True):
            latents.append(standardised(task.prior, *task.latents(part)))
            task.chain = None
        mean, variance = (torch.cat(parts) for parts in zip(*latents, strict=True))
        matched = matching_rows(prior, mean, variance, streams)
        shape = label_MB.shape
        logits = matched.logits_BK.view(*shape, -1)
        split = Matching(matched.loss_B.view(shape), matched.value_B.view(shape), logits)
        return matching_terms(self.weights, split, label_MB)

    def _contrast(self, rows: list[np.ndarray], label_MB: Tensor, streams: Streams) -> Terms:
        parts = zip(self.tasks, rows, streams.parts, strict=True)
        drawn = [task.draw(part, stream) for task, part, stream in parts]
        u0 = self.prior.level_zero(torch.cat(drawn), streams)
        contrast = contrast_rows(self.prior, u0, streams, unlabelled=False)
        pairs, chain = contrast.pairs, contrast.chain
        for index, task in enumerate(self.tasks):
            span = slice(index * len(rows[0]), (index + 1) * len(rows[0]))
            own = Pairs(*(part[span] for part in _fields(pairs)))
            task.chain = Chain(chain.x_BD[span], chain.acceptance_B[span]), own
        shape = label_MB.shape
        split = Contrast(
            Pairs(*(part.view(*shape, *part.shape[1:]) for part in _fields(pairs))),
            Chain(chain.x_BD.view(*shape, -1), chain.acceptance_B.view(shape)),
            contrast.logits_NK.view(shape[0], -1, contrast.logits_NK.shape[1]),
        )
        return contrast_terms(self.weights, split, shape[1], label_MB, None)


def _fields(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return pairs.v_BD, pairs.t_B, pairs.u_next_BD, pairs.weight_B


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _diverges(work: Callable[[], None]) -> bool:
    """Whether a run diverges in ``work``, which is said."""
    try:
        work()
    except DivergenceError as error:
        print(f"{error}; the runs beside it go on", file=sys.stderr)
        return True
    return False
