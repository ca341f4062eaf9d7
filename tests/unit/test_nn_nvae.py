"""NVAE is the published network: its numbers, its regularisers, its checkpoints, less memory."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ldebm.assembly import build_backbone
from ldebm.backbones.nvae import NVAE
from ldebm.backbones.nvae_cells import BatchNorm, NormConv, _ShrinkingSkip
from ldebm.backbones.nvae_flow import FlowPair
from ldebm.backbones.nvae_keys import key_map, published_section, rename
from ldebm.config import BackboneConfig
from ldebm.errors import UsageError
from ldebm.files import hash_path
from ldebm.seeding import generator

# Names, shapes and results of the public code (NVlabs/NVAE at 9fc1a28, run on CPU in float32) with
# weights that `invented` makes from every name.
PUBLISHED = json.loads(Path(__file__).with_name("nvae_published.json").read_text())
SECTIONS: dict[str, dict[str, Any]] = {
    "tiny": {
        "channels": 4,
        "scales": 2,
        "groups": [2, 4],
        "latents": 2,
        "flows": 1,
        "mixtures": 10,
    },
    "mnist": {
        "likelihood": "bernoulli",
        "channels": 4,
        "scales": 2,
        "groups": [1, 3],
        "latents": 2,
        "blocks": 2,
        "cells": 3,
        "cells_per_group": 1,
        "pad": 2,
    },
}
METAS = {
    "tiny": {"kind": "images", "size": 16, "channels": 3},
    "mnist": {"kind": "images", "size": 28, "channels": 1},
}


def make(name: str, **changes: Any) -> NVAE:
    section = {**SECTIONS[name], **changes}
    content = {"arch": "nvae", "nvae": section, "training": {"updates": 1}}
    model = build_backbone(BackboneConfig.model_validate(content), METAS[name], generator(0))
    assert isinstance(model, NVAE)
    return model.eval()


def invented(name: str, shape: list[int]) -> Tensor:
    """The published tensor called ``name``, with numbers that follow from its name."""
    stream = generator(0, "published", name)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if name.endswith("running_var"):
        return torch.rand(shape, generator=stream) + 0.5
    if name.endswith("log_weight_norm"):
        return 0.3 * torch.randn(shape, generator=stream) - 0.3
    scale = max(1, torch.Size(shape)[1:].numel()) ** -0.5 if len(shape) > 1 else 0.3
    values = scale * torch.randn(shape, generator=stream)
    return 1 + values if len(shape) == 1 and name.endswith("weight") else values


def published_weights(name: str) -> dict[str, Tensor]:
    return {key: invented(key, shape) for key, shape in PUBLISHED[name]["keys"].items()}


def some_images(name: str) -> Tensor:
    meta = METAS[name]
    shape = (2, int(meta["channels"]), int(meta["size"]), int(meta["size"]))
    return (torch.arange(torch.Size(shape).numel()).reshape(shape) * 7 % 256) / 127.5 - 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_give_what_the_public_code_gives(name):
    model, expected = make(name), PUBLISHED[name]
    model.load_state_dict(rename(published_weights(name), model, name))
    noise = torch.randn(2, model.latent, generator=generator(0, "published-noise"))
    with torch.no_grad():
        drawn = model.posterior(some_images(name), noise)
        parameters = model.pixels(drawn.state).flatten(1)
    torch.testing.assert_close(drawn.kl_BG, torch.tensor(expected["kl"]), rtol=1e-4, atol=1e-3)
    some = parameters[:, :: parameters.shape[1] // 8]
    torch.testing.assert_close(some, torch.tensor(expected["parameters"]), rtol=1e-3, atol=1e-4)
    for _ in range(20):
        penalty = float(model.spectral().detach())
    assert penalty == pytest.approx(expected["penalty"], rel=1e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_has_a_published_name_and_shape(name):
    model = make(name)
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    named = {theirs: own[ours] for ours, theirs in key_map(model).items()}
    assert named == PUBLISHED[name]["keys"]
    assert len(key_map(model)) == len(own)


ARGS = {
    "dataset": "cifar10",
    "num_latent_scales": 2,
    "num_groups_per_scale": 4,
    "ada_groups": True,
    "num_channels_enc": 4,
    "num_latent_per_group": 2,
    "num_nf": 1,
    "num_preprocess_blocks": 1,
    "num_preprocess_cells": 2,
    "num_cell_per_cond_enc": 2,
    "use_se": True,
    "res_dist": True,
}


def checkpoint(folder: Path, **changes: Any) -> Path:
    """A file as the public code writes it."""
    args = argparse.Namespace(**{**ARGS, **changes})
    path = folder / "checkpoint.pt"
    torch.save({"epoch": 400, "args": args, "state_dict": published_weights("tiny")}, path)
    return path


def with_checkpoint(path: Path, **changes: Any) -> NVAE:
    return make("tiny", published={"path": str(path), "sha256": hash_path(path)}, **changes)


def test_a_published_checkpoint_takes_the_place_of_the_initial_weights(tmp_path: Path):
    section = published_section(ARGS)
    assert section["groups"] == [2, 4]
    model = with_checkpoint(checkpoint(tmp_path), **section)
    model.load_initial()
    expected = invented("stem.bias", PUBLISHED["tiny"]["keys"]["stem.bias"])
    assert torch.equal(model.state_dict()["stem.bias"], expected)


@pytest.mark.parametrize(
    ("args", "changes", "message"),
    [
        ({"num_nf": 2}, {}, "was made with flows: 2; set these in nvae"),
        ({"num_latent_per_group": 3}, {}, "latents: 3"),
    ],
)
def test_a_checkpoint_of_another_model_names_what_differs(tmp_path, args, changes, message):
    with pytest.raises(UsageError, match=message):
        with_checkpoint(checkpoint(tmp_path, **args), **changes).load_initial()


def test_tensors_that_do_not_fit_are_named():
    model, weights = make("tiny"), published_weights("tiny")
    del weights["stem.bias"]
    with pytest.raises(UsageError, match=r"1 tensors that this nvae .* are missing \(stem.bias\)"):
        rename(weights, model, "file")
    weights = published_weights("tiny") | {"nf_cells.9.x": torch.zeros(1)}
    with pytest.raises(UsageError, match=r"1 tensors have no place .*nf_cells.9.x"):
        rename(weights, model, "file")
    weights = published_weights("tiny") | {"stem.bias": torch.zeros(5)}
    with pytest.raises(UsageError, match=r"stem.bias has shape \(5,\), this .* needs \(4,\)"):
        rename(weights, model, "file")
    early = published_weights("tiny") | {"stem.weight_normalized": torch.zeros(1)}
    assert rename(early, model, "file")


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys):
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": {}, "args": Evil()}, path)
    with pytest.raises(UsageError, match="not read, since loading them could run code"):
        with_checkpoint(path).load_initial()
    assert "executed" not in capsys.readouterr().out


def test_a_missing_or_changed_checkpoint_is_named(tmp_path: Path):
    path = checkpoint(tmp_path)
    other = {"path": str(path), "sha256": hashlib.sha256(b"").hexdigest()}
    with pytest.raises(UsageError, match="its sha256 is"):
        make("tiny", published=other).load_initial()
    with pytest.raises(UsageError, match="no such file"):
        make("tiny", published={**other, "path": str(tmp_path / "none")}).load_initial()


def test_flows_keep_volumes_and_look_only_back():
    flow = FlowPair(3)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator(0, str(parameter.shape)))
    flow = flow.double()
    z = torch.randn(1, 3, 4, 4, generator=generator(0, "z")).double()

    def flat(cell: torch.nn.Module, row: Tensor) -> Tensor:
        moved: Tensor = cell(row.reshape(1, 3, 4, 4))
        return moved.permute(0, 2, 3, 1).flatten()

    def jacobian(cell: torch.nn.Module) -> Tensor:
        full = torch.autograd.functional.jacobian(lambda row: flat(cell, row), z.flatten())
        return full.reshape(48, 3, 16).permute(0, 2, 1).reshape(48, 48)  # pixel by pixel

    forwards = jacobian(flow.forwards)
    assert float(forwards.triu(1).abs().max()) == 0
    assert torch.allclose(forwards.diagonal(), torch.ones(48).double())
    assert float(forwards.tril(-1).abs().max()) > 1e-3
    both = jacobian(flow)
    assert float(torch.linalg.slogdet(both)[1].abs()) < 1e-9
    assert float(both.triu(1).abs().max()) > 1e-3


def test_recomputing_cells_changes_no_gradient_and_no_statistics():
    x = some_images("tiny")
    noise = torch.randn(2, make("tiny").latent, generator=generator(0, "noise"))
    results = []
    for recompute in (False, True):
        model = make("tiny", checkpointing=recompute).train()
        drawn, nll = model.draw_and_nll(x, noise)
        (nll.sum() + drawn.kl_BG.sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((gradients, dict(model.named_buffers())))
    for kept, again in zip(*results, strict=True):
        for name, value in kept.items():
            assert torch.equal(value, again[name]), name
    assert results[1][1]["pre.0.branch.norms.0.num_batches_tracked"] == 1


def test_gradients_reach_u_through_a_frozen_model_that_recomputes():
    gradients = []
    for recompute in (False, True):
        model = make("tiny", checkpointing=recompute).requires_grad_(False)
        u = torch.randn(2, model.latent, generator=generator(0, "u")).requires_grad_()
        energy = sum(z.square().sum() for z in model.to_z(u))
        gradients += torch.autograd.grad(energy, u)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_spectral_penalty_is_the_sum_of_singular_values_and_follows_the_warm_up():
    model = make("tiny", spectral=0.01, spectral_init=1.0)
    expected = torch.zeros(())
    for module in model.modules():
        if isinstance(module, BatchNorm):
            expected = expected + module.weight.abs().max()
        elif isinstance(module, NormConv):
            expected = expected + torch.linalg.matrix_norm(module.normalised().flatten(1), 2)
        elif isinstance(module, torch.nn.Conv2d):
            expected = expected + torch.linalg.matrix_norm(module.weight.flatten(1), 2)
    for _ in range(20):
        model.penalty(0.0)
    total = float(expected.detach())
    for progress, weight in ((0.0, 1.0), (0.5, 0.1), (1.0, 0.01)):
        penalty = model.penalty(progress)
        assert penalty is not None
        assert float(penalty.detach()) == pytest.approx(weight * total, rel=1e-3)
    state = model.training_state()
    other = make("tiny", spectral=0.01)
    other.load_training_state(state)
    assert torch.equal(other.spectral(), model.spectral())


def test_the_balance_is_by_area_over_the_groups_of_a_scale():
    share = make("tiny").kl_share
    assert share is not None
    assert share.tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(("way", "moves_encoder"), [("prior", False), ("data", True)])
def test_batch_norms_settle_with_the_weights_that_are_kept(way, moves_encoder):
    model = make("tiny", bn_readjust=way, bn_passes=3)
    before = {name: value.clone() for name, value in model.named_buffers()}
    stream = generator(0, "settle")
    noise = torch.randn(3, 2, model.latent, generator=stream)
    model.settle(lambda _: some_images("tiny"), lambda step: noise[step])
    moved = {
        name.split(".")[0]
        for name, value in model.named_buffers()
        if name.endswith("running_mean") and not torch.equal(value, before[name])
    }
    assert {"decoder", "grow", "post"} <= moved
    assert ("encoder" in moved) is moves_encoder
    assert not model.training


def test_the_published_cifar_configuration_has_thirty_groups_of_twenty_maps():
    section = {"channels": 8, "groups": [30], "scales": 1, "flows": 1}
    content = {"arch": "nvae", "nvae": section, "training": {"updates": 1}}
    meta = {"kind": "images", "size": 32, "channels": 3}
    model = build_backbone(BackboneConfig.model_validate(content), meta)
    assert isinstance(model, NVAE)
    assert [group.shape for group in model.groups] == [(20, 16, 16)] * 30
    assert model.latent == 153_600


def test_an_image_that_cannot_be_halved_so_often_is_named():
    content = {"arch": "nvae", "nvae": {**SECTIONS["mnist"], "pad": 0}}
    config = BackboneConfig.model_validate({**content, "training": {"updates": 1}})
    with pytest.raises(UsageError, match=r"28 pixels: .* halves them 3 times; set nvae\.pad"):
        build_backbone(config, METAS["mnist"])


def test_halving_takes_places_out_instead_of_a_stride_of_1x1_convolutions():
    """The gradient of a strided 1x1 convolution writes beyond its memory on CPU."""
    strided = [m for m in make("tiny").modules() if isinstance(m, NormConv) and m.stride != (1, 1)]
    assert strided
    assert all(m.kernel_size != (1, 1) for m in strided)
    skip = _ShrinkingSkip(6, 12).double()
    x = torch.randn(2, 6, 8, 8, generator=generator(0), dtype=torch.float64)
    parts = [
        torch.conv2d(
            torch.nn.functional.silu(x)[:, :, top:, left:], conv.normalised(), conv.bias, 2
        )
        for (top, left), conv in zip(_ShrinkingSkip.corners, skip.convs, strict=True)
    ]
    torch.testing.assert_close(skip(x), torch.cat(parts, 1))
