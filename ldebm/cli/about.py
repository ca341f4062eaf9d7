"""The command ``info``: what is installed and on what it runs."""

from __future__ import annotations

import json
import os
import platform
from typing import Annotated

import typer

__all__ = ["COMMANDS"]


def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, device and compiled kernels."""
    import torch

    import ldebm
    from ldebm import kernels
    from ldebm.user_cache import cache_folder

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
    rows = {
        "ldebm": f"{ldebm.__version__}, Python {platform.python_version()}",
        "torch": f"{torch.__version__}, {gpu}",
        "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads here",
        "kernels": kernels.state(),
        "cache": str(cache_folder()),
    }
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for name, text in rows.items():
        typer.echo(f"{name:<9} {text}")


COMMANDS = [info]
