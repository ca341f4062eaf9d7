"""How many moves a level the samples of a trained prior need (``sampler_auc`` by number of moves).

    python -m benchmarks.chains models/ptb-ldebm/0 --moves 6 --moves 6,4,3,2,2,2 --moves 1

Adds a row for each to results/chains.json, of which ``make results`` makes a table. Numbers are
from t = 0 up; one number stands for all levels. They are held against chains of TIMES as many moves
as the model's own sampler makes, and so is a second sample of those long chains.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ldebm
from benchmarks.recorded import circumstances
from ldebm.errors import LdebmError, UsageError
from ldebm.evaluate.sampling import TIMES, sampler_convergence
from ldebm.files import read_json, write_json
from ldebm.model import Model
from ldebm.priors import EnergyPrior
from ldebm.seeding import configure

__all__ = ["measure", "parse_moves"]

RESULT = Path("results", "chains.json")
DRAWS = 8000


def parse_moves(text: str, levels: int) -> list[int]:
    """Moves of every level: ``"6,4,3"``, or ``"6"`` for all.

    Raises:
        UsageError: not positive numbers, or not one for each level.

    Example:
        >>> parse_moves("6", 3), parse_moves("6,4,3", 3)
        ([6, 6, 6], [6, 4, 3])
    """
    words = text.split(",")
    moves = [int(word) for word in words if word.strip().isdigit() and int(word)]
    moves = moves * levels if len(words) == 1 else moves
    if len(moves) != levels:
        raise UsageError(f"--moves {text}: expected a number from 1 on, or {levels} with commas")
    return moves


def measure(
    model: Model, moves_T: Sequence[int] | None, draws: int = DRAWS, seed: int = 0
) -> dict[str, Any]:
    """One row; without ``moves_T`` of a second sample of the long chains.

    Raises:
        UsageError: the model's prior has no chains.
    """
    prior = model.prior
    if not isinstance(prior, EnergyPrior):
        raise UsageError(f"{model.experiment}: its prior has no chains; give a model with energies")
    own_T = prior.config.sampler.moves(prior.levels)
    moves = list(moves_T or [TIMES * moves for moves in own_T])
    started = time.perf_counter()
    convergence = sampler_convergence(prior, seed, moves, draws)
    training = model.config.backbone.training
    return {
        "experiment": model.experiment,
        "seed": model.seed,
        "kl_weight": model.config.backbone.kl_weight,
        "epochs": training.epochs,
        "method": prior.config.sampler.method,
        "moves": moves,
        "long": [TIMES * moves for moves in own_T],
        "draws": draws,
        **convergence,
        "seconds": round(time.perf_counter() - started, 2),
    }


def main() -> int:
    """Measures and records."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder of a model with an energy-based prior")
    parser.add_argument("--moves", action="append", default=[], help="a level, or by level: 6,4,2")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    configure(options.threads)
    try:
        model = ldebm.load(options.model)
        levels = model.prior.levels if isinstance(model.prior, EnergyPrior) else 1
        asked = [parse_moves(text, levels) for text in options.moves]
        rows = read_json(RESULT)["rows"] if RESULT.is_file() else []
        for moves in [*asked, None]:
            row = measure(model, moves) | circumstances()
            same = ("experiment", "seed", "epochs", "moves")
            rows = [old for old in rows if any(old[key] != row[key] for key in same)]
            rows.append(row)
            print(f"{row['moves']}: AUROC {row['sampler_auc']:.3f}", flush=True)
            write_json(RESULT, {"rows": rows})
    except LdebmError as error:
        print(f"benchmarks.chains: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
