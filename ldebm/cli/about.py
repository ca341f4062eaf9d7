"""The command ``info``: what is installed and on what it runs."""

from __future__ import annotations

import os
import platform

import typer

__all__ = ["COMMANDS"]


def info() -> None:
    """Show versions, device and compiled kernels."""
    import torch

    import ldebm
    from ldebm import kernels
    from ldebm.user_cache import cache_folder

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA"
    typer.echo(f"ldebm     {ldebm.__version__}, Python {platform.python_version()}")
    typer.echo(f"torch     {torch.__version__}, {gpu}")
    typer.echo(f"cpu       {os.cpu_count()} cores, {torch.get_num_threads()} threads here")
    typer.echo(f"kernels   {kernels.state()}")
    typer.echo(f"cache     {cache_folder()}")


COMMANDS = [info]
