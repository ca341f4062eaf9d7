"""The rules of dvc.yaml that keep the run cache, the hashes and the diffs working."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ldebm.config import load_params

ROOT = Path(__file__).parents[2]
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DAG["stages"]
MAX_FILES = 50


def paths(stage: str, kind: str) -> list[str]:
    """The paths that a stage lists under a key."""
    return [
        next(iter(item)) if isinstance(item, dict) else item for item in STAGES[stage].get(kind, [])
    ]


def outputs(stage: str) -> list[str]:
    return [path for kind in ("outs", "plots", "metrics") for path in paths(stage, kind)]


def test_no_key_that_switches_the_run_cache_off():
    text = (ROOT / "dvc.yaml").read_text()
    for key in ("persist", "always_changed", "frozen", "foreach"):
        assert not re.search(rf"^\s*-?\s*{key}:", text, re.MULTILINE), key


def test_metrics_and_lists_of_code_are_in_git_and_everything_else_in_the_cache():
    for stage, content in STAGES.items():
        in_git = [*content.get("metrics", []), *(content["outs"] if stage == "code" else [])]
        for item in in_git:
            assert next(iter(item.values())) == {"cache": False}, stage
        for kind in ("outs", "plots") if stage != "code" else ():
            for item in content.get(kind, []):
                options = next(iter(item.values())) if isinstance(item, dict) else {}
                assert "cache" not in options, stage


def test_matrices_are_lists_of_scalars_from_the_run_section():
    run = load_params(ROOT / "params.yaml").run
    for content in STAGES.values():
        for values in content.get("matrix", {}).values():
            name = re.fullmatch(r"\$\{run\.(\w+)\}", values)[1]
            assert all(isinstance(item, str | int) for item in getattr(run, name))


def test_every_experiment_and_data_set_has_the_keys_that_its_stages_ask_for():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for stage, content in STAGES.items():
        for path in content.get("params", []):
            match = re.fullmatch(r"(\w+)\.\$\{item\.\w+\}((\.\w+)*)", path)
            for name, place in params[match[1]].items() if match else []:
                for key in match[2].split(".")[1:]:
                    assert key in place, f"{stage}@{name}: {path} is missing"
                    place = place[key]


def test_a_command_is_the_stage_and_its_keys_and_nothing_else():
    for stage, content in STAGES.items():
        keys = [f" --{key} ${{item.{key}}}" for key in content.get("matrix", {})]
        assert content["cmd"] == f"python -m stages.{stage}{''.join(keys)}"


def test_every_output_is_written_by_one_instance_of_one_stage():
    seen: set[str] = set()
    for stage, content in STAGES.items():
        for path in outputs(stage):
            assert path not in seen
            assert not any(path.startswith(f"{other}/") for other in seen)
            seen.add(path)
            for key in content.get("matrix", {}):
                assert f"${{item.{key}}}" in path


def test_a_prior_parameter_runs_prior_and_what_follows_only():
    readers = {
        stage: keys
        for stage, content in STAGES.items()
        if (keys := [p for p in content.get("params", []) if ".prior" in p])
    }
    # Geometric clustering needs the number of classes, and no other key of the prior; `bind` names
    # the plugin that the prior may be.
    assert readers == {
        "bind": ["experiments.${item.experiment}.prior.kind"],
        "cluster": ["experiments.${item.experiment}.prior.classes"],
        "prior": ["experiments.${item.experiment}.prior"],
    }


def test_only_the_stage_that_lists_code_depends_on_a_whole_package():
    for stage in STAGES.keys() - {"code"}:
        for dep in paths(stage, "deps"):
            assert dep not in ("ldebm", "pipelines", "stages"), stage
            assert not dep.startswith("ldebm/"), stage


def test_every_experiment_reads_a_data_set_that_is_defined():
    params = load_params(ROOT / "params.yaml")
    selected = {data for name in params.run.experiments for data in params.datasets_of(name)}
    assert selected == set(params.run.datasets)


def test_every_parameter_that_dvc_watches_is_in_the_file():
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for stage, content in STAGES.items():
        for key in content.get("params", []):
            name = "data" if "item.data" in key else "experiments"
            for value in params["run"]["datasets" if name == "data" else "experiments"]:
                node = params
                for part in re.sub(r"\$\{item\.\w+\}", value, key).split("."):
                    assert part in node, f"{stage}: {key} for {value}"
                    node = node[part]


def test_outputs_that_are_here_have_few_files():
    folders = [
        ROOT / re.sub(r"\$\{item\.\w+\}", "*", path) for stage in STAGES for path in outputs(stage)
    ]
    for pattern in folders:
        for out in ROOT.glob(pattern.relative_to(ROOT).as_posix()):
            if out.is_dir():
                assert sum(item.is_file() for item in out.rglob("*")) <= MAX_FILES, out


def test_what_dvc_keeps_is_ignored_by_git_and_metrics_and_lists_of_code_are_not():
    for stage in STAGES:
        for kind in ("outs", "plots", "metrics"):
            for path in paths(stage, kind):
                name = re.sub(r"\$\{item\.\w+\}", "x", path)
                done = subprocess.run(
                    ["git", "check-ignore", "-q", "--no-index", name], cwd=ROOT, check=False
                )
                if done.returncode > 1:
                    pytest.skip("not a git checkout")
                in_git = kind == "metrics" or stage == "code"
                assert (done.returncode == 0) == (not in_git), name


def test_telemetry_is_off():
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    makefile = (ROOT / "Makefile").read_text()
    for name in ("DO_NOT_TRACK", "DVC_NO_ANALYTICS", "PREFECT_SERVER_ANALYTICS_ENABLED"):
        assert f"export {name}" in makefile


def test_every_package_is_pinned_exactly_and_without_a_url():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in pins)
    versions = dict(line.lower().split("==") for line in pins)
    assert tuple(map(int, versions["fastapi"].split(".")))[:2] < (0, 155)
    assert "torch" in versions
