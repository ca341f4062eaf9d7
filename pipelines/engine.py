"""Where the steps of a flow run: in threads of this process, or as tasks of a Prefect server.

A build on one machine needs no server: its steps are threads that start processes, and what happens
is said on stderr. Where a server is configured (``PREFECT_API_URL``, a profile of Prefect's, or a
worker that runs a deployment), the same code runs as a flow of Prefect, see :mod:`pipelines.flows`.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from ldebm.errors import LdebmError, UsageError

__all__ = [
    "Bar",
    "Engine",
    "Threads",
    "current",
    "flow_or_function",
    "pool_of",
    "require_configured_server",
    "require_server",
    "server_lost",
    "server_url",
]

T = TypeVar("T")
PATIENCE = 5.0  # seconds for the first answer of a server


class Bar(Protocol):
    """Shows how far a build is.

    Attributes:
        shows_lines: people see there what running stages say.
    """

    shows_lines: bool

    def started(self, name: str) -> None:
        """Takes the start of a stage."""

    def line(self, name: str, text: str) -> None:
        """Takes the newest line of a running stage's log."""

    def finished(self, name: str) -> None:
        """Takes the end of a stage."""

    def update(self, force: bool = False) -> None:
        """Called all the time; ``force``: for the last time."""


class Engine(Protocol):
    """What flows need.

    Attributes:
        flow_run: id of the Prefect flow run, for the lineage records; None without a server.
    """

    flow_run: str | None

    def say(self, text: str) -> None:
        """One line for people."""

    def start(
        self, name: str, work: Callable[[], T], fault: Callable[[T], str] | None = None
    ) -> Future[T]:
        """Runs ``work`` beside this thread.

        Args:
            name: shown for it.
            work: gives the result.
            fault: of a result, why it is shown as failed; empty: it is not.
        """

    def bar(self, key: str, weights: Mapping[str, float | None]) -> Bar:
        """A progress bar; ``weights``: seconds by stage, for those that may run."""

    def publish(
        self, key: str, page: str, title: str, rows: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Shows a page of Markdown, and a table of rows."""

    def link(self, key: str, page: Path, title: str) -> None:
        """Shows a link to a page on this machine."""


class _NoBar:
    """Shows nothing: the lines that are said have it all."""

    shows_lines = False

    def started(self, name: str) -> None:
        return

    def line(self, name: str, text: str) -> None:
        return

    def finished(self, name: str) -> None:
        return

    def update(self, force: bool = False) -> None:
        return


class Threads:
    """Runs everything in threads of this process, which are ended with it."""

    flow_run: str | None = None

    def say(self, text: str) -> None:
        """One line on stderr; a terminal that was closed is no reason to fail."""
        try:
            print(text, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            return

    def start(
        self, name: str, work: Callable[[], T], fault: Callable[[T], str] | None = None
    ) -> Future[T]:
        """Runs ``work`` in a thread."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, name=name, daemon=True).start()
        return future

    def bar(self, key: str, weights: Mapping[str, float | None]) -> Bar:
        """A table on a terminal, else none."""
        if not weights or not sys.stderr.isatty():
            return _NoBar()
        from pipelines.live import LiveTable

        return LiveTable(weights)

    def publish(
        self, key: str, page: str, title: str, rows: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Nowhere: the command prints its report."""

    def link(self, key: str, page: Path, title: str) -> None:
        """Nowhere."""


def current() -> Engine:
    """Tasks inside a flow run of Prefect, threads elsewhere."""
    if "prefect" in sys.modules:
        from prefect.context import FlowRunContext

        if FlowRunContext.get() is not None:
            from pipelines.tasks import Tasks

            return Tasks()
    return Threads()


def flow_or_function(name: str) -> Any:
    """The function ``name`` of the module ``name``; as a flow where a server is configured.

    Raises:
        LdebmError: that server does not answer.
    """
    url = server_url()
    if url is None:
        return getattr(import_module(f"pipelines.{name}"), name)
    require_server(url)
    return getattr(import_module("pipelines.flows"), name)


def pool_of(name: str, retries: int) -> Any:
    """The workers of a work pool, see :class:`pipelines.pool.Pool`.

    Args:
        name: of the pool.
        retries: attempts at a stage after the first, on infrastructure errors only.

    Raises:
        UsageError: no server is configured, or the pool cannot be used.
        LdebmError: the server does not answer.
    """
    require_configured_server(f"pool {name!r}: the runs of a pool are kept by a Prefect server")
    return import_module("pipelines.pool").Pool(name, retries)


def require_configured_server(why: str) -> None:
    """Asks the server that is configured for a sign of life.

    Args:
        why: what needs it, as the first half of a sentence.

    Raises:
        UsageError: none is configured.
        LdebmError: it gives no sign of life.
    """
    url = server_url()
    if url is None:
        raise UsageError(
            f"{why}, and none is configured; `make server`, then "
            "PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    require_server(url)


def server_url() -> str | None:
    """The address of the Prefect server that is configured; None if none is.

    The variable comes first, for Prefect too. Prefect is asked only where one of its files of
    settings may name a server: loading it takes a second and a half.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url or not _mentioned():
        return url or None
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() or None


def _mentioned() -> bool:
    """Whether a file of settings may name a server."""
    user = Path(os.environ.get("HOME") or "/")  # a container's user may have none
    home = Path(os.environ.get("PREFECT_HOME") or user / ".prefect")
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    marks = {
        profiles: "PREFECT_API_URL",
        Path(".env"): "PREFECT_API_URL",
        Path("prefect.toml"): "[api]",
        Path("pyproject.toml"): "[tool.prefect",
    }
    return any(mark in _text(path) for path, mark in marks.items())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def require_server(url: str) -> None:
    """Asks the server for a sign of life.

    Raises:
        LdebmError: it gives none; with what to do.
    """
    import httpx  # Prefect's own client: it takes the same way, through the same proxy

    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=PATIENCE, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, ValueError) as error:
        raise LdebmError(server_lost(url, error)) from None


def server_lost(url: str, error: BaseException, kept: str = "") -> str:
    """What to tell when a server does not answer.

    Args:
        url: its address.
        error: what its client said.
        kept: said of what was done before.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the Prefect server at {url} wants a password ({status}): set PREFECT_API_AUTH_STRING"
        )
    local = (urlsplit(url).hostname or "") in ("127.0.0.1", "localhost", "::1")
    start = "start it (`make server`)" if local else "start it"
    if os.environ.get("PREFECT_API_URL"):
        leave = "unset PREFECT_API_URL"
    else:
        leave = "`prefect config unset PREFECT_API_URL`"
    why = str(error) or type(error).__name__
    return (
        f"the Prefect server at {url} does not answer ({why}); {kept}{start} and then this again, "
        f"or {leave}: a build needs no server"
    )
