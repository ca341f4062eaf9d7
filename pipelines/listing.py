"""``ldebm list``: the experiments of conf/, what is built of them, and their main number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ldebm.config import load_params
from ldebm.yaml_text import parse_yaml
from pipelines.dag import read_dag
from pipelines.library import Library
from pipelines.outcomes import experiment_line, numbers, read_numbers
from pipelines.results.recorded import by_experiment, load_results

__all__ = ["Entry", "entries"]

State = Literal["built", "stale", "not built"]
MODEL = ("prior", "model.safetensors")


@dataclass(frozen=True)
class Entry:
    """One experiment.

    Attributes:
        name: its name.
        data: the data set.
        description: what its file says it is.
        selected: params.yaml has it.
        state: ``built``; ``stale``: built, but ``dvc repro`` would run some of it again.
        seeds: those that are built here.
        recorded: number of runs in results/.
        headline: the main number of the runs here, else of the recorded ones; may be empty.
    """

    name: str
    data: str
    description: str
    selected: bool
    state: State
    seeds: tuple[int, ...]
    recorded: int
    headline: str

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON types."""
        return asdict(self)


def entries(root: Path = Path(), names: Sequence[str] = (), *, here: bool = False) -> list[Entry]:
    """The experiments of a project.

    Args:
        root: the project's folder.
        names: groups or experiments; none: all of conf/ and params.yaml.
        here: only what is selected or built here.

    Raises:
        UsageError: a name is neither, or params.yaml cannot be read.
    """
    library = Library(root)
    params = load_params(root / "params.yaml")
    known = list(dict.fromkeys([*library.experiments, *params.experiments]))
    chosen = library.expand(names, known) if names else known
    recorded = by_experiment(load_results(root))
    stale = set(read_dag(root.resolve()).stale())
    listed = []
    for name in chosen:
        seeds = sorted(
            int(path.name)
            for path in (root / "models" / name).glob("*")
            if path.name.isdecimal() and path.joinpath(*MODEL).is_file()
        )
        selected = name in params.run.experiments
        if here and not (selected or seeds):
            continue
        old = selected and any(
            stage.partition("@")[2] in {f"{name}-{seed}" for seed in params.run.seeds}
            for stage in stale
        )
        state: State = "not built" if not seeds else "stale" if old else "built"
        data, description = _about(name, library, params)
        runs = recorded.get(name, [])
        headline = _headline(root, name, seeds, [run["metrics"] for run in runs])
        listed.append(
            Entry(name, data, description, selected, state, tuple(seeds), len(runs), headline)
        )
    return listed


def _about(name: str, library: Library, params: Any) -> tuple[str, str]:
    """Data set and description, from the file itself: composing every experiment takes seconds."""
    if name in params.experiments:
        config = params.experiments[name]
        return config.data, config.description
    text = (library.folder / f"{library.experiments[name]}.yaml").read_text(encoding="utf-8")
    content = parse_yaml(text) or {}
    return str(content.get("data", "")), str(content.get("description", ""))


def _headline(root: Path, name: str, seeds: Sequence[int], recorded: Sequence[Any]) -> str:
    """The first words of what ``experiment_line`` says."""
    folders = [root / "reports" / name / str(seed) for seed in seeds]
    here = [read_numbers(folder) for folder in folders]
    runs = [run for run in here if run] or [numbers(run) for run in recorded]
    if not runs:
        return ""
    said = experiment_line("", runs)[0].partition(": ")[2]
    return "" if said == "evaluated" else said.partition("; ")[0]
