"""Latent-space energy-based models of text and images, as a reproducible pipeline.

Example:
    >>> import ldebm
    >>> callable(ldebm.load), callable(ldebm.fit), callable(ldebm.fit_prior)
    (True, True, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["UsageError", "__version__", "fit", "fit_prior", "grid", "load"]

__version__ = "0.2.0"

if TYPE_CHECKING:
    from ldebm.api import fit, fit_prior, grid, load
    from ldebm.errors import UsageError


def __getattr__(name: str) -> Any:
    """Imports what :mod:`ldebm.api` has when it is first asked for: torch takes seconds to load."""
    if name in ("fit", "fit_prior", "grid", "load"):
        from ldebm import api

        return getattr(api, name)
    if name == "UsageError":
        from ldebm.errors import UsageError

        return UsageError
    raise AttributeError(f"module 'ldebm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
