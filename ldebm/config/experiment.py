"""One experiment: a section per pipeline stage, and how they fit together."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar

from pydantic import Field, model_validator

from ldebm.config.backbone import BackboneConfig
from ldebm.config.evaluate import OOD_TRANSFORMS, EvaluateConfig
from ldebm.config.plugged import named_plugins, plugin_of, plugins_of
from ldebm.config.prior import ClusterConfig, PriorConfig
from ldebm.config.resources import ResourcesConfig
from ldebm.config.sections import Section

__all__ = ["ExperimentConfig"]


USES = {  # what of the section `prior` is for one kind of prior alone
    "mixture": ("mixture",),
    "flow": ("flow",),
    "svebm": ("base_measure",),
    "diffusion": ("base_measure",),
}


class ExperimentConfig(Section):
    """One experiment: a data set and a section per stage."""

    unlisted: ClassVar[frozenset[str]] = frozenset({"resources"})

    data: str
    """Data set to train on: a key of `data`."""
    description: str = ""
    """One sentence that says what this experiment is."""
    backbone: BackboneConfig
    """First stage: encoder and decoder."""
    cluster: ClusterConfig = ClusterConfig()
    """Where the classes of the prior come from."""
    prior: PriorConfig
    """Second stage: the prior of z."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What is measured."""
    resources: ResourcesConfig | None = Field(None, exclude=True)
    """What a job of a cluster asks for; in no model, and nothing is trained again for it."""

    def datasets(self) -> list[str]:
        """The data sets that the experiment reads: its own, and what ``evaluate`` names."""
        others = [name for name in self.evaluate.ood if name not in OOD_TRANSFORMS]
        others += [self.evaluate.classifier] if self.evaluate.classifier else []
        return list(dict.fromkeys([self.data, *others]))

    def label_columns(self) -> list[tuple[str, str]]:
        """The keys that name a label column of the data set, each with the name."""
        supervision, hierarchy = self.backbone.supervision, self.prior.hierarchy
        columns = [("evaluate.label_column", name) for name in self.evaluate.label_column]
        if supervision is not None:
            columns.append(("backbone.supervision.column", supervision.column))
        if self.cluster.labels == "given" and self.cluster.column is not None:
            columns.append(("cluster.column", self.cluster.column))
        if hierarchy is not None:
            columns += [("prior.hierarchy.attributes", name) for name in hierarchy.attributes]
        return columns

    def plugins(self) -> list[tuple[str, str]]:
        """Group and name of the plugins that the model is made of."""
        return [*named_plugins(self.backbone, "arch"), *named_plugins(self.prior, "kind")]

    def metric_plugins(self) -> list[tuple[str, str]]:
        """Group and name of the plugins that only measure it."""
        return named_plugins(self.evaluate, "metrics")

    def check_plugins(self, where: str) -> None:
        """Imports the plugins that are named, and checks their options.

        Args:
            where: the key of this section.

        Raises:
            UsageError: a plugin cannot be imported, or an option is wrong.
        """
        plugin_of(self.backbone, "arch", f"{where}.backbone")
        plugin_of(self.prior, "kind", f"{where}.prior")
        plugins_of(self.evaluate, "metrics")

    @model_validator(mode="after")
    def _coherent(self) -> ExperimentConfig:
        attributes = self.prior.hierarchy is not None and self.prior.hierarchy.attributes
        if self.cluster.labels == "given" and self.cluster.column is None and not attributes:
            raise ValueError("cluster.labels 'given' needs cluster.column")
        if self.prior.scheme == "joint" and self.prior.standardise != "none":
            raise ValueError("prior.scheme 'joint' needs prior.standardise 'none'")
        if self.backbone.kl_cycle is not None and self.prior.scheme != "joint":
            raise ValueError("backbone.kl_cycle needs prior.scheme 'joint'")
        refined = self.prior.scheme == "refined"
        if refined != (self.prior.refinement is not None):
            raise ValueError("prior.scheme 'refined' and the section prior.refinement go together")
        if refined and (self.prior.standardise == "full" or self.prior.labelled_batch):
            raise ValueError(
                "prior.scheme 'refined' needs prior.standardise 'diagonal' or 'none' and no "
                "prior.labelled_batch"
            )
        if self.prior.energy_scale != "paper" and self.prior.sampler.method != "ula":
            raise ValueError(
                "prior.energy_scale other than 'paper' needs prior.sampler.method 'ula'"
            )
        levels = self.prior.sampler.level_steps
        if levels and (len(levels) != self.prior.levels or min(levels) < 1):
            raise ValueError(
                f"prior.sampler.level_steps {levels}: expected one number from 1 on for each of "
                f"the {self.prior.levels} levels"
            )
        if self.evaluate.control_draws > 1 and self.backbone.arch not in ("gru", "rnn"):
            raise ValueError(
                "evaluate.control_draws above 1 needs backbone.arch 'gru' or 'rnn' "
                f"(arch is {self.backbone.arch!r})"
            )
        self._coherent_density()
        self._coherent_labels()
        self._coherent_hierarchy()
        self._coherent_baseline()
        return self

    def _coherent_baseline(self) -> None:
        baseline, own = self.backbone.baseline, self.prior.kind == "own"
        if own and (baseline is None or self.prior.standardise != "none"):
            raise ValueError(
                "prior.kind 'own' needs a section backbone.baseline and prior.standardise 'none'"
            )
        if own and self.prior.scheme != "two_stage":
            raise ValueError("prior.kind 'own' needs prior.scheme 'two_stage'")
        if baseline is not None and not own and (baseline.coded or not baseline.continuous):
            raise ValueError(
                f"backbone.baseline {baseline.kind!r} has a prior of its own: "
                "set prior.kind to 'own'"
            )

    def _coherent_density(self) -> None:
        prior, tilts = self.prior, self.prior.base_measure == "mixture"
        uses = set(USES.get(prior.kind, ()))
        if tilts and ("base_measure" not in uses or not prior.base):
            raise ValueError(
                "prior.base_measure 'mixture' needs prior.kind 'svebm' or 'diffusion' and "
                "prior.base true"
            )
        if tilts and prior.scheme != "two_stage":
            raise ValueError("prior.base_measure 'mixture' needs prior.scheme 'two_stage'")
        if tilts and prior.energy_scale != "paper":
            raise ValueError("prior.base_measure 'mixture' needs prior.energy_scale 'paper'")
        if self.backbone.grouped and "mixture" in uses:
            raise ValueError(
                "prior.kind 'mixture' is not for images: one is fitted beside every prior"
            )
        uses |= {"mixture"} if tilts else set()
        for name in ("mixture", "flow"):
            if getattr(prior, name) is not None and name not in uses:
                raise ValueError(f"prior.{name} is of no use with prior.kind {prior.kind!r}")

    @property
    def training_hash(self) -> str:
        """16 digits that stand for all that a model is trained with: data and every setting."""
        sections = {name: getattr(self, name) for name in ("backbone", "cluster", "prior")}
        content = {name: part.model_dump(mode="json") for name, part in sections.items()}
        text = json.dumps({"data": self.data, **content}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _coherent_labels(self) -> None:
        cluster, prior = self.cluster, self.prior
        given, classifies = cluster.labels == "given", prior.kind == "classifier"
        if cluster.per_class is not None and (not given or cluster.share != 1.0):
            raise ValueError("cluster.per_class needs cluster.labels 'given' and no cluster.share")
        if (prior.labelled_batch or classifies) and (not given or self.backbone.grouped):
            raise ValueError(
                "prior.labelled_batch and prior.kind 'classifier' need cluster.labels 'given', and "
                "are not for images"
            )
        if prior.classifier is not None and not classifies:
            raise ValueError("prior.classifier needs prior.kind 'classifier'")
        if classifies and prior.standardise != "none":
            raise ValueError("prior.kind 'classifier' needs prior.standardise 'none'")

    def _coherent_hierarchy(self) -> None:
        prior, images = self.prior, self.backbone.grouped
        hierarchy = prior.hierarchy
        if not images:
            if hierarchy is not None or prior.kind == "nce":
                raise ValueError(
                    "prior.hierarchy and prior.kind 'nce' need backbone.arch 'hvae' or 'nvae'"
                )
            return
        if prior.scheme != "two_stage":
            raise ValueError(f"prior.scheme {prior.scheme!r} is not for images: use 'two_stage'")
        if hierarchy is None:
            return
        if hierarchy.label_levels == "all" and prior.t_sampling == "published":
            raise ValueError("prior.hierarchy.label_levels 'all' needs prior.t_sampling 'uniform'")
        if hierarchy.attributes:
            wanted = 2 ** len(hierarchy.attributes)
            if prior.classes != wanted or self.cluster.labels != "given":
                raise ValueError(
                    f"prior.hierarchy.attributes: {len(hierarchy.attributes)} of them need "
                    f"prior.classes {wanted} and cluster.labels 'given'"
                )
