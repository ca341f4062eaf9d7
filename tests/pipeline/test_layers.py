"""Who may import whom, and that every stage depends on the code that it runs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ldebm.errors import UsageError
from ldebm.files import read_json
from ldebm.sources import closure
from pipelines.lineage.code_lists import code_list
from pipelines.lineage.records import dvc_md5
from stages.code import main, stage_names, write_lists

ROOT = Path(__file__).parents[2]
TOOLS = ("dvc", "prefect", "great_expectations", "polars", "matplotlib", "yaml", "ruamel", "jinja2")
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGE_ONLY = {  # modules that only stages import, and may therefore need more than the core
    "ldebm.data.corpora",
    *(
        f"ldebm.data.kinds{name}"
        for name in (
            "",
            ".base",
            ".dialogues",
            ".documents",
            ".images",
            ".points",
            ".sentences",
            ".spill",
        )
    ),
    "ldebm.data.limits",
    "ldebm.data.packing",
    "ldebm.data.prepare",
    "ldebm.data.turns",
}


def modules(package: str) -> list[str]:
    """Dotted names of a package's modules."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def imported(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, inside functions too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.split(".")[0])
    return modules


def run_blocked(names: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Imports modules in a process where others cannot be imported."""
    script = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({list(blocked)!r}))\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_every_core_module_imports_on_a_machine_that_has_only_the_core():
    names = [name for name in modules("ldebm") if name not in STAGE_ONLY]
    done = run_blocked(names, TOOLS)
    assert done.returncode == 0, done.stderr


def test_the_library_never_imports_the_orchestrators_not_even_lazily():
    for path in (ROOT / "ldebm").rglob("*.py"):
        assert not imported(path) & {
            "dvc",
            "prefect",
            "great_expectations",
            "stages",
            "pipelines",
        }, path


def test_only_the_validate_stage_imports_great_expectations():
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ("ldebm", "stages", "pipelines", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        if "great_expectations" in imported(path)
    }
    assert users <= {"stages/validate.py", "stages/expectations.py"}
    for stage in STAGES:
        if stage != "validate":
            assert not users & set(closure(f"stages.{stage}", ROOT)), stage


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "code"])
def test_a_stage_depends_on_the_list_of_the_code_that_it_imports(stage, tmp_path):
    assert code_list(stage) in STAGES[stage]["deps"]
    assert {code_list(stage): {"cache": False}} in STAGES["code"]["outs"]
    assert f"stages/{stage}.py" in closure(f"stages.{stage}", ROOT)


def test_what_a_stage_loads_is_on_its_list():
    """The lists come from the syntax tree; this is what Python really imports."""
    script = (
        "import sys, stages.evaluate\n"
        "ours = ('ldebm', 'pipelines', 'stages')\n"
        "found = [m.__file__ for name, m in sys.modules.items()"
        " if name.split('.')[0] in ours and getattr(m, '__file__', None)]\n"
        "print(*found, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {Path(line).relative_to(ROOT).as_posix() for line in done.stdout.split()}
    assert "ldebm/config/params.py" in loaded
    assert loaded <= set(closure("stages.evaluate", ROOT))


def test_every_change_of_code_runs_the_stage_that_lists_it():
    assert STAGES["code"]["deps"] == ["ldebm", "params.yaml", "pipelines", "plugins", "stages"]


def test_the_closure_names_the_stages_of_the_dag():
    assert stage_names(ROOT) == list(STAGES)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project with every kind of import."""
    files = {
        "ldebm/__init__.py": "def __getattr__(name):\n    from ldebm import model\n",
        "ldebm/model.py": "import ldebm.deep",
        "ldebm/deep.py": "",
        "ldebm/used.py": "def f():\n    from .late import g\n",
        "ldebm/used.toml": "",
        "ldebm/late.py": "import os\n"
        "import typing\nif typing.TYPE_CHECKING:\n    import ldebm.typed\n",
        "ldebm/typed.py": "",
        "stages/__init__.py": "",
        "stages/one.py": "import os\nfrom ldebm.used import f\n",
        "stages/two.py": "import ldebm\nldebm.load()\n",
        "dvc.yaml": "\nstages:\n  code:\n    cmd: x\n  one:\n    cmd: x\n  two:\n    cmd: x\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_closure_follows_imports_in_functions_but_not_those_for_types(small: Path):
    expected = ["ldebm/__init__.py", "ldebm/late.py", "ldebm/used.py", "ldebm/used.toml"]
    assert closure("stages.one", small) == [*expected, "stages/__init__.py", "stages/one.py"]


def test_lazy_imports_of_a_package_count_only_where_the_package_itself_is_used(small: Path):
    files = closure("stages.two", small)
    assert {"ldebm/model.py", "ldebm/deep.py"} <= set(files)


def test_a_list_has_the_hash_of_every_file_and_changes_with_it(small: Path):
    write_lists(small)
    one = read_json(small / "data/code/one.json")
    assert one == {name: dvc_md5(small / name) for name in closure("stages.one", small)}
    before = {stage: (small / code_list(stage)).read_bytes() for stage in ("one", "two")}
    (small / "ldebm/late.py").write_text("import os\n")
    write_lists(small)
    assert (small / code_list("one")).read_bytes() != before["one"]
    assert (small / code_list("two")).read_bytes() == before["two"]
    assert not (small / code_list("code")).exists()


@pytest.mark.parametrize(
    ("datasets", "typo", "said"),
    [
        ("[dots]", "levls: 2", "unknown key 'experiments.one.prior.levls'; did you mean 'levels'"),
        ("[]", "levels: 2", "experiment 'one' uses data set 'dots', which is not built: add dots"),
    ],
)
def test_wrong_parameters_stop_the_stage_which_writes_its_lists_all_the_same(
    small: Path, monkeypatch, datasets, typo, said
):
    backbone = "backbone: {arch: mlp, latent: 2, training: {updates: 1}}"
    prior = f"prior: {{{typo}, training: {{updates: 1}}}}"
    (small / "params.yaml").write_text(
        f"run: {{datasets: {datasets}, experiments: [one], seeds: [0]}}\n"
        "data: {dots: {kind: points, source: gaussians16}}\n"
        f"experiments: {{one: {{data: dots, {backbone}, {prior}}}}}\n"
    )
    monkeypatch.chdir(small)
    monkeypatch.setattr("sys.argv", ["stages.code"])
    with pytest.raises(UsageError, match=said):
        main()
    assert (small / code_list("one")).exists()
