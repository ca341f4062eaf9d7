"""Charts, maps, the lineage graph and the embedded data of the site."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ldebm.files import write_json
from pipelines.curves import Series
from pipelines.lineage.graph import layers, lineage_svg, nearest, steps_of_runs
from pipelines.results.recorded import load_results
from pipelines.site.card import model_card
from pipelines.site.charts import Chart, histogram, line_chart, path_map, point_map, reach
from pipelines.site.comparing import NEAR, comparison_data, files, groups, index, neighbours
from pipelines.site.data import data_section
from pipelines.site.front import columns_of, gains, recorded_tables
from pipelines.site.pages import embedded
from pipelines.site.run import changes

HOSTILE = '</script><script>alert("1")</script>&'


def stage(deps: list[str], out: str) -> dict:
    return {
        "cmd": "run",
        "deps": [{"path": path, "md5": "d" * 32} for path in deps],
        "outs": [{"path": out, "md5": "e" * 32}],
        "params": {"params.yaml": {"x": 1}},
    }


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A lock of two data sets and one run, and of a run that the report does not show."""
    stages = {
        "fetch@a": stage([], "data/raw/a"),
        "fetch@b": stage([], "data/raw/b"),
        "prepare@a": stage(["data/raw/a", "ldebm/x.py"], "data/prepared/a"),
        "pack@a": stage(["data/prepared/a"], "data/packed/a"),
        "pack@b": stage(["data/raw/b"], "data/packed/b"),
        "bind@e": stage(["data/packed"], "data/bound/e.json"),
        "backbone@e-0": stage(["data/bound/e.json"], "models/e/0/backbone/m"),
        "evaluate@e-0": stage(["data/bound/e.json", "models/e/0/backbone/m"], "reports/e/0/m"),
        "evaluate@old-0": stage(["data/bound/e.json"], "reports/old/0/m"),
        "report": stage(["reports"], "site"),
    }
    stages["bind@e"]["params"]["params.yaml"]["experiments.e.data"] = "a"
    write_json(tmp_path / "dvc.lock", {"stages": stages})
    return tmp_path


def test_the_graph_has_what_is_on_the_way_to_the_runs_in_columns(project: Path):
    nodes = steps_of_runs(project, ["e-0"])
    assert layers(nodes) == {
        "fetch@a": 0, "prepare@a": 1, "pack@a": 2, "bind@e": 3, "backbone@e-0": 4, "evaluate@e-0": 5
    }  # fmt: skip
    assert nodes[1].inputs == {"data/raw/a": "d" * 32}, "code is left out"
    by_name = {node.stage: node for node in nodes}
    assert by_name["evaluate@e-0"].after == ["backbone@e-0", "bind@e"]
    assert nearest(nodes)["evaluate@e-0"] == ["backbone@e-0"]
    drawn = lineage_svg(nodes)
    assert drawn.count('class="box"') == 6
    assert drawn.count('class="edge"') == 5


@pytest.mark.parametrize("down", [False, True])
def test_boxes_of_the_graph_do_not_overlap(project: Path, down: bool):
    drawn = lineage_svg(steps_of_runs(project, ["e-0", "old-0"]), down=down)
    boxes = re.findall(r'class="box" x="([\d.]+)" y="([\d.]+)" width="(\d+)" height="(\d+)"', drawn)
    places = [tuple(map(float, box)) for box in boxes]
    for i, (x, y, width, height) in enumerate(places):
        for x2, y2, _, _ in places[i + 1 :]:
            assert abs(x - x2) >= width or abs(y - y2) >= height


def test_without_a_lock_there_is_no_graph(tmp_path: Path):
    assert steps_of_runs(tmp_path, ["e-0"]) == []


def drawings(text: str) -> list[Chart]:
    """A chart of every kind, with ``text`` wherever a chart shows words."""
    curve = Series(text, text, ((0.0, 1.0), (1.0, 2.0)))
    spots = [(float(i), float(i), text, text) for i in range(6)]
    rows = [{"low": 0.0, "high": 1.0, "data": 1.0, "samples": 0.0}]
    return [
        line_chart([curve], text, text, marks={0.5: text}, zero=True),
        point_map(spots, reach(spots), text, (text, text)),
        path_map([spots], spots, text, (text, text)),
        histogram(rows, text, text),
    ]


def test_interrupted_lines_are_drawn_in_parts_and_single_points_as_dots():
    points = tuple((float(x), float(x % 3)) for x in range(20))

    lines = [line_chart([Series("a", "x", points)], "a", "y", breaks=b) for b in ([], [2.5], [0.5])]
    parts = [len(chart.spec["datasets"]["points"]) for chart in lines]
    assert parts == [1, 2, 2]
    assert [chart.svg.count('stroke="var(--s0)"') for chart in lines] == [1, 2, 2]
    assert [chart.svg.count('fill="var(--s0)"') for chart in lines] == [0, 0, 1]


def test_text_in_drawings_is_escaped_and_never_fills_another_place():
    for chart in drawings(HOSTILE):
        names = {item.tag for item in ElementTree.fromstring(chart.svg).iter()}
        assert names <= {"svg", "g", "path", "line", "text", "rect"}
    for chart in drawings('"@points"'):
        assert json.dumps(chart.spec).count('\\"@points\\"') >= 1
        assert '"@' not in json.dumps(chart.spec).replace('\\"@points', "")


def test_charts_are_the_same_bytes_whatever_was_drawn_before():
    assert drawings("a") == drawings("a")
    for chart in drawings("a"):
        assert "id=" not in chart.svg
        assert "NaN" not in chart.svg


def test_the_page_without_scripts_gets_no_selections_and_colours_that_follow_the_theme():
    for chart in drawings("a"):
        assert {item["name"] for item in chart.spec["params"]} >= {"near", "zoom"}
        assert not re.search(r'(?:fill|stroke)="(?!none|var\()', chart.svg)


def test_charts_are_marked_where_the_objective_changes():
    warmed = {"kl_warmup": 30}
    matched = {"levels": 6, "score_matching": 0.5, "training": {"updates": 80}}
    cycled = {"kl_cycle": {"cycles": 4}, "kl_warmup": 30}
    assert changes("backbone", {"backbone": warmed}, 90.0) == {30: "KL at its full weight"}
    assert changes("backbone", {"backbone": warmed}, 20.0) == {}
    assert changes("prior", {"prior": matched}, 60.0) == {40: "end of score matching"}
    assert changes("prior", {"prior": matched | {"levels": 1}}, 60.0) == {}
    joint = {"backbone": cycled, "prior": {"scheme": "joint"}}
    assert list(changes("prior", joint, 80.0)) == [20.0, 40.0, 60.0]
    assert changes("backbone", joint, 80.0) == {30: "KL at its full weight"}


def test_a_logarithmic_axis_is_symmetric_where_values_are_not_positive():
    def kind(*values: float) -> str:
        series = Series("a", "x", tuple(enumerate(values)))
        return line_chart([series], "a", "y").spec["usermeta"]["log"]

    assert (kind(1.0, 2.0), kind(0.0, 2.0), kind(-1.0, 2.0)) == ("log", "symlog", "symlog")


def test_embedded_json_cannot_end_its_element_and_reads_back():
    content = {HOSTILE: ["<!--", "\u2028", 0.1, None]}
    text = embedded(content)
    assert not re.search(r"[<>&\u2028]", text)
    assert json.loads(text) == content


def run_file(root: Path, experiment: str, seed: int, nll: float, folder: str = "results") -> None:
    if folder == "results":
        content = {"experiment": experiment, "seed": seed, "params": {"data": "d"}}
        write_json(root / f"results/{experiment}/{seed}.json", {**content, "metrics": {"nll": nll}})
        return
    write_json(root / f"reports/{experiment}/{seed}/metrics.json", {"nll": nll})
    config = {"config": {"data": "d"}}
    write_json(root / f"models/{experiment}/{seed}/prior/config.json", config)


def test_runs_evaluated_here_join_the_recorded_ones_unless_they_contradict_them(tmp_path: Path):
    run_file(tmp_path, "same", 0, 1.0)
    run_file(tmp_path, "same", 0, 1.0, "reports")
    run_file(tmp_path, "same", 1, 2.0, "reports")
    run_file(tmp_path, "changed", 0, 1.0)
    run_file(tmp_path, "changed", 0, 5.0, "reports")
    runs_of = groups(tmp_path)
    assert list(runs_of) == ["changed", "changed (evaluated here)", "same"]
    assert [run.seed for run in runs_of["same"]] == [0, 1]
    pairs = comparison_data(tmp_path)["pairs"]
    assert pairs["changed|changed (evaluated here)"]["nll"]["verdict"] == "one seed"


def test_the_verdicts_grow_with_the_runs_and_not_with_their_square(tmp_path: Path):
    for number in range(NEAR + 4):
        run_file(tmp_path, f"e{number:02d}", 0, 1.0 + number)
    runs_of = groups(tmp_path)
    near = neighbours(runs_of)
    assert near["e00"] == [f"e{number:02d}" for number in range(1, NEAR + 1)]
    assert near["e14"] == ["e15"]
    content = comparison_data(tmp_path)
    assert content["near"] == NEAR
    assert list(content["pairs"]) == [f"{one}|{o}" for one, others in near.items() for o in others]


def test_a_task_shows_its_main_metric_first_and_at_most_five():
    shown, more = columns_of(["nll", "accuracy", "bleu", "ppl", "ami", "wkl", "rppl", "nll_low"])
    assert shown == ["accuracy", "nll", "ppl", "bleu", "ami"]
    assert more == ["nll_low", "wkl", "rppl"]
    of_recorded = {table["data"]: table["first"] for table in recorded_tables(load_results())}
    assert all(len(part["columns"]) <= 5 for part in of_recorded.values())
    mains = {data: part["columns"][0][0] for data, part in of_recorded.items()}
    assert mains["agnews"] == "accuracy"
    assert mains["yelp"] == "classified_accuracy"
    assert mains["smd"] == "response_bleu"
    assert mains["ptb"] == "nll"


def test_gains_are_over_the_best_mixture_and_left_out_where_nothing_is_known():
    fids = {"fid_classifier": 2.0, "fid_classifier_gaussian": 5.0, "fid_classifier_mixture": 3.0}
    assert gains({**fids, "fid_classifier_mixture_classes": 1.5}) == [
        ("over N(0, I), Frechet distance", 3.0),
        ("over a mixture, Frechet distance", -0.5),
    ]
    assert gains({"nll": 2.0, "nll_mixture": None}) == []


def test_a_model_card_says_what_is_known_and_nothing_else(tmp_path: Path):
    model = tmp_path / "models/e/0"
    write_json(model / "prior/metrics.json", {"updates": 9})
    header = b'{"__metadata__":{},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'
    (model / "prior/model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    config = {
        "config": {"data": "d", "prior": {"kind": "diffusion", "levels": 1, "classes": 2}},
        "meta": {"kind": "points", "source": "ring", "rows": {"test": 1, "train": 5}},
    }
    card = model_card(model, config, {"seconds": 3.2, "device": "cpu", "commit": "c" * 40})
    assert card["Model"] == "diffusion prior, 1 level, 2 classes"
    assert card["Parameters"] == "6 numbers in 1 tensors"
    assert card["Data"] == "d (points from ring); 5 train rows, 1 test rows"
    assert card["Training"] == "prior 9 updates"
    assert card["Recorded"] == "3 s on cpu at commit cccccccccccc"
    assert "Recorded" not in model_card(model, config, {})


def test_a_data_set_shows_what_was_found_beside_what_was_expected(tmp_path: Path):
    folder = tmp_path / "reports/validation/talk"
    bounded = {"frame": "profile", "column": "rows", "expectation": "expect_column_values"}
    of_rows = {"frame": "train", "column": "text", "expectation": "expect_column_lengths"}
    results = [
        {**bounded, "rule": {"min_value": 1}, "success": True, "observed": {"element_count": 2}},
        {**of_rows, "success": False, "observed": {"element_count": 9, "unexpected_count": 2}},
    ]
    write_json(folder / "report.json", {"success": False, "results": results})
    bare = data_section(folder / "report.json")
    assert [row["found"] for row in bare["rows"]] == ["7 of 9 rows", "2 of 2 rows"]
    assert (bare["counts"], bare["charts"], bare["examples"]) == ([], [], [])
    labels = {f"{number:02d}": 100 - number for number in range(25)}
    splits = {
        "train": {"rows": 2200, "mean": [1.5], "labels": {"topic": labels}},
        "test": {"rows": 10, "labels": {"topic": {"00": 10}}},
    }
    facts = {
        "splits": splits,
        "found": {"rows": {"train": 2200, "test": 10}},
        "lengths": {"train": [[1, 0.5], [2, 0.5]], "test": [[1, 1.0]]},
        "examples": [{"label.topic": "00", "text": HOSTILE}],
    }
    write_json(folder / "docs/facts.json", facts)
    full = data_section(folder / "report.json")
    assert full["rows"][1]["found"] == "2200 / 10"
    assert full["counts"] == [("rows", ["2200", "", "10"])]
    topic, lengths = full["charts"]
    assert topic["title"] == "topic, the 20 most frequent of 25"
    assert [len(item["y"]) for item in topic["chart"].spec["datasets"]["points"]] == [20, 20]
    assert lengths["title"] == "words of a row"
    assert list(full["examples"][0]) == ["text", "label.topic"]


def test_rows_that_follow_from_single_runs_are_left_to_the_page(tmp_path: Path):
    for seed in (0, 1):
        run_file(tmp_path, "many", seed, 1.0 + seed)
        run_file(tmp_path, "other", seed, 4.0 + 3 * seed)
    run_file(tmp_path, "single", 0, 1.0)
    run_file(tmp_path, "solo", 0, 2.0)
    content = comparison_data(tmp_path)
    assert content["near"] == 0
    kept = {group["name"]: group["pairs"] for group in files(content)}
    assert list(kept) == list(content["groups"]) == list(index(content)["groups"])
    assert [f"{one}|{other}" for one, rows in kept.items() for other in rows] == [*content["pairs"]]
    assert kept["single"]["solo"] == {}
    assert kept["many"]["other"]["nll"] == content["pairs"]["many|other"]["nll"]
    assert kept["many"]["single"]["nll"]["verdict"] == "one seed"
