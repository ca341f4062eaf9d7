"""Stage ``report``: the site of everything that was built and recorded.

Reads models/ (curves), reports/ (metrics, samples, views, figures, validation), results/ and what
dvc.lock says of the stages above it; writes site/, in which site/plots holds what `dvc plots`
draws. The pages need no server and no network, and hold no times: they are byte-stable.
"""

from __future__ import annotations

from pipelines.site.pages import build
from stages._entry import arguments, run


def main() -> None:
    """Builds the site."""
    arguments(__doc__)
    build()


if __name__ == "__main__":
    run(main)
