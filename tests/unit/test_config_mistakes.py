"""Every mistake in the parameters of real experiments is told in one line that names the key."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ldebm.config import (
    DataConfig,
    ExperimentConfig,
    ImageClassifierConfig,
    Params,
    RetrainConfig,
    load_params,
    nearest,
    parse,
)
from ldebm.config.checking import Kind, expected
from ldebm.config.sections import Section
from ldebm.errors import UsageError
from ldebm.yaml_text import parse_yaml

ROOT = Path(__file__).parents[2]
REAL = [  # of every kind of data, backbone and prior
    (ExperimentConfig, "experiments.gaussians16-ldebm"),
    (ExperimentConfig, "experiments.chatter-ldebm-labels"),
    (ExperimentConfig, "experiments.digits-hvae"),
    (DataConfig, "data.chatter"),
    (DataConfig, "data.digits"),
    (ImageClassifierConfig, "data.digits.image_classifier"),
    (RetrainConfig, "retrain"),
]
Keys = tuple[str | int, ...]


@pytest.fixture(scope="module")
def real() -> list[tuple[type[Section], str, dict[str, Any]]]:
    """Sections of params.yaml with every key, defaults included."""
    params = load_params(ROOT / "params.yaml")
    sections = []
    for section, where in REAL:
        node: Any = params
        for part in where.split("."):
            node = node[part] if isinstance(node, dict) else getattr(node, part)
        whole = json.loads(json.dumps(dict(node), default=dict))
        parse(section, whole)
        sections.append((section, where, whole))
    return sections


def places(value: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every key and item below ``value``."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*path, key), inner
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def at(content: Any, path: Keys) -> Any:
    """What stands at a path."""
    for part in path:
        content = content[part]
    return content


def told(section: type[Section], content: Any, where: str = "") -> str:
    """What is said of ``content``."""
    with pytest.raises(UsageError) as caught:
        parse(section, content, where, "mine.yaml")
    text = str(caught.value)
    assert text.startswith("mine.yaml: ")
    assert "\n" not in text
    return text


def changed(content: Any, path: Keys, value: Any) -> Any:
    """``content`` with another value at a path."""
    content = copy.deepcopy(content)
    at(content, path[:-1])[path[-1]] = value
    return content


def is_key(path: Keys) -> bool:
    """Whether the last part is a key of a section, and not a name that the user chose."""
    names = ("rules", "guards", "checksums", "attributes", "columns")
    return isinstance(path[-1], str) and (len(path) == 1 or path[-2] not in names)


def test_every_key_that_is_misspelt_is_the_nearest_to_its_misspelling(real):
    count = 0
    for section, where, content in real:
        for path, _ in places(content):
            if not is_key(path):
                continue
            key, parent = str(path[-1]), at(content, path[:-1])
            middle = len(key) // 2
            for typo in (key + "s", key[:middle] + key[middle:][:1] + key[middle:], key[:-1]):
                if typo in parent:  # `step` and `steps`
                    continue
                wrong = copy.deepcopy(content)
                node = at(wrong, path[:-1])
                node[typo] = node.pop(key)
                text = told(section, wrong, where)
                full = ".".join(map(str, (where, *path[:-1], typo)))
                assert f"unknown key {full!r}; did you mean {key!r}?" in text, text
                count += 1
    assert count > 1000


def wrong_values(value: Any) -> list[Any]:
    """Values of types that no place with this value can have."""
    if isinstance(value, bool):
        return ["yes", 2, [True], float("nan")]
    if isinstance(value, int | float):
        return ["much", True, {"a": 1}, float("nan"), float("inf")]
    if isinstance(value, str):
        return [True, ["a"], {"a": 1}]
    return ["much", 7, True] if isinstance(value, dict | list) else [[[1]]]


def test_every_value_of_a_wrong_type_is_named_with_what_was_expected(real):
    count = 0
    for section, where, content in real:
        for path, value in places(content):
            for bad in wrong_values(value):
                text = told(section, changed(content, path, bad), where)
                key = ".".join(map(str, (where, *path)))
                assert f"mine.yaml: {key}" in text or f"unknown key '{key}." in text, text
                assert "expected " in text or "unknown key" in text, text
                count += 1
    assert count > 1500


def test_a_section_that_is_left_empty_is_named(real):
    optional = (
        "classifier",
        "text_classifier",
        "context",
        "supervision",
        "hierarchy",
        "image_classifier",
        "mixture",
        "refinement",
    )  # null: their defaults
    for section, where, content in real:
        for path, value in places(content):
            if isinstance(value, dict) and path[-1] not in optional:
                said = told(section, changed(content, path, None), where)
                key = ".".join(map(str, (where, *path)))
                assert f"{key}: expected a " in said or "section 'hvae' is missing" in said, said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prior.levls", 4, "unknown key 'experiments.one.prior.levls'; did you mean 'levels'?"),
        ("levels", 4, "unknown key 'experiments.one.levels'; did you mean 'prior.levels'?"),
        ("prior.lr", 4, "did you mean 'training.optimiser.lr'?"),
        (
            "prior.levels",
            "4",
            "expected an integer of at least 2, got '4'; write it without quotes",
        ),
        ("prior.levels", 1, "expected an integer of at least 2, got 1"),
        ("prior.levels", 4.5, "expected an integer of at least 2, got 4.5"),
        ("prior.training.optimiser.lr", "1e-3", "got '1e-3'; write it without quotes"),
        ("prior.training.optimiser.betas", [0.9], "optimiser.betas.1' is missing"),
        ("prior.base", "yes", "expected true or false, got 'yes'; write true"),
        ("cluster.column", True, "expected a string or null, got true; put it in quotes"),
        ("cluster.pool_seed", "rn", "expected an integer, 'run' or 'first', got 'rn'"),
        ("prior.kind", "svbm", "expected 'gaussian', 'mixture', 'flow', 'svebm', 'diffusion'"),
        ("data", "poinst", "experiments.one.data: 'poinst' is not in 'data'; did you mean"),
    ],
)
def test_a_mistake_is_told_with_the_way_out(key, value, said):
    path = ("experiments", "one", *key.split("."))
    assert said in told(Params, changed(one(), path, value))


def one() -> dict[str, Any]:
    """Parameters of one experiment."""
    training: dict[str, Any] = {"updates": 3, "optimiser": {}}
    return {
        "run": {"datasets": ["points"], "experiments": ["one"], "seeds": [0]},
        "data": {"points": {"kind": "points", "source": "gaussians16", "columns": {}}},
        "experiments": {
            "one": {
                "data": "points",
                "backbone": {"arch": "mlp", "latent": 2, "training": dict(training)},
                "cluster": {},
                "evaluate": {},
                "prior": {"training": training},
            }
        },
    }


def test_mistakes_beyond_the_first_are_counted():
    content = one()
    content["experiments"]["one"]["prior"]["training"] = {"updats": 3, "batch": 0, "threads": "a"}
    content["retrain"] = {"seeds": "no"}
    text = told(Params, content)
    assert "training.updats'; did you mean 'updates'? (and 3 more mistakes)" in text


def test_a_misspelt_name_brings_the_one_that_was_meant():
    content = one()
    content["experiments"]["oone"] = {"prior": {"levels": 4}}
    said = "'experiments.oone.data' is missing; expected a string; did you mean 'one' by 'oone'?"
    assert said in told(Params, content)
    content["experiments"]["oone"] = {**content["experiments"]["one"], "backbone": {"latent": 1}}
    assert "did you mean" not in told(Params, content)


def test_a_role_that_no_column_can_have_names_the_nearest():
    content = changed(one(), ("data", "points", "columns"), {"lable": "a"})
    said = "unknown key 'data.points.columns.lable'; did you mean 'label'?"
    assert said in told(Params, content)


@pytest.mark.parametrize(("key", "name"), [("run.experiments", "oen"), ("run.datasets", "point")])
def test_what_is_selected_has_to_exist(key, name):
    text = told(Params, changed(one(), tuple(key.split(".")), [name]))
    assert f"mine.yaml: {key}: {name!r} is not in" in text
    assert "did you mean" in text


def test_the_file_that_was_read_is_named(tmp_path: Path):
    path = tmp_path / "other.yaml"
    path.write_text("run: {datasets: [], experiments: [], seeds: [], epoch: 3}\n")
    with pytest.raises(UsageError, match=r"other\.yaml: unknown key 'run\.epoch'") as caught:
        load_params(path)
    assert "params.yaml" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "true: {kind: points}",
            "YAML reads a key of data as true, not as a string; put it in quotes",
        ),
        ("2024: {kind: points}", "YAML reads a key of data as 2024, not as a string"),
        ("mine: {path: 2024-01-01}", "data.mine.path: YAML reads this as 2024-01-01"),
        (
            "mine: {kind: points, source: 1.5}",
            "data.mine.source: expected a string, got 1.5; put it in quotes",
        ),
        (
            "mine: {kind: points, source: a, train: .nan}",
            "data.mine.train: expected an integer greater than 0 or null, got",
        ),
        ("mine:", "data.mine: expected a section, got nothing (null)"),
    ],
)
def test_what_yaml_reads_otherwise_is_told(tmp_path: Path, text, said):
    path = tmp_path / "params.yaml"
    run = "run: {datasets: [], experiments: [], seeds: [0]}\nexperiments: {}\n"
    path.write_text(f"{run}data:\n  {text}\n")
    with pytest.raises(UsageError) as caught:
        load_params(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cluster", {"labels": "given", "column": "intnt"}),
        ("backbone.supervision", {"column": "intnt", "weight": 1}),
        ("evaluate", {"label_column": ["mode", "intnt"]}),
    ],
)
def test_a_label_column_that_the_data_set_lacks_is_told_at_once(key, value):
    content = changed(one(), ("experiments", "one", *key.split(".")), value)
    parse(Params, content)  # which labels the source has, only the source knows
    content["data"]["points"]["labels"] = ["mode", "intent"]
    text = told(Params, content)
    assert f"experiments.one.{key}" in text
    assert "'intnt' is not a label of data set 'points'; did you mean 'intent'?" in text
    content["data"]["points"] |= {"labels": [], "source": "file", "path": "mine.csv"}
    assert "is not a label of data set 'points'" in told(Params, content)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", "0.001"])
def test_a_number_with_an_exponent_is_a_number_as_dvc_reads_it(text):
    assert parse_yaml(f"a: {text}") == {"a": 0.001}
    assert parse_yaml(f"a: '{text}'") == {"a": text}


def test_a_whole_number_may_be_written_as_1e3():
    content = one()
    content["experiments"]["one"]["prior"]["training"] = parse_yaml("updates: 1e3")
    training = parse(Params, content).experiment("one").prior.training
    assert training.updates == 1000
    assert isinstance(training.updates, int)


def test_long_lists_of_names_are_cut():
    assert nearest("zzz", [f"a{i}" for i in range(100)]).endswith(", ...")
    assert nearest("zzz", []) == ""


def test_limits_in_words():
    assert expected(Kind(float)) == "a number"
    assert expected(Kind(dict[str, list[int]])) == "a mapping of names to lists"
