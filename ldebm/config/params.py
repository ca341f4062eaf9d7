"""``params.yaml`` as a whole: read, checked, and with errors that name the nearest known key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import model_validator

from ldebm.config.checking import nearest, parse
from ldebm.config.classifiers import ImageClassifierConfig, TextClassifierConfig
from ldebm.config.data import DataConfig
from ldebm.config.evaluate import OOD_TRANSFORMS
from ldebm.config.experiment import ExperimentConfig
from ldebm.config.retrain import RetrainConfig
from ldebm.config.sections import Section, Seeds
from ldebm.errors import UsageError
from ldebm.yaml_text import alias_line, parse_yaml

__all__ = ["Params", "RunConfig", "load_params"]


class RunConfig(Section):
    """What ``dvc repro`` builds."""

    datasets: list[str]
    """Data sets to prepare: keys of `data`."""
    experiments: list[str]
    """Experiments to build: keys of `experiments`."""
    seeds: Seeds
    """Seeds: each experiment is trained once per seed."""
    epochs: float | None = None
    """Overrides the length of every training that is given in epochs; null: as the experiments
    say.
    """


class Params(Section):
    """All of ``params.yaml``: what is built, and everything that it needs."""

    run: RunConfig
    """What `dvc repro` builds."""
    data: dict[str, DataConfig]
    """Data sets by name."""
    experiments: dict[str, ExperimentConfig]
    """Experiments by name."""
    retrain: RetrainConfig = RetrainConfig()
    """Scheduled retraining."""

    @model_validator(mode="after")
    def _plain_names(self) -> Params:
        for name in (*self.data, *self.experiments):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"name {name!r}: use letters, digits, '-' and '_' (DVC keys)")
        datasets = {"run.datasets": self.run.datasets}
        datasets |= {f"experiments.{name}.data": [e.data] for name, e in self.experiments.items()}
        _known({"run.experiments": self.run.experiments}, "experiments", self.experiments)
        _known(datasets, "data", self.data)
        return self

    @model_validator(mode="after")
    def _known_ood(self) -> Params:
        known = [*self.data, *OOD_TRANSFORMS]
        for experiment, config in self.experiments.items():
            for name in config.evaluate.ood:
                if name not in known:
                    raise ValueError(
                        f"experiments.{experiment}.evaluate.ood: {name!r} is neither a data set "
                        f"nor a transform{nearest(name, known)}"
                    )
            of = config.evaluate.classifier
            data = self.data.get(of or "")
            if of is not None and (data is None or not data.text_classifier):
                fault = "has no section 'text_classifier'" if data else "is no data set"
                raise ValueError(
                    f"experiments.{experiment}.evaluate.classifier: {of!r} {fault}"
                    f"{nearest(of, self.data)}"
                )
        return self

    @model_validator(mode="after")
    def _known_labels(self) -> Params:
        for experiment, config in self.experiments.items():
            known = self.data[config.data].known_labels()
            for key, name in config.label_columns():
                if known is not None and name not in known:
                    raise ValueError(
                        f"experiments.{experiment}.{key}: {name!r} is not a label of data set "
                        f"{config.data!r}{nearest(name, known)}"
                    )
        return self

    def datasets_of(self, experiment: str) -> list[str]:
        """The data sets that an experiment reads: its own, and what ``evaluate`` names."""
        return self.experiment(experiment).datasets()

    def require_datasets(self, experiment: str) -> list[str]:
        """The data sets that an experiment reads, its own first.

        Raises:
            UsageError: one of them is not in ``run.datasets``, and would not be built.
        """
        names = self.datasets_of(experiment)
        for name in names:
            if name not in self.run.datasets:
                raise UsageError(
                    f"experiment {experiment!r} uses data set {name!r}, which is not built: add "
                    f"{name} to run.datasets of params.yaml"
                )
        return names

    def classifier(self, data: str) -> ImageClassifierConfig | TextClassifierConfig | None:
        """How the classifier that measures a data set is trained; of images also by default."""
        config = self.dataset(data)
        if config.kind == "images":
            return config.image_classifier or ImageClassifierConfig()
        return config.text_classifier

    def experiment(self, name: str) -> ExperimentConfig:
        """The experiment called ``name``.

        Raises:
            UsageError: there is none.
        """
        if name not in self.experiments:
            raise UsageError(
                f"experiment {name!r} is not in params.yaml{nearest(name, self.experiments)} "
                "(`ldebm select` takes others from conf/)"
            )
        return self.experiments[name]

    def dataset(self, name: str) -> DataConfig:
        """The data set called ``name``.

        Raises:
            UsageError: there is none.
        """
        if name not in self.data:
            raise UsageError(f"data set {name!r} is not in params.yaml{nearest(name, self.data)}")
        return self.data[name]


def _known(named: dict[str, list[str]], section: str, known: Iterable[str]) -> None:
    """Raises ValueError for the first name, of those at each key, that a section does not have."""
    for key, names in named.items():
        for name in names:
            if name not in known:
                hint = nearest(name, known)
                more = "; `ldebm select NAME` adds one of conf/" if section == "experiments" else ""
                raise ValueError(f"{key}: {name!r} is not in {section!r}{hint}{more}")


def load_params(path: str | Path = "params.yaml", shown: str | None = None) -> Params:
    """Reads and checks a parameter file (YAML, or JSON where no YAML reader is installed).

    Args:
        path: the file.
        shown: its name in messages, where it is a copy of one that the user knows.

    Raises:
        UsageError: the file is missing, cannot be parsed or does not check.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; run the command in the project's folder") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text ({error})") from None
    try:
        content = json.loads(text) if path.suffix == ".json" else parse_yaml(text)
    except Exception as error:
        detail = " ".join(str(error).split())
        raise UsageError(f"{path}: cannot be parsed: {detail}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a mapping at the top, got {type(content).__name__}")
    if "presets" in content and "groups" in content:
        raise UsageError(
            f"{path}: was written before conf/ held presets and groups; "
            "`ldebm select embedded --discard` writes a new one"
        )
    if path.suffix != ".json" and (line := alias_line(text)) is not None:
        raise UsageError(
            f"{path}: line {line} has a YAML alias, which DVC cannot set a value in; "
            "write its values out"
        )
    return parse(Params, content, file=shown or str(path))
