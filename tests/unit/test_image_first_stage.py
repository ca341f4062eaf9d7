"""The first stage of image models: terms by group, exact resume, two processes as one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldebm.assembly import build_backbone
from ldebm.backbones.hierarchical import HierarchicalBackbone
from ldebm.config import BackboneConfig, ExperimentConfig
from ldebm.data.packed import Packed, open_packed
from ldebm.seeding import generator
from ldebm.training.first_stage import build_backbone_stage, load_backbone
from ldebm.training.image_first_stage import ImageTask, balanced_kl, hierarchical_terms
from ldebm.training.trainer import train
from tests.unit.two_processes import train_by_one_and_by_two

HVAE = {"layers": [{"dense": 4}, {"conv": [1, 4]}], "widths": [8, 8], "hidden": 16}
NVAE = {"channels": 4, "groups": [2], "latents": 2, "flows": 1, "cells_per_group": 1}


def pack_images(folder: Path, rows: int = 48, channels: int = 1) -> Packed:
    """Images of one bright square each, whose place and colour vary."""
    folder.mkdir()
    stream = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        x = np.zeros((rows, channels, 8, 8), dtype=np.uint8)
        for image in x:
            top, left = stream.integers(0, 5, size=2)
            image[:, top : top + 4, left : left + 4] = stream.integers(128, 256, (channels, 1, 1))
        np.save(folder / f"{split}.x.npy", x)
        np.save(folder / f"{split}.id.npy", np.arange(rows))
    meta = {"kind": "images", "size": 8, "channels": channels, "labels": {}, "source": "test"}
    (folder / "meta.json").write_text(json.dumps(meta))
    return open_packed(folder)


def experiment(section: dict[str, Any], training: dict[str, Any], **changes: Any) -> Any:
    arch = "nvae" if "groups" in section else "hvae"
    section = {"likelihood": "bernoulli", **section}
    backbone = {"arch": arch, arch: section, "training": {"batch": 16, **training}, **changes}
    prior = {"kind": "gaussian", "training": {"updates": 1}}
    return ExperimentConfig.model_validate({"data": "d", "backbone": backbone, "prior": prior})


def task_of(config: Any, packed: Packed) -> ImageTask:
    backbone = build_backbone(config.backbone, packed.meta, generator(0, "backbone-init"))
    assert isinstance(backbone, HierarchicalBackbone)
    splits = packed.split("train"), packed.split("valid")
    return ImageTask(backbone, *splits, config, 0, torch.device("cpu"))


def test_training_raises_the_bound_and_logs_every_group(tmp_path: Path):
    config = experiment(HVAE, {"updates": 150, "optimiser": {"lr": 3e-3}}, kl_warmup=20)
    task = task_of(config, pack_images(tmp_path / "packed"))
    result = train(task, config.backbone.training, None, title="fit")
    first, last = result.validation[0], result.validation[-1]
    assert last["elbo"] > first["elbo"] + 3
    assert last["kl"] == pytest.approx(last["kl_0"] + last["kl_1"])
    assert last["bits_per_dim"] == pytest.approx(-last["elbo"] / (64 * np.log(2)))
    assert {"reconstruction", "kl", "kl_0", "kl_1"} <= result.curve[-1].keys()
    assert "score" not in first
    assert last["score"] == pytest.approx(-last["elbo"], rel=1e-4)


@pytest.mark.parametrize(("section", "updates"), [(HVAE, 80), (NVAE, 40)])
def test_products_in_bfloat16_leave_the_bound_where_it_is(tmp_path: Path, section, updates):
    packed = pack_images(tmp_path / "packed")
    bounds = {}
    for precision in ("float32", "bfloat16"):
        training = {"updates": updates, "optimiser": {"lr": 3e-3}, "precision": precision}
        config = experiment(section, training, kl_warmup=20)
        task = task_of(config, packed)
        terms = task.loss(0)
        assert terms.total.dtype == torch.float32
        result = train(task, config.backbone.training, None, title=precision)
        bounds[precision] = result.validation[-1]["elbo"]
        assert all(value.dtype != torch.bfloat16 for value in result.state.values())
    start = -64 * np.log(2)  # of a model that knows nothing
    assert bounds["float32"] > start + 5
    assert bounds["bfloat16"] == pytest.approx(bounds["float32"], abs=0.5)


@pytest.mark.parametrize(
    ("section", "optimiser"),
    [
        (HVAE, {"name": "adam", "lr": 3e-3}),
        (NVAE, {"name": "adamax", "eps": 1e-3, "lr": 1e-2, "ema": 0.9, "schedule": "cosine"}),
    ],
)
def test_resuming_anywhere_changes_nothing(tmp_path: Path, section, optimiser):
    packed = pack_images(tmp_path / "packed")
    config = experiment(section, {"updates": 9, "optimiser": optimiser}, kl_warmup=5)
    training = config.backbone.training
    whole = train(task_of(config, packed), training, None, title="whole")
    for stop in (1, 4, 7):
        file = tmp_path / f"{stop}.pt"
        with pytest.raises(SystemExit):
            train(task_of(config, packed), training, file, title="part", stop_after=stop)
        resumed = train(task_of(config, packed), training, file, title="rest")
        for name, value in whole.state.items():
            assert torch.equal(value, resumed.state[name]), name
        assert resumed.curve == whole.curve


def test_the_stage_writes_a_model_that_loads_and_equals_itself(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed = pack_images(tmp_path / "packed")
    config = experiment({**NVAE, "bn_readjust": "prior", "bn_passes": 2}, {"updates": 3})
    build_backbone_stage(config, packed, 0, tmp_path / "one")
    monkeypatch.setenv("LDEBM_NO_REUSE", "1")
    build_backbone_stage(config, packed, 0, tmp_path / "two")
    for name in ("model.safetensors", "metrics.json", "curve.csv", "validation.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    backbone = load_backbone(tmp_path / "one", config, packed).eval()
    assert isinstance(backbone, HierarchicalBackbone)
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    task = task_of(config, packed)
    task.backbone.load_state_dict(backbone.state_dict())
    task.backbone.eval()
    assert task.validate(3)["elbo"] == metrics["elbo"]


def test_no_epochs_leave_the_initial_weights(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packed = pack_images(tmp_path / "packed")
    config = experiment(HVAE, {"epochs": 0})
    build_backbone_stage(config, packed, 0, tmp_path / "out")
    initial = build_backbone(config.backbone, packed.meta, generator(0, "backbone-init"))
    for name, value in load_backbone(tmp_path / "out", config, packed).state_dict().items():
        assert torch.equal(value, initial.state_dict()[name])


def test_a_large_group_pays_more_while_the_kl_is_balanced():
    kl = torch.tensor([[1.0, 8.0], [3.0, 4.0]], requires_grad=True)
    share = torch.tensor([1.0, 2.0])
    gamma = torch.tensor([2.01 / 1, 6.01 / 2])
    gamma = gamma / gamma.mean()
    balanced = balanced_kl(kl, share)
    torch.testing.assert_close(balanced, kl.detach() @ gamma)
    (gradient,) = torch.autograd.grad(balanced.sum(), kl)
    torch.testing.assert_close(gradient, gamma.expand(2, 2))


def terms(section: dict[str, Any], update: int, **changes: Any) -> Any:
    config = experiment(section, {"updates": 1}, **changes).backbone
    meta = {"kind": "images", "size": 8, "channels": 1}
    backbone = build_backbone(config, meta)
    assert isinstance(backbone, HierarchicalBackbone)
    kl = torch.tensor([[2.0, 6.0]])
    return hierarchical_terms(torch.tensor([10.0]), kl, backbone, config, update)


def test_the_kl_is_weighted_warmed_up_and_free_where_it_says_so():
    assert float(terms(HVAE, 0).total) == 18
    assert float(terms(HVAE, 0, kl_warmup=4).total) == 12
    assert float(terms(HVAE, 9, kl_warmup=4, kl_weight=0.5).total) == 14
    assert float(terms({**HVAE, "free_nats": [5, 0]}, 0).total) == 10 + 5 + 6
    assert float(terms(HVAE, 0, kl_floor=20).total) == 30
    plain = {**NVAE, "spectral": 0.0, "kl_start": 0.25}
    assert float(terms(plain, 9, kl_warmup=10).total) == 18
    begin = terms(plain, 0, kl_warmup=10)
    gamma = torch.tensor([2.01, 6.01]) / 4.01
    assert float(begin.total) == pytest.approx(10 + 0.25 * float(gamma @ torch.tensor([2.0, 6.0])))
    assert [float(begin.parts[f"kl_{g}"]) for g in range(2)] == [2, 6]


def test_free_nats_need_one_number_per_layer():
    with pytest.raises(ValueError, match="expected 2 numbers, one per layer"):
        BackboneConfig.model_validate(
            {"arch": "hvae", "hvae": {**HVAE, "free_nats": [1]}, "training": {"updates": 1}}
        )


@pytest.mark.slow
def test_two_processes_take_the_step_of_one_with_batch_norm_over_both(tmp_path, monkeypatch):
    packed = pack_images(tmp_path / "packed")
    # A bias before a batch norm has no gradient but rounding: eps keeps that from being a step.
    optimiser = {"name": "adamax", "lr": 1e-3, "eps": 1e-3}
    training = {"updates": 4, "validate_every": None, "optimiser": optimiser}
    config = experiment({**NVAE, "checkpointing": True}, training)
    train_by_one_and_by_two(tmp_path, config, 29741, monkeypatch)
    one = load_backbone(tmp_path / "one", config, packed).state_dict()
    two = load_backbone(tmp_path / "two", config, packed).state_dict()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=2e-3, atol=2e-5, msg=name)
