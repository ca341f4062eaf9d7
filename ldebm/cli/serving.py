"""The command ``serve``."""

from __future__ import annotations

import ipaddress
import socket
from typing import Annotated

import typer

from ldebm.cli.models import Device, Target, load_target
from ldebm.errors import UsageError

__all__ = ["COMMANDS", "serve"]


def serve(
    target: Target,
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines reach it unless it is local.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 8000,
    rows: Annotated[int, typer.Option(min=1, help="Texts or samples of one request.")] = 256,
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds that a request may take.")] = 60,
    device: Device = "auto",
) -> None:
    """Serve a model over HTTP.

    POST JSON to /generate, /classify, /score or /respond; GET / says what the
    model is. There is no password: keep it local, or put a proxy before it.
    """
    try:
        import uvicorn

        from ldebm.cli.service import Limits, application
    except ImportError as error:
        raise UsageError(
            f"`ldebm serve` needs {error.name}, which is not installed: pip install fastapi uvicorn"
        ) from None

    listening = _socket(host, port)
    model = load_target(target, device)
    app = application(model, Limits(rows=rows, seconds=seconds))
    if said := model.prepare_scores():
        typer.echo(f"{model.experiment}: log Z of its prior is estimated; {said}", err=True)
    address, number = listening.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    typer.echo(f"{model.experiment} at http://{shown}:{number}/ ; Ctrl-C ends it", err=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listening])


def _socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UsageError: the address is none of this machine's, or is taken.
    """
    name = "127.0.0.1" if host == "localhost" else host
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(name).version == 6 else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((name, port))
        listening.listen(64)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{host}:{port}: {error}; expected an address of this machine, as 127.0.0.1, and a "
            "free --port"
        ) from None
    return listening


COMMANDS = [serve]
