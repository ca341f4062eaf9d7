"""The export is valid OpenLineage, and says what the records say."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import attr
import jsonschema
import pytest
from openlineage.client import generated
from openlineage.client.generated.base import BaseFacet

from pipelines.lineage.openlineage import events
from pipelines.lineage.trace import trace
from tests.unit.lineage_project import MODEL, edit_record, git, record_of

SCHEMA = json.loads((Path(__file__).parent / "openlineage_schema.json").read_text())
FLOW = "0190f6a4-7c8e-7cc2-9d2e-3a8f1c1b2d3e"


def exported(root: Path) -> list[dict]:
    return [json.loads(line) for line in events(trace("e", root), root)]


def facets_of(event: dict) -> Iterator[tuple[str, dict]]:
    places = [event["job"], event.get("run", {}), *event["inputs"], *event["outputs"]]
    for place in places:
        for kind in ("facets", "inputFacets", "outputFacets"):
            yield from place.get(kind, {}).items()


def facet_classes() -> dict[str, type]:
    """The client's classes, which are made from the published schemas, by the schemas' address."""
    classes = {}
    for module in pkgutil.iter_modules(generated.__path__):
        content = importlib.import_module(f"{generated.__name__}.{module.name}")
        for item in vars(content).values():
            if isinstance(item, type) and issubclass(item, BaseFacet):
                classes[item._get_schema()] = item
    return classes


def test_every_event_has_what_the_core_schema_asks_for(project: Path):
    record_of(project, "bind@e").unlink()  # a stage without a record is a job event
    events = exported(project)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    assert [list(validator.iter_errors(event)) for event in events] == [[] for _ in events]
    assert {event["schemaURL"].rpartition("/")[2] for event in events} == {"RunEvent", "JobEvent"}


@pytest.mark.parametrize("member", ["eventTime", "producer", "schemaURL", "job"])
def test_the_schema_refuses_an_event_without(project: Path, member: str):
    event = exported(project)[0]
    del event[member]
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(event)


def test_every_facet_has_exactly_the_members_of_its_published_schema(project: Path):
    classes = facet_classes()
    checked = set()
    for event in exported(project):
        for name, facet in facets_of(event):
            fields = {field.name: field for field in attr.fields(classes[facet["_schemaURL"]])}
            required = {n for n, field in fields.items() if field.default is attr.NOTHING}
            assert required <= facet.keys() <= fields.keys(), name
            checked.add(name)
    assert checked >= {"jobType", "version", "executionParameters", "tags", "outputStatistics"}


def test_a_stage_is_one_run_that_starts_and_completes_in_the_order_of_the_data(project: Path):
    events = exported(project)
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        (stage, state)
        for stage in ("fetch@mine", "pack@mine", "bind@e", "prior@e-0")
        for state in ("START", "COMPLETE")
    ]
    for start, complete in zip(events[::2], events[1::2], strict=True):
        assert start["run"]["runId"] == complete["run"]["runId"]
        assert start["eventTime"] <= complete["eventTime"]
    assert len({event["run"]["runId"] for event in events}) == 4
    assert events == exported(project), "exporting again gives the same events"


def test_the_last_event_names_files_versions_parameters_seed_and_verdict(project: Path):
    event = exported(project)[-1]
    assert [item["name"] for item in event["outputs"]] == [MODEL]
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["size"] == len("weights")
    (read,) = event["inputs"]
    assert read["name"] == "data/bound/e.json"
    assert len(read["facets"]["version"]["datasetVersion"]) == 32
    assert read["inputFacets"]["dataQualityAssertions"]["assertions"][0]["success"] is True
    facets = event["run"]["facets"]
    (parameter,) = facets["executionParameters"]["parameters"]
    assert parameter["key"] == "experiments.e.prior"
    assert json.loads(parameter["value"]) == {"levels": 6}
    tags = {tag["key"]: tag["value"] for tag in facets["tags"]["tags"]}
    assert tags["seed"] == "0"
    assert tags["git.commit"] == git(project, "rev-parse", "HEAD")


def test_the_flow_run_is_the_parent(project: Path):
    edit_record(project, "prior@e-0", lambda record: record | {"flow_run": FLOW})
    assert exported(project)[-1]["run"]["facets"]["parent"]["run"]["runId"] == FLOW


def test_the_address_of_the_code_has_no_password(project: Path):
    git(project, "remote", "add", "origin", "https://me:secret@git.example.org/team/ldebm.git")
    events = exported(project)
    location = events[-1]["job"]["facets"]["sourceCodeLocation"]
    assert location["url"] == "https://git.example.org/team/ldebm.git"
    assert location["version"] == git(project, "rev-parse", "HEAD")
    assert "secret" not in json.dumps(events)
