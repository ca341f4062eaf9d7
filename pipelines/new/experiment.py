"""An experiment on a user's table: a template of conf/, and what depends on the file."""

from __future__ import annotations

from typing import Any

from pipelines.new.tables import FileFacts

__all__ = ["start_from", "table_experiment"]

LARGE = 20_000  # rows from which text gets networks of the papers' size
SMALL = 2_000  # rows up to which its networks are smaller still
UPDATES, FEWEST, MOST = 1000, 12, 60  # of the first stage on less than large data; its epochs
SUPERVISION = (
    3.0  # weight of the labels in the first stage, against nats a text; 10 overfits small files
)


def start_from(template: str) -> dict[str, Any]:
    """The defaults list of an experiment that starts from ``conf/template/``."""
    return {"defaults": [f"/template/{template}@_here_", "_self_"]}


def table_experiment(name: str, facts: FileFacts) -> dict[str, Any]:
    """An LDEBM experiment with sizes and lengths of training that suit the number of rows."""
    few = bool(facts.classes) and facts.labelled < facts.rows / 2
    described = f"LDEBM on {name}, {facts.rows} rows"
    if facts.classes and facts.labelled < facts.rows:
        described += f", {facts.labelled} of them labelled"
    content: dict[str, Any] = {
        **start_from(_template(facts)),
        "data": name,
        "description": described,
        "backbone": _backbone(facts) | _supervision(facts, few),
    }
    if facts.classes:
        content["cluster"] = {"labels": "given", "column": facts.columns["label"]}
        content["prior"] = {"classes": facts.classes, "class_weight": 1.0}
        if few:
            content["prior"]["labelled_batch"] = min(200, facts.labelled)
    return {key: value for key, value in content.items() if value != {}}


def _template(facts: FileFacts) -> str:
    if facts.kind == "points":
        return "points"
    size = "large" if facts.rows > LARGE else "medium" if facts.rows > SMALL else "small"
    return f"{facts.kind}-{size}"


def _backbone(facts: FileFacts) -> dict[str, Any]:
    """What depends on the file: noise of points, length and batch of the first stage of text."""
    if facts.kind == "points":
        return {"noise": float(f"{0.06 * facts.spread or 0.5:.2g}")}
    if facts.kind == "documents":
        batch = 200 if facts.rows > SMALL else 64
    elif facts.rows > LARGE:
        return {}
    else:
        batch = 128 if facts.rows > 5000 else 64
    epochs = min(MOST, max(FEWEST, round(UPDATES * batch / facts.rows)))
    return {"training": {"epochs": epochs, "batch": batch}}


def _supervision(facts: FileFacts, few: bool) -> dict[str, Any]:
    """The labels as a part of the first stage of text, where most rows have one.

    The first stage is frozen when the prior sees the labels: a latent that does not tell them by
    then never will. Points are their own latent.
    """
    if facts.kind == "points" or not facts.classes or few:
        return {}
    return {"supervision": {"column": facts.columns["label"], "weight": SUPERVISION}}
