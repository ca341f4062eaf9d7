"""What a user of Python needs: fit a model or a prior, load a trained one.

Example:
    >>> from ldebm.api import load
    >>> load("nowhere")
    Traceback (most recent call last):
    ...
    ldebm.errors.UsageError: nowhere: no model there; build it first (`dvc repro`)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldebm.assembly import build_backbone, build_model, build_prior
from ldebm.config import ExperimentConfig, parse
from ldebm.data.tokenizer import Tokenizer
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.files import read_model
from ldebm.fitting.fit import fit
from ldebm.fitting.prior import fit_prior
from ldebm.in_python import grid
from ldebm.model import Model
from ldebm.seeding import start_vector_functions
from ldebm.trained import MODELS, find_model

__all__ = ["fit", "fit_prior", "grid", "load"]


def _renamed(config: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a model file with the names that their keys have now."""
    context = config.get("backbone", {}).get("context")
    if not context or "size" not in context:
        return config
    kept = {key: value for key, value in context.items() if key != "size"}
    backbone = {**config["backbone"], "context": {**kept, "hidden": context["size"]}}
    return {**config, "backbone": backbone}


def load(path: str | Path, device: str = "auto") -> Model:
    """Loads a model, or a prior of vectors.

    Args:
        path: a file, with or without ``.safetensors``; a folder of the pipeline (``models/E/S``);
            or the name of an experiment, of which the smallest trained seed is taken.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: there is no model, or its file is damaged.
    """
    target, saved = Path(path), Path(f"{path}.safetensors")
    named = not (target.exists() or saved.exists()) and target.parts == (target.name,)
    if named and MODELS.is_dir():
        target = find_model(str(path))
    if target.is_file() and target.suffix != ".safetensors":
        raise UsageError(
            f"{path}: not a model; expected an experiment, its folder under models/, or a "
            "model.safetensors file"
        )
    inside = target / "model.safetensors", target / "prior" / "model.safetensors"
    for candidate in (target, *inside, saved):
        if candidate.is_file():
            break
    else:
        raise UsageError(f"{path}: no model there; build it first (`dvc repro`)")
    tensors, header = read_model(candidate)
    try:
        config = parse(ExperimentConfig, _renamed(header["config"]), file=str(candidate))
        meta, experiment, seed = header["meta"], header["experiment"], int(header["seed"])
        backbone = build_backbone(config.backbone, meta)
        prior = build_prior(backbone, config.prior)
        backbone.load_state_dict(_part(tensors, "backbone."))
        prior.load_state_dict(_part(tensors, "prior."))
    except (KeyError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{candidate}: not a complete ldebm model ({detail}); build it again (`dvc repro`)"
        ) from None
    tokenizer = None
    if "tokenizer" in tensors:
        tokenizer = Tokenizer.from_bytes(tensors["tokenizer"].numpy())
    start_vector_functions()  # the same seed, the same samples
    where = choose_device(device)
    parts = backbone.to(where), prior.to(where)
    model: Model = build_model(config, meta, *parts, tokenizer, experiment, seed)
    model.source = candidate
    return model


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
