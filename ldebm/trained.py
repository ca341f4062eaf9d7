"""Where a trained model is: what a user means by a path or by the name of an experiment."""

from __future__ import annotations

from pathlib import Path

from ldebm.errors import UsageError

__all__ = ["MODELS", "find_model"]

MODELS = Path("models")


def find_model(target: str) -> Path:
    """The path that a user means by ``target``.

    Args:
        target: a model file, its folder, or the name of an experiment (its smallest trained seed).

    Raises:
        UsageError: there is no such model.
    """
    path = Path(target)
    if path.is_file():
        return path
    if path.is_dir():
        for inside in (path / "model.safetensors", path / "prior" / "model.safetensors"):
            if inside.is_file():
                return inside
    built = sorted(MODELS.glob("*/*/prior/model.safetensors"))
    mine = [item for item in built if item.parts[-4] == target]
    if mine:
        return min(mine, key=lambda item: int(item.parts[-3]))
    names = {item.parts[-4] for item in built}
    if not names:
        raise UsageError(f"{target}: no such model, and none is trained here; run `make repro`")
    from ldebm.config import nearest

    raise UsageError(f"{target}: no such model{nearest(target, names)}")
