"""What is typed happens: every parameter can be set, by DVC's own writer, alone."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides

from ldebm.config import Params, RunConfig, load_params
from ldebm.config.sections import explicit
from ldebm.errors import UsageError
from ldebm.yaml_text import alias_line, format_yaml, parse_yaml
from pipelines.building import select
from pipelines.library import Library
from pipelines.selection import select_run, status, write_params
from pipelines.types import Selection
from tests.pipeline.guides import PAGES, shown
from tests.pipeline.project_copy import ProjectCopy

ROOT = Path(__file__).parents[2]
LIBRARY = Library(ROOT)


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of this project's params.yaml beside its conf/."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


def leaves(content: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values, without the mappings that hold them."""
    for name, value in content.items():
        key = f"{above}.{name}" if above else name
        if isinstance(value, dict) and value:
            yield from leaves(value, key)
        else:
            yield key, value


def other(value: Any) -> tuple[Any, str]:
    """A value that differs, and how it is typed."""
    if isinstance(value, bool):
        return (not value, str(not value).lower())
    if isinstance(value, int | float):
        return (value + 1, repr(value + 1))
    if isinstance(value, str):
        return ("other", "other")
    if isinstance(value, list):
        plain = [item for item in value if not isinstance(item, dict)]
        return ([*plain, 7], json.dumps([*plain, 7]))
    return (7, "7")


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key."""
    *above, last = key.split(".")
    for part in above:
        content = content[part]
    content[last] = value


def set_and_compare(path: Path, keys: list[tuple[str, Any]]) -> None:
    """Sets keys as ``dvc exp run -S`` does; the file has exactly those values on their lines."""
    before = path.read_text()
    head = re.match(r"(#.*\n)*", before)[0]
    content = parse_yaml(before)
    overrides = []
    for key, old in keys:
        value, typed = other(old)
        put(content, key, value)
        overrides.append(f"{key}={typed}")
    apply_overrides(path, overrides)
    assert path.read_text() == head + format_yaml(content)


def alone(name: str, folder: Path) -> tuple[Path, list[tuple[str, Any]]]:
    """A params.yaml with one experiment, and all its leaves."""
    params = LIBRARY.params(RunConfig(datasets=[], experiments=[name], seeds=[0]))
    path = folder / "params.yaml"
    write_params(path, params)
    return path, [item for item in leaves(explicit(params)) if item[1] != {}]


@pytest.mark.parametrize("name", LIBRARY.experiments)
def test_every_parameter_of_every_experiment_is_set_by_dvc_and_no_other_line_changes(
    name: str, tmp_path: Path
):
    """Half of the leaves, then the other half: a value that two keys shared would show."""
    path, overrides = alone(name, tmp_path)
    text = path.read_text()
    assert alias_line(text) is None
    for half in (overrides[::2], overrides[1::2]):
        path.write_text(text)
        set_and_compare(path, half)


@pytest.mark.long
@pytest.mark.parametrize("name", LIBRARY.experiments)
def test_every_parameter_of_every_experiment_is_set_by_dvc_one_at_a_time(name: str, tmp_path: Path):
    path, overrides = alone(name, tmp_path)
    text = path.read_text()
    for item in overrides:
        path.write_text(text)
        set_and_compare(path, [item])


def test_params_yaml_is_what_conf_gives():
    state = status(ROOT / "params.yaml")
    assert state.differences == ()
    assert state.params.run.experiments == LIBRARY.groups["embedded"]
    assert alias_line((ROOT / "params.yaml").read_text()) is None


def test_every_file_of_conf_is_used_and_without_aliases():
    texts = {
        path.relative_to(ROOT / "conf").with_suffix("").as_posix(): path.read_text()
        for path in (ROOT / "conf").rglob("*.yaml")
    }
    for place, text in texts.items():
        assert alias_line(text) is None, place
        kind = place.split("/")[0]
        if kind in ("preset", "template"):
            last = place.rpartition("/")[2]
            named = re.compile(rf"- (/{place}(@[\w.]+)?|{last})$", re.MULTILINE)
            used = kind == "template" or any(named.search(other) for other in texts.values())
            assert used, f"{place} is used by no file"
    for name in LIBRARY.data:
        LIBRARY.dataset(name)


def documented() -> list[tuple[str, str]]:
    """Settings of ``-S`` in README and docs with their pages; grids of a sweep among them."""
    pairs = []
    for page in PAGES:
        for item in shown(page):
            words = shlex.split(item.text, comments=True) if item.kind in ("sh", "inline") else []
            for flag, word in itertools.pairwise(words):
                if flag in ("-S", "--set-param", "sweep") and re.match(r"[\w.-]+=", word):
                    pairs.append((page, word))
    return sorted({item for item in pairs if item[1] != "key=value"})


@pytest.mark.parametrize(("page", "setting"), documented())
def test_every_setting_of_the_guides_changes_its_value(page: str, setting: str, params: Path):
    key, _, value = setting.partition("=")
    if key.startswith("experiments.") and key.split(".")[1] not in load_params(params).experiments:
        select_run(params, [key.split(".")[1]])
    before = dict(leaves(parse_yaml(params.read_text())))
    for one in [value] if value.startswith("[") else value.split(","):
        apply_overrides(params, [f"{key}={one}"])
        after = dict(leaves(parse_yaml(params.read_text())))
        assert str(after[key]) == str(parse_yaml(one)), f"{page}: {setting}"
        assert {**after, key: before[key]} == before, f"{page}: {setting}"
        load_params(params)


def selections() -> list[tuple[str, str]]:
    """The ``ldebm select`` and ``make repro RUN=`` lines of README and docs."""
    pairs = []
    for page in PAGES:
        for item in shown(page):
            text = item.text.partition("&&")[0]
            if made := re.search(r"make repro (RUN=.*)", text):
                options = dict(pair.split("=", 1) for pair in shlex.split(made[1]))
                words = [options.get("RUN", "").replace(",", " ")]
                words += [
                    f"--{k.lower()} {options[k]}" for k in ("SEEDS", "EPOCHS") if k in options
                ]
                pairs.append((page, " ".join(words)))
            elif text.startswith("ldebm select "):
                pairs.append((page, text.removeprefix("ldebm select ").strip()))
    own = re.compile(r"\.\.\.|NAME|GROUP|EXPERIMENT|<|--status|--save|\bletters|\btalk|\bmine")
    return sorted({item for item in pairs if not own.search(item[1])})


@pytest.mark.parametrize(("page", "line"), selections())
def test_every_selection_of_the_guides_is_composed(page: str, line: str, params: Path):
    words = shlex.split(line)
    names = [word for word in words if not word.startswith("--")]
    options: dict[str, str] = {}
    for flag in ("--seeds", "--epochs"):
        if flag in words:
            options[flag[2:]] = words[words.index(flag) + 1]
            names.remove(options[flag[2:]])
    run = select_run(params, names, **options)
    wanted = LIBRARY.expand(names) if names else load_params(params).run.experiments
    assert run.experiments == wanted, f"{page}: {line}"
    assert status(params).differences == ()


def ran_with(project: ProjectCopy, folder: Path, stage: str, key: str) -> Any:
    """The value of a key in the lineage record of the last run of a stage."""
    records = [json.loads(path.read_text()) for path in (folder / "lineage").glob("*.json")]
    last = max((r for r in records if r["stage"] == stage), key=lambda record: record["started"])
    content: Any = dict(leaves(last["params"]))
    return content[key]


SETTINGS = [
    ("prior", "prior.levels", 4),
    ("prior", "prior.training.updates", 400),
    ("evaluate", "evaluate.samples", 700),
    ("cluster", "cluster.restarts", 3),
    ("backbone", "backbone.kl_weight", 0.7),
]


@pytest.mark.long
@pytest.mark.pipeline
def test_dvc_exp_run_sets_what_is_typed(tmp_path: Path):
    """Real runs on an experiment of the embedded set: the record of the run has the value."""
    project = ProjectCopy(tmp_path / "project", params=None)
    project.ldebm("select", "gaussians16-ldebm")
    project.commit("one experiment")
    project.dvc("repro", "-q")
    project.commit("built")
    name = "experiments.gaussians16-ldebm"
    for stage, key, value in SETTINGS:
        project.dvc("exp", "run", "-q", "-n", key.replace(".", "-"), "-S", f"{name}.{key}={value}")
        changed = json.loads(project.dvc("params", "diff", "--json"))["params.yaml"]
        assert {key: row["new"] for key, row in changed.items()} == {f"{name}.{key}": value}
        seen = ran_with(project, project.folder, f"{stage}@gaussians16-ldebm-0", f"{name}.{key}")
        assert seen == value
        project.git("checkout", "-q", ".")
        project.dvc("checkout", "-q")
    project.dvc("exp", "run", "-q", "--temp", "-n", "aside", "-S", f"{name}.prior.levels=5")
    project.dvc("exp", "run", "-q", "--queue", "-n", "later", "-S", f"{name}.prior.levels=3")
    project.dvc("queue", "start", "-q")
    project.dvc("queue", "logs", "-f", "later")
    for made, levels in (("aside", 5), ("later", 3)):
        shown = json.loads(project.dvc("params", "diff", "HEAD", made, "--json"))["params.yaml"]
        assert {key: row["new"] for key, row in shown.items()} == {f"{name}.prior.levels": levels}
        assert json.loads(project.dvc("metrics", "diff", "HEAD", made, "--json"))


def test_several_overrides_of_a_flow_take_effect_together(params: Path):
    one = "experiments.gaussians16-ldebm.prior"
    settings = (f"{one}.training.updates=50", f"{one}.mi_weight=0.02", "run.seeds=[3,4]")
    select(params, Selection(overrides=settings))
    read = load_params(params)
    prior = read.experiment("gaussians16-ldebm").prior
    assert (prior.training.updates, prior.mi_weight, read.run.seeds) == (50, 0.02, [3, 4])


def test_an_unknown_key_of_a_flow_is_an_error_and_changes_nothing(params: Path):
    before = params.read_bytes()
    with pytest.raises(UsageError, match=r"override experiments\.nope=1"):
        select(params, Selection(overrides=("experiments.nope=1",)))
    assert params.read_bytes() == before


def test_a_misspelt_key_of_a_flow_brings_the_nearest(params: Path):
    before = params.read_bytes()
    for key, meant in (("prior.levls", "'levels'"), ("lr", "'backbone.training.optimiser.lr'")):
        with pytest.raises(UsageError, match=f"unknown key '.*{key}'; did you mean {meant}"):
            select(params, Selection(overrides=(f"experiments.chatter-ldebm.{key}=4",)))
        assert params.read_bytes() == before


def test_a_build_elsewhere_takes_what_was_typed_with_it(params: Path):
    """The copy of a worktree: edits of experiments that stay selected go with them."""
    apply_overrides(params, ["experiments.chatter-ldebm.prior.levels=4"])
    select(params, Selection(experiments=("chatter-ldebm", "chatter-svebm")), "copy")
    read = load_params(params)
    assert read.experiment("chatter-ldebm").prior.levels == 4
    assert read.experiment("chatter-svebm").prior.kind == "svebm"
    assert set(read.experiments) == {"chatter-ldebm", "chatter-svebm"}
    assert isinstance(read, Params)
