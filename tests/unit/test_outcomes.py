"""What a build says at its end: what came out of each experiment, and what came to nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.build_report import report_lines
from pipelines.outcomes import experiment_line, outcome_lines
from pipelines.types import BuildReport, StageOutcome, Status

GOOD = {
    "nll": 13.1623, "nll_standard_normal": 14.448, "gain_over_standard_normal": 1.286,
    "gain_over_standard_normal_se": 0.1, "kl_standard_normal": 10.6, "ami": 0.68, "control": 0.93,
    "control_labels": 14.0,
}  # fmt: skip
WARNINGS: dict[str, tuple[dict[str, float], str]] = {
    "an empty latent": ({"kl_standard_normal": 0.02}, "the latent holds nothing of the text"),
    "no agreement": ({"ami": 0.004}, "classes and labels have nothing to do with each other"),
    "control at chance": (
        {"control": 0.32, "control_labels": 3.0}, "no better than chance (32% of them",
    ),
    "a prior that is no gain": (
        {"gain_over_standard_normal": 0.1}, "not better than N(0, I) (by 0.10 nats",
    ),
    "images worse than Gaussian": (
        {"fid_classifier": 4.0, "fid_classifier_gaussian": 3.5}, "worse than those of N(0, I)",
    ),
}  # fmt: skip


def evaluated(root: Path, run: str, metrics: dict[str, Any], **of_stage: Any) -> StageOutcome:
    experiment, _, seed = run.rpartition("-")
    folder = root / "reports" / experiment / seed
    folder.mkdir(parents=True)
    short = {key: metrics[key] for key in ("ami", "control") if key in metrics}
    (folder / "summary.json").write_text(json.dumps(short))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    options = {"status": "built", "attempts": 1} | of_stage
    return StageOutcome(f"evaluate@{run}", **options)


def test_a_line_has_what_came_out_beside_the_gaussian_prior() -> None:
    assert experiment_line("talk-ldebm", [GOOD]) == [
        "talk-ldebm: NLL 13.16 nats (14.45 with N(0, I)); AMI with the labels 0.68; "
        "93% of class-conditional samples classified as asked"
    ]
    images = {"fid_classifier": 1.02, "fid_classifier_gaussian": 4.33, "control_accuracy": 0.92,
              "ami": 0.99, "classes_used": 10.0}  # fmt: skip
    assert experiment_line("digits-hvae", [images, images]) == [
        "digits-hvae (2 seeds): FID by the classifier's features 1.02 (4.33 with N(0, I)); AMI "
        "with the labels 0.99; 92% of class-conditional samples classified as asked"
    ]
    assert experiment_line("points", [{"nll": 6.3}]) == ["points: NLL 6.30 nats"]


@pytest.mark.parametrize("case", WARNINGS)
def test_what_came_to_nothing_is_a_warning_of_its_own(case: str) -> None:
    changed, message = WARNINGS[case]
    _, *warnings = experiment_line("talk", [GOOD | changed])
    assert len(warnings) == 1
    assert warnings[0].startswith("  warning: ")
    assert message in warnings[0]


def test_a_gaussian_prior_is_not_blamed_for_being_one() -> None:
    same = {"gain_over_standard_normal": 0.0, "gain_over_standard_normal_se": 0.0}
    assert len(experiment_line("talk", [GOOD | same])) == 1


def test_only_runs_that_this_build_evaluated_are_told_and_files_that_are_none_pass(
    tmp_path: Path,
) -> None:
    stages = [
        StageOutcome("fetch@talk", "built", attempts=1),
        evaluated(tmp_path, "talk-ldebm-0", GOOD),
        evaluated(tmp_path, "talk-ldebm-1", GOOD | {"nll": 15.1623, "ppl": None}),
        evaluated(tmp_path, "old-ldebm-0", GOOD, status="cached", attempts=0),
        evaluated(tmp_path, "broken-ldebm-0", GOOD, status="failed"),
        StageOutcome("evaluate@nothing-ldebm-0", "built", attempts=1),
        evaluated(tmp_path, "restored-ldebm-0", GOOD, status="cached", attempts=0, seconds=2.5),
    ]
    lines = outcome_lines(tmp_path, stages)
    assert [line.split(":")[0] for line in lines] == ["talk-ldebm (2 seeds)", "restored-ldebm"]
    assert "NLL 14.16 nats" in lines[0]
    (tmp_path / "reports/talk-ldebm/0/metrics.json").write_text("[]")
    (tmp_path / "reports/talk-ldebm/0/summary.json").write_text("not json")
    assert "NLL 15.16 nats" in outcome_lines(tmp_path, stages)[0]


@pytest.mark.parametrize(("status", "told"), [("built", 1), ("failed", 0)])
def test_the_report_of_a_build_ends_with_it(tmp_path: Path, status: Status, told: int) -> None:
    stage = evaluated(tmp_path, "talk-ldebm-0", GOOD, status=status)
    report = BuildReport(tmp_path, "0" * 40, False, tmp_path / "dvc.lock", (stage,))
    assert sum(line.startswith("talk-ldebm: NLL") for line in report_lines(report)) == told
    if told:
        assert report_lines(report)[-1].startswith("talk-ldebm: NLL")
