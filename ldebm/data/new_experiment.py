"""An experiment on a user's table, with sizes and lengths of training that suit its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ldebm.data.new_tables import FileFacts

__all__ = ["table_experiment"]

LARGE = 20_000  # rows from which text gets networks of the papers' size
SMALL = 2_000  # rows up to which its networks are smaller still
SMALL_UPDATES, MAX_EPOCHS = 1000, 60  # of the first stage on less than large data
SUPERVISION = 10.0  # weight of the labels in the first stage, against nats a text


def table_experiment(name: str, facts: FileFacts) -> dict[str, Any]:
    """An LDEBM experiment with sizes that suit the number of rows."""
    points, large = facts.kind == "points", facts.rows > LARGE
    cluster: dict[str, Any] = {"labels": "gc", "dims": 2}
    if not points:
        cluster |= {"dims": 3, "restarts": 4} if large else {"dims": 6, "restarts": 8}
    if facts.classes:
        cluster = {"labels": "given", "column": facts.columns["label"]}
    evaluate: dict[str, Any] = {"samples": 5000}
    if not points:
        rows = 500 if large else 200
        evaluate |= {"rows": rows, "importance": 100, "inner": 64, "reverse_lm_epochs": 2}
    described = f"LDEBM on {name}, {facts.rows} rows"
    if facts.classes and facts.labelled < facts.rows:
        described += f", {facts.labelled} of them labelled"
    return {
        "data": name,
        "description": described,
        "backbone": BACKBONES[facts.kind](facts) | _supervision(facts),
        "cluster": cluster,
        "prior": _prior(facts),
        "evaluate": evaluate,
    }


def _supervision(facts: FileFacts) -> dict[str, Any]:
    """The labels as a part of the first stage of text, where most rows have one.

    The first stage is frozen when the prior sees the labels: a latent that does not tell them by
    then never will. Points are their own latent.
    """
    if facts.kind == "points" or not facts.classes or _few_labels(facts):
        return {}
    return {"supervision": {"column": facts.columns["label"], "weight": SUPERVISION}}


def _few_labels(facts: FileFacts) -> bool:
    return bool(facts.classes) and facts.labelled < facts.rows / 2


def _points_backbone(facts: FileFacts) -> dict[str, Any]:
    return {
        "arch": "mlp", "latent": 2, "hidden": 200,
        "noise": float(f"{0.06 * facts.spread or 0.5:.2g}"),
        "training": {"updates": 2000, "batch": 256, "validate_every": None,
                     "optimiser": {"lr": 2e-3, "schedule": "one_cycle"}},
    }  # fmt: skip


def _text_backbone(facts: FileFacts) -> dict[str, Any]:
    """Of the Penn Treebank's size, or small, with a decoder that has to ask z for the words."""
    if facts.rows > LARGE:
        return {
            "arch": "gru", "latent": 40, "hidden": 512, "embed": 512, "dropout": 0.3,
            "init": "uniform", "kl_weight": 1.0, "kl_floor": 12.0, "kl_warmup": 300,
            "training": {"epochs": 15, "batch": 128, "precision": "bfloat16",
                         "optimiser": {"lr": 1e-3, "clip": 0.5, "schedule": "linear",
                                       "warmup": 200}},
        }  # fmt: skip
    latent, hidden = (16, 96) if facts.rows <= SMALL else (24, 128)
    batch = 128 if facts.rows > 5000 else 64
    epochs = min(MAX_EPOCHS, max(12, round(SMALL_UPDATES * batch / facts.rows)))
    return {
        "arch": "gru", "latent": latent, "hidden": hidden, "embed": hidden, "dropout": 0.2,
        "word_dropout": 0.5, "kl_weight": 0.2,
        "training": {"epochs": epochs, "batch": batch, "validate_every": 2,
                     "optimiser": {"lr": 3e-3, "clip": 5.0, "schedule": "linear", "hold": 0.4}},
    }  # fmt: skip


def _dialogue_backbone(facts: FileFacts) -> dict[str, Any]:
    """As that of sentences of as many rows, and an encoder of the turns before."""
    section = _text_backbone(facts)
    hidden = int(section["hidden"])
    context = {"utterance": hidden // 2, "size": hidden}
    left_out = ("init", "kl_floor", "training")
    kept = {key: value for key, value in section.items() if key not in left_out}
    training = {key: value for key, value in section["training"].items() if key != "precision"}
    return {
        **kept, "arch": "dialogue", "cell": "lstm", "context": context, "word_dropout": 0.4,
        "kl_weight": 0.2, "training": training,
    }  # fmt: skip


def _document_backbone(facts: FileFacts) -> dict[str, Any]:
    batch = 200 if facts.rows > SMALL else 64
    epochs = min(MAX_EPOCHS, max(12, round(SMALL_UPDATES * batch / facts.rows)))
    return {
        "arch": "bow", "latent": 20, "hidden": 400 if facts.rows > SMALL else 128, "layers": 1,
        "dropout": 0.5, "kl_warmup": 300,
        "training": {"epochs": epochs, "batch": batch, "validate_every": 4,
                     "optimiser": {"lr": 2e-3, "clip": 5.0, "schedule": "linear", "hold": 0.5}},
    }  # fmt: skip


def _prior(facts: FileFacts) -> dict[str, Any]:
    points, large = facts.kind == "points", facts.rows > LARGE
    hidden = 64 if points else (128 if large else 96)
    updates, batch = (
        (6000, 384 if large and not points else 256) if points or large else (1500, 256)
    )
    return {
        "kind": "diffusion", "classes": facts.classes or (10 if points else 16),
        "energy": {"hidden": hidden, "blocks": 3, "activation": "silu", "spectral_norm": False,
                   "init": "orthogonal"},
        "sampler": {"steps": 12}, "standardise": "diagonal",
        "score_matching": 0.75 if points else 0.5,
        "mi_weight": 0.05, "class_weight": 1.0 if facts.classes else 0.05,
        **({"labelled_batch": min(200, facts.labelled)} if _few_labels(facts) else {}),
        "training": {"updates": updates, "batch": batch, "validate_every": None,
                     "optimiser": {"lr": 3e-3 if points else 2e-3, "betas": [0.9, 0.99],
                                   "clip": None if points else 1.0, "schedule": "linear",
                                   "warmup": 100, "ema": 0.995 if points else 0.997}},
    }  # fmt: skip


BACKBONES: dict[str, Callable[[FileFacts], dict[str, Any]]] = {
    "points": _points_backbone,
    "sentences": _text_backbone,
    "dialogues": _dialogue_backbone,
    "documents": _document_backbone,
}
