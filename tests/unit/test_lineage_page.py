"""The lineage page: complete, escaped, and on its own."""

from html.parser import HTMLParser
from pathlib import Path

from pipelines.lineage.page import lineage_page
from pipelines.lineage.trace import Step, Trace, trace
from pipelines.lineage.verify import verify
from tests.unit.lineage_project import MODEL

EVIL = '<script>alert("1")</script>&\'"'


class Page(HTMLParser):
    """Tags, attributes and text of a page; complains about tags that do not match."""

    VOID = ("meta", "br", "rect", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_every_stage_is_a_node_that_leads_to_its_section(lineage_built: Path):
    page = Page(lineage_page(trace("e", lineage_built), []))
    links = {v[1:] for tag, name, v in page.attributes if (tag, name) == ("a", "href")}
    sections = {v for tag, name, v in page.attributes if (tag, name) == ("section", "id")}
    assert links == sections
    assert len(sections) == 4
    assert any("4 stages verified" in word for word in page.words)
    for text in (MODEL, "experiments.e.prior", "python -m stages.prior"):
        assert any(text in word for word in page.words), text


def test_nothing_is_loaded_from_anywhere(lineage_built: Path):
    page = Page(lineage_page(trace("e", lineage_built), []))
    addresses = [v for _, name, v in page.attributes if name in {"href", "src", "srcset", "action"}]
    assert all(address.startswith("#") for address in addresses)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _, _ in page.attributes}
    assert "url(" not in lineage_page(trace("e", lineage_built), [])


def test_all_text_is_escaped():
    record = {
        "git": {"commit": EVIL, "dirty": True}, "versions": {EVIL: EVIL}, "started": EVIL,
        "seconds": 1.0, "file": EVIL, "device": EVIL, "flow_run": EVIL,
    }  # fmt: skip
    step = Step(
        f"prior@{EVIL}", EVIL, {EVIL: EVIL}, {EVIL: EVIL}, {EVIL: EVIL}, {EVIL: EVIL}, record
    )
    text = lineage_page(Trace(EVIL, [step], EVIL), [])
    assert "<script" not in text
    page = Page(text)
    assert {tag for tag, _, _ in page.attributes}.isdisjoint({"script"})
    assert any(EVIL in word for word in page.words)


def test_what_differs_is_listed_and_its_node_marked(project: Path):
    (project / MODEL).write_text("x")
    lineage = trace("e", project)
    page = Page(lineage_page(lineage, verify(lineage, project)))
    assert any(f"{MODEL}: differs" in word for word in page.words)
    assert ("a", "class", "bad") in page.attributes


def test_another_revision_is_said_not_to_be_checked(lineage_built: Path):
    assert "Not checked" in lineage_page(trace("e", lineage_built), None)


def test_an_edge_that_a_longer_way_implies_is_not_drawn():
    steps = [
        Step(name, "", {}, {}, {}, {}, after=after)
        for name, after in [("c", ["a", "b"]), ("b", ["a"]), ("a", []), ("d", ["b"])]
    ]
    page = Page(lineage_page(Trace("c", steps), []))
    assert len([1 for tag, name, _ in page.attributes if (tag, name) == ("path", "d")]) == 3
    boxes = [value for tag, name, value in page.attributes if (tag, name) == ("rect", "y")]
    assert len(set(boxes)) == 3, "c and d stand beside each other"
