"""Lineage as OpenLineage events, made with the typed classes of its Python client.

A stage with a record becomes a START and a COMPLETE event of one run; its id is made of the record,
so that exporting twice gives the same events. A stage without a record has no known run and becomes
a job event. Files are data sets of the namespace ``ldebm``, versions are DVC's md5.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ldebm.errors import UsageError
from pipelines.lineage.revisions import git
from pipelines.lineage.trace import Step, Trace

if TYPE_CHECKING:
    from openlineage.client.event_v2 import (
        InputDataset,
        Job,
        JobEvent,
        OutputDataset,
        Run,
        RunEvent,
    )

__all__ = ["NAMESPACE", "events"]

NAMESPACE = "ldebm"
_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:ldebm:run")


def events(lineage: Trace, root: Path = Path()) -> Iterator[str]:
    """The events of a trace, from raw data to the target, each as one line of JSON.

    Args:
        lineage: of :func:`pipelines.lineage.trace.trace`.
        root: the project's folder: its git remote is the address of the code.

    Raises:
        UsageError: the package openlineage-python is not installed.
    """
    try:
        from openlineage.client.serde import Serde
    except ImportError:
        raise UsageError(
            "OpenLineage export needs the package openlineage-python: pip install 'ldebm[pipeline]'"
        ) from None

    repository = _repository(root)
    for step in lineage.forwards():
        for event in _step_events(step, repository):
            yield json.dumps(Serde.to_dict(event), sort_keys=True)


def _producer() -> str:
    try:
        return f"urn:ldebm:{version('ldebm')}"
    except PackageNotFoundError:  # the code was copied, not installed
        return "urn:ldebm:source"


def _repository(root: Path) -> str | None:
    """The address of the code without user and password; None for a repository of this machine."""
    remote = (git("remote", "get-url", "origin", root=root) or b"").decode().strip()
    parts = urlsplit(remote)
    if parts.scheme not in {"https", "http", "ssh"} or not parts.hostname:
        return None
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _step_events(step: Step, repository: str | None) -> Iterator[JobEvent | RunEvent]:
    from openlineage.client.event_v2 import JobEvent, RunEvent, RunState

    inputs, outputs = _inputs(step), _outputs(step)
    job = _job(step, repository)
    record = step.record
    if record is None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        yield JobEvent(eventTime=now, job=job, inputs=inputs, outputs=outputs, producer=_producer())
        return
    start = datetime.fromisoformat(record["started"])
    end = start + timedelta(seconds=record["seconds"])
    run = _run(step, record)
    for state, time in ((RunState.START, start), (RunState.COMPLETE, end)):
        yield RunEvent(
            eventType=state,
            eventTime=time.isoformat(timespec="milliseconds"),
            run=run,
            job=job,
            inputs=inputs,
            outputs=outputs if state is RunState.COMPLETE else [],
            producer=_producer(),
        )


def _job(step: Step, repository: str | None) -> Job:
    from openlineage.client.event_v2 import Job
    from openlineage.client.facet_v2 import (
        JobFacet,
        documentation_job,
        job_type_job,
        source_code_location_job,
    )

    by = _producer()
    facets: dict[str, JobFacet] = {
        "jobType": job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="DVC", jobType="TASK", producer=by
        ),
        "documentation": documentation_job.DocumentationJobFacet(
            description=step.command or step.stage, producer=by
        ),
    }
    if repository is not None:
        record = step.record or {"git": {}}
        facets["sourceCodeLocation"] = source_code_location_job.SourceCodeLocationJobFacet(
            type="git",
            url=repository,
            path=f"stages/{step.name}.py",
            version=record["git"].get("commit"),
            producer=by,
        )
    return Job(namespace=NAMESPACE, name=step.stage, facets=facets)


def _run(step: Step, record: Mapping[str, Any]) -> Run:
    from openlineage.client.event_v2 import Run
    from openlineage.client.facet_v2 import (
        RunFacet,
        execution_parameters_run,
        parent_run,
        processing_engine_run,
        tags_run,
    )

    by = _producer()
    parameters = [
        execution_parameters_run.ExecutionParameter(key=key, name=key, value=json.dumps(value))
        for key, value in step.params.items()
    ]
    tags = [
        tags_run.TagsRunFacetFields(key=key, value=value, source="ldebm")
        for key, value in _tags(step, record).items()
    ]
    facets: dict[str, RunFacet] = {
        "executionParameters": execution_parameters_run.ExecutionParametersRunFacet(
            parameters=parameters, producer=by
        ),
        "tags": tags_run.TagsRunFacet(tags=tags, producer=by),
    }
    if "torch" in record["versions"]:
        facets["processing_engine"] = processing_engine_run.ProcessingEngineRunFacet(
            version=record["versions"]["torch"], name="torch", producer=by
        )
    parent = _uuid(record.get("flow_run"))
    if parent is not None:
        facets["parent"] = parent_run.ParentRunFacet(
            run=parent_run.Run(runId=parent),
            job=parent_run.Job(namespace=NAMESPACE, name="flow"),
            producer=by,
        )
    name = str(record.get("seal") or record["file"]) + (f" for {step.stage}" if step.twin else "")
    return Run(runId=str(uuid.uuid5(_RUNS, name)), facets=facets)


def _tags(step: Step, record: Mapping[str, Any]) -> dict[str, str]:
    """What OpenLineage has no facet for: git state, device, seed, numerics, versions."""
    facts = {
        "git.commit": record["git"].get("commit"),
        "git.dirty": record["git"].get("dirty"),
        "device": record.get("device"),
        "seed": record.get("seed"),
        "reused": record.get("reused"),
        "record": record["file"],
        "restored.produced_by": step.twin or None,
        **{f"numerics.{key}": value for key, value in (record.get("numerics") or {}).items()},
        **{f"version.{key}": value for key, value in record["versions"].items()},
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in facts.items()
        if value is not None
    }


def _uuid(text: Any) -> str | None:
    try:
        return str(uuid.UUID(str(text)))
    except ValueError:
        return None


def _sizes(step: Step, kind: str) -> dict[str, tuple[int, int]]:
    """Bytes and number of files by path, where the record has them."""
    items = step.record[kind] if step.record else []
    return {item["path"]: (item["bytes"], len(item.get("files", "1"))) for item in items}


def _inputs(step: Step) -> list[InputDataset]:
    from openlineage.client.event_v2 import InputDataset
    from openlineage.client.facet_v2 import (
        DatasetFacet,
        InputDatasetFacet,
        data_quality_assertions_dataset,
        dataset_version_dataset,
        input_statistics_input_dataset,
    )

    by = _producer()
    sizes = _sizes(step, "inputs")
    verdict = (step.record or {}).get("validation")
    datasets = []
    for path, md5 in step.inputs.items():
        facets: dict[str, DatasetFacet] = {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(
                datasetVersion=md5, producer=by
            )
        }
        own: dict[str, InputDatasetFacet] = {}
        if path in sizes:
            own["inputStatistics"] = (
                input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                    size=sizes[path][0], fileCount=sizes[path][1], producer=by
                )
            )
        if verdict and path.startswith(("data/bound/", "reports/validation/")):
            own["dataQualityAssertions"] = (
                data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet(
                    assertions=[
                        data_quality_assertions_dataset.Assertion(
                            assertion=f"validation suite of {verdict['data']}",
                            success=bool(verdict["success"]),
                        )
                    ],
                    producer=by,
                )
            )
        datasets.append(
            InputDataset(namespace=NAMESPACE, name=path, facets=facets, inputFacets=own)
        )
    return datasets


def _outputs(step: Step) -> list[OutputDataset]:
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import (
        dataset_version_dataset,
        output_statistics_output_dataset,
    )

    by = _producer()
    sizes = _sizes(step, "outputs")
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    return [
        OutputDataset(
            namespace=NAMESPACE,
            name=path,
            facets={
                "version": dataset_version_dataset.DatasetVersionDatasetFacet(
                    datasetVersion=md5, producer=by
                )
            },
            outputFacets=(
                {
                    "outputStatistics": statistics(
                        size=sizes[path][0], fileCount=sizes[path][1], producer=by
                    )
                }
                if path in sizes
                else {}
            ),
        )
        for path, md5 in step.outputs.items()
    ]
