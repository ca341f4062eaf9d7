"""Published NVAE checkpoints: their names of tensors, their arguments, and ours.

A checkpoint of the public code holds ``state_dict`` and the command line's ``args``. Tensors are
renamed by walking through the model in the order in which that code numbers its cells. The file is
read with torch's restricted unpickler, which makes tensors, numbers, text and containers, and here
``argparse.Namespace``, a plain bag of attributes; anything else in it is refused.
"""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ldebm.backbones.nvae_cells import BatchNorm, Cell
from ldebm.config import NVAEConfig, PublishedConfig
from ldebm.errors import UsageError
from ldebm.files import hash_path

if TYPE_CHECKING:
    from ldebm.backbones.nvae import NVAE

__all__ = ["key_map", "load_published", "published_section", "rename"]

_IGNORED = ("weight_normalized",)  # a cache that early checkpoints hold
_BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def key_map(model: NVAE) -> dict[str, str]:
    """Our name of every tensor of the model -> its published name."""
    modules = dict(model.named_modules())
    pairs = {"start": "prior_ftr0"}
    for ours, theirs in _modules(model):
        module = modules[ours]
        if isinstance(module, Cell):
            for inner, outer in _cell(module):
                pairs |= _leaves(modules[f"{ours}.{inner}"], f"{ours}.{inner}", f"{theirs}.{outer}")
        else:
            pairs |= _leaves(module, ours, theirs)
    return pairs


def _modules(model: NVAE) -> Iterator[tuple[str, str]]:
    """Cells and single layers: our path and theirs."""
    scale_of, groups = model.scale_of, len(model.groups)
    yield "stem", "stem"
    yield from ((f"pre.{k}", f"pre_process.{k}") for k in range(len(model.pre)))
    number = count()
    per_group = model.section.cells_per_group
    for g in reversed(range(groups)):
        yield from ((f"encoder.{g}.{k}", f"enc_tower.{next(number)}") for k in range(per_group))
        if g:
            yield f"look.{g - 1}", f"enc_tower.{next(number)}.conv"
            if scale_of[g - 1] < scale_of[g]:
                yield f"shrink.{scale_of[g] - 1}", f"enc_tower.{next(number)}"
    yield "top", "enc0.1"
    number = count()
    for g in range(groups):
        if g:
            if scale_of[g - 1] < scale_of[g]:
                yield f"grow.{scale_of[g] - 1}", f"dec_tower.{next(number)}"
            for k in range(per_group):
                yield f"decoder.{g - 1}.{k}", f"dec_tower.{next(number)}"
            yield f"to_prior.{g - 1}", f"dec_sampler.{g - 1}.1"
        yield f"take.{g}", f"dec_tower.{next(number)}.conv"
        yield f"to_posterior.{g}", f"enc_sampler.{g}"
    flows = model.section.flows
    for g in range(groups):
        for k in range(flows):
            for ours, theirs in (("forwards", "cell1"), ("backwards", "cell2")):
                flow, cell = f"flows.{g}.{k}.{ours}", f"nf_cells.{g * flows + k}.{theirs}"
                yield f"{flow}.read", f"{cell}.conv.convz.0"
                yield f"{flow}.spread", f"{cell}.conv.convz.2"
                yield f"{flow}.move", f"{cell}.mu.conv_0"
    yield from ((f"post.{k}", f"post_process.{k}") for k in range(len(model.post)))
    yield "head", "image_conditional.1"


def _cell(cell: Cell) -> Iterator[tuple[str, str]]:
    """Layers of a residual cell."""
    inner = {name for name, _ in cell.named_modules()}
    if "skip.conv" in inner:
        yield "skip.conv", "skip.1"
    yield from (
        (f"skip.convs.{k}", f"skip.conv_{k + 1}") for k in range(4) if "skip.convs" in inner
    )
    if "branch.norms" in inner:
        for k in range(2):
            yield f"branch.norms.{k}", f"_ops.{k}.bn_act"
            yield f"branch.convs.{k}", f"_ops.{k}.conv_0"
    else:
        first = 1 if "skip.conv" in inner else 0  # a cell that grows begins with its upsampling
        conv = [f"_ops.0.conv.{first + k}" for k in range(5)]
        yield "branch.before", f"{conv[0]}.bn"
        yield "branch.expand", f"{conv[1]}.conv.0"
        yield "branch.expanded", f"{conv[1]}.conv.1"
        yield "branch.depthwise", f"{conv[2]}.conv.0"
        yield "branch.filtered", f"{conv[2]}.conv.1"
        yield "branch.project", conv[3]
        yield "branch.after", f"{conv[4]}.bn"
    if "squeeze.squeeze" in inner:
        yield "squeeze.squeeze", "se.se.0"
        yield "squeeze.excite", "se.se.2"


def _leaves(module: nn.Module, ours: str, theirs: str) -> dict[str, str]:
    """Tensors of one layer."""
    if isinstance(module, BatchNorm):
        return {f"{ours}.{name}": f"{theirs}.{name}" for name in _BATCH_NORM}
    names = {"log_norm": "log_weight_norm"}
    return {
        f"{ours}.{name}": f"{theirs}.{names.get(name, name)}"
        for name, _ in module.named_parameters(recurse=False)
    }


def rename(published: Mapping[str, Tensor], model: NVAE, where: str) -> dict[str, Tensor]:
    """The tensors of a published ``state_dict`` under our names.

    Raises:
        UsageError: tensors are missing, left over or of another shape.
    """
    pairs, own = key_map(model), model.state_dict()
    wanted = set(pairs.values())
    stored = {key for key in published if not key.endswith(_IGNORED)}
    fix = "make the section that of the checkpoint"
    for keys, problem in (
        (wanted - stored, "tensors that this nvae section needs are missing"),
        (stored - wanted, "tensors have no place in this nvae section"),
    ):
        if keys:
            some = ", ".join(sorted(keys)[:3])
            raise UsageError(f"{where}: {len(keys)} {problem} ({some}); {fix}")
    for ours, theirs in pairs.items():
        if published[theirs].shape != own[ours].shape:
            raise UsageError(
                f"{where}: {theirs} has shape {tuple(published[theirs].shape)}, this nvae section "
                f"needs {tuple(own[ours].shape)}; {fix}"
            )
    return {ours: published[theirs].to(own[ours].dtype) for ours, theirs in pairs.items()}


def published_section(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the ``args`` of a published checkpoint say, under the keys of our ``nvae`` section."""
    scales, most = int(args["num_latent_scales"]), int(args["num_groups_per_scale"])
    groups = [most]
    for _ in range(scales - 1):
        fewer = max(int(args.get("min_groups_per_scale", 1)), groups[-1] // 2)
        groups.append(fewer if args.get("ada_groups") else most)
    mixtures = int(args.get("num_mixture_dec", 10))
    grey = args.get("dataset") in ("mnist", "omniglot")
    likelihood = "bernoulli" if grey else "normal" if mixtures == 1 else "logistic"
    return {
        "likelihood": likelihood,
        **({"mixtures": mixtures} if likelihood == "logistic" else {}),
        "bits": int(args.get("num_x_bits", 8)),
        "channels": int(args["num_channels_enc"]),
        "scales": scales,
        "groups": groups[::-1],
        "latents": int(args["num_latent_per_group"]),
        "flows": int(args["num_nf"]),
        "blocks": int(args["num_preprocess_blocks"]),
        "cells": int(args["num_preprocess_cells"]),
        "cells_per_group": int(args["num_cell_per_cond_enc"]),
        "squeeze_excitation": bool(args["use_se"]),
        "residual_posterior": bool(args["res_dist"]),
        "pad": 2 if grey else 0,
    }


def load_published(model: NVAE, published: PublishedConfig, section: NVAEConfig) -> None:
    """Loads a checkpoint of the public code into the model.

    Raises:
        UsageError: the file is missing, another one, unreadable, or of another model.
    """
    path = Path(published.path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; backbone.nvae.published names it")
    digest = hash_path(path)
    if digest != published.sha256:
        raise UsageError(
            f"{path}: its sha256 is {digest}, backbone.nvae.published.sha256 is "
            f"{published.sha256}; correct it if this is the file you mean"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        tensors, args = content["state_dict"], content.get("args")
    except pickle.UnpicklingError:  # torch's own message advises to load it unsafely
        raise UsageError(
            f"{path}: holds other things than tensors, numbers, text and the command line's "
            "arguments; not read, since loading them could run code"
        ) from None
    except (RuntimeError, KeyError, TypeError, EOFError) as error:
        detail = " ".join(str(error).split())[:160]
        raise UsageError(f"{path}: not a checkpoint of the public NVAE code ({detail})") from None
    if isinstance(args, argparse.Namespace):
        _compare(published_section(vars(args)), section, str(path))
    model.load_state_dict(rename(tensors, model, str(path)))


def _compare(published: Mapping[str, Any], section: NVAEConfig, where: str) -> None:
    own = section.model_dump()
    differing = [f"{key}: {value}" for key, value in published.items() if own[key] != value]
    if differing:
        raise UsageError(f"{where}: was made with {', '.join(differing)}; set these in nvae")
