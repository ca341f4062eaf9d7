"""A data set and an experiment of a user's images: a hierarchical model that suits their size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.new.experiment import start_from

if TYPE_CHECKING:
    from pipelines.new.image_facts import ImageFacts

__all__ = ["data_section", "holds_images", "image_experiment"]

MANY = 20_000  # images from which one draw of each is kept for the prior, not four
ROUNDS = 300  # epochs of the first stage at most, on few images


def holds_images(path: Path) -> bool:
    """Whether a file, or folder, of a user is one of images: so far as its name or columns tell."""
    if path.is_dir() or path.suffix.lower() in (".zip", ".npz"):
        return True
    if path.suffix.lower() != ".parquet" or not path.is_file():
        return False
    import pyarrow as pa

    from ldebm.data.image_files import is_binary

    try:
        import pyarrow.parquet as pq

        return any(is_binary(field.type) for field in pq.read_schema(path))
    except (pa.ArrowInvalid, OSError):
        return False  # whoever reads it says what is wrong


def data_section(path: str, sha256: str, facts: ImageFacts) -> dict[str, Any]:
    """The data set's file of conf/."""
    data: dict[str, Any] = {
        "defaults": ["/preset/judge/images@judge", "_self_"],
        "kind": "images",
        "source": "file",
        "path": path,
        "sha256": sha256,
    }
    if facts.size is not None:
        data["side"] = facts.size
    data["channels"] = facts.channels
    if facts.background != "white":
        data["background"] = facts.background
    if facts.labels:
        data["labels"] = facts.labels
        epochs = round(min(60, max(4, 400_000 / facts.rows)))  # some minutes on two cores
        data["judge"] = {"epochs": epochs, "shift": 1 if facts.side < 16 else 2}
    return data


def image_experiment(name: str, facts: ImageFacts) -> dict[str, Any]:
    """A hierarchical VAE of three groups and a diffusion prior on them."""
    batch = 128 if facts.rows > 5000 else 64
    updates = min(6000, max(800, round(ROUNDS * facts.rows / batch)))
    content: dict[str, Any] = {
        **start_from("images"),
        "data": name,
        "description": f"hierarchical VAE on {name}, {facts.rows} images",
        "backbone": {
            "hvae": _hvae(facts),
            "kl_warmup": updates // 5,
            "training": {"updates": updates, "batch": batch},
        },
    }
    prior: dict[str, Any] = {}
    if facts.rows > MANY:
        prior = {"hierarchy": {"cached_draws": 1}}
    if facts.classes:
        content["cluster"] = {"labels": "given", "column": facts.labels[0]}
        prior |= {"classes": facts.classes, "class_weight": 1.0}
        prior["hierarchy"] = prior.get("hierarchy", {}) | {"label_groups": [0]}
    return content | ({"prior": prior} if prior else {})


def _hvae(facts: ImageFacts) -> dict[str, Any]:
    """A dense group above two of the smallest sizes to which the image is halved."""
    halvings = max(2, math.ceil(math.log2(facts.side / 4)))
    sizes = [facts.side // 2]
    while len(sizes) < halvings:
        sizes.append(-(-sizes[-1] // 2))
    thick = 4 if facts.channels == 3 else 1
    layers: list[dict[str, Any]] = [{"dense": 32 if facts.side >= 28 else 8}]
    layers += [{"conv": [2 * thick, sizes[-1]]}, {"conv": [thick, sizes[-2]]}]
    widths = [min(16 * 2**i * (2 if facts.channels == 3 else 1), 128) for i in range(halvings)]
    return {"layers": layers, "widths": widths, "hidden": 128, "mixtures": 5}
