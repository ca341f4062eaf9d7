"""How much of a prior lies far out: beyond what 99% of the encoded test rows reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldebm.plugins import MetricPlugin

if TYPE_CHECKING:
    from ldebm.config import EvaluateConfig
    from ldebm.data.packed import Packed
    from ldebm.model import Model


def measure(model: Model, packed: Packed, config: EvaluateConfig) -> dict[str, float]:
    """Share of prior samples whose standardised norm is above the 99% quantile of test rows."""
    import torch  # in here, so that comparisons read the glossary without it

    from ldebm.training.latents import encode_split

    mu, _ = encode_split(model.backbone, packed.split("test"), model.device)
    reach = model.prior.to_standard(torch.from_numpy(mu).to(model.device)).norm(dim=1)
    z = model.sample_latents(config.samples, seed=model.seed)
    radius = reach.quantile(0.99)
    beyond = model.prior.to_standard(z).norm(dim=1) > radius
    return {"tail": float(beyond.float().mean()), "tail_radius": float(radius)}


plugin = MetricPlugin(
    measure,
    {
        "tail": ("", "share of prior samples farther out than 99% of the test rows"),
        "tail_radius": ("", "how far out 99% of the test rows are, in standard deviations"),
    },
)
