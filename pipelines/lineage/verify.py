"""Checks a trace: hashes everything on the way again, and holds lock, records and git together.

What is compared with what:

* every input, output and code file with its hash in dvc.lock, and with the sha256 of the record;
* what a stage read with what the stage before it wrote;
* params.yaml, or conf/ where an experiment is not selected, with the parameters of the lock;
* a stage that DVC restored from its cache with the record of the twin that wrote the same bytes;
* every record with its own seal and name, with dvc.lock, with the seed of the command, with the
  validation report, and its code with the commit that it names;
* the files of a data set with the hashes in ``data/bound``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ldebm.config.sections import explicit
from ldebm.errors import UsageError
from ldebm.files import hash_path, read_json
from ldebm.yaml_text import parse_yaml
from pipelines.library import CONF, Library
from pipelines.lineage.code_lists import is_code
from pipelines.lineage.objects import Objects
from pipelines.lineage.records import dvc_md5, read_records, record_name, seal
from pipelines.lineage.revisions import git, hashes_at
from pipelines.lineage.trace import Step, Trace
from pipelines.lineage.twins import adopted, bound_folders, different
from pipelines.selection import differing

__all__ = ["Problem", "verify"]


@dataclass(frozen=True)
class Problem:
    """One thing that is not what lock and records say.

    Attributes:
        stage: the stage on the way that it concerns.
        kind: ``artifact``, ``data``, ``code``, ``param``, ``record`` or ``lock``.
        name: the file or the parameter.
        message: what is wrong with it, in one line that names it.
    """

    stage: str
    kind: str
    name: str
    message: str

    def __str__(self) -> str:
        return self.message

    @property
    def missing_record(self) -> bool:
        """Whether a stage has no record at all."""
        return self.kind == "record" and self.name == f"lineage/{self.stage}"

    def to_json(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)


def verify(result: Trace, root: Path = Path(), *, need_records: bool = True) -> list[Problem]:
    """Hashes everything on the way again.

    Args:
        result: of :func:`pipelines.lineage.trace.trace`, without a revision: the files are those of
            the working tree.
        root: the project's folder, or that of a GPU queue.
        need_records: whether a stage without a record is a problem. Records stay on the machine
            that ran the stage, so that a clone with pulled outputs has none.

    Returns:
        One problem for each file, parameter, record or piece of code that is not what the lock and
        the records say; empty if all is as it was.
    """
    check = _Check(result, root, need_records)
    problems: dict[Problem, None] = {}
    for step in result.steps:
        for part in (check.files, check.chain, check.params, check.record, check.bound):
            problems.update(dict.fromkeys(part(step)))
    return list(problems)


class _Check:
    """What the checks of all steps share: every file is hashed once."""

    def __init__(self, result: Trace, root: Path, need_records: bool) -> None:
        self.result, self.root, self.need_records = result, root, need_records
        self.known, self.unreadable = read_records(root)
        self.objects = Objects(root)
        self.current_params = _params(root)
        self.library = Library(root)
        self.unselected: dict[str, dict[str, Any]] = {}  # sections as params.yaml would have them
        self.md5s: dict[str, str | None] = {}
        self.sha256s: dict[Path, str] = {}
        self.committed: dict[str, dict[str, str | None] | None] = {}
        self.written = {path: step for step in result.steps for path in step.outputs}

    def md5(self, path: str) -> str | None:
        """The current md5 of a file or folder; None if it is missing."""
        if path not in self.md5s:
            full = self.place(path)
            self.md5s[path] = dvc_md5(full) if full.exists() else None
        return self.md5s[path]

    def sha256(self, path: Path) -> str:
        if path not in self.sha256s:
            self.sha256s[path] = hash_path(path)
        return self.sha256s[path]

    def place(self, path: str) -> Path:
        """Where a file lies: code beside a GPU queue is that of the installed project."""
        here = self.root / path
        if not is_code(path) or (self.root / "dvc.yaml").exists():
            return here
        return Path(__file__).parents[2] / path

    def files(self, step: Step) -> Iterator[Problem]:
        """Files against dvc.lock, or against the record where there is no lock."""
        source = "dvc.lock" if step.locked else str((step.record or {}).get("file"))
        code = {**step.code, **step.code_list}
        for path, md5 in {**step.inputs, **step.outputs, **code}.items():
            joined = any(out.startswith(path + "/") for out in self.written)
            if path in step.inputs and joined:
                continue  # a folder of many stages' outputs: each of them is checked by itself
            kind = "artifact" if path in step.outputs else "code" if path in code else "data"
            if path in step.inputs and path in self.written:
                continue  # checked where it was written; `chain` holds the two hashes together
            actual = self.md5(path)
            if actual is None:
                yield Problem(step.stage, kind, path, f"{path}: missing ({step.stage})")
            elif actual != md5:
                names = self.inside(step, path)
                detail = f" in {', '.join(names)}" if names else ""
                yield Problem(
                    step.stage,
                    kind,
                    path,
                    f"{path}: differs{detail}, md5 {actual}, {source} has {md5} ({step.stage})",
                )

    def inside(self, step: Step, path: str) -> list[str]:
        """The files of a folder that are not those of the record."""
        items = [*step.record["inputs"], *step.record["outputs"]] if step.record else []
        listing: dict[str, str] = next((i.get("files", {}) for i in items if i["path"] == path), {})
        if not listing:
            return []
        folder = self.root / path
        here = {
            item.relative_to(folder).as_posix(): self.sha256(item)
            for item in folder.rglob("*")
            if item.is_file()
        }
        return sorted(name for name in {*listing, *here} if listing.get(name) != here.get(name))

    def chain(self, step: Step) -> Iterator[Problem]:
        """What the stage read must be what the stage before it wrote."""
        for path, md5 in step.inputs.items():
            writer = self.written.get(path)
            if writer is not None and writer.outputs[path] != md5:
                message = (
                    f"{path}: {step.stage} read md5 {md5}, {writer.stage} wrote "
                    f"{writer.outputs[path]}; one of them was not run again"
                )
                yield Problem(step.stage, "lock", path, message)

    def params(self, step: Step) -> Iterator[Problem]:
        for key, value in step.params.items():
            source, current = self.current(key)
            for name, built, now in differing(value, current, key):
                message = f"{source}: {name} is {now}, {step.stage} was built with {built}"
                yield Problem(step.stage, "param", name, message)

    def current(self, key: str) -> tuple[str, Any]:
        """Where a parameter stands now, and its value: conf/ has what is not selected."""
        section, _, rest = key.partition(".")
        name = rest.partition(".")[0]
        library = {
            "experiments": (self.library.experiments, self.library.experiment),
            "data": (self.library.data, self.library.dataset),
        }
        if section in library and name not in self.current_params.get(section, {}):
            known, read = library[section]
            if name in known:
                composed = self.unselected.setdefault(section, {})
                if name not in composed:
                    composed[name] = explicit(read(name))
                return f"{CONF}/", _lookup(self.unselected, key)
        return "params.yaml", _lookup(self.current_params, key)

    def record(self, step: Step) -> Iterator[Problem]:
        def problem(name: str, message: str) -> Problem:
            return Problem(step.stage, "record", name, f"{name}: {message}")

        for name, reason in self.unreadable.items():
            if _record_of(name) == step.stage:
                yield Problem(step.stage, "record", name, reason)
        record = step.record
        if record is None:
            yield from self.missing_record(step)
            return
        name = str(record["file"])
        written = next((item for item in self.known if item["file"] == name), record)
        if written.get("seal") != seal(written):
            yield problem(name, f"was edited after it was written ({step.stage}: wrong seal)")
        if Path(name).name != record_name(written):
            yield problem(name, f"has not the name of its content, {record_name(written)}")
        if step.locked:
            for message in _against_lock(step, record):
                yield problem(name, message)
        for item in [*record["inputs"], *record["outputs"]]:
            path = self.root / item["path"]
            joined = any(out.startswith(item["path"] + "/") for out in self.written)
            if not joined and path.exists() and self.sha256(path) != item["sha256"]:
                yield problem(item["path"], f"sha256 differs from {name}")
        for path, sha256 in record["code"].items():
            full = self.place(path)
            if full.is_file() and self.sha256(full) != sha256:
                yield problem(path, f"sha256 differs from {name}")
        yield from (problem(name, message) for message in self.facts(step, record))

    def missing_record(self, step: Step) -> Iterator[Problem]:
        """No record has the outputs of the lock: there is none, or those that are disagree."""
        mine = [record for record in self.known if record["stage"] == step.stage]
        if not mine:
            if self.need_records:
                message = f"lineage/{step.stage}-*.json: missing, no record of {step.stage}"
                message += f"{self.near(step)}; `dvc repro -f -s {step.stage}` runs it here"
                yield Problem(step.stage, "record", f"lineage/{step.stage}", message)
            return
        for record in mine:
            written = {item["path"]: item["md5"] for item in record["outputs"]}
            paths = sorted({*written, *step.outputs})
            other = [path for path in paths if written.get(path) != step.outputs.get(path)]
            broken = "" if record.get("seal") == seal(record) else "; it was edited (wrong seal)"
            message = (
                f"{record['file']}: does not agree with dvc.lock on what {step.stage} wrote: "
                f"{', '.join(other)}{broken}"
            )
            yield Problem(step.stage, "record", str(record["file"]), message)

    def near(self, step: Step) -> str:
        """Who wrote the same bytes, and why that is no record of this stage."""
        for record in self.known:
            same = {item["md5"] for item in record["outputs"]} == {*step.outputs.values()}
            if same and record["stage"].split("@")[0] == step.name:
                other = " and ".join(different(adopted(record, step, self.objects), step))
                return f" ({record['stage']} wrote the same bytes, but with other {other})"
        return ""

    def facts(self, step: Step, record: Mapping[str, Any]) -> Iterator[str]:
        """Statements of a record that other files confirm or not."""
        seed = re.search(r"--seed[ =](\d+)", step.command)
        if seed and record.get("seed") != int(seed[1]):
            yield f"says seed {record.get('seed')}, {step.stage} was run with {seed[1]}"
        verdict = record.get("validation")
        if verdict:
            report = self.root / "reports" / "validation" / verdict["data"] / "report.json"
            if report.is_file() and bool(_json(report).get("success")) != verdict["success"]:
                said = "valid" if verdict["success"] else "not valid"
                yield f"says that {verdict['data']} was {said}, {report} does not"
        commit, project = record["git"].get("commit"), self.place("ldebm").parent
        if not commit or git("rev-parse", "--git-dir", root=project) is None:
            return
        if commit not in self.committed:
            paths = sorted({path for item in self.result.steps for path in item.code})
            self.committed[commit] = hashes_at(commit, paths, project)
        there = self.committed[commit]
        if there is None:
            yield f"names commit {commit}, which is not in this repository"
        elif record["git"].get("dirty") is False:
            other = [path for path, sha256 in record["code"].items() if there.get(path) != sha256]
            if other:
                yield f"ran other code than its commit {commit[:12]} has: {', '.join(other)}"

    def bound(self, step: Step) -> Iterator[Problem]:
        """The files that ``data/bound`` names."""
        if step.name != "bind":
            return
        for out in step.outputs:
            for bound in bound_folders(_json(self.root / out)):
                yield from self._named(step, out, bound)

    def _named(self, step: Step, out: str, bound: Mapping[str, Any]) -> Iterator[Problem]:
        """The files of one folder that a binding names."""
        if not isinstance(bound.get("files"), dict):
            return  # damaged, which its own hash has said, or without data of its own
        for name, sha256 in bound["files"].items():
            path = self.root / bound["path"] / name
            label = f"{bound['path']}/{name}"
            if not path.is_file():
                message = f"{label}: missing, {out} names it"
            elif self.sha256(path) != sha256:
                message = f"{label}: sha256 differs from {out}"
            else:
                continue
            yield Problem(step.stage, "data", label, message)


def _against_lock(step: Step, record: Mapping[str, Any]) -> Iterator[str]:
    read = {item["path"]: item["md5"] for item in record["inputs"]}
    other = [path for path in {**read, **step.inputs} if read.get(path) != step.inputs.get(path)]
    if other:
        yield f"does not agree with dvc.lock on what {step.stage} read: {', '.join(sorted(other))}"
    keys = {**record["params"], **step.params}
    changed = [key for key in keys if record["params"].get(key) != step.params.get(key)]
    if changed:
        yield f"does not agree with dvc.lock on the parameters {', '.join(sorted(changed))}"
    by_dvc = record.get("ran_by") in ("dvc", "flow")  # by hand one may add --debug
    if by_dvc and record.get("command") != step.command:
        yield f"does not agree with dvc.lock on the command: {record['command']}"
    if step.code_list and not step.code:
        return  # a list of code that is lost: its own hash says so
    extra = sorted(
        path for path in record["code"] if not {path, path.split("/")[0]} & step.code.keys()
    )
    if extra:
        yield f"ran code that dvc.lock does not list: {', '.join(extra)}"
    code = record.get("code_md5", {}).items()
    edited = sorted(path for path, md5 in code if step.code.get(path, md5) != md5)
    if edited:
        yield f"ran other code than dvc.lock lists: {', '.join(edited)}"


def _record_of(name: str) -> str:
    """The stage in the file name of a record: ``STAGE-<20 digits>-<8 digits>.json``."""
    return re.sub(r"-[0-9a-f]{20}(-[0-9a-f]{8})?\.json$", "", Path(name).name)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except UsageError:
        return {}
    return content if isinstance(content, dict) else {}


def _params(root: Path) -> Any:
    for name in ("params.yaml", "params.json"):  # a GPU queue has them as JSON
        path = root / name
        if path.is_file():
            try:
                return parse_yaml(path.read_text(encoding="utf-8"))
            except ValueError as error:
                message = " ".join(str(error).split())[:150]
                raise UsageError(f"{path}: cannot be read ({message})") from None
    return {}


def _lookup(params: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(params, Mapping) or part not in params:
            return None
        params = params[part]
    return params
