"""The published NVAE configurations at full size: both stages step, save, resume and sample.

    python -m benchmarks.full_size cifar10-nvae celebahq256-nvae church64-nvae [--batch 1]

Each stage takes two updates exactly as params.yaml has them, but for their number, the batch, the
passes that settle batch norms, and the data, which are random pixels. It is interrupted after its
first update, with a checkpoint, and started again; then the model that it wrote is loaded and
sampled. Every part runs in a process of its own, so that its peak memory is its own. The rounds are
kept in results/full-size.json, of which ``make results`` makes a table.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import ldebm
from benchmarks.recorded import ROOT, Rounds
from ldebm.config import ExperimentConfig
from ldebm.data.packed import Packed, open_packed
from ldebm.devices import choose_device
from ldebm.errors import LdebmError
from ldebm.files import hash_path, read_json, write_array, write_json
from ldebm.training.first_stage import build_backbone_stage
from ldebm.training.image_first_stage import ImageTask
from ldebm.training.image_prior_task import ImagePriorTask
from ldebm.training.labelling import cluster_stage
from ldebm.training.runs import CHECKPOINTS
from ldebm.training.second_stage import prior_stage
from ldebm.training.trainer import EXIT_INTERRUPTED
from pipelines.library import Library

__all__ = ["PARTS", "main", "measure", "shortened"]

UPDATES = 2
PASSES = 2  # that settle the batch norms, of 500
SIZES = {"cifar10": 32}  # of data that are taken as large as they are
PARTS = ("backbone", "backbone-resumed", "labels", "prior", "prior-resumed", "sample")
Facts = dict[str, Any]


def shortened(config: ExperimentConfig, batch: int, threads: int) -> ExperimentConfig:
    """The experiment with another length and batch; all else as it is."""

    def training(section: Any) -> Any:
        changes = {"epochs": None, "updates": UPDATES, "batch": batch, "threads": threads}
        return section.training.model_copy(update=changes)

    first, second = config.backbone, config.prior
    assert first.nvae is not None
    nvae = first.nvae.model_copy(update={"bn_passes": PASSES})
    first = first.model_copy(update={"nvae": nvae, "training": training(first)})
    second = second.model_copy(update={"training": training(second)})
    return config.model_copy(update={"backbone": first, "prior": second})


def random_images(path: Path, size: int, rows: int) -> Packed:
    """A packed data set of random colour images, ``rows`` in each split."""
    stream = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        pixels = stream.integers(0, 256, (rows, 3, size, size), dtype=np.uint8)
        write_array(path / f"{split}.x.npy", pixels)
        write_array(path / f"{split}.id.npy", np.arange(rows))
    meta = {"kind": "images", "source": "random", "labels": {}, "channels": 3, "size": size}
    write_json(path / "meta.json", meta | {"rows": {"train": rows, "valid": rows, "test": rows}})
    return open_packed(path)


@contextmanager
def timed_updates(kind: type[ImageTask] | type[ImagePriorTask]) -> Iterator[list[list[float]]]:
    """Wall and CPU seconds of every update of a task whose epochs have one update."""
    begin, after = kind.begin_epoch, kind.after_update
    started, seconds = [0.0, 0.0], []

    def begin_epoch(task: Any, epoch: int) -> None:
        begin(task, epoch)
        started[:] = _clocks()

    def after_update(task: Any, step: int, averaged: Any) -> None:
        after(task, step, averaged)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(_since(started))

    with patch.multiple(kind, begin_epoch=begin_epoch, after_update=after_update):
        yield seconds


def _clocks() -> list[float]:
    return [time.perf_counter(), time.process_time()]


def _since(started: list[float]) -> list[float]:
    """Seconds, of the clock and of this process, since ``started``."""
    return [now - then for now, then in zip(_clocks(), started, strict=True)]


def interrupt_once_training() -> None:
    """Sends this process SIGTERM as soon as the trainer listens: its first update is its last."""

    def watch() -> None:
        while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def train_part(part: str, name: str, config: ExperimentConfig, packed: Packed) -> Facts:
    """One start of a stage in the current folder, interrupted or to its end."""
    stage, _, resumed = part.partition("-")
    first = stage == "backbone"
    if not resumed:
        interrupt_once_training()
    interrupted = False
    with timed_updates(ImageTask if first else ImagePriorTask) as seconds:
        try:
            if first:
                build_backbone_stage(config, packed, 0, Path("models/backbone"))
            else:
                prior_stage(config, packed, 0, Path("models"), name)
        except SystemExit as end:
            interrupted = end.code == EXIT_INTERRUPTED
    checkpoints = [path.stat().st_size for path in CHECKPOINTS.glob("*.pt")]
    files = list(Path("models", stage).glob("model.safetensors"))
    facts: Facts = {"step_seconds": seconds, "checkpoint_bytes": sum(checkpoints)}
    if resumed:
        facts["ok"] = len(seconds) == UPDATES - 1 and len(files) == 1 and not checkpoints
        facts["hash"] = hash_path(files[0]) if files else None
    else:
        facts["ok"] = interrupted and len(seconds) == 1 and len(checkpoints) == 1 and not files
    return facts


def label_part(config: ExperimentConfig, packed: Packed) -> Facts:
    """The stage between both: the top group of every image."""
    target = Path("models/latents.parquet")
    cluster_stage(config, packed, 0, Path("models/backbone"), target)
    return {"ok": target.is_file()}


def sample_part() -> Facts:
    """One image of the Gaussian prior and one of the learned prior, from the model's folder."""
    model = ldebm.load("models")
    drawn = {"gaussian": torch.randn(1, model.backbone.latent, generator=torch.manual_seed(0))}
    facts: Facts = {
        "backbone_parameters": sum(p.numel() for p in model.backbone.parameters()),
        "prior_parameters": sum(p.numel() for p in model.prior.parameters()),
        "latent": model.backbone.latent,
        "model_bytes": Path("models/prior/model.safetensors").stat().st_size,
    }
    started = _clocks()
    drawn["prior"] = model.sample_latents(1, seed=0).cpu()
    facts["sample_seconds"] = _since(started)
    facts["ok"] = True
    for latents in drawn.values():
        image = model.decode(latents.to(model.device), "sample")
        assert isinstance(image, np.ndarray)
        shape = (1, int(model.meta["channels"]), *2 * [int(model.meta["size"])])
        facts["ok"] &= image.shape == shape and image.min() < image.max()
    return facts


def run_part(part: str, name: str, batch: int, threads: int) -> Facts:
    """One part in the current folder, with what it took."""
    config = shortened(Library(ROOT).experiment(name), batch, threads)
    device = choose_device(config.backbone.training.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    packed = open_packed("packed")
    if part == "sample":
        facts = sample_part()
    elif part == "labels":
        facts = label_part(config, packed)
    else:
        facts = train_part(part, name, config, packed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    seconds = time.perf_counter() - started
    return {**facts, "seconds": seconds, "peak_bytes": peak, "device": _device_name(device)}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def measure(name: str, batch: int, threads: int, folder: Path) -> Facts:
    """All parts of one configuration, each in a process of its own; a round as it is kept.

    Raises:
        RuntimeError: a part failed.
    """
    library = Library(ROOT)
    data = library.experiment(name).data
    random_images(folder / "packed", library.dataset(data).side or SIZES[data], batch)
    (folder / "models").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parts: dict[str, Facts] = {}
    for part in PARTS:
        out = folder / f"{part}.json"
        command = [sys.executable, "-m", "benchmarks.full_size", name, "--part", part]
        command += ["--batch", str(batch), "--threads", str(threads), "--part-out", str(out)]
        done = subprocess.run(
            command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode or not out.is_file():
            raise RuntimeError(f"{name} {part}: exit code {done.returncode}: {done.stderr[-3000:]}")
        parts[part] = read_json(out)
        print(f"{name} {part}: {parts[part]['seconds']:.0f} s", flush=True)
    return record(parts, batch, threads)


def record(parts: dict[str, Facts], batch: int, threads: int) -> Facts:
    """A round, from what its parts found."""
    sample = parts["sample"]
    known = ("backbone_parameters", "prior_parameters", "latent", "model_bytes")
    row: Facts = {key: sample[key] for key in known}
    row |= {"batch": batch, "threads": threads, "device": sample["device"]}
    for stage in ("backbone", "prior"):
        both = (parts[stage], parts[f"{stage}-resumed"])
        steps = [pair for part in both for pair in part["step_seconds"]]
        row[f"{stage}_step_seconds"] = [round(wall, 2) for wall, _ in steps]
        row[f"{stage}_step_cpu_seconds"] = [round(cpu, 2) for _, cpu in steps]
        row[f"{stage}_checkpoint_bytes"] = both[0]["checkpoint_bytes"]
        row[f"{stage}_peak_bytes"] = max(part["peak_bytes"] for part in both)
    row["sample_peak_bytes"] = sample["peak_bytes"]
    row["sample_seconds"], row["sample_cpu_seconds"] = (
        round(value, 2) for value in sample["sample_seconds"]
    )
    row["part_seconds"] = {part: round(value["seconds"], 1) for part, value in parts.items()}
    row["failed"] = [part for part, value in parts.items() if not value["ok"]]
    return {**row, "ok": not row["failed"]}


def main() -> int:
    """Measures the configurations that are asked for; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, default=ROOT / "results/full-size.json")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--part-out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.part:
            name = options.experiments[0]
            facts = run_part(options.part, name, options.batch, options.threads)
            write_json(options.part_out, facts)
            return 0
        rounds = Rounds(options.out)
        for name in options.experiments:
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="full-size-") as folder:
                facts = measure(name, options.batch, options.threads, Path(folder))
            seconds = round(time.monotonic() - started, 1)
            rounds.add({"kind": name, "number": 0, "seconds": seconds, **facts})
    except LdebmError as error:
        print(f"benchmarks.full_size: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if rounds.ok else 1


if __name__ == "__main__":
    sys.exit(main())
