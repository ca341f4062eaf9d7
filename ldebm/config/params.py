"""``params.yaml`` as a whole: read, checked, and with errors that name the nearest known key."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError, model_validator

from ldebm.config.data import DataConfig
from ldebm.config.evaluate import OOD_TRANSFORMS
from ldebm.config.experiment import ExperimentConfig
from ldebm.config.images import JudgeConfig
from ldebm.config.retrain import RetrainConfig
from ldebm.config.sections import Section
from ldebm.errors import UsageError
from ldebm.yaml_text import parse_yaml

__all__ = ["Params", "RunConfig", "load_params", "nearest", "parse"]

SectionT = TypeVar("SectionT", bound=Section)


class RunConfig(Section):
    """What ``dvc repro`` builds."""

    datasets: list[str]
    experiments: list[str]
    seeds: list[int]
    epochs: float | None = None  # overrides every training length that is given in epochs


class Params(Section):
    """All of ``params.yaml``; ``presets`` only holds anchors, ``groups`` lists of experiments."""

    run: RunConfig
    data: dict[str, DataConfig]
    experiments: dict[str, ExperimentConfig]
    retrain: RetrainConfig = RetrainConfig()
    judge: JudgeConfig = JudgeConfig()
    presets: dict[str, Any] = {}
    groups: dict[str, list[str]] = {}

    @model_validator(mode="after")
    def _plain_names(self) -> Params:
        for name in (*self.data, *self.experiments):
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"name {name!r}: use letters, digits, '-' and '_' (DVC keys)")
        for name in (*self.retrain.experiments, *self.retrain.rules):
            if name not in self.experiments:
                raise ValueError(
                    f"retrain: {name!r} is not an experiment{nearest(name, self.experiments)}"
                )
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
            judge = config.evaluate.judge
            if judge is not None and (judge not in self.data or not self.data[judge].classifier):
                fault = "has no section 'classifier'" if judge in self.data else "is no data set"
                raise ValueError(
                    f"experiments.{experiment}.evaluate.judge: {judge!r} {fault}"
                    f"{nearest(judge, self.data)}"
                )
        return self

    def datasets_of(self, experiment: str) -> list[str]:
        """The data sets that an experiment reads: its own, and what ``evaluate`` names."""
        config = self.experiment(experiment)
        others = [name for name in config.evaluate.ood if name not in OOD_TRANSFORMS]
        others += [config.evaluate.judge] if config.evaluate.judge else []
        return list(dict.fromkeys([config.data, *others]))

    def judge_of(self, data: str) -> JudgeConfig:
        """The judge of one data set: the section ``judge`` with the data set's own keys over it."""
        own = self.dataset(data).judge
        return self.judge.model_copy(
            update={name: getattr(own, name) for name in own.model_fields_set}
        )

    def experiment(self, name: str) -> ExperimentConfig:
        """The experiment called ``name``.

        Raises:
            UsageError: there is none.
        """
        if name not in self.experiments:
            raise UsageError(
                f"experiment {name!r} is not in params.yaml{nearest(name, self.experiments)}"
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


def nearest(name: str, known: Any) -> str:
    """``"; did you mean 'x'?"`` for the closest of ``known``, else the list of them."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def parse(section: type[SectionT], content: Any, where: str) -> SectionT:
    """Checks ``content`` against ``section``.

    Raises:
        UsageError: with one line that names the key, the value and what was expected.
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        errors = error.errors()  # a mistyped key is the cause of the missing one: it comes first
        first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
        path = [str(part) for part in first["loc"]]
        key = ".".join([where, *path]) if where else ".".join(path)
        if first["type"] == "extra_forbidden":
            known = _known_keys(section, path[:-1])
            hint = nearest(path[-1], known) if known else ""
            raise UsageError(f"params.yaml: unknown key {key!r}{hint}") from None
        if first["type"] == "missing":
            raise UsageError(f"params.yaml: {key!r} is missing") from None
        message = first["msg"].removeprefix("Value error, ")
        value = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
        raise UsageError(f"params.yaml: {key + ': ' if key else ''}{message}{value}") from None


def _known_keys(section: type[Section], path: list[str]) -> list[str]:
    """The field names of the section that ``path`` leads to."""
    current: Any = section
    for part in path:
        fields = getattr(current, "model_fields", {})
        annotation = fields[part].annotation if part in fields else current
        arguments = getattr(annotation, "__args__", ())
        models = [
            item for item in arguments if isinstance(item, type) and issubclass(item, Section)
        ]
        if isinstance(annotation, type) and issubclass(annotation, Section):
            current = annotation
        elif models:
            current = models[0]
    return list(getattr(current, "model_fields", {}))


def load_params(path: str | Path = "params.yaml") -> Params:
    """Reads and checks a parameter file (YAML, or JSON where no YAML reader is installed).

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
    return parse(Params, content, "")
