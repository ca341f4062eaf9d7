"""The ``ldebm`` command: what it prints, and one line with exit code 2 for a mistake."""

import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import ldebm.cli
from ldebm.cli import models
from ldebm.files import write_json, write_model
from ldebm.modalities.sentences import TextModel as Texts
from ldebm.model import Model
from tests.unit.imports import imported

PARAMS = """\
# What is built.
run:
  datasets: [points]  # data sets
  experiments: [first]
  seeds: [0]
  epochs: null  # overrides

data:
  points: {kind: points, source: gaussians16}  # the paper's

experiments:
  first:
    data: points
    backbone: {arch: mlp, latent: 2, training: {epochs: 1}}
    prior: {training: {updates: 10}}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch) -> Path:
    """A folder with a parameter file, as the working directory."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TextModel:
    """A model with known answers."""

    config = SimpleNamespace(prior=SimpleNamespace(kind="diffusion", hierarchy=None))
    prior = SimpleNamespace(classes=4, has_classes=True)
    backbone = SimpleNamespace(hierarchical=False)
    class_names = ["ask", "tell", "thank", "greet"]  # noqa: RUF012
    rows = "texts"
    tokenizer = SimpleNamespace(
        unk_id=1, encode=lambda word: [2, 1 if word.startswith("z") else 5, 3]
    )
    label_index, class_labels = Model.label_index, Model.class_labels
    unknown_words, read = Texts.unknown_words, Texts.read

    def generate(self, n, label=None, seed=0, draws=1):
        return [f"text {label} {seed}" + f" of {draws}" * (draws > 1)] * n

    def classify(self, texts):
        return np.eye(4)[[len(text) % 4 for text in texts]]

    def interpolate(self, first, second, steps):
        return [first, *["between"] * (steps - 2), second]


@pytest.fixture
def model(monkeypatch) -> TextModel:
    monkeypatch.setattr(models, "load_target", lambda target, device="auto": TextModel())
    return TextModel()


def one_line(result) -> bool:
    return result.err.count("\n") == 1 and result.err.startswith("ldebm: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat"], "No such command"),
        (["generate"], "Missing argument 'target'. (see `ldebm generate --help`)"),
        (["generate", "first", "-n", "0"], "-n"),
        (["generate", "first", "-n", "many"], "valid integer"),
        (["generate", "first", "--sed", "1"], "No such option"),
        (["generate", "first"], "run `make repro`"),
        (["select", "firs"], "did you mean 'first'"),
        (["classify", "first", "--file", "absent.txt"], "no such file"),
        (["lineage", "first"], "nothing was built"),
        (["lineage", "show", "a", "b"], "usage:"),
        (["lineage", "diff", "a"], "usage:"),
        (["lineage", "verify", "first", "--openlineage", "-"], "--openlineage and --html go with"),
        (["lineage", "first", "--in", "absent"], "nothing was built"),
        (["audit", "prior@first-0"], "no stage of dvc.lock"),
        (["compare", "a", "b"], "no recorded or evaluated run"),
        (["data", "fetch", "point"], "did you mean 'points'"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(run, arguments, message):
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert one_line(result), result.err
    assert message in result.err


@pytest.mark.parametrize("words", [[], ["data"]])
def test_a_group_alone_prints_its_help_and_is_no_error(run, words):
    result = run(*words)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(" ".join(["Usage: ldebm", *words]))


def test_the_list_of_commands_has_a_whole_sentence_for_each(run):
    for words in ([], ["data"]):
        listed = run(*words).out.partition("Commands:")[2].strip().splitlines()
        assert len(listed) >= 3
        cut = [line for line in listed if line.endswith("...")]
        assert not cut


@pytest.mark.parametrize("command", ["generate", "classify", "cluster", "score"])
def test_a_table_in_place_of_a_model_is_refused_without_advice_to_delete_it(
    run, project: Path, command: str
):
    (project / "my.csv").write_text("text\na\n")
    more = ["--file", "my.csv"] if command in ("score", "classify") else []
    result = run(command, "my.csv", *more)
    assert (result.code, one_line(result)) == (2, True)
    assert "my.csv: not a model; expected an experiment" in result.err
    (project / "mine.safetensors").write_bytes(b"weights of another program")
    result = run(command, "mine.safetensors", *more)
    assert (result.code, one_line(result)) == (2, True)
    assert "delete" not in result.err


def test_a_typo_in_params_is_one_line_with_the_nearest_key(run, project: Path):
    (project / "params.yaml").write_text(PARAMS.replace("latent: 2", "latnt: 2"))
    result = run("select", "first")
    assert (result.code, one_line(result)) == (2, True)
    assert "did you mean 'latent'" in result.err


def test_a_corrupt_model_is_one_line(run, project: Path):
    path = project / "models/first/0/prior/model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no model")
    result = run("generate", "first")
    assert (result.code, one_line(result)) == (2, True)
    assert "not a readable ldebm model" in result.err


def test_an_unexpected_failure_is_one_line_and_exit_code_1_and_debug_shows_where(run, monkeypatch):
    def broken(target, device):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(models, "load_target", broken)
    result = run("generate", "first")
    assert (result.code, one_line(result)) == (1, True)
    assert "Traceback" in run("generate", "first", "--debug").err


def test_generating_prints_a_sample_a_line_or_json(run, model):
    assert run("generate", "first", "-n", "2", "--seed", "5").out == "text None 5\n" * 2
    records = json.loads(run("generate", "first", "-n", "1", "--json").out)
    assert records == ["text None 0"]


def test_a_label_is_a_number_or_a_name(run, model):
    assert run("generate", "first", "-n", "1", "--label", "tell").out == "text 1 0\n"
    assert run("generate", "first", "-n", "1", "--label", "3").out == "text 3 0\n"
    assert "or a class from 0 to 3" in run("generate", "first", "--label", "4").err
    assert "expected one of ask, tell" in run("generate", "first", "--label", "tel").err


def test_several_draws_of_a_sentence_are_asked_of_the_model(run, model, monkeypatch):
    said = run("generate", "first", "-n", "1", "--label", "tell", "--draws", "3")
    assert said.out == "text 1 0 of 3\n"
    monkeypatch.setattr(TextModel, "rows", "points")
    refused = run("generate", "first", "--label", "tell", "--draws", "3")
    assert refused.code == 2
    assert "--draws is for models of text" in refused.err


def test_texts_come_from_the_command_line_or_a_file(run, model, project: Path):
    assert run("classify", "first", "abc").out == "greet\t1.000\tabc\n"
    (project / "texts").write_text("ab\n\nabcd\n")
    records = json.loads(run("classify", "first", "--file", "texts", "--json").out)
    assert [row["label"] for row in records] == ["thank", "ask"]
    (project / "texts").write_bytes(b"\xff\xfe")
    assert run("classify", "first", "--file", "texts").code == 2


def test_a_class_says_how_sure_it_is_and_which_words_are_unknown(run, model, monkeypatch):
    p = np.array([[0.1, 0.55, 0.05, 0.3], [0.05, 0.9, 0.05, 0.0]])
    monkeypatch.setattr(TextModel, "classify", lambda self, texts: p[: len(texts)])
    lines = run("classify", "first", "zap is zonk", "all known").out.splitlines()
    assert lines == [
        "tell\t0.550\tzap is zonk\t(unsure, or greet; unknown: zap zonk)",
        "tell\t0.900\tall known",
    ]
    rows = json.loads(run("classify", "first", "zap is zonk", "all known", "--json").out)
    assert rows[0] == {
        "text": "zap is zonk", "label": "tell", "probability": 0.55, "sure": False,
        "next": {"label": "greet", "probability": 0.3}, "unknown": ["zap", "zonk"],
    }  # fmt: skip
    assert rows[1]["sure"]
    assert rows[1]["unknown"] == []


def test_a_key_of_params_yaml_is_explained(run):
    lines = run("config", "prior.levels").out.splitlines()
    assert lines[:2] == ["experiments.NAME.prior.levels", "  an integer of at least 2; default 6"]
    assert "noise levels" in lines[2]
    assert "experiments.NAME.prior.sampler\n  method, steps" in run("config").out
    wrong = run("config", "prior.levls")
    assert wrong.code == 2
    assert "did you mean 'prior.levels'?" in wrong.err


def test_interpolation_shows_both_ends(run, model):
    assert run("interpolate", "first", "a", "b", "--steps", "3").out == "a\nbetween\nb\n"


def test_an_experiment_means_its_smallest_trained_seed(project: Path):
    for seed in (10, 2):
        write_model(project / f"models/first/{seed}/prior/model.safetensors", {}, {})
    assert models.find_model("first") == Path("models/first/2/prior/model.safetensors")
    assert models.find_model("models/first/10").parts[-3] == "10"


def test_what_is_here_of_each_data_set_is_listed_with_its_verdict(run, project: Path):
    (project / "data/raw/points").mkdir(parents=True)
    write_json(project / "reports/validation/points/report.json", {"success": False})
    checks = json.loads(run("data", "check", "--json").out)
    assert checks[0] == {"name": "points", "done": ["raw"], "valid": False}


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help_of_80_columns_with_an_example(run, monkeypatch, flag):
    monkeypatch.setenv("COLUMNS", "80")
    listed = run(flag).out.partition("Commands:")[2].partition("Exit codes")[0]
    names = [line.split()[0] for line in listed.strip().splitlines()]
    assert {"build", "sweep", "retrain", "promote", "audit", "list", "info", "generate"} <= {*names}
    for name in names:
        said = run(name, flag)
        assert said.code == 0
        assert said.out.startswith(f"Usage: ldebm {name}")
        assert max(map(len, said.out.splitlines())) <= 80
        if "Commands:" not in said.out:
            assert f"\n    ldebm {name}" in said.out.partition("Example")[2], name


def test_the_version_is_that_of_the_package(run):
    assert run("--version").out == f"ldebm {ldebm.__version__}\n"


def test_the_version_is_the_same_everywhere():
    root = Path(ldebm.__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    released = re.findall(r"^## \[(\d.*?)\]", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {project["version"], citation["version"], released[0]} == {ldebm.__version__}


def test_the_list_says_what_is_built_stale_and_recorded(run, project, monkeypatch):
    (project / "conf" / "experiment" / "other").mkdir(parents=True)
    other = "data: points\ndescription: Another\n"
    (project / "conf" / "experiment" / "other" / "one.yaml").write_text(other)
    stages = SimpleNamespace(stale=lambda: ["prior@first-1"])
    monkeypatch.setattr("pipelines.listing.read_dag", lambda root: stages)
    for seed in (0, 1):
        folder = project / "models" / "first" / str(seed) / "prior"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        numbers = {"nll": 2.0 + seed, "nll_standard_normal": 4.0}
        write_json(project / "reports" / "first" / str(seed) / "metrics.json", numbers)
    run_file = {"experiment": "other-one", "seed": 3, "metrics": {"fid": 7.5}}
    write_json(project / "results" / "other-one" / "3.json", run_file)
    known = {entry["name"]: entry for entry in json.loads(run("list", "--json").out)}
    assert known["first"]["state"] == "built"  # seed 1 is not selected
    assert known["first"]["headline"] == "NLL 2.50 nats (4.00 with N(0, I))"
    assert known["other-one"] == {
        "name": "other-one",
        "data": "points",
        "description": "Another",
        "selected": False,
        "state": "not built",
        "seeds": [],
        "recorded": 1,
        "headline": "FID 7.50",
    }
    stages.stale = lambda: ["evaluate@first-0"]
    (entry,) = json.loads(run("list", "--here", "--json").out)
    assert (entry["name"], entry["state"], entry["seeds"]) == ("first", "stale", [0, 1])
    assert "first" in run("list", "first").out
    assert "neither a group nor an experiment; did you mean 'first'" in run("list", "firts").err


def test_commands_import_no_more_than_they_need(project: Path):
    assert imported(project, "--help") == {"pipelines"}
    assert imported(project, "data", "list") <= {"pipelines", "pydantic"}
    light = {"numpy", "pipelines", "pyarrow", "pydantic"}
    assert imported(project, "config", "prior") <= light
    assert imported(project, "data", "check") <= light
    assert ldebm.cli.app.registered_commands


def test_commands_on_models_do_not_load_the_pipeline(project: Path):
    assert "pipelines" not in imported(project, "generate", "--help")
    assert "pipelines" in imported(project, "select", "--help")


def test_without_the_pipeline_its_commands_say_so(run, monkeypatch):
    for name in {*ldebm.cli.PROJECT.values(), "pipelines", "pipelines.__main__"}:
        monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    assert "audit " not in run("--help").out
    for words in (["lineage", "models"], ["build"]):
        outcome = run(*words)
        assert outcome.code == 2
        assert f"`ldebm {words[0]}` belongs to the pipeline" in outcome.err
