"""First stage: trains a backbone against N(0, I) and writes it.

It reads and writes the files of the pipeline's contracts and knows nothing of DVC, so that the GPU
campaign and tests run the very same code.

Shapes: B batch, D latent dimension.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ldebm.assembly import architecture, build_backbone, first_stage_task
from ldebm.backbones.base import Backbone
from ldebm.config import ExperimentConfig
from ldebm.data.packed import Packed
from ldebm.devices import choose_device
from ldebm.errors import UsageError
from ldebm.files import hash_path, read_json, read_model, write_json, write_model
from ldebm.notes import note, running
from ldebm.seeding import configure, generator
from ldebm.training.parallel import is_main
from ldebm.training.runs import CHECKPOINTS, run_key, with_length, write_curves
from ldebm.training.trainer import TrainResult, train

__all__ = ["build_backbone_stage", "load_backbone", "train_backbone"]

Run = Callable[..., TrainResult]


def build_backbone_stage(
    config: ExperimentConfig, packed: Packed, seed: int, out: Path, epochs: float | None = None
) -> None:
    """First stage: writes ``out/{model.safetensors, curve.csv, metrics.json}``.

    A training whose parameters, data, code and seed equal those of a finished one is not repeated:
    the experiments of a comparison share their backbone (``LDEBM_NO_REUSE=1`` trains anyway).
    """
    section = config.backbone
    section = section.model_copy(update={"training": with_length(section.training, epochs)})
    config = config.model_copy(update={"backbone": section})
    device = choose_device(section.training.device)
    configure(section.training.threads)
    model = architecture(section, packed.kind)
    code = [model.__module__, first_stage_task(config, model).__module__]
    dumped, data_hash = section.model_dump(mode="json"), hash_path(packed.path)
    key = run_key("backbone", dumped, data_hash, seed, device.type, code=code)
    finished = CHECKPOINTS / "done" / key
    reused = (finished / "trained.json").is_file() and not os.environ.get("LDEBM_NO_REUSE")
    if not reused:
        clock = time.perf_counter()
        _train_backbone(config, packed, seed, finished, key, device)
        if is_main():
            stage = running()
            by = {"seconds": time.perf_counter() - clock, "stage": stage and stage.stage}
            write_json(finished / "trained.json", by)
    if not is_main():
        return
    trained = read_json(finished / "trained.json")
    note(reused=reused, trained_seconds=trained["seconds"], trained_by=trained.get("stage"))
    out.mkdir(parents=True, exist_ok=True)
    for name in ("model.safetensors", "curve.csv", "validation.csv", "metrics.json"):
        shutil.copyfile(finished / name, out / name)


def _train_backbone(
    config: ExperimentConfig,
    packed: Packed,
    seed: int,
    out: Path,
    key: str,
    device: torch.device,
) -> None:
    section = config.backbone
    checkpoint = CHECKPOINTS / f"backbone-{key}.pt"
    run = partial(train, checkpoint=checkpoint)
    model, task, result = train_backbone(config, packed, seed, device, run)
    if not is_main():
        return
    model.eval()
    metrics = {name: value for name, value in task.validate(result.updates).items()}
    write_curves(out, result)
    write_json(out / "metrics.json", {**metrics, "updates": result.updates})
    header = {"config": section.model_dump(mode="json"), "meta": packed.meta, "seed": seed}
    write_model(out / "model.safetensors", model.state_dict(), header)
    checkpoint.unlink(missing_ok=True)


def train_backbone(
    config: ExperimentConfig, packed: Packed, seed: int, device: torch.device, run: Run
) -> tuple[Backbone, Any, TrainResult]:
    """A backbone with the weights that its training leaves; its task, and the training itself.

    Args:
        config: the experiment.
        packed: its data.
        seed: of the run.
        device: where to train.
        run: trains a task: :func:`~ldebm.training.trainer.train`, or one that ends otherwise.
    """
    section = config.backbone
    model = build_backbone(section, packed.meta, generator(seed, "backbone-init")).to(device)
    model.prepare(packed)
    train_split, valid = packed.split("train"), packed.split("valid")
    kind = first_stage_task(config, type(model))
    task = kind(model, train_split, valid, config, seed, device)
    result: TrainResult = run(task, section.training, title="backbone")
    model.load_state_dict(result.state)
    task.finish()
    return model, task, result


def load_backbone(path: Path, config: ExperimentConfig, packed: Packed) -> Backbone:
    """The trained first stage.

    Raises:
        UsageError: the file is damaged or was trained with another architecture.
    """
    tensors, _ = read_model(path / "model.safetensors")
    backbone = build_backbone(config.backbone, packed.meta)
    try:
        backbone.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: does not fit experiment's backbone section ({detail})") from None
    return backbone
