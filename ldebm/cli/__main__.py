"""``python -m ldebm.cli``, for a machine where the package is not installed."""

from ldebm.cli import main

main()
