"""Which experiments' priors can be trained together: those whose updates have equal shapes."""

from __future__ import annotations

import hashlib
import json

from ldebm.config.experiment import ExperimentConfig

__all__ = ["WHOLE", "alike"]

WHOLE = 32  # values that the vector loops of torch take at once, at most
OWN = ("mi_weight", "class_weight")  # what runs that are trained together may have of their own


def alike(config: ExperimentConfig) -> str | None:
    """What has to be equal for priors to be trained together; ``None``: it is trained alone.

    Alone are priors of images and of dialogues, joint schemes, what draws labelled rows apart or
    keeps its chains, and sizes that leave parts of vectors, where bits might differ.

    Args:
        config: the experiment.
    """
    prior, training = config.prior, config.prior.training
    levels = {"svebm": 1, "diffusion": prior.levels}
    special = (
        prior.scheme != "two_stage"
        or prior.kind not in levels
        or config.backbone.grouped
        or config.backbone.arch == "dialogue"
        or prior.t_sampling != "uniform"
        or prior.sampler.persistent
        or prior.base_measure != "normal"
        or training.patience is not None
        or prior.labelled_batch > 0
        or training.optimiser.name != "adam"
        or training.batch % WHOLE > 0
        or training.precision != "float32"
    )
    energy = prior.energy
    timed = energy.arch == "residual" and energy.activation != "leaky_relu"
    if special or (timed and levels[prior.kind] * energy.hidden % WHOLE):
        return None
    section = prior.model_dump(mode="json")
    facts = {key: value for key, value in section.items() if key not in OWN}
    facts |= {"data": config.data, "arch": config.backbone.arch, "latent": config.backbone.latent}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
