"""A small project with a lock, records and committed code, for the tests of lineage."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

from ldebm.files import hash_path, read_json, write_json
from pipelines.lineage.records import dvc_md5, record_name, recorded, records, seal

MODEL = "models/e/0/prior/model.safetensors"
CODE = ["ldebm/__init__.py", "ldebm/files.py", "stages/prior.py"]


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def execute(root: Path, stage: str, inputs: list[str], outputs: dict[str, str], **params) -> dict:
    """Runs a stage that writes text; returns its entry of dvc.lock."""
    command = f"python -m stages.{stage.split('@')[0]} --experiment e --seed 0"
    with recorded(
        stage, inputs=inputs, outputs=list(outputs), params=params, seed=0, root=root,
        command=command,
    ):  # fmt: skip
        for path, text in outputs.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
    edit_record(root, stage, lambda record: record | {
        "code": {path: hash_path(root / path) for path in CODE},
        "code_md5": {path: dvc_md5(root / path) for path in CODE},
    })  # fmt: skip
    return {
        "cmd": command,
        "deps": [{"path": path, "md5": dvc_md5(root / path)} for path in [*inputs, *CODE]],
        "params": {"params.yaml": params},
        "outs": [{"path": path, "md5": dvc_md5(root / path)} for path in outputs],
    }


def record_of(root: Path, stage: str) -> Path:
    return root / next(item["file"] for item in records(root) if item["stage"] == stage)


def edit_record(root: Path, stage: str, change: Callable[[dict], dict]) -> Path:
    """Changes a record as a careful forger would: its seal and name fit again."""
    path = record_of(root, stage)
    record = change(read_json(path))
    path.unlink()
    target = path.parent / record_name(record)
    write_json(target, record | {"seal": seal(record)})
    return target


def build(tmp_path: Path) -> Path:
    """A data set and an experiment, built from committed code."""
    for path in CODE:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"# {path}\n")
    params = {"data": {"mine": {"train": 10}}, "experiments": {"e": {"prior": {"levels": 6}}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "code")
    raw, packed = "data/raw/mine", "data/packed/mine"
    stages = {
        "fetch@mine": execute(tmp_path, "fetch@mine", [], {f"{raw}/a.txt": "1 2", f"{raw}/b": ""},
                              **{"data.mine": {"train": 10}}),
        "pack@mine": execute(tmp_path, "pack@mine", [f"{raw}/a.txt"],
                             {f"{packed}/meta.json": "{}"}),
    }  # fmt: skip
    write_json(tmp_path / "reports/validation/mine/report.json", {"success": True})
    files = {"meta.json": hash_path(tmp_path / packed / "meta.json")}
    bound = json.dumps({"experiment": "e", "data": "mine", "path": packed, "files": files})
    stages["bind@e"] = execute(tmp_path, "bind@e", ["data/packed"], {"data/bound/e.json": bound})
    stages["prior@e-0"] = execute(
        tmp_path, "prior@e-0", ["data/bound/e.json"], {MODEL: "weights"},
        **{"experiments.e.prior": {"levels": 6}},
    )  # fmt: skip
    write_lock(tmp_path, stages)
    return tmp_path


def write_lock(root: Path, stages: dict) -> None:
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def lock(root: Path) -> dict:
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"]
