"""Sizes and lengths of training by the kind and number of rows.

:func:`ldebm.fit` and ``ldebm new`` take them from here; the templates of ``conf/template`` hold
the same presets for experiments. Nothing here loads torch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from ldebm.config import ExperimentConfig, nearest, parse
from ldebm.errors import UsageError

__all__ = [
    "PRESETS",
    "SUPERVISION",
    "compose",
    "document_training",
    "groups_of_images",
    "image_length",
    "merged",
    "noise_of_points",
    "text_training",
]

PRESETS = ("small", "medium", "large")
LARGE, SMALL = 20_000, 2_000  # rows above which, and up to which, `ldebm new` takes these presets
UPDATES, FEWEST, MOST = 1000, 12, 60  # of the first stage of text; its epochs
SUPERVISION = (
    3.0  # weight of the labels in the first stage, against nats a text; 10 overfits small files
)
ROUNDS = 300  # epochs of the first stage at most, on few images
TEXT_OPTIMISER = {
    "lr": 2.0e-3, "betas": [0.9, 0.99], "clip": 1.0, "schedule": "linear", "warmup": 100,
    "hold": 0.5, "ema": 0.997,
}  # fmt: skip
ENERGY = {"blocks": 3, "activation": "silu", "spectral_norm": False, "init": "orthogonal"}
TEXT_PRIOR: dict[str, Any] = {
    "kind": "diffusion",
    "classes": 16,
    "energy": {"hidden": 96, **ENERGY},
    "sampler": {"steps": 12},
    "score_matching": 0.5,
    "standardise": "diagonal",
    "mi_weight": 0.05,
    "class_weight": 0.05,
    "training": {
        "updates": 1500, "batch": 256, "validate_every": None, "optimiser": TEXT_OPTIMISER
    },
}  # fmt: skip
MEDIUM: dict[str, Any] = {
    "backbone": {
        "arch": "gru",
        "latent": 24,
        "hidden": 128,
        "embed": 128,
        "dropout": 0.2,
        "word_dropout": 0.5,
        "kl_weight": 0.2,
        "training": {
            "batch": 128,
            "validate_every": 2,
            "optimiser": {"lr": 3.0e-3, "clip": 5.0, "schedule": "linear", "hold": 0.4},
        },
    },
    "cluster": {"labels": "gc", "dims": 6, "restarts": 8},
    "prior": TEXT_PRIOR,
    "evaluate": {"samples": 5000, "rows": 200, "importance": 100, "inner": 64,
                 "reverse_lm_epochs": 2},
}  # fmt: skip
DOCUMENTS: dict[str, Any] = {
    **MEDIUM,
    "backbone": {
        "arch": "bow",
        "latent": 20,
        "hidden": 400,
        "layers": 1,
        "dropout": 0.5,
        "kl_warmup": 300,
        "training": {
            "batch": 200,
            "validate_every": 4,
            "optimiser": {"lr": 2.0e-3, "clip": 5.0, "schedule": "linear", "hold": 0.5},
        },
    },
}
POINTS: dict[str, Any] = {
    "backbone": {
        "arch": "mlp",
        "latent": 2,
        "hidden": 200,
        "training": {
            "updates": 2000,
            "batch": 256,
            "validate_every": None,
            "optimiser": {"lr": 2.0e-3, "schedule": "one_cycle"},
        },
    },
    "cluster": {"labels": "gc", "dims": 2},
    "prior": {
        "kind": "diffusion",
        "classes": 10,
        "energy": {"hidden": 64, **ENERGY},
        "sampler": {"steps": 12},
        "score_matching": 0.75,
        "standardise": "diagonal",
        "mi_weight": 0.05,
        "class_weight": 0.05,
        "training": {
            "updates": 6000,
            "batch": 256,
            "validate_every": None,
            "optimiser": {
                "lr": 3.0e-3, "betas": [0.9, 0.99], "schedule": "linear", "warmup": 100,
                "ema": 0.995,
            },
        },
    },
    "evaluate": {"samples": 5000},
}  # fmt: skip
IMAGES: dict[str, Any] = {
    "backbone": {
        "arch": "hvae",
        "training": {
            "validate_every": None,
            "optimiser": {"lr": 2.0e-3, "schedule": "one_cycle"},
        },
    },
    "cluster": {"labels": "none"},
    "prior": {
        "kind": "diffusion",
        "levels": 6,
        "classes": 10,
        "energy": {"hidden": 128, **ENERGY, "blocks": 2},
        "sampler": {"steps": 12},
        "score_matching": 0.8,
        "standardise": "diagonal",
        "mi_weight": 0.0,
        "class_weight": 0.0,
        "hierarchy": {"channels": 32, "label_groups": [], "cached_draws": 4},
        "training": {
            "updates": 2000,
            "batch": 128,
            "validate_every": None,
            "optimiser": {
                "lr": 2.0e-3, "betas": [0.9, 0.99], "clip": 1.0, "schedule": "linear",
                "warmup": 100, "ema": 0.995,
            },
        },
    },
    "evaluate": {"samples": 5000},
}  # fmt: skip
_LARGE: dict[str, Any] = {
    "cluster": {"dims": 3, "restarts": 4},
    "prior": {"energy": {"hidden": 128}, "training": {"updates": 6000, "batch": 384}},
    "evaluate": {"rows": 500},
}
TABLE: dict[str, dict[str, list[dict[str, Any]]]] = {  # kind -> preset -> sections, later first
    "sentences": {
        "small": [MEDIUM, {"backbone": {"latent": 16, "hidden": 96, "embed": 96}}],
        "medium": [MEDIUM],
        "large": [
            MEDIUM,
            _LARGE,
            {
                "backbone": {
                    "latent": 40, "hidden": 512, "embed": 512, "dropout": 0.3, "init": "uniform",
                    "word_dropout": 0.0, "kl_weight": 1.0, "kl_floor": 12.0, "kl_warmup": 300,
                    "training": {
                        "epochs": 15, "precision": "bfloat16", "validate_every": 1.0,
                        "optimiser": {"lr": 1.0e-3, "clip": 0.5, "warmup": 200, "hold": 0.5},
                    },
                }
            },
        ],
    },
    "documents": {
        "small": [DOCUMENTS, {"backbone": {"hidden": 128, "training": {"batch": 64}}}],
        "medium": [DOCUMENTS],
        "large": [DOCUMENTS, _LARGE],
    },
    "points": {name: [POINTS] for name in PRESETS},
    "images": {name: [IMAGES] for name in PRESETS},
}  # fmt: skip


def compose(kind: str, preset: str, *changes: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment of a preset with changes, the last of which counts most.

    Args:
        kind: sentences, documents, points or images.
        preset: one of :data:`PRESETS`.
        changes: sections to lay over it, as nested mappings.

    Raises:
        UsageError: there is no such preset, or a setting is wrong.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset!r}: no such preset{nearest(preset, PRESETS)}")
    content = merged(*TABLE[kind][preset], *changes)
    return parse(ExperimentConfig, content, file="settings")


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over one another; the length of a training replaces another's.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
        {'a': {'b': 1, 'c': 3}}
        >>> merged({"epochs": 3, "batch": 8}, {"updates": 5})
        {'batch': 8, 'updates': 5}
    """
    result: dict[str, Any] = {}
    for part in parts:
        for one, other in (("epochs", "updates"), ("updates", "epochs")):
            if part.get(one) is not None:
                result.pop(other, None)
        for key, value in part.items():
            before = result.get(key)
            if isinstance(value, Mapping):
                inner = before if isinstance(before, Mapping) else {}
                result[key] = merged(inner, value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def text_training(rows: int) -> dict[str, Any]:
    """Length and batch of the first stage of so many sentences or dialogues."""
    return _training(rows, 128 if rows > 5000 else 64)


def document_training(rows: int) -> dict[str, Any]:
    """The same of documents."""
    return _training(rows, 200 if rows > SMALL else 64)


def _training(rows: int, batch: int) -> dict[str, Any]:
    epochs = min(MOST, max(FEWEST, round(UPDATES * batch / rows)))
    return {"training": {"epochs": epochs, "batch": batch}}


def noise_of_points(spread: float) -> float:
    """Standard deviation of the decoder of points whose coordinates have this mean one.

    Example:
        >>> noise_of_points(8.0)
        0.48
    """
    return float(f"{0.06 * spread or 0.5:.2g}")


def image_length(rows: int) -> dict[str, Any]:
    """Warm-up of the KL, length and batch of the first stage of so many images."""
    batch = 128 if rows > 5000 else 64
    updates = min(6000, max(800, round(ROUNDS * rows / batch)))
    return {"kl_warmup": updates // 5, "training": {"updates": updates, "batch": batch}}


def groups_of_images(side: int, channels: int) -> dict[str, Any]:
    """Section ``hvae``: a dense group above two of the smallest sizes that halving gives."""
    halvings = max(2, math.ceil(math.log2(side / 4)))
    sizes = [side // 2]
    while len(sizes) < halvings:
        sizes.append(-(-sizes[-1] // 2))
    thick = 4 if channels == 3 else 1
    layers: list[dict[str, Any]] = [{"dense": 32 if side >= 28 else 8}]
    layers += [{"conv": [2 * thick, sizes[-1]]}, {"conv": [thick, sizes[-2]]}]
    widths = [min(16 * 2**i * (2 if channels == 3 else 1), 128) for i in range(halvings)]
    return {"layers": layers, "widths": widths, "hidden": 128, "mixtures": 5}
