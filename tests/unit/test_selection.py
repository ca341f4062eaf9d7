"""params.yaml is composed from conf/, and nothing that was typed into it is lost unasked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from ldebm.cli import main
from ldebm.config import load_params
from ldebm.errors import UsageError
from ldebm.files import write_text
from ldebm.yaml_text import parse_yaml
from pipelines.library import Library
from pipelines.selection import select_run, status

FILES = {
    "data/points": "kind: points\nsource: gaussians16\n",
    "data/others": "defaults:\n  - points\n  - _self_\n\nseed: 1\n",
    "preset/prior/short": "levels: 4\ntraining: {updates: 10}\n",
    "experiment/first": (
        "defaults:\n  - /preset/prior/short@prior\n  - _self_\n\n"
        "data: points\nbackbone: {arch: mlp, latent: 2, training: {epochs: 1}}\n"
    ),
    "experiment/more/second": (
        "defaults:\n  - /experiment/first@_here_\n  - _self_\n\ndata: others\nprior: {levels: 5}\n"
    ),
    "groups": "both: [first, more-second]\n",
}
LEVELS = "experiments.first.prior.levels"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a small library, as the working directory; the first experiment selected."""
    for name, text in FILES.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    select_run("params.yaml", ["first"], edits="discard")
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Runs the command; gives exit code, output and error output."""

    def call(*arguments: str) -> SimpleNamespace:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        said = capsys.readouterr()
        return SimpleNamespace(code=stopped.value.code, out=said.out, err=said.err)

    return call


def edit(old: str, new: str, name: str = "params.yaml") -> None:
    text = Path(name).read_text()
    assert old in text
    Path(name).write_text(text.replace(old, new, 1))


def test_an_experiment_is_its_presets_with_its_own_keys_over_them():
    second = Library().experiment("more-second")
    assert (second.data, second.prior.levels, second.prior.training.updates) == ("others", 5, 10)


def test_a_selection_is_written_with_every_key_of_its_experiments_and_data_sets():
    select_run("params.yaml", ["both"], seeds="0,1", epochs="2")
    content = parse_yaml(Path("params.yaml").read_text())
    assert content["run"] == {
        "datasets": ["points", "others"],
        "experiments": ["first", "more-second"],
        "seeds": [0, 1],
        "epochs": 2.0,
    }
    prior = load_params().experiment("first").prior
    assert (
        set(content["experiments"]["first"]["prior"])
        == type(prior).model_fields.keys() - prior.unlisted
    )


def test_seeds_and_lengths_alone_keep_what_was_typed(run):
    edit("levels: 4", "levels: 9")
    assert run("select", "--seeds", "3").code == 0
    assert load_params().experiment("first").prior.levels == 9
    assert [item.key for item in status().edits] == [LEVELS]


def test_a_length_for_all_trainings_stays_and_is_said_until_it_is_taken_back(run):
    line = "run.epochs: 2, in place of the epochs of every training; `ldebm select --epochs null`"
    for arguments in (("first", "--epochs", "2"), ("both",), ("--status",)):
        assert line in run("select", *arguments).out
    assert "run.epochs" not in run("select", "--epochs", "null").out
    assert "run.epochs" not in run("select", "--status").out


def test_composing_over_what_was_typed_is_refused_and_names_it(run):
    edit("levels: 4", "levels: 9")
    before = Path("params.yaml").read_bytes()
    for arguments in (("both",), ("first",), ()):
        said = run("select", *arguments)
        assert said.code == 2
        assert f"{LEVELS}: 9 (conf/: 4)" in said.err
        assert "--save NAME" in said.err
        assert "--discard" in said.err
    assert Path("params.yaml").read_bytes() == before
    assert run("select", "both", "--discard").code == 0
    assert load_params().experiment("first").prior.levels == 4


def test_the_status_names_what_was_typed_and_what_changed_in_conf(run):
    assert run("select", "--status").out == "params.yaml is what conf/ gives\n"
    edit("levels: 4", "levels: 9")
    assert run("select", "--status").out == (
        f"{LEVELS}: 9 (conf/: 4)\n"
        "not in conf/: `--save NAME` keeps these values there, `--discard` drops them\n"
    )
    edit("levels: 9", "levels: 4")
    edit("levels: 4", "levels: 7", "conf/preset/prior/short.yaml")
    said = run("select", "--status").out
    assert f"{LEVELS}: 4 (conf/: 7)" in said
    assert "conf/ was changed" in said
    assert run("select").code == 0, "nothing was typed into params.yaml: it is composed again"
    assert load_params().experiment("first").prior.levels == 7


def test_what_was_typed_becomes_a_file_of_conf_and_is_selected(run):
    edit("levels: 4", "levels: 9")
    said = run("select", "--save", "deep")
    assert (said.code, said.out.splitlines()[0]) == (0, "wrote conf/experiment/deep.yaml")
    assert load_params().run.experiments == ["deep"]
    assert Library().experiment("deep").prior.levels == 9
    assert Library().experiment("deep").prior.training.updates == 10
    assert Library().experiment("first").prior.levels == 4
    assert status().differences == ()


def test_a_data_set_that_was_typed_is_saved_with_the_experiments_that_read_it(run):
    edit("train:", "train: 30")
    assert run("select", "--save", "little").code == 0
    library = Library()
    assert library.dataset("little").train == 30
    assert library.experiment("little").data == "little"
    assert load_params().run.datasets == ["little"]


@pytest.mark.parametrize(
    ("typed", "name", "message"),
    [
        (("levels: 4", "levels: 9"), "first", "is there already"),
        (("levels: 4", "levels: 9"), "no", "YAML reads it as a value"),
        (("levels: 4", "levels: 9"), "1e5", "expected a small letter"),
        (("minimum: 0.0", "minimum: 0.5"), "new", "conf/retrain.yaml"),
        (("# What", "# Whatever"), "new", "nothing to save"),
    ],
)
def test_what_cannot_be_saved_is_one_line_and_nothing_is_written(run, typed, name, message):
    edit(*typed)
    before = {path: path.read_bytes() for path in Path().rglob("*.yaml")}
    said = run("select", "--save", name)
    assert (said.code, message in said.err) == (2, True), said.err
    assert {path: path.read_bytes() for path in Path().rglob("*.yaml")} == before


def test_an_experiment_written_into_params_yaml_by_hand_stays_there_and_is_no_edit(run):
    content = Path("params.yaml").read_text()
    start = content.index("  first:\n")
    end = content.index("retrain:\n")
    block = content[start:end].replace("  first:\n", "  byhand:\n", 1)
    Path("params.yaml").write_text(content[:end] + block + content[end:])
    assert status().edits == ()
    assert run("select", "byhand").code == 0
    assert run("select", "more-second").code == 0
    assert set(load_params().experiments) == {"more-second", "byhand"}


def test_a_file_from_before_conf_says_how_to_go_on(run):
    write_text(Path("params.yaml"), "run: {}\npresets: {}\ngroups: {}\n")
    said = run("select", "--status")
    assert (said.code, "ldebm select embedded --discard" in said.err) == (2, True)
    assert run("select", "both", "--discard").code == 0
    assert load_params().run.experiments == ["first", "more-second"]


def test_an_alias_in_params_yaml_is_refused_with_its_line():
    text = "run: &a {datasets: [], experiments: [], seeds: [0]}\ndata: {}\nexperiments: *a\n"
    Path("params.yaml").write_text(text)
    with pytest.raises(UsageError, match="line 3 has a YAML alias"):
        load_params()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("experiment/first", "data: points\nbackbon: {}\n", "conf/experiment/first.yaml"),
        ("experiment/first", "defaults:\n  - /preset/prior/shrt@prior\n", "shrt"),
        ("experiment/first", "data: [", "conf/experiment/first.yaml"),
        ("experiment/first", "- a\n", "conf/experiment/first.yaml"),
        ("groups", "both: [firs]\n", "did you mean 'first'"),
        ("experiment/more-second", FILES["experiment/first"], "are both called 'more-second'"),
    ],
)
def test_a_mistake_in_conf_is_one_line_that_names_the_file(run, name, text, message):
    Path(f"conf/{name}.yaml").write_text(text)
    said = run("select", "both", "--discard")
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert message in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("firs",), "did you mean 'first'"),
        (("first", "--seeds", "a"), "expected integers"),
        (("first", "--epochs", "-1"), "expected a number above 0"),
        (("first", "--status"), "stand alone"),
        (("--save", "x", "--discard"), "stand alone"),
    ],
)
def test_a_wrong_selection_is_one_line_and_changes_nothing(run, arguments, message):
    before = Path("params.yaml").read_bytes()
    said = run("select", *arguments)
    assert (said.code, message in said.err) == (2, True), said.err
    assert Path("params.yaml").read_bytes() == before


def test_a_group_with_an_experiment_that_is_gone_blocks_no_other_selection(run):
    Path("conf/experiment/more/second.yaml").unlink()
    said = run("select", "both")
    assert (said.code, "'more-second' is no experiment" in said.err) == (2, True)
    assert run("select", "first").code == 0


def test_a_selected_experiment_whose_file_is_gone_is_named_by_the_status(run):
    Path("conf/experiment/first.yaml").unlink()
    said = run("select", "--status").out
    assert "experiments.first is not in conf/: it stays as params.yaml has it\n" in said
