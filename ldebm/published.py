"""The numbers that the papers report (MR section 11), to stand beside ours.

LDEBM: Yu et al., Latent diffusion energy-based model for interpretable text modelling, 2022; SVEBM:
Pang and Wu, Latent space energy-based model of symbol-vector coupling, 2021, with their baselines.
The published NLL is what the public code estimates; ours under that definition is ``nll_legacy``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "PublishedTable"]

Row = tuple[str, *tuple[float | None, ...]]


@dataclass(frozen=True)
class PublishedTable:
    """Rows of one data set's table: a model's name and its value for each of our metrics."""

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    def values(self, row: Row) -> dict[str, float | None]:
        """The values of a row by metric.

        Example:
            >>> table = PUBLISHED["ptb"]
            >>> table.values(table.rows[-1])["bleu"]
            11.16
        """
        return dict(zip(self.metrics, row[1:], strict=True))


_PTB = PublishedTable(
    metrics=("rppl", "bleu", "wkl", "nll_legacy"),
    rows=(
        ("test set", None, 100.0, 0.14, None),
        ("RNN-LM", None, None, None, 101.21),
        ("AE", 730.81, 10.88, 0.58, None),
        ("VAE", 686.18, 3.12, 0.50, 100.85),
        ("DAE", 797.17, 3.93, 0.58, None),
        ("DVAE", 744.07, 1.56, 0.55, 101.07),
        ("DI-VAE", 310.29, 4.53, 0.24, 108.90),
        ("semi-VAE", 494.52, 2.71, 0.43, 100.67),
        ("semi-VAE + I", 260.28, 5.08, 0.20, 107.30),
        ("GM-VAE", 983.50, 2.34, 0.72, 99.44),
        ("GM-VAE + I", 287.07, 6.26, 0.25, 103.16),
        ("DGM-VAE", 257.68, 8.17, 0.19, 104.26),
        ("DGM-VAE + I", 247.37, 8.67, 0.18, 105.73),
        ("SVEBM", 180.71, 9.54, 0.17, 95.02),
        ("SVEBM-IB", 177.59, 9.47, 0.16, 94.68),
        ("SVEBM-IB with GC", 179.95, 10.08, 0.15, 93.28),
        ("LDEBM without IB, GC", 166.26, 11.30, 0.07, 80.76),
        ("LDEBM without GC", 168.32, 11.12, 0.07, 79.84),
        ("LDEBM", 164.57, 11.16, 0.06, 82.38),
    ),
    note=(
        "The published NLL column stands under nll_legacy: it comes from an estimator that does "
        "not bound the likelihood, so it cannot be compared with nll, the importance-weighted one."
    ),
)

PUBLISHED: dict[str, PublishedTable] = {"ptb": _PTB}
"""Published tables by the name of the data set."""
