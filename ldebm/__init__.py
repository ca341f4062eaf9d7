"""Latent-space energy-based models of text and images, as a reproducible pipeline.

Example:
    >>> import ldebm
    >>> callable(ldebm.load)
    True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["__version__", "load"]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ldebm.api import load


def __getattr__(name: str) -> Any:
    """Imports :func:`ldebm.api.load` when it is first asked for: torch takes seconds to load."""
    if name == "load":
        from ldebm.api import load

        return load
    raise AttributeError(f"module 'ldebm' has no attribute {name!r}")
