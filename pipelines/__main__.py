"""``python -m pipelines``."""

import sys

from pipelines.signals import Interrupted, listen

listen()  # before anything is loaded that takes time
try:
    from pipelines.cli import main
except Interrupted as interrupt:
    print("pipelines: interrupted", file=sys.stderr)
    sys.exit(128 + interrupt.number)
main()
