"""``python -m pipelines``, which is also how ``ldebm build`` and its like run."""

import sys
from collections.abc import Sequence

from pipelines.signals import Interrupted, listen

__all__ = ["start"]


def start(arguments: Sequence[str] | None = None, program: str = "python -m pipelines") -> None:
    """Runs the command line and exits; signals are taken before anything slow is loaded.

    Args:
        arguments: without the program's name; by default those of the process.
        program: its name, in messages.
    """
    listen()
    try:
        from pipelines.cli import main
    except Interrupted as interrupt:
        print(f"{program.split()[-1]}: interrupted", file=sys.stderr)
        sys.exit(128 + interrupt.number)
    main(arguments, program)


if __name__ == "__main__":
    start()
