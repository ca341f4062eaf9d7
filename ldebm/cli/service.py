"""A small HTTP service of one trained model: ``ldebm serve EXPERIMENT``.

Requests and answers are JSON. One request is computed at a time; a request has limits on its bytes,
its rows and its seconds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ldebm.cli.output import class_records
from ldebm.errors import LdebmError, UsageError
from ldebm.model import Model, UserRows

__all__ = ["Limits", "application"]


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        rows: texts or samples.
        seconds: until it is answered.
        bytes: of its body.
        waiting: requests that may wait for the one that is computed.
    """

    rows: int = 256
    seconds: float = 60.0
    bytes: int = 1_000_000
    waiting: int = 16


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Generate(_Wanted):
    """Samples from the prior."""

    n: int = Field(1, ge=1)
    label: int | str | None = None
    seed: int = 0


class Respond(_Wanted):
    """Replies to a dialogue."""

    context: list[str] = []
    n: int = Field(1, ge=1)
    label: int | str | None = None
    seed: int = 0


class Texts(_Wanted):
    """Rows of text."""

    texts: list[str] = Field(min_length=1)


class Score(Texts):
    """Rows of text whose bound is estimated."""

    seed: int = 0
    importance: int | None = Field(None, ge=2, le=2000)
    fast: bool = False


class Line:
    """Computes one request at a time, each within its seconds.

    A computation cannot be stopped: one that takes too long goes on, and the requests behind it
    wait, or are told so.

    Args:
        limits: of a request.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.worker = ThreadPoolExecutor(1)
        self.waiting = threading.BoundedSemaphore(limits.waiting + 1)

    async def run(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``.

        Raises:
            HTTPException: 503, too many are waiting; 504, it took too long.
        """
        if not self.waiting.acquire(blocking=False):
            raise HTTPException(503, f"{self.limits.waiting} requests are waiting; try again later")
        future = self.worker.submit(work)
        future.add_done_callback(lambda _: self.waiting.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self.limits.seconds)
        except TimeoutError:
            raise HTTPException(
                504, f"no answer within {self.limits.seconds:g} s; ask for less, or raise --seconds"
            ) from None


def application(model: Model, limits: Limits | None = None) -> FastAPI:
    """The service of a model.

    ``GET /`` says what the model is; ``POST /generate``, ``/classify``, ``/score`` and ``/respond``
    do what the commands of these names do, where the model can.

    Args:
        model: loaded.
        limits: of a request.
    """
    limits = limits or Limits()
    line = Line(limits)
    app = FastAPI(title=f"ldebm: {model.experiment}", docs_url=None, redoc_url=None)
    _guard(app, limits)

    def few(n: int, what: str) -> int:
        if n > limits.rows:
            raise UsageError(f"{n} {what}: at most {limits.rows} a request; send several")
        return n

    def rows_of(texts: list[str]) -> UserRows:
        if model.rows != "texts":
            raise UsageError(f"{model.experiment}: a model of {model.rows}; this is for texts")
        few(len(texts), "texts")
        for number, text in enumerate(texts):
            if not text.strip():
                raise UsageError(f"texts[{number}]: empty; leave it out")
        return UserRows(texts, {"text": texts})

    @app.get("/")
    async def about() -> dict[str, Any]:
        """What is served."""
        classes = model.class_labels() if model.prior.has_classes else []
        return {
            "experiment": model.experiment,
            "seed": model.seed,
            "rows": model.rows,
            "prior": model.config.prior.kind,
            "classes": classes,
            "limits": {"rows": limits.rows, "seconds": limits.seconds, "bytes": limits.bytes},
        }

    @app.post("/generate")
    async def generate(wanted: Generate) -> Any:
        """Samples; images as nested lists of their grey values or colours, 0 to 255."""
        few(wanted.n, "samples")
        label = model.label_index(wanted.label)
        drawn = await line.run(lambda: model.generate(wanted.n, label, wanted.seed))
        return {model.rows: drawn.tolist() if isinstance(drawn, np.ndarray) else drawn}

    @app.post("/classify")
    async def classify(wanted: Texts) -> Any:
        """The most probable class of every text, and how sure that is."""
        rows = rows_of(wanted.texts)
        model.label_index(0)  # says what is wrong where the prior has no classes
        p = await line.run(lambda: model.classify(rows.values))
        records = class_records(p, model.class_labels())
        return {"rows": [{"text": t, **r} for t, r in zip(wanted.texts, records, strict=True)]}

    @app.post("/score")
    async def score(wanted: Score) -> Any:
        """Likelihood bound and energy of every text."""
        rows = rows_of(wanted.texts)
        settings = {"importance": wanted.importance, "fast": wanted.fast}
        work = lambda: model.scored(rows, wanted.seed, lambda n: None, **settings)  # noqa: E731
        return {"rows": await line.run(work)}

    @app.post("/respond")
    async def respond(wanted: Respond) -> Any:
        """Replies to a context, oldest turn first."""
        few(wanted.n, "replies")
        few(len(wanted.context), "turns")
        label = model.label_index(wanted.label)
        arguments = wanted.context, wanted.n, label, wanted.seed, "greedy"
        return {"texts": await line.run(lambda: model.respond(*arguments))}

    return app


def _guard(app: FastAPI, limits: Limits) -> None:
    """Errors as one line of JSON, and no body that is too large."""

    @app.exception_handler(LdebmError)
    async def refused(request: Request, error: LdebmError) -> JSONResponse:
        del request
        status = 400 if isinstance(error, UsageError) else 500
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(HTTPException)
    async def not_answered(request: Request, error: HTTPException) -> JSONResponse:
        del request
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    from fastapi.exceptions import RequestValidationError

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        if "json" not in request.headers.get("content-type", ""):
            message = "expected JSON: send it with the header Content-Type: application/json"
            return JSONResponse({"error": message}, 415)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"][1:]) or "body"
        return JSONResponse({"error": f"{place}: {first['msg']}"}, 400)

    @app.middleware("http")
    async def sized(request: Request, call_next: Any) -> Any:
        said = request.headers.get("content-length", "")
        if request.method == "POST" and not said.isdecimal():
            return JSONResponse({"error": "a request needs Content-Length"}, 411)
        if said.isdecimal() and int(said) > limits.bytes:
            message = f"{said} bytes: at most {limits.bytes} a request; send several"
            return JSONResponse({"error": message}, 413)
        return await call_next(request)
