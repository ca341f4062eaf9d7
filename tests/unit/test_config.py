"""What params.yaml may say, and how a mistake in it is reported."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ldebm.config import ExperimentConfig, Params, load_params, nearest, parse
from ldebm.errors import UsageError
from ldebm.yaml_text import parse_yaml
from pipelines.reference import PAGE, SCHEMA, find, markdown, schema, tables
from pipelines.reference_pages import commands, metrics

ROOT = Path(__file__).parents[2]

EXPERIMENT: dict[str, Any] = {
    "data": "points",
    "backbone": {"arch": "mlp", "latent": 2, "training": {"epochs": 1}},
    "prior": {"training": {"updates": 10}},
}
CONTENT: dict[str, Any] = {
    "run": {"datasets": ["points"], "experiments": ["first"], "seeds": [0]},
    "data": {"points": {"kind": "points", "source": "gaussians16"}},
    "experiments": {"first": EXPERIMENT},
}


def changed(**sections: Any) -> dict[str, Any]:
    """The experiment with keys of its sections replaced."""
    content = json.loads(json.dumps(EXPERIMENT))
    for name, changes in sections.items():
        content.setdefault(name, {}).update(changes)
    return dict(content)


def test_every_key_is_described_in_a_sentence():
    keys = [
        (place, entry) for table in tables() for place in table.places for entry in table.entries
    ]
    assert len(keys) > 250
    for place, entry in keys:
        assert len(entry.meaning.split()) >= 2, f"{place}.{entry.key}: {entry.meaning}"
        assert entry.meaning[0].isupper() or entry.meaning[0] in '"1`', entry.meaning
        assert entry.meaning.endswith("."), entry.meaning


@pytest.mark.parametrize(
    ("path", "write"),
    [
        (PAGE, markdown),
        (SCHEMA, lambda: json.dumps(schema(), indent=1) + "\n"),
        (PAGE.with_name("commands.md"), commands),
        (PAGE.with_name("metrics.md"), metrics),
    ],
)
def test_the_reference_in_docs_is_what_the_program_says(path, write):
    committed = (ROOT / path).read_text(encoding="utf-8")
    assert committed == write(), "run `python -m pipelines.reference`"


def test_the_schema_knows_what_the_parser_knows():
    content = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    jsonschema.validate(content, schema())
    content["experiments"]["chatter-ldebm"]["prior"]["levls"] = 4
    with pytest.raises(jsonschema.ValidationError, match="'levls' was unexpected"):
        jsonschema.validate(content, schema())


def test_a_key_is_found_by_its_end():
    (places, entry), *more = find("sampler.method")
    assert (places, more) == (["experiments.NAME.prior.sampler.method"], [])
    assert (entry.kind, entry.default) == ("'mala', 'pcnl' or 'ula'", "mala")
    assert find("experiments.mine.prior.sampler.method") == find("sampler.method")
    assert find("experiments.mine.backbone.hvae.layers.1.conv") == find("layers.0.conv")
    with pytest.raises(UsageError, match=r"no key 'prior.levls'; did you mean 'prior.levels'"):
        find("prior.levls")


def test_a_minimal_experiment_gets_the_defaults_of_the_papers():
    experiment = parse(Params, CONTENT, "").experiment("first")
    assert experiment.prior.levels == 6
    assert experiment.prior.energy.blocks == 12
    assert experiment.prior.energy_scale == "paper"
    assert experiment.prior.sampler.method == "mala"


@pytest.mark.parametrize(
    ("section", "typo", "meant"),
    [
        ("backbone", {"latnt": 3}, "latent"),
        ("backbone", {"traning": {"epochs": 1}}, "training"),
        ("prior", {"energy": {"hiden": 3}}, "hidden"),
        ("prior", {"sampler": {"stepz": 3}}, "step"),
        ("backbone", {"training": {"epochs": 1, "bach": 3}}, "batch"),
        ("cluster", {"label": "gc"}, "labels"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(section, typo, meant):
    with pytest.raises(UsageError, match=f"unknown key .*did you mean '{meant}") as caught:
        parse(ExperimentConfig, changed(**{section: typo}), "experiments.first")
    assert "\n" not in str(caught.value)
    assert f"experiments.first.{section}" in str(caught.value)


@pytest.mark.parametrize(
    ("section", "wrong", "expected"),
    [
        ("backbone", {"latent": 0}, "greater than 0"),
        ("backbone", {"latent": "many"}, "an integer greater than 0, got 'many'"),
        ("backbone", {"arch": "cnn"}, "'mlp', 'gru'"),
        ("backbone", {"training": {}}, "exactly one of 'epochs' and 'updates'"),
        ("backbone", {"kl_cycle": {}}, "kl_cycle needs prior.scheme 'joint'"),
        ("backbone", {"kl_cycle": {"zero": 0.8}}, "zero 0.8 and rise 0.25 are more than one"),
        ("cluster", {"labels": "given"}, "needs cluster.column"),
        ("prior", {"scheme": "joint"}, "needs prior.standardise 'none'"),
        ("prior", {"energy_scale": "code"}, "needs prior.sampler.method 'ula'"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_was_expected(section, wrong, expected):
    with pytest.raises(UsageError) as caught:
        parse(ExperimentConfig, changed(**{section: wrong}), "experiments.first")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named():
    content = changed()
    del content["backbone"]["latent"]
    with pytest.raises(UsageError, match=r"'experiments.first.backbone.latent' is missing"):
        parse(ExperimentConfig, content, "experiments.first")


def test_asking_for_an_unknown_experiment_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'first'"):
        parse(Params, CONTENT, "").experiment("frst")


def test_far_names_list_what_is_known():
    assert nearest("zzz", ["alpha", "beta"]) == "; known: alpha, beta"


def test_configurations_cannot_be_changed_after_loading():
    experiment = parse(Params, CONTENT, "").experiment("first")
    with pytest.raises(ValueError, match="frozen"):
        experiment.prior.levels = 3


@pytest.mark.parametrize("seeds", [[], [-1], [0, 0]])
@pytest.mark.parametrize("section", ["run", "retrain"])
def test_seeds_that_cannot_be_trained_are_refused(section, seeds):
    content = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"))
    content[section]["seeds"] = seeds
    with pytest.raises(UsageError, match=rf"{section}\.seeds: expected one or more integers >= 0"):
        parse(Params, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"run: [1", "cannot be parsed"),
        (b"- a list", "expected a mapping"),
        (b"\xff\xfe", "not UTF-8"),
        (b"", "expected a mapping"),
    ],
)
def test_a_file_that_is_no_parameter_file_is_one_line(tmp_path: Path, text, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_params(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file"):
        load_params(tmp_path / "params.yaml")


def test_json_reads_the_same_as_yaml(tmp_path: Path):
    path = tmp_path / "params.json"
    path.write_text(json.dumps(CONTENT))
    assert load_params(path) == parse(Params, CONTENT, "")


def test_keys_that_came_later_do_not_change_what_older_models_say_of_themselves():
    backbone = parse(ExperimentConfig, EXPERIMENT, "").backbone
    dumped = backbone.model_dump(mode="json")
    assert not {"hvae", "nvae"} & dumped.keys()
    assert "name" not in dumped["training"]["optimiser"]
    content = changed(backbone={"training": {"epochs": 1, "optimiser": {"name": "adamax"}}})
    changed_one = parse(ExperimentConfig, content, "").backbone
    assert changed_one.model_dump(mode="json")["training"]["optimiser"]["name"] == "adamax"
    assert parse(type(backbone), dumped, "") == backbone


def test_a_hierarchical_backbone_has_its_own_section_and_no_latent():
    content = changed()
    content["backbone"] = {"arch": "hvae", "training": {"epochs": 1}}
    with pytest.raises(UsageError, match="section 'hvae' is missing"):
        parse(ExperimentConfig, content, "experiments.first")
    content["backbone"]["hvae"] = {"layers": [{"dense": 4}], "widths": [8]}
    backbone = parse(ExperimentConfig, content, "").backbone
    assert parse(type(backbone), backbone.model_dump(mode="json"), "") == backbone
    content["backbone"]["hvae"]["layers"] = [{"dense": 4, "conv": [2, 2]}]
    with pytest.raises(UsageError, match="exactly one of 'dense' and 'conv'"):
        parse(ExperimentConfig, content, "experiments.first")
    with pytest.raises(UsageError, match="needs arch 'hvae'"):
        parse(
            ExperimentConfig,
            changed(backbone={"hvae": {"layers": [{"dense": 1}], "widths": [1]}}),
            "",
        )


def test_no_key_has_a_name_that_the_run_cache_of_dvc_leaves_out():
    """DVC takes files' ``size`` and ``nfiles`` out of what it looks a run up by, and parameters of
    these names with them: a changed value would restore what another value built.
    """
    meta = pytest.importorskip("dvc_data.hashfile.meta").Meta
    left_out = {meta.PARAM_SIZE, meta.PARAM_NFILES}
    keys = {entry.key for table in tables() for entry in table.entries}
    assert {"side", "latent", "levels"} <= keys
    assert not left_out & keys
