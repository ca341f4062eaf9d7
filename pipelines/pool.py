"""A work pool of Prefect: each part is a run of its deployment ``point``, which any worker takes.

A run shows signs of life in an artifact that it writes every few seconds, and in the end its result
there: a worker that is lost with its machine can report nothing, but its signs end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Cancelling, Crashed

from ldebm.errors import UsageError
from ldebm.files import json_text
from pipelines.fanout import News, Part, Unreachable
from pipelines.point import Built, here

__all__ = ["Pool", "Sign"]

KEY = "ldebm-point"
BEAT = 10.0  # seconds between two signs of life
BUSY = (429, 502, 503, 504)
PATIENCE = 120.0  # seconds without one, after which a run is lost
PAGE = 100  # of a question to the server
START_SECONDS = 900.0  # for a worker, and its container, from taking a run to the first sign
VARIABLES = {  # of templates: the resource and its unit in text
    "cpu": ("cpus", ""),
    "cpus": ("cpus", ""),
    "gpus": ("gpus", ""),
    "memory": ("memory", "Gi"),
    "mem_limit": ("memory", "g"),
    "time": ("time", ""),
}
OPEN = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


class Pool:
    """The workers of a pool.

    Args:
        name: of the pool.
        retries: attempts at a stage after the first, on infrastructure errors only.

    Raises:
        UsageError: there is no such pool, nothing that it could run, or no worker.
    """

    remote = True

    def __init__(self, name: str, retries: int = 2) -> None:
        self.name, self.retries = name, retries
        self.signs: dict[str, tuple[Any, float]] = {}  # the newest of a run, and when it came
        with _server() as client:
            self._look(client)

    def _look(self, client: SyncPrefectClient) -> None:
        name = self.name
        start = "deploy/worker.sh --limit 1" if name == "ldebm" else f"a worker of pool {name}"
        try:
            pool = client.read_work_pool(name)
        except ObjectNotFound:
            known = ", ".join(sorted(item.name for item in client.read_work_pools())) or "none"
            raise UsageError(
                f"work pool {name!r}: the Prefect server has none of that name (it has: {known}); "
                "`make worker` makes the pool ldebm and registers what prefect.yaml says"
            ) from None
        if pool.is_paused:
            raise UsageError(f"work pool {name!r} is paused; `prefect work-pool resume {name}`")
        found = client.read_deployments(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["point"])),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[name])),
        )
        if not found:
            raise UsageError(
                f"work pool {name!r} has no deployment of the flow `point`; "
                "`prefect --no-prompt deploy --all` registers those of prefect.yaml"
            )
        workers = client.read_workers_for_work_pool(name)
        if not any(worker.status == WorkerStatus.ONLINE for worker in workers):
            raise UsageError(
                f"work pool {name!r} has no worker that is online; start one or more, each in a "
                f"clone of the project: {start}"
            )
        self.deployment = found[0].id
        self.variables = pool.base_job_template.get("variables", {}).get("properties", {})

    def start(self, part: Part) -> str:
        """Schedules a run; one of the same part that a killed command has left is taken over."""
        content = json.dumps([part.name, asdict(part.selection)], sort_keys=True)
        tag = f"part-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
        with _server() as client:
            left = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(
                    tags=FlowRunFilterTags(all_=[tag]),
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=OPEN)),
                )
            )
            if left:
                return str(left[0].id)
            run: Any = run_deployment(
                self.deployment,
                parameters={"selection": asdict(part.selection), "retries": self.retries},
                flow_run_name=part.name,
                tags=[tag],
                job_variables=_variables(part.resources, self.variables),
                timeout=0,
                as_subflow=False,
            )
            return str(run.id)

    def news(self, tries: Sequence[str]) -> Mapping[str, News]:
        """How the runs are."""
        news = dict.fromkeys(tries, News("failed", "its flow run was deleted"))
        silent, self.signs = self.signs, {}  # while the server is away nobody can give a sign
        with _server() as client:
            self.signs = silent
            for start in range(0, len(tries), PAGE):
                ids = [UUID(run) for run in tries[start : start + PAGE]]
                runs = client.read_flow_runs(
                    flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids))
                )
                told = client.read_artifacts(
                    artifact_filter=ArtifactFilter(
                        key=ArtifactFilterKey(any_=[KEY]),
                        flow_run_id=ArtifactFilterFlowRunId(any_=ids),
                    )
                )
                signs = {item.flow_run_id: json.loads(str(item.data)) for item in told}
                news |= {str(run.id): self._of(run, signs.get(run.id, {})) for run in runs}
            for run, item in news.items():
                if item.state == "lost":  # if it lives after all, the server stops it
                    crashed: Any = Crashed(message=item.text)
                    client.set_flow_run_state(UUID(run), crashed, force=True)
        return news

    def _of(self, run: FlowRun, sign: dict[str, Any]) -> News:
        state = run.state
        phase = StateType.SCHEDULED if state is None else state.type
        message = (None if state is None else state.message) or ""
        if "result" in sign and phase not in OPEN:
            return News("done", built=Built.from_json(sign["result"]))
        if phase in (StateType.CANCELLED, StateType.CANCELLING):
            return News("failed", f"flow run {run.name} was cancelled")
        if phase == StateType.CRASHED:
            said = message.partition("\n")[0] or "its flow run crashed"
            return News("lost", f"{sign.get('where', 'its worker')}: {said}")
        if phase not in OPEN:
            text = message.partition("exception: ")[2].partition(": ")[2] or message
            return News("failed", text or f"flow run {run.name} ended as {phase.value}")
        if phase == StateType.SCHEDULED:
            return News("waits")
        return self._alive(str(run.id), phase, sign)

    def _alive(self, run: str, phase: StateType, sign: dict[str, Any]) -> News:
        now = time.monotonic()
        mark = (phase, sign.get("beat"))
        if run not in self.signs or self.signs[run][0] != mark:
            self.signs[run] = (mark, now)
        silent = now - self.signs[run][1]
        limit = PATIENCE if phase == StateType.RUNNING else START_SECONDS
        where = sign.get("where", "")
        if silent > limit:
            return News("lost", f"{where or 'its worker'} has given no sign for {silent:.0f} s")
        return News("runs", where) if where else News("waits")

    def drop(self, run: str) -> None:
        """Cancels a run; its worker stops what runs, and a training writes its checkpoint."""
        with _server() as client:
            now = client.read_flow_run(UUID(run)).state
            if now is not None and now.type == StateType.SCHEDULED:
                client.set_flow_run_state(UUID(run), Cancelled())
            elif now is not None and not now.is_final():
                client.set_flow_run_state(UUID(run), Cancelling())


def _variables(resources: Mapping[str, float], known: Mapping[str, Any]) -> dict[str, Any]:
    """Resources as job variables, as far as a pool's template has them.

    Example:
        >>> _variables({"cpus": 2, "memory": 8}, {"cpu": {"type": "string"}, "mem_limit": {}})
        {'cpu': '2', 'mem_limit': '8g'}
    """
    variables: dict[str, Any] = {}
    for name, (resource, unit) in VARIABLES.items():
        if name in known and resource in resources:
            number = f"{resources[resource]:g}"
            words = bool(unit) or known[name].get("type") == "string"
            variables[name] = f"{number}{unit}" if words else resources[resource]
    return variables


@contextlib.contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    """The client of the server.

    Raises:
        Unreachable: it does not answer, or is too busy to.
    """
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPStatusError as error:
        if error.response.status_code not in BUSY:
            raise
        raise Unreachable(f"the Prefect server is busy ({error.response.status_code})") from None
    except httpx.TransportError as error:
        said = str(error) or type(error).__name__
        raise Unreachable(f"the Prefect server does not answer ({said})") from None


class Sign:
    """The signs of life of a run, and its result.

    Attributes:
        content: what the next one says.
    """

    def __init__(self) -> None:
        self.run = flow_run.get_id()
        self.content: dict[str, Any] = {"where": here(Path()), "beat": 0}
        self._done = threading.Event()
        self._artifact: UUID | None = None

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Writes signs of life while the block runs."""
        self._write()
        thread = threading.Thread(target=self._beats, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(BEAT)

    def result(self, built: Built) -> None:
        """Writes the result; an error if the server does not take it."""
        self.content["result"] = json.loads(json_text(built.to_json()))
        self._write()

    def _beats(self) -> None:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            while not self._done.wait(BEAT):
                self.content["beat"] += 1
                with contextlib.suppress(Exception):  # the next one may reach the server
                    self._write()

    def _write(self) -> None:
        text = json.dumps(self.content)
        with get_client(sync_client=True) as client:
            if self._artifact is None:
                made = client.create_artifact(
                    ArtifactCreate(key=KEY, type="json", data=text, flow_run_id=UUID(str(self.run)))
                )
                self._artifact = made.id
            else:
                client.update_artifact(self._artifact, ArtifactUpdate(data=text))
