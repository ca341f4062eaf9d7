"""The champion measured as the challenger was: on its test data, with its settings and code.

New data bring new test rows, and numbers about other rows say nothing about which model is better.
The registered model is therefore evaluated again, in a scratch folder, by the stage that evaluated
the challenger.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ldebm.errors import UsageError
from ldebm.results import flatten
from pipelines.candidates import Candidate, Revision

__all__ = ["reevaluate"]

FILES = ("model.safetensors", "snapshots.safetensors", "config.json")


def reevaluate(
    place: Revision, champion: Candidate, challenger: Candidate, worktree: Path
) -> Candidate:
    """Evaluates the champion's models on the challenger's data.

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
            f"(`python -m pipelines promote {name} BRANCH`)"
        )
    metrics = {}
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
            _evaluate(name, seed, scratch, worktree)
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


def _evaluate(name: str, seed: int, scratch: Path, worktree: Path) -> None:
    """Runs the stage on the scratch folder with the worktree's code."""
    command = [sys.executable, "-m", "stages.evaluate", "--experiment", name, "--seed", str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(worktree.resolve())}
    done = subprocess.run(
        command, cwd=scratch, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UsageError(
            f"the champion cannot be evaluated on the challenger's data: "
            f"{lines[-1].removeprefix('error: ')}"
        )
