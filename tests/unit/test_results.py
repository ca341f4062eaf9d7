"""Recording runs, tables of them, and the site that shows them."""

import itertools
import shutil
from pathlib import Path

import pytest

from ldebm.errors import UsageError
from ldebm.files import read_json, write_csv, write_json
from pipelines.curves import Series, read_curve
from pipelines.library import Library
from pipelines.lineage.records import recorded
from pipelines.results.paper_tables import beside_the_paper
from pipelines.results.published import PUBLISHED
from pipelines.results.recorded import (
    by_experiment,
    load_results,
    numbers,
    record_runs,
    settings_of,
)
from pipelines.results.standing import standing, superseded_list
from pipelines.results.tables import markdown
from pipelines.results.tradeoff import tradeoff
from pipelines.site.charts import line_chart
from pipelines.site.pages import build

ROOT = Path(__file__).parents[2]


def evaluated(
    root: Path,
    experiment: str,
    seed: int,
    levels: int = 6,
    dirty: bool | None = False,
    **metrics: float,
) -> None:
    """A run as the stages leave it."""
    git = {"commit": "c0ffee", "dirty": dirty}
    model, report = root / f"models/{experiment}/{seed}", root / f"reports/{experiment}/{seed}"
    stage = f"prior@{experiment}-{seed}"
    with recorded(
        stage, inputs=[], outputs=[model.relative_to(root)], params={}, root=root, git=git
    ):
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


@pytest.fixture(scope="module")
def recorded_runs(tmp_path_factory) -> Path:
    """Two experiments with three seeds each, evaluated and recorded."""
    root = tmp_path_factory.mktemp("recorded")
    for seed in range(3):
        evaluated(root, "plain", seed, nll=100.0 + seed, bleu=11.0 + 0.1 * seed)
        evaluated(root, "better", seed, levels=4, nll=90.0 + seed, bleu=11.05 + 0.1 * seed)
    write_json(
        root / "reports/validation/ptb/report.json",
        {
            "success": False,
            "results": [
                {"frame": "train", "column": "text", "expectation": "not <null>", "success": False},
                {"frame": "train", "column": "id", "expectation": "unique", "success": True},
            ],
        },
    )
    record_runs(root)
    return root


@pytest.fixture
def project(recorded_runs: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(recorded_runs, tmp_path / "project")


def test_a_recorded_run_says_how_it_came_about(project: Path):
    run = read_json(project / "results/plain/2.json")
    assert {"experiment", "seed", "epochs", "params", "commit", "device", "seconds"} <= run.keys()
    assert run["metrics"] == {"nll": 102.0, "bleu": 11.2}
    assert run["params"]["prior"]["levels"] == 6
    assert run["epochs"] == {"backbone": 3, "prior": 3}
    assert run["device"] == "cpu"
    assert run["seconds"] >= 0


@pytest.mark.parametrize("dirty", [True, None])
def test_only_what_was_built_from_a_clean_tree_is_recorded(project: Path, dirty: bool | None):
    evaluated(project, "quick", 0, dirty=dirty, nll=1.0)
    with pytest.raises(UsageError, match=r"quick, seed 0: .* in no commit"):
        record_runs(project, ["quick"])
    assert not (project / "results/quick").exists()


def test_a_record_has_hashes_of_its_settings_and_its_code(project: Path):
    plain, better = (read_json(project / f"results/{name}/0.json") for name in ("plain", "better"))
    again = read_json(project / "results/plain/1.json")
    assert plain["settings"] == again["settings"] != better["settings"]
    assert len(plain["code"]) == 16
    longer = {**plain["params"], "backbone": {"training": {"epochs": 99}}}
    assert settings_of(longer) == settings_of(plain["params"])
    fitted = {"data": "d", "prior": {"kind": "gaussian", "sampler": {"steps": 3}}}
    other = {"data": "d", "prior": {"kind": "gaussian", "sampler": {"steps": 4}}}
    assert settings_of(fitted) == settings_of(other)
    assert plain["cpu_seconds"]["prior"] >= 0


def test_a_run_whose_experiment_has_changed_stands_in_no_table():
    library = Library(ROOT)
    now = library.experiment("chatter-ldebm").model_dump(mode="json")
    shorter = {**now, "prior": {**now["prior"], "training": {**now["prior"]["training"]}}}
    shorter["prior"]["training"] |= {"updates": 3, "threads": 2}
    changed = {**now, "prior": {**now["prior"], "mi_weight": 0.7}}
    runs = [
        {"experiment": name, "seed": seed, "params": params, "metrics": {"nll": 1.0}}
        for seed, (name, params) in enumerate(
            [
                ("chatter-ldebm", now),
                ("chatter-ldebm", shorter),
                ("chatter-ldebm", changed),
                ("chatter-nothing", now),
                ("chatter-ldebm", {"data": "chatter"}),
            ]
        )
    ]
    present, superseded = standing(runs, library)
    assert [run["seed"] for run in present] == [0, 1]
    assert superseded == {
        "chatter-ldebm, seed 2": "prior.mi_weight was 0.7",
        "chatter-nothing, seed 3": "its experiment is gone",
        "chatter-ldebm, seed 4": "its settings cannot be read any more",
    }
    assert "* chatter-ldebm, seed 2: prior.mi_weight was 0.7" in superseded_list(superseded)
    assert superseded_list({}) == ""


def test_recording_what_was_not_evaluated_names_the_nearest(project: Path):
    with pytest.raises(UsageError, match="did you mean 'plain'"):
        record_runs(project, ["plan"])


def test_metrics_that_git_brought_without_their_model_are_not_recorded(project: Path):
    write_json(project / "reports/elsewhere/0/metrics.json", {"nll": 1.0})
    assert all("elsewhere" not in path.parts for path in record_runs(project))
    with pytest.raises(UsageError, match="elsewhere: not evaluated here"):
        record_runs(project, ["elsewhere"])


def test_metrics_of_older_files_are_read_under_their_present_names(project: Path):
    metrics = {"judge_confidence_test": 0.9, "plain_judged_accuracy": 0.8, "nll": 1.0}
    write_json(project / "results/old/0.json", {"experiment": "old", "seed": 0, "metrics": metrics})
    runs = by_experiment(load_results(project))["old"]
    assert numbers(runs, "classifier_confidence_test") == [0.9]
    assert numbers(runs, "plain_classified_accuracy") == [0.8]
    assert set(runs[0]["metrics"]) == {
        "nll", "classifier_confidence_test", "plain_classified_accuracy",
    }  # fmt: skip


def test_the_tables_have_the_median_of_the_seeds_beside_the_papers_rows(project: Path):
    text = markdown(load_results(project))
    ours = next(line for line in text.splitlines() if line.startswith("| plain"))
    assert "101 [100, 102]" in ours


def test_a_papers_table_has_its_numbers_ours_and_what_was_not_run(project: Path):
    for seed in range(2):
        evaluated(project, "ptb-ldebm", seed, nll=90.0, bleu=8.0 + seed)
        evaluated(project, "agnews-500-svebm", seed, accuracy=0.75)
    record_runs(project)
    rows = [line.split(" | ") for line in markdown(load_results(project)).splitlines()]
    ours = next(row for row in rows if row[0] == "| LDEBM")
    assert ours[1:5] == ["ptb-ldebm", "2", " + ", "cpu"]  # no training left its number of updates
    assert ours[5:9] == ["164.57", "not measured", "11.16", "8.5 [8, 9]"]
    assert ours[-1] == "90 [90, 90] |"
    other = next(row for row in rows if row[0] == "| SVEBM-IB with GC")
    assert other[1:3] == ["ptb-svebm-ib-gc", "0"]
    assert other[7:9] == ["10.08", "not run"]
    news = next(row for row in rows if row[0] == "| SVEBM" and "agnews" in row[1])
    assert news[1:3] == ["agnews-*-svebm", "0/2/0/0"]
    assert news[5:9] == ["84.5", "not run", "84.7", "75 [75, 75]"]  # per cent
    without = next(row for row in rows if row[0] == "| CatVAE")
    assert without[5:7] == ["84.6", ""]
    build(project)
    page = (project / "site/index.html").read_text()
    assert 'id="paper-ptb"' in page
    assert 'id="paper-agnews"' in page
    assert 'id="paper-dd"' not in page  # nothing of it is recorded


def test_a_published_table_has_the_rows_of_the_paper_and_our_experiments():
    table = PUBLISHED["ptb"]
    values = {"rPPL": 164.57, "BLEU": 11.16, "wKL": 0.06, "NLL": 82.38, "valid NLL": None}
    assert table.system("LDEBM") == values
    assert table.system("SVEBM-IB")["wKL"] == 0.16
    known = Library().experiments
    for table in PUBLISHED.values():
        assert all(len(item.values) <= len(table.columns) for item in table.systems)
        assert all(
            item.metrics is None or len(item.metrics) == len(table.columns)
            for item in table.systems
        )
    ours = [name for table in PUBLISHED.values() for name in table.experiments]
    full = ("agnews-2500-", "agnews-10000-")  # of the full training file: docs/data.md
    assert [name for name in ours if not name.startswith(full) and name not in known] == []


@pytest.mark.parametrize("name", ["smd", "yelp", "agnews"])
def test_what_the_paper_has_in_per_cent_is_printed_in_per_cent(name: str):
    table = PUBLISHED[name]
    per_cent = [c for c in table.columns if "self-BLEU" not in c.label]
    runs = by_experiment(load_results())
    values_of: dict[str, list[float]] = {column.label: [] for column in per_cent}
    for column, system in itertools.product(per_cent, table.systems):
        ours = numbers(runs.get(system.experiment_of(column.part), []), column.metric)
        values_of[column.label] += [column.scale * value for value in ours]
    assert sum(map(len, values_of.values())) > 5, "nothing recorded: this test would say nothing"
    for label, values in values_of.items():
        assert all(0 <= value <= 100 for value in values), label
        assert not values or max(values) > 1, f"{label} is printed as a share"


def test_the_site_has_the_same_bytes_twice_and_leaves_nothing_of_an_earlier_one(project: Path):
    build(project)
    first = {path: path.read_bytes() for path in (project / "site").rglob("*") if path.is_file()}
    (project / "site/stray.html").write_text("old")
    build(project)
    again = {path: path.read_bytes() for path in (project / "site").rglob("*") if path.is_file()}
    assert again == first
    assert not (project / ".site.part").exists()


def test_a_site_that_cannot_be_built_leaves_the_old_one(project: Path):
    build(project)
    before = (project / "site/index.html").read_bytes()
    (project / "reports/plain/0/metrics.json").write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        build(project)
    assert (project / "site/index.html").read_bytes() == before
    assert not (project / ".site.part").exists()


def test_the_site_of_nothing_says_what_would_fill_it(tmp_path: Path):
    build(tmp_path)
    assert "Nothing is recorded yet" in (tmp_path / "site/index.html").read_text()
    assert "not two experiments" in (tmp_path / "site/compare.html").read_text()


def test_curves_skip_empty_cells_and_charts_draw_constant_series(tmp_path: Path):
    write_csv(tmp_path / "c.csv", ["update", "loss"], [[1, 2.0], [2, ""], [3, 2.0]])
    (series,) = read_curve(tmp_path / "c.csv")
    assert series == Series("loss", "update", ((1.0, 2.0), (3.0, 2.0)))
    assert "NaN" not in line_chart([series], "loss", "nats").svg


def test_the_tradeoff_joins_only_runs_that_differ_in_the_weight_of_the_kl():
    def run(name: str, weight: float, updates: int, **more: object) -> dict[str, object]:
        params = {
            "data": "ptb",
            "backbone": {"kl_weight": weight, "kl_floor": 0.0, "training": {"epochs": 5}},
            "prior": {"kind": "diffusion", "scheme": "two_stage", "energy_scale": "paper"},
            "evaluate": {"completion": None},
        }
        for key, value in more.items():
            section, _, name_of = key.partition("__")
            params[section][name_of] = value
        metrics = {"nll": 100.0 * weight, "bleu": 5.0}
        trained = {"backbone": updates, "prior": 6000}
        return {
            "experiment": name, "seed": 0, "params": params, "metrics": metrics, "updates": trained,
        }  # fmt: skip

    marks = tradeoff(
        [
            run("a", 1.0, 1645),
            run("b", 0.3, 1645, backbone__kl_floor=0.1),
            run("c", 0.1, 5264),
            run("d", 0.1, 1645, prior__score_matching=0.99),
            run("ptb-completion", 0.2, 1645, evaluate__completion={"rows": 5}),
            run("e", 0.1, 1645, prior__scheme="joint"),
        ]
    )
    assert [mark.label for mark in marks] == [f"lambda1 {x}" for x in ("1", "0.3", "0.1", "0.1")]
    one, two, three, four = (mark.group for mark in marks)
    assert one == two
    assert len({one, three, four}) == 3


def test_a_system_that_was_trained_much_shorter_gives_no_number():
    def run(name: str, updates: int) -> dict[str, object]:
        return {
            "experiment": name, "seed": 0, "params": {"data": "ptb"}, "device": "cpu",
            "metrics": {"bleu": 7.0, "nll": 101.0}, "updates": {"backbone": updates}, "epochs": {},
        }  # fmt: skip

    runs = [run("ptb-svebm", 1000), run("ptb-vae", 500), run("ptb-ae", 499)]
    _, rows = beside_the_paper(PUBLISHED["ptb"], runs)
    by_name = {row[1]: row for row in rows}
    assert "7" in by_name["ptb-vae"]
    assert "too short" in by_name["ptb-ae"]
    assert "7" not in by_name["ptb-ae"][5:]
    _, rows = beside_the_paper(PUBLISHED["ptb"], runs, {"ptb-dae"})
    assert "superseded" in next(row for row in rows if row[1] == "ptb-dae")
    assert "not run" in next(row for row in rows if row[1] == "ptb-dvae")
