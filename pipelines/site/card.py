"""The model card of a run: what the model is, what it was trained on, how, and what to expect."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldebm.files import read_json

__all__ = ["model_card"]


def model_card(model: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, str]:
    """The card's lines, by what they are about.

    Args:
        model: ``models/E/S``.
        config: content of ``prior/config.json``.
        record: of ``results/``, if the run's metrics are the recorded ones; else empty.
    """
    params, meta = config.get("config", config), config.get("meta") or {}
    prior, backbone = params.get("prior") or {}, params.get("backbone") or {}
    parts = [
        (f"{prior.get('kind', '')} prior", prior.get("kind")),
        (_count(prior.get("levels"), "level"), prior.get("levels")),
        (_count(prior.get("classes"), "class", "classes"), prior.get("classes")),
        (f"{backbone.get('arch', '')} backbone", backbone.get("arch")),
        (f"latent of {backbone.get('latent')} dimensions", backbone.get("latent")),
    ]
    rows = meta.get("rows") or {}
    data = [
        f"{params.get('data', '')} ({meta.get('kind', 'unknown kind')} from {meta.get('source')})",
        ", ".join(
            f"{count} {split} rows"
            for split in ("train", "valid", "test")
            if (count := rows.get(split))
        ),
        f"a vocabulary of {meta['vocab_size']}" if meta.get("vocab_size") else "",
    ]
    labels = [
        f"{name} ({len(values)} values)" if isinstance(values, list) else str(name)
        for name, values in dict(meta.get("labels") or {}).items()
    ]
    trained = [
        f"{stage} {read_json(path).get('updates', '?')} updates"
        for stage in ("backbone", "prior")
        if (path := model / stage / "metrics.json").is_file()
    ]
    where = [
        f"{round(record['seconds'])} s" if record.get("seconds") else "",
        f"on {record['device']}" if record.get("device") else "",
        f"at commit {record['commit'][:12]}" if record.get("commit") else "",
    ]
    given = {"gc": "found by clustering", "given": "given with the data"}
    cluster = str((params.get("cluster") or {}).get("labels") or "")
    lines = {
        "Model": ", ".join(words for words, known in parts if known),
        "Parameters": _parameters(model / "prior" / "model.safetensors"),
        "Data": "; ".join(filter(None, data)) if meta else str(params.get("data", "")),
        "Labels in the data": ", ".join(labels),
        "Classes": given.get(cluster, cluster),
        "Training": ", ".join(trained),
        "Recorded": " ".join(filter(None, where)),
        "Made for": "research on latent-variable models: generation, classes, density estimates",
        "Limits": "samples repeat what the data hold, errors and biases too; likelihoods are bounds"
        " or estimates (Metrics says which) and compare only on the same data",
        "Rebuild": f"dvc repro evaluate@{model.parts[-2]}-{model.parts[-1]}",
    }
    return {about: words for about, words in lines.items() if words}


def _count(number: Any, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _parameters(path: Path) -> str:
    """How many numbers a safetensors file holds, from its header."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    tensors = [item["shape"] for name, item in header.items() if name != "__metadata__"]
    return f"{sum(map(math.prod, tensors)):,} numbers in {len(tensors)} tensors"
