"""Metrics of plugins (docs/extending.md)."""

from __future__ import annotations

from ldebm.config import EvaluateConfig
from ldebm.config.plugged import plugins_of
from ldebm.data.packed import Packed
from ldebm.errors import UsageError
from ldebm.evaluate.report import Report
from ldebm.evaluate.summary import DECIMALS
from ldebm.model import Model

__all__ = ["add_metrics"]


def add_metrics(
    report: Report, model: Model, packed: Packed, config: EvaluateConfig
) -> dict[str, float]:
    """Adds the numbers of the plugins that ``evaluate.metrics`` names.

    Returns:
        Those that bear the name of their plugin, rounded for the summary.

    Raises:
        UsageError: one has another name than its plugin, or one that evaluation has given already.
    """
    for name, plugin in plugins_of(config, "metrics").items():
        for key, value in plugin.measure(model, packed, config).items():
            if key != name and not key.startswith(f"{name}_"):
                raise UsageError(
                    f"metric plugin {name!r}: measures {key!r}; expected {name!r} or a name that "
                    f"begins with {name + '_'!r}"
                )
            if key in report.metrics:
                raise UsageError(f"metric plugin {name!r}: {key!r} is a metric already; rename it")
            report.metrics[key] = float(value)
    own = [name for name in config.metrics if name in report.metrics]
    return {name: round(report.metrics[name], DECIMALS) for name in own}
