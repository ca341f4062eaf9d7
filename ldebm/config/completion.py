"""The section ``evaluate.completion``: how sentence completion is trained and scored."""

from __future__ import annotations

from pydantic import Field

from ldebm.config.sections import Section

__all__ = ["CompletionConfig"]


class CompletionConfig(Section):
    """Sentence completion (LDEBM B.3; MR 10.17: sizes are this project's choice)."""

    rows: int | None = Field(500, gt=0)  # test rows that are completed; None: all
    share: float = Field(0.5, gt=0, lt=1)  # of the words of a row that are masked
    hidden: int = Field(200, gt=0)  # of the network (z_0) -> (z_obs, z_unk)
    observed: int | None = Field(None, gt=0)  # dimensions of z_obs; None: half of them
    updates: int = Field(500, gt=0)
    batch: int = Field(64, gt=0)
    lr: float = Field(2e-3, gt=0)
    draws: int = Field(8, gt=0)  # of z_unk for each row
    beam: int = Field(16, gt=0)  # hypotheses of a row that are kept while its gaps are filled
    steps: int = Field(50, gt=0)  # Langevin moves of each level
