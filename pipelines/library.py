"""The library of experiments in ``conf/``: small YAML files that Hydra composes.

    conf/experiment/ptb/ldebm.yaml    the experiment ptb-ldebm: its presets, and what differs
    conf/data/ptb.yaml                the data set ptb
    conf/preset/prior/ptb.yaml        a section, or a part of one, that experiments share
    conf/template/text-small.yaml     where ``ldebm new`` starts from
    conf/groups.yaml                  lists of experiments
    conf/retrain.yaml                 the section of this name

A file names what it starts from under ``defaults:`` (Hydra's defaults list), and its own keys
replace those of the presets, mapping by mapping. params.yaml is composed of the selected
experiments: ``pipelines.selection``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ldebm.config.checking import nearest, parse
from ldebm.config.data import DataConfig
from ldebm.config.experiment import ExperimentConfig
from ldebm.config.params import Params, RunConfig
from ldebm.config.retrain import RetrainConfig
from ldebm.config.sections import Section, explicit
from ldebm.errors import UsageError

__all__ = ["CONF", "Library"]

CONF = "conf"
SHIPPED = Path(__file__).resolve().parents[1] / CONF


class Library:
    """The experiments, data sets and groups of one project.

    A project without ``conf/`` has an empty library. Presets and templates that a project does not
    have are those of the checkout that the code came from.

    Args:
        root: the project's folder.

    Raises:
        UsageError: two files give the same name.
    """

    def __init__(self, root: str | Path = ".") -> None:
        self.folder = Path(root).resolve() / CONF
        self.experiments = self._names("experiment")
        self.data = self._names("data")

    def _names(self, kind: str) -> dict[str, str]:
        """Name to the file's path without suffix, relative to ``conf/``."""
        paths: dict[str, str] = {}
        for path in sorted((self.folder / kind).rglob("*.yaml")):
            relative = path.relative_to(self.folder).with_suffix("")
            name = "-".join(relative.parts[1:])
            if name in paths:
                raise UsageError(
                    f"{CONF}/{paths[name]}.yaml and {CONF}/{relative}.yaml are both called "
                    f"{name!r}; rename one"
                )
            paths[name] = relative.as_posix()
        return paths

    def fingerprint(self) -> str:
        """Of the content of every file."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*.yaml")):
            digest.update(path.relative_to(self.folder).as_posix().encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
        return digest.hexdigest()[:16]

    @functools.cached_property
    def groups(self) -> dict[str, list[str]]:
        """Lists of experiments by name.

        Raises:
            UsageError: the file is no mapping of lists.
        """
        if not (self.folder / "groups.yaml").is_file():
            return {}
        groups = self._compose("groups")
        for group, names in groups.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise UsageError(f"{CONF}/groups.yaml: {group}: expected a list of experiments")
        return groups

    def expand(self, names: Iterable[str], known: Sequence[str] = ()) -> list[str]:
        """The experiments that names of groups and experiments stand for, each once.

        Args:
            names: groups or experiments, also several with commas between them.
            known: further experiments, those of a params.yaml.

        Raises:
            UsageError: a name is neither, or a group names an unknown experiment.
        """
        experiments: list[str] = []
        for name in (part for item in names for part in item.split(",") if part):
            if name in self.groups:
                for member in self.groups[name]:
                    if member not in self.experiments:
                        hint = nearest(member, self.experiments)
                        raise UsageError(
                            f"{CONF}/groups.yaml: {name}: {member!r} is no experiment{hint}"
                        )
                experiments += self.groups[name]
            elif name in self.experiments or name in known:
                experiments.append(name)
            else:
                hint = nearest(name, {*self.groups, *self.experiments, *known})
                raise UsageError(f"{name!r} is neither a group nor an experiment{hint}")
        return list(dict.fromkeys(experiments))

    def experiment(self, name: str) -> ExperimentConfig:
        """An experiment, composed and checked.

        Raises:
            UsageError: there is none, or a file of it is wrong.
        """
        path = self._path(name, self.experiments, "experiment")
        config: ExperimentConfig = self._checked(ExperimentConfig, path)
        return config

    def dataset(self, name: str) -> DataConfig:
        """A data set, composed and checked.

        Raises:
            UsageError: there is none, or a file of it is wrong.
        """
        config: DataConfig = self._checked(DataConfig, self._path(name, self.data, "data set"))
        return config

    def retrain(self) -> RetrainConfig:
        """The section ``retrain``: ``conf/retrain.yaml``, or the defaults."""
        there = (self.folder / "retrain.yaml").is_file()
        config: RetrainConfig = (
            self._checked(RetrainConfig, "retrain") if there else RetrainConfig()
        )
        for name in (*config.experiments, *config.rules):
            if name not in self.experiments:
                hint = nearest(name, self.experiments)
                raise UsageError(f"{CONF}/retrain.yaml: {name!r} is not an experiment{hint}")
        return config

    def params(self, run: RunConfig) -> Params:
        """All parameters of a selection; ``run.datasets`` is filled in from the experiments.

        Raises:
            UsageError: a name that is not here, or a file that is wrong.
        """
        experiments = {name: self.experiment(name) for name in run.experiments}
        datasets = list(dict.fromkeys(d for item in experiments.values() for d in item.datasets()))
        content = {
            "run": explicit(run) | {"datasets": datasets},
            "data": {name: explicit(self.dataset(name)) for name in datasets},
            "experiments": {name: explicit(item) for name, item in experiments.items()},
            "retrain": explicit(self.retrain()),
        }
        return parse(Params, content, "", CONF)

    def _path(self, name: str, known: dict[str, str], kind: str) -> str:
        if name not in known:
            raise UsageError(f"{kind} {name!r} is not in {CONF}/{nearest(name, known)}")
        return known[name]

    def _checked(self, section: type[Section], path: str) -> Any:
        return parse(section, self._compose(path), "", f"{CONF}/{path}.yaml")

    def _compose(self, path: str) -> dict[str, Any]:
        """A file with all that its defaults lists name, as plain values."""
        try:
            from hydra import compose, initialize_config_dir
            from omegaconf import OmegaConf
        except ImportError:
            raise UsageError(
                f"{CONF}/ is composed by Hydra, which is not installed: "
                "pip install 'ldebm[pipeline]'"
            ) from None
        options = [f"hydra.searchpath=[file://{SHIPPED}]"] if SHIPPED.is_dir() else []
        try:
            with initialize_config_dir(str(self.folder), version_base="1.3"):
                content = OmegaConf.to_container(compose(path, options), resolve=True)
        except Exception as error:  # Hydra's, OmegaConf's and YAML's errors have no common base
            said = " ".join(str(error).split())
            raise UsageError(f"{CONF}/{path}.yaml: {said}") from None
        for part in Path(path).parent.parts:  # Hydra puts a file under its folders' names
            content = content.get(part, {}) if isinstance(content, dict) else content
        if not isinstance(content, dict):
            raise UsageError(f"{CONF}/{path}.yaml: expected a mapping of keys")
        return {str(key): value for key, value in content.items()}
