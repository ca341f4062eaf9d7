"""Recording runs, tables of them, comparisons, and the page that shows them."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from ldebm.charts import Series, line_chart, read_curve
from ldebm.errors import UsageError
from ldebm.files import read_json, write_csv, write_json
from ldebm.lineage import recorded
from ldebm.published import PUBLISHED
from ldebm.results import compare, load_results, record_runs
from ldebm.tables import markdown
from stages.report import build


def evaluated(root: Path, experiment: str, seed: int, levels: int = 6, **metrics: float) -> None:
    """A run as the stages leave it."""
    model, report = root / f"models/{experiment}/{seed}", root / f"reports/{experiment}/{seed}"
    stage = f"prior@{experiment}-{seed}"
    with recorded(stage, inputs=[], outputs=[model.relative_to(root)], params={}, root=root):
        training = {"epochs": 3}
        config = {
            "data": "ptb",
            "backbone": {"training": training},
            "prior": {"levels": levels, "training": training},
        }
        write_json(model / "prior/config.json", {"config": config})
        rows = [[1, 1, 3.0, ""], [2, 1, "", 2.5], [3, 2, 2.0, ""]]
        write_csv(model / "prior/curve.csv", ["update", "epoch", "loss", "valid_nll"], rows)
    write_json(report / "metrics.json", metrics)
    (report / "details").mkdir()
    (report / "details/samples.jsonl").write_text(
        '{"text": "<script>a</script> & b", "label": 3}\n'
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two experiments with three seeds each, evaluated and recorded."""
    for seed in range(3):
        evaluated(tmp_path, "plain", seed, nll=100.0 + seed, bleu=11.0 + 0.1 * seed)
        evaluated(tmp_path, "better", seed, levels=4, nll=90.0 + seed, bleu=11.05 + 0.1 * seed)
    write_json(
        tmp_path / "reports/validation/ptb/report.json",
        {
            "success": False,
            "results": [
                {"frame": "train", "column": "text", "expectation": "not <null>", "success": False},
                {"frame": "train", "column": "id", "expectation": "unique", "success": True},
            ],
        },
    )
    record_runs(tmp_path)
    return tmp_path


def test_a_recorded_run_says_how_it_came_about(project: Path):
    run = read_json(project / "results/plain/2.json")
    assert {"experiment", "seed", "epochs", "params", "commit", "device", "seconds"} <= run.keys()
    assert run["metrics"] == {"nll": 102.0, "bleu": 11.2}
    assert run["params"]["prior"]["levels"] == 6
    assert run["epochs"] == {"backbone": 3, "prior": 3}
    assert run["device"] == "cpu"
    assert run["seconds"] >= 0


def test_recording_what_was_not_evaluated_names_the_nearest(project: Path):
    with pytest.raises(UsageError, match="did you mean 'plain'"):
        record_runs(project, ["plan"])


def test_metrics_that_git_brought_without_their_model_are_not_recorded(project: Path):
    write_json(project / "reports/elsewhere/0/metrics.json", {"nll": 1.0})
    assert all("elsewhere" not in path.parts for path in record_runs(project))
    with pytest.raises(UsageError, match="elsewhere: not evaluated here"):
        record_runs(project, ["elsewhere"])


def test_the_tables_have_the_median_of_the_seeds_beside_the_papers_rows(project: Path):
    text = markdown(load_results(project))
    ours = next(line for line in text.splitlines() if line.startswith("| plain"))
    assert "101 [100, 102]" in ours
    published = next(line for line in text.splitlines() if line.startswith("| *LDEBM* "))
    assert "11.16" in published
    assert "82.38" in published


def test_the_published_table_has_the_rows_of_the_paper():
    table = PUBLISHED["ptb"]
    values = {row[0]: table.values(row) for row in table.rows}
    assert values["LDEBM"] == {"rppl": 164.57, "bleu": 11.16, "wkl": 0.06, "nll_legacy": 82.38}
    assert values["SVEBM-IB"]["wkl"] == 0.16


def test_a_difference_is_judged_against_the_spread_of_the_seeds(project: Path):
    found = compare("plain", "better", project)
    assert found.params == {"prior.levels": (6, 4)}
    assert found.metrics["nll"]["difference"] == pytest.approx(-10.0)
    assert found.metrics["nll"]["interval"] == pytest.approx(2.776 * (2 / 3) ** 0.5, rel=1e-3)
    assert found.metrics["nll"]["exceeds"] is True
    assert found.metrics["bleu"]["exceeds"] is False
    assert any("within seed noise" in line for line in found.lines())


def test_one_seed_has_no_interval(project: Path):
    found = compare("results/plain/0.json", "better", project)
    assert found.metrics["nll"]["interval"] is None
    assert found.metrics["nll"]["exceeds"] is None


def test_comparing_what_is_not_there_names_the_nearest(project: Path):
    with pytest.raises(UsageError, match="did you mean 'better'"):
        compare("plain", "bettr", project)


class Page(HTMLParser):
    """Tags and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_report_shows_results_curves_samples_and_verdicts_with_all_text_escaped(project: Path):
    build(project)
    page = Page((project / "site/index.html").read_text())
    assert "<script>a</script> & b" in page.text
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert "train.text: not <null>" in page.text
    assert "unique" not in page.text
    assert "LDEBM (published)" in page.text
    assert [tag for tag, _ in page.tags if tag == "polyline"]
    assert "prior.levels" in page.text


def test_the_report_asks_for_nothing_from_outside(project: Path):
    build(project)
    page = Page((project / "site/index.html").read_text())
    links = [
        value for _, attrs in page.tags for key, value in attrs.items() if key in ("href", "src")
    ]
    assert links
    assert not [link for link in links if link.startswith(("http", "//"))]
    policy = next(attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)
    assert "default-src 'none'" in policy


def test_the_report_has_the_same_bytes_twice_and_builds_from_nothing(project: Path, tmp_path: Path):
    build(project)
    first = (project / "site/index.html").read_bytes()
    build(project)
    assert (project / "site/index.html").read_bytes() == first
    empty = tmp_path / "empty"
    empty.mkdir()
    build(empty)
    assert "Nothing is recorded yet" in (empty / "site/index.html").read_text()


def test_curves_skip_empty_cells_and_charts_draw_constant_series(tmp_path: Path):
    write_csv(tmp_path / "c.csv", ["update", "loss"], [[1, 2.0], [2, ""], [3, 2.0]])
    (series,) = read_curve(tmp_path / "c.csv")
    assert series == Series("loss", "update", ((1.0, 2.0), (3.0, 2.0)))
    assert "nan" not in line_chart(series)


def test_names_in_charts_are_escaped():
    assert "<b>" not in line_chart(Series("<b>", "<b>", ((0.0, 1.0), (1.0, 2.0))))
