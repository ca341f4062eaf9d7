"""What ``dvc plots`` draws: training and validation of all runs in one file for every plot."""

import csv
from pathlib import Path

import pytest
import yaml

from ldebm.files import write_csv
from pipelines.site.plots import PLOTS, write_plots

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    model = tmp_path / "models/ring/0"
    header = ["update", "epoch", "loss", "reconstruction", "kl"]
    rows = [[10 * i, i, 9.0 - i, 8.0 - i, 0.5] for i in range(1, 21)]
    write_csv(model / "backbone/curve.csv", header, rows)
    valid = [[200, 20, -11.5, -12.0, 0.5]]
    write_csv(model / "backbone/validation.csv", header, valid)
    write_csv(model / "prior/curve.csv", ["update", "loss", "acceptance"], [[5, 0.2, 0.7]])
    levels = ["update", "acceptance_0", "acceptance_1", "step_0"]
    write_csv(model / "prior/validation.csv", levels, [[5, 0.5, 0.7, 3.0]])
    for name in ("prior/curve.csv", "prior/validation.csv"):  # a Gaussian prior is not trained
        write_csv(tmp_path / "models/plain/1" / name, ["update", "epoch", "loss"], [])
    picture = tmp_path / "reports/ring/0/details/kde.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"png")
    write_plots([("ring", "0"), ("plain", "1"), ("absent", "0")], tmp_path, tmp_path / "plots")
    return tmp_path / "plots"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_training_and_validation_are_in_one_file(project: Path) -> None:
    rows = rows_of(project / "kl.csv")
    assert {row["rows"] for row in rows} == {"training", "validation"}
    assert {(row["experiment"], row["seed"]) for row in rows} == {("ring", "0")}
    assert len(rows) == 21


def test_the_steep_beginning_does_not_set_the_scale(project: Path) -> None:
    rows = [row for row in rows_of(project / "reconstruction.csv") if row["rows"] == "training"]
    assert [int(row["update"]) for row in rows] == list(range(20, 201, 10))


def test_acceptance_on_validation_is_the_mean_of_the_levels(project: Path) -> None:
    points = [
        (row["rows"], float(row["acceptance"])) for row in rows_of(project / "acceptance.csv")
    ]
    assert points == [("training", 0.7), ("validation", pytest.approx(0.6))]


def test_runs_have_a_picture_where_one_was_drawn(project: Path) -> None:
    assert [path.name for path in project.glob("*.png")] == ["densities-ring-0.png"]


def test_every_file_is_there_without_any_curve(tmp_path: Path) -> None:
    write_plots([], tmp_path, tmp_path / "plots")
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == set(PLOTS)
    assert rows_of(tmp_path / "plots/prior-loss.csv") == []


def test_dvc_knows_every_plot_with_title_axes_and_unit() -> None:
    folder, *plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert folder == "site/plots"  # its pictures
    named = {path: about for item in plots for path, about in item.items()}
    assert set(named) == {f"site/plots/{name}.csv" for name in PLOTS}
    for path, about in named.items():
        assert about["title"]
        assert about["y"] == PLOTS[Path(path).stem][1]
        assert (about["x"], about["x_label"]) == ("update", "update")
        assert about["y_label"] in ("nats per row", "share")
        assert (ROOT / ".dvc/plots" / f"{about['template']}.json").is_file()
