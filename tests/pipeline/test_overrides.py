"""Parameters on the command line (`-S`), written into the project's own params.yaml."""

import shutil
from pathlib import Path

import pytest
import yaml

from ldebm.config import load_params
from ldebm.errors import UsageError
from pipelines.building import select
from pipelines.types import Selection

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of params.yaml, whose presets are anchors that experiments share."""
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prior.mi_weight", 0.02),
        ("prior.training.updates", 50),
        ("prior.sampler.steps", 3),
        ("backbone.training.updates", 60),
        ("evaluate.samples", 200),
    ],
)
def test_an_override_changes_its_experiment_and_no_other(params, key, value):
    before = yaml.safe_load(params.read_text())["experiments"]
    select(params, Selection(overrides=(f"experiments.gaussians16-ldebm.{key}={value}",)))
    after = yaml.safe_load(params.read_text())["experiments"]
    changed = after.pop("gaussians16-ldebm")
    del before["gaussians16-ldebm"]
    for part in key.split("."):
        changed = changed[part]
    assert changed == value
    assert after == before, "presets that experiments share stay as they are"
    load_params(params)


def test_several_overrides_take_effect_together(params):
    one = "experiments.gaussians16-ldebm.prior"
    settings = (f"{one}.training.updates=50", f"{one}.mi_weight=0.02", "run.seeds=[3,4]")
    select(params, Selection(overrides=settings))
    found = load_params(params)
    prior = found.experiment("gaussians16-ldebm").prior
    assert (prior.training.updates, prior.mi_weight, found.run.seeds) == (50, 0.02, [3, 4])
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]


def test_comments_and_anchors_stay_where_dvc_writes_what_was_asked_for(params):
    select(params, Selection(overrides=("run.epochs=3",)))
    assert "&points_prior" in params.read_text()
    assert "# overrides every training length" in params.read_text()


def test_an_unknown_key_is_an_error_and_changes_nothing(params):
    before = params.read_bytes()
    with pytest.raises(UsageError, match=r"override experiments\.nope=1"):
        select(params, Selection(overrides=("experiments.nope=1",)))
    assert params.read_bytes() == before
    assert [path.name for path in params.parent.iterdir()] == ["params.yaml"]
