"""Small untrained baselines for tests."""

from __future__ import annotations

from typing import get_args

from ldebm.baselines.model import DialogueBaseline, TextBaseline
from ldebm.config import BackboneConfig
from ldebm.config.baseline import Kind
from ldebm.seeding import generator

KINDS: tuple[str, ...] = get_args(Kind)
META = {
    "kind": "sentences", "vocab_size": 30, "max_len": 8, "labels": {},
    "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3,
}  # fmt: skip


def section(
    kind: str, kl_warmup: int = 0, init: str = "default", arch: str = "gru", **more: object
) -> BackboneConfig:
    """The backbone section of a baseline with 2 variables of 3 values and 4 dimensions."""
    content: dict[str, object] = {"kind": kind, **more}
    if kind not in ("rnnlm", "ae", "vae"):
        content |= {"variables": 2, "values": 3}
    latent = None if kind in ("rnnlm", "dae", "dvae", "divae") else 4
    return BackboneConfig.model_validate(
        {
            "arch": arch,
            "context": {"utterance": 5, "hidden": 7} if arch == "dialogue" else None,
            "latent": latent,
            "hidden": 16,
            "embed": 12,
            "baseline": content,
            "kl_warmup": kl_warmup,
            "init": init,
            "training": {"updates": 1},
        }
    )


def baseline(kind: str, **more: object) -> TextBaseline:
    """An untrained baseline."""
    return TextBaseline(section(kind, **more), META, generator(0, "init")).eval()  # type: ignore[arg-type]


def responses(kind: str, **more: object) -> DialogueBaseline:
    """An untrained baseline of responses."""
    meta = META | {"kind": "dialogues", "context_turns": 2}
    config = section(kind, arch="dialogue", **more)  # type: ignore[arg-type]
    return DialogueBaseline(config, meta, generator(0, "init")).eval()
