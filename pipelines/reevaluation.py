"""The champion measured as the challenger was: on its test data, with its settings and code.

New data bring new test rows, and numbers about other rows say nothing about which model is better.
The registered model is therefore evaluated again, in a scratch folder, by the stage that evaluated
the challenger, under slots like any stage.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ldebm.errors import UsageError
from pipelines.building import read_params
from pipelines.candidates import Candidate, Tree
from pipelines.results.recorded import flatten
from pipelines.runner import MARK, run
from pipelines.slots import Held, Slots, need_of

__all__ = ["reevaluate"]

FILES = ("model.safetensors", "snapshots.safetensors", "config.json")


def reevaluate(
    place: Tree, champion: Candidate, challenger: Candidate, worktree: Path
) -> Candidate:
    """Evaluates the champion's models on the challenger's data, one after the other.

    Args:
        place: the champion's commit; its models come from DVC's cache or remote.
        champion: as it was registered.
        challenger: as it was built.
        worktree: where the challenger was built: code, parameters and packed data.

    Returns:
        The champion with numbers that can be compared with the challenger's.

    Raises:
        UsageError: it cannot be evaluated there: another data set or vocabulary, a model that is
            nowhere, or the evaluation failed.
    """
    name = challenger.experiment
    if champion.data != challenger.data:
        raise UsageError(f"{name}: the champion belongs to data set {champion.data!r}")
    words = [item for item in ("tokenizer.model",) if _differs(item, champion, challenger)]
    if words:
        raise UsageError(
            "the vocabulary changed with the data: the champion does not know the new one, and "
            "likelihoods over different vocabularies cannot be compared; decide by hand "
            f"(`ldebm promote {name} BRANCH`)"
        )
    metrics = {}
    slots, params = Slots(), read_params(worktree, strict=False)
    with tempfile.TemporaryDirectory(prefix="ldebm-champion-") as folder:
        scratch = Path(folder)
        shutil.copy(worktree / "params.yaml", scratch)
        (scratch / "data").symlink_to((worktree / "data").resolve())
        for seed in champion.metrics:
            for file in FILES:
                path = f"models/{name}/{seed}/prior/{file}"
                content = place.read(path)
                if content is None:
                    raise UsageError(f"{path} is not in dvc.lock of {place.words}")
                (scratch / path).parent.mkdir(parents=True, exist_ok=True)
                (scratch / path).write_bytes(content)
            need = need_of(f"evaluate@{name}-{seed}", params, slots.gpus)
            held = slots.wait(need)
            try:
                _evaluate(name, seed, scratch, worktree, held)
            finally:
                held.release()
            report = scratch / "reports" / name / str(seed) / "metrics.json"
            metrics[seed] = flatten(json.loads(report.read_text(encoding="utf-8")))
    return replace(
        champion,
        where=f"{champion.where}, evaluated again on the challenger's data",
        metrics=metrics,
        files=challenger.files,
        evaluate=challenger.evaluate,
    )


def _differs(file: str, one: Candidate, other: Candidate) -> bool:
    return one.files.get(file) != other.files.get(file)


def _evaluate(name: str, seed: int, scratch: Path, worktree: Path, held: Held) -> None:
    """Runs the stage on the scratch folder with the worktree's code."""
    command = [sys.executable, "-m", "stages.evaluate", "--experiment", name, "--seed", str(seed)]
    code = str(worktree.resolve())
    done = run(
        command,
        cwd=scratch,
        log=scratch / f"evaluate-{seed}.log",
        env={**held.env, MARK: code, "PYTHONPATH": code},
        held=held.fds,
    )
    if done.code:
        last = done.tail[-1] if done.tail else f"exit code {done.code}"
        raise UsageError(
            f"the champion cannot be evaluated on the challenger's data: "
            f"{last.removeprefix('error: ')}"
        )
