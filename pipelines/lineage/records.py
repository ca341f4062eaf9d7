"""One record per stage execution: what went in, what came out, with which code, where and when.

Records lie in ``lineage/``, outside stage outputs, because those stay byte-stable while a record
holds times. A record is named by its stage and the hash of its outputs; ``pipelines.lineage.trace``
finds it from any file. Hashes are sha256, with DVC's own md5 beside them to join a record to
dvc.lock. The ``seal`` of a record is the hash of all the rest of it.

Two variables of the environment belong to whoever starts the stages: ``LDEBM_FLOW_RUN_ID`` names
the flow run, and ``LDEBM_LINEAGE`` the folder of the records (a run in a scratch checkout leaves
them in the project that way). Runs of `dvc exp run --temp` and of its queue do so by themselves.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldebm.errors import UsageError
from ldebm.files import hash_json, hash_path, read_json, write_json
from ldebm.notes import Recording, recording_of, running
from ldebm.seeding import numerics
from ldebm.sources import CODE, closure, native_sources
from pipelines.git import git_or_none
from pipelines.lineage.code_lists import code_list, parse_code_list

if TYPE_CHECKING:
    import torch

__all__ = [
    "code_hashes",
    "digest",
    "dvc_md5",
    "git_state",
    "read_records",
    "record_name",
    "recorded",
    "records",
    "seal",
]

FOLDER = "lineage"
_VERSIONS = (
    "torch",
    "numpy",
    "pyarrow",
    "polars",
    "sentencepiece",
    "safetensors",
    "scikit-learn",
    "great-expectations",
    "sacrebleu",
    "dvc",
    "prefect",
)
_FLOW_RUN = ("LDEBM_FLOW_RUN_ID", "PREFECT__FLOW_RUN_ID", "PREFECT_FLOW_RUN_ID")
_PARTS = {  # what every record has, and of which kind
    "stage": str,
    "inputs": list,
    "outputs": list,
    "params": dict,
    "code": dict,
    "git": dict,
    "versions": dict,
    "started": str,
    "seconds": int | float,
}


def dvc_md5(path: Path) -> str:
    """The hash that dvc.lock has for a file or folder.

    For a folder: the md5 of the JSON list of (md5, relative path), with ``.dir`` behind it.
    """
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "md5").hexdigest()
    files = sorted(item for item in path.rglob("*") if item.is_file() and not _ignored(item))
    listing = [
        {"md5": dvc_md5(item), "relpath": item.relative_to(path).as_posix()} for item in files
    ]
    listing.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def _ignored(path: Path) -> bool:
    """Whether .dvcignore leaves the file out."""
    return "__pycache__" in path.parts or path.suffix in {".pyc", ".part"}


def digest(path: str | Path, root: Path = Path()) -> dict[str, Any]:
    """Path, md5 (DVC's), sha256 and bytes of a file or folder under ``root``.

    Of a folder also the sha256 of every file in it, so that a changed one can be named.
    """
    full = root / path
    entry: dict[str, Any] = {"path": Path(path).as_posix(), "md5": dvc_md5(full)}
    if not full.is_dir():
        return {**entry, "sha256": hash_path(full), "bytes": full.stat().st_size}
    files = sorted(item for item in full.rglob("*") if item.is_file())
    listing = {item.relative_to(full).as_posix(): hash_path(item) for item in files}
    return {
        **entry,
        "sha256": hash_json([[name, sha256] for name, sha256 in listing.items()]),
        "bytes": sum(item.stat().st_size for item in files),
        "files": listing,
    }


def code_hashes(root: Path = Path(), stage: str = "") -> dict[str, str]:
    """The sha256 of every file of the project that a stage may run, by its imports.

    Of what is no stage of the project: of every file that this process has imported.
    """
    base, kind = root.resolve(), stage.partition("@")[0]
    if kind and (base / "stages" / f"{kind}.py").is_file():
        files = [base / name for name in _listed(base, kind) or closure(f"stages.{kind}", base)]
    else:
        loaded = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
        modules = [Path(name).resolve() for name in loaded if name and name.endswith(".py")]
        mine = [path for path in modules if path.is_relative_to(base)]
        mine = [path for path in mine if path.relative_to(base).parts[0] in CODE]
        files = [file for path in mine for file in (path, *native_sources(path))]
    hashes = {file.relative_to(base).as_posix(): hash_path(file) for file in files}
    return dict(sorted(hashes.items()))


def _listed(root: Path, kind: str) -> list[str]:
    """The files in the list that the stage ``code`` has written, if none of them has changed since.

    It spares every stage from reading the imports of all its files.
    """
    path = root / code_list(kind)
    listed = (parse_code_list(path.read_bytes()) if path.is_file() else None) or {}
    same = all(
        (root / name).is_file() and dvc_md5(root / name) == md5 for name, md5 in listed.items()
    )
    return list(listed) if same else []


def git_state(root: Path = Path()) -> dict[str, Any]:
    """The commit of the working tree, and whether code or parameters differ from it.

    The section ``run:`` of params.yaml only selects what is built, and its length stands in the
    record: it makes nothing dirty. None is what git does not tell, as outside a repository.
    """

    def git(*arguments: str) -> str | None:
        answer = git_or_none(root, *arguments)
        return None if answer is None else answer.decode(errors="replace").strip()

    commit = git("rev-parse", "HEAD")
    words = ("status", "--porcelain", "--untracked-files=normal", "--")
    changed = git(*words, *CODE, "params.yaml", "dvc.yaml")
    dirty = None if changed is None else bool(changed)
    if changed and re.fullmatch(r"M\s+(\S+/)?params\.yaml", changed):
        there, here = git("show", "HEAD:./params.yaml") or "", root / "params.yaml"
        dirty = _but_run(there) != _but_run(here.read_text(encoding="utf-8"))
    return {"commit": commit, "dirty": None if commit is None else dirty}


def _but_run(text: str) -> Any:
    """The values of a parameter file without its selection; its text where it is none."""
    from ldebm.yaml_text import parse_yaml

    try:
        content = parse_yaml(text)
    except ValueError:
        return text
    if not isinstance(content, dict):
        return text
    return {key: value for key, value in content.items() if key != "run"}


@contextmanager
def recorded(
    stage: str,
    *,
    inputs: Sequence[str | Path],
    outputs: Sequence[str | Path],
    params: Mapping[str, Any],
    seed: int | None = None,
    root: Path = Path(),
    command: str | None = None,
    ran_by: str | None = None,
    project: Path | None = None,
    git: Mapping[str, Any] | None = None,
) -> Iterator[Recording]:
    """Writes the record of one stage execution when the block succeeds.

    Inside another recording the block belongs to that one, and no second record is written.

    Args:
        stage: its name in DVC, ``prior@ptb-ldebm-0``.
        inputs: files and folders that it reads, relative to ``root``; hashed before it runs. What
            is missing is left out: the stage itself says so best.
        outputs: files and folders that it writes; hashed after it ran.
        params: the resolved parameters that it used.
        seed: the seed of its random streams.
        root: the folder that holds inputs and outputs.
        command: what was run, as a user would type it.
        ran_by: ``flow``, ``dvc``, ``hand`` or ``campaign``; by default read from the environment.
        project: the folder of the code, where it is not ``root``.
        git: commit and dirtiness, where the code travelled without its repository.

    Yields:
        A :class:`Recording`, where the stage sets its device.
    """
    if (outer := running()) is not None:
        yield outer
        return
    started = datetime.now(UTC)
    clock, cpu = time.perf_counter(), _cpu_seconds()
    before = [digest(path, root) for path in inputs if (root / path).exists()]
    state = git_state(project or root) if git is None else dict(git)
    flow_run = next((os.environ[name] for name in _FLOW_RUN if os.environ.get(name)), None)
    with recording_of(stage) as recording:
        yield recording
    device = recording.device
    after = [digest(path, root) for path in outputs if (root / path).exists()]
    code = code_hashes(project or root, stage)
    record = {
        "stage": stage,
        "inputs": before,
        "outputs": after,
        "params": params,
        "code": code,
        "code_md5": {name: dvc_md5((project or root) / name) for name in code},
        "command": command,
        "ran_by": ran_by or _runner(flow_run),
        "git": state,
        "versions": _versions(),
        "numerics": numerics(device) if device else None,
        "device": _device_name(device),
        "seed": seed,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 3),
        "cpu_seconds": _spent(_cpu_seconds() - cpu, recording.facts),
        "validation": _verdict(before, root),
        "flow_run": flow_run,
        **recording.facts,
    }
    write_json(_folder(root) / record_name(record), {**record, "seal": seal(record)})


def _spent(here: float, facts: Mapping[str, Any]) -> float | None:
    """Processor seconds of a stage: with its own part of a training that it took up again.

    Args:
        here: of this process.
        facts: ``cpu_seconds_before``, of the training until it was taken up (``None``: not known);
            ``cpu_seconds_shared``, what this process spent on several trainings at once.
    """
    before = facts.get("cpu_seconds_before", 0.0)
    if before is None:
        return None
    return round(here - float(facts.get("cpu_seconds_shared", 0.0)) + float(before), 3)


def _cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def record_name(record: Mapping[str, Any]) -> str:
    """The file name that belongs to a record: its stage, the hash of its outputs, that of the rest.

    The same code on the same inputs has one record; other code that gives the same bytes its own.
    """
    outputs, inputs = (
        [[item["path"], item["sha256"]] for item in record[kind]] for kind in ("outputs", "inputs")
    )
    origin = hash_json([inputs, record["params"], record["code"]])
    return f"{record['stage']}-{hash_json(outputs)[:20]}-{origin[:8]}.json"


def seal(record: Mapping[str, Any]) -> str:
    """The hash of everything in a record but its seal and the place where it was read."""
    return hash_json({key: value for key, value in record.items() if key not in ("seal", "file")})


def _folder(root: Path) -> Path:
    if os.environ.get("LDEBM_LINEAGE"):
        return Path(os.environ["LDEBM_LINEAGE"])
    # `dvc exp run --temp` and its queue run below .dvc/tmp, and name the project itself.
    project = Path(os.environ.get("DVC_ROOT") or root)
    inside = root.resolve().is_relative_to((project / ".dvc" / "tmp" / "exps").resolve())
    return (project if inside else root) / FOLDER


def _runner(flow_run: str | None) -> str:
    """Who started the stage: DVC names itself in the environment of its commands."""
    if flow_run:
        return "flow"
    return "dvc" if "DVC_STAGE" in os.environ else "hand"


def _device_name(device: torch.device | None) -> str:
    if device is None or device.type != "cuda":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _verdict(inputs: Sequence[Mapping[str, Any]], root: Path) -> dict[str, Any] | None:
    """The validation verdict of the data that the stage read, directly or by its binding."""
    for item in inputs:
        path = Path(item["path"])
        if path.parts[:2] == ("data", "bound"):
            data = str(read_json(root / path)["data"])
        elif path.parts[:2] == ("reports", "validation") and path.name == "report.json":
            data = path.parts[2]
        else:
            continue
        report = root / "reports" / "validation" / data / "report.json"
        if report.is_file():
            return {"data": data, "success": bool(read_json(report).get("success"))}
    return None


def records(root: Path = Path()) -> list[dict[str, Any]]:
    """All readable records, newest first; each has its own path under ``"file"``."""
    return read_records(root)[0]


def read_records(root: Path = Path()) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All records, newest first, and what is wrong with files that are none.

    Returns:
        Records, each with its own path under ``"file"``; and for every unreadable file why.
    """
    records, unreadable = [], {}
    for path in sorted(_folder(root).glob("*.json")):
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        try:
            record = read_json(path)
        except UsageError as error:
            unreadable[name] = str(error)
            continue
        wrong = _wrong_parts(record)
        if wrong:
            unreadable[name] = f"{name}: not a lineage record ({wrong})"
            continue
        record["file"] = name
        records.append(record)
    records.sort(key=lambda record: str(record["started"]), reverse=True)
    return records, unreadable


def _wrong_parts(record: Any) -> str:
    """What a record lacks; empty if it can be used."""
    if not isinstance(record, dict):
        return "no JSON object"
    wrong = [name for name, kind in _PARTS.items() if not isinstance(record.get(name), kind)]
    if wrong:
        return f"missing or of the wrong kind: {', '.join(wrong)}"
    items = [*record["inputs"], *record["outputs"]]
    if not all(
        isinstance(item, dict) and {"path", "md5", "sha256"} <= item.keys() for item in items
    ):
        return "an input or output has no path, md5 or sha256"
    return ""
