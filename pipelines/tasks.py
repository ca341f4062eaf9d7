"""The engine of a Prefect flow run: steps are its tasks, lines go into its log."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from ldebm.errors import LdebmError
from pipelines import signals
from pipelines.artifacts import ProgressBar, publish, write
from pipelines.runner import end_with_parent

__all__ = ["Tasks"]

T = TypeVar("T")


class StepFailed(LdebmError):
    """A step failed; shows its task as failed."""


class Tasks:
    """Runs steps as tasks of the current flow run, and shows artifacts.

    Attributes:
        flow_run: its id.
    """

    def __init__(self) -> None:
        self.flow_run: str | None = flow_run.get_id()
        if os.environ.get("PREFECT__FLOW_RUN_ID"):
            end_with_parent()  # the worker, whose death would leave this run without anybody
        else:
            signals.listen()  # started from a command line: Prefect has put its own handler there

    def say(self, text: str) -> None:
        """One line into the log of the flow run; on stderr in a thread that does not know it."""
        try:
            get_run_logger().info("%s", text)
        except Exception:
            print(text, file=sys.stderr)

    def start(
        self, name: str, work: Callable[[], T], fault: Callable[[T], str] | None = None
    ) -> Future[T]:
        """Submits a task; where its result has a fault it shows as failed, and is given back."""
        results: list[T] = []
        errors: list[Exception] = []

        @task(
            name="stage",
            task_run_name="{name}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0,  # run_stage retries, and knows which failures deserve it
        )
        def step(name: str) -> None:
            try:
                results.append(work())
            except Exception as error:
                errors.append(error)
                raise
            why = "" if fault is None else fault(results[0])
            if why:
                raise StepFailed(f"{name}: {why}")

        answer: Future[T] = Future()

        def finished(ended: Any) -> None:
            if results:
                answer.set_result(results[0])
            elif errors:
                answer.set_exception(errors[0])
            else:
                error = ended.exception() if not ended.cancelled() else None
                answer.set_exception(LdebmError(f"the task did not run: {error or 'cancelled'}"))

        future: Any = step.submit(name)
        future.wrapped_future.add_done_callback(finished)
        return answer

    def bar(self, key: str, weights: Mapping[str, float | None]) -> ProgressBar:
        """A progress artifact."""
        return ProgressBar(key, weights)

    def publish(
        self, key: str, page: str, title: str, rows: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """A markdown artifact, and a table artifact."""
        publish(key, page, title, rows)

    def link(self, key: str, page: Path, title: str) -> None:
        """A link artifact."""
        address = page.resolve().as_uri()
        write(
            lambda: create_link_artifact(address, link_text=str(page), key=key, description=title)
        )


class _OneLine(logging.Filter):
    """Keeps tracebacks of errors that explain themselves out of the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, LdebmError)


for _name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
    logging.getLogger(_name).addFilter(_OneLine())
