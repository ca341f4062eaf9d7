"""Stage prior: trains the prior on the frozen backbone, or both together (scheme joint).

Reads data/bound/E.json, the backbone and the latents; writes models/E/S/prior with the complete
model. Runs named by ``--beside`` (or ``LDEBM_BESIDE``, as a build sets it) are trained at once with
this one where their updates have equal shapes. Their trainings, with the same numbers as alone,
wait in ``.ckpt`` for their own stages.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from ldebm.config import ExperimentConfig, Params
from ldebm.data.packed import Packed, open_bound
from ldebm.errors import UsageError
from ldebm.training.parallel import parallel
from ldebm.training.second_stage import prior_stage
from stages._entry import arguments, parameters, run

Inputs = tuple[ExperimentConfig, Packed, int, Path]


def main() -> None:
    """Trains one prior."""
    options = arguments(__doc__, "experiment", "seed", "beside")
    params = parameters(options)
    mine = inputs(params, options.experiment, options.seed)
    with parallel():
        beside = options.beside or os.environ.get("LDEBM_BESIDE", "")
        others = others_beside(params, beside, (options.experiment, options.seed))
        if others:
            # By its name: the numbers are those of a run alone, so that no stage depends on it.
            together: Any = importlib.import_module("ldebm.training.together")
            named = {(options.experiment, options.seed): mine} | others
            runs = [
                together.Run(name, seed, config, packed, folder)
                for (name, seed), (config, packed, _, folder) in named.items()
            ]
            together.prepare(runs, params.run.epochs)
        prior_stage(*mine, options.experiment, params.run.epochs)


def inputs(params: Params, name: str, seed: int) -> Inputs:
    """Configuration, data, seed and folder of a run."""
    packed = open_bound(Path("data/bound") / f"{name}.json")
    return params.experiment(name), packed, seed, Path("models") / name / str(seed)


def others_beside(
    params: Params, text: str, mine: tuple[str, int]
) -> dict[tuple[str, int], Inputs]:
    """The runs that ``text`` names and whose first stage is there.

    Raises:
        UsageError: what is no run, or an unknown experiment.
    """
    inputs_of = {}
    for item in filter(None, text.split(",")):
        name, _, seed = item.strip().rpartition("-")
        if not name or not seed.isdecimal():
            raise UsageError(f"--beside {item!r}: expected EXPERIMENT-SEED, as chatter-ldebm-1")
        params.experiment(name)
        run_of = name, int(seed)
        read = [Path("models") / name / seed / "latents.parquet", Path(f"data/bound/{name}.json")]
        missing = next((path for path in read if not path.is_file()), None)
        if missing is not None:
            print(f"--beside {item}: left out, there is no {missing} yet", file=sys.stderr)
        elif run_of != mine:
            inputs_of[run_of] = inputs(params, *run_of)
    return inputs_of


if __name__ == "__main__":
    run(main)
