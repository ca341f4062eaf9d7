"""A whole Langevin chain as one CUDA graph.

A chain is hundreds of small kernels whose launches cost more than their work. The graph is captured
once per shape; each replay copies the present weights, states and noise into the captured buffers.
The noise is drawn beforehand from the caller's generator, so that a replay equals the plain chain
with the same noise, and the captured kernels need no random state.

Shapes: B chains, D dimensions, S moves.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ldebm.priors.langevin import Chain, Conditional, Noise, draw_noise
from ldebm.priors.packed_energy_net import PackedEnergy

__all__ = ["ChainGraph", "replay_chain"]

WARM_UP = 3  # runs before the capture: libraries choose kernels and make workspaces
MOST_GRAPHS = 8  # of one prior; the oldest goes first
log = logging.getLogger(__name__)
_graphs: WeakKeyDictionary[nn.Module, dict[Any, ChainGraph]] = WeakKeyDictionary()
_refused: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


class ChainGraph:
    """The chain of one shape.

    Args:
        energy: weights of the same sizes as those of every later call.
        problem: start, kernel and steps of the same shapes.
        noise: draws of the same shape.
        method: ``mala``, ``pcnl`` or ``ula``.
    """

    def __init__(
        self, energy: PackedEnergy, problem: Conditional, noise: Noise, method: str
    ) -> None:
        self.energy = copy.deepcopy(energy)
        self.problem = Conditional(*(value.clone() for value in _values(problem)))
        self.noise = Noise(*(value.clone() for value in _values(noise)))
        self.method = method
        self.result = self._run()
        self.replay = _capture(self._write)

    def __call__(self, energy: PackedEnergy, problem: Conditional, noise: Noise) -> Chain:
        """The chain at these weights, from these states, with this noise."""
        given = [*energy.tensors(), *_values(problem), *_values(noise)]
        held = [*self.energy.tensors(), *_values(self.problem), *_values(self.noise)]
        for here, value in zip(held, given, strict=True):
            here.copy_(value)
        self.replay()
        return Chain(self.result.x_BD.clone(), self.result.acceptance_B.clone())

    def _run(self) -> Chain:
        steps = len(self.noise.normal_SBD)
        energy = self.energy.value_and_gradient
        return self.problem.run(self.method, energy, steps, None, self.noise)

    def _write(self) -> None:
        chain = self._run()
        self.result.x_BD.copy_(chain.x_BD)
        self.result.acceptance_B.copy_(chain.acceptance_B)


def _values(group: Conditional | Noise) -> list[Tensor]:
    return [getattr(group, item.name) for item in fields(group)]


def _capture(work: Callable[[], None]) -> Callable[[], None]:
    """``work`` as a graph: the returned function replays it."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@torch.no_grad()
def replay_chain(
    prior: nn.Module,
    energy: PackedEnergy,
    problem: Conditional,
    method: str,
    steps: int,
    generator: torch.Generator | None,
) -> Chain | None:
    """The chain by a graph; ``None`` where it cannot be captured, which is logged once.

    Args:
        prior: whose graphs these are.
        energy: its present weights.
        problem: the chains.
        method: ``mala``, ``pcnl`` or ``ula``.
        steps: moves.
        generator: source of the noise.
    """
    if prior in _refused:
        return None
    held = _graphs.setdefault(prior, {})
    start = problem.start_BD
    key = (start.shape, start.dtype, start.device, steps, method, energy.activation)
    noise = draw_noise(problem.start_BD, steps, generator)
    if key not in held:
        try:
            held[key] = ChainGraph(energy, problem, noise, method)
        except RuntimeError as error:
            _refused[prior] = str(error)
            reason = str(error).splitlines()[0]
            log.warning("sampler: no CUDA graph (%s); chains are launched kernel by kernel", reason)
            return None
        if len(held) > MOST_GRAPHS:
            del held[next(iter(held))]
    return held[key](energy, problem, noise)
