"""The registry of models: versions and stages as git tags that gto writes and reads.

``chatter-ldebm@v1.2.0`` is a version of the artifact ``chatter-ldebm`` of dvc.yaml, and
``chatter-ldebm#champion#3`` says that it holds the stage ``champion``. Everything is checked before
the first tag is written, and a tag is taken back when a later one fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from ldebm.errors import UsageError
from ldebm.files import write_text
from pipelines.candidates import Revision, load_candidate, lock, stand_in
from pipelines.git import git

__all__ = ["Promotion", "Registered", "artifact_path", "declare_artifact", "promote", "registered"]

FIRST = "v1.0.0"
NAME = r"[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?"


@dataclass(frozen=True)
class Registered:
    """A registered version.

    Attributes:
        version: ``v1.2.0``.
        commit: full hash.
        tag: ``chatter-ldebm@v1.2.0``.
    """

    version: str
    commit: str
    tag: str


@dataclass(frozen=True)
class Promotion:
    """What a promotion left in the registry.

    Attributes:
        artifact: its name in dvc.yaml.
        version: the version that holds the stages now.
        commit: the commit of that version.
        stages: the registry stages that it holds.
        created: tags that were written; empty where everything was there already.
    """

    artifact: str
    version: str
    commit: str
    stages: tuple[str, ...]
    created: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def registered(root: Path, artifact: str, stage: str) -> Registered | None:
    """The version that holds ``stage`` now; None where none does.

    Raises:
        UsageError: ``root`` is in no git repository.
    """
    import gto.api  # takes a second to load
    from gto.exceptions import ArtifactNotFound

    _artifact_name(artifact)
    git(root, "rev-parse", "--git-dir")
    try:
        holding = gto.api.find_versions_in_stage(str(root), artifact, stage, registered_only=True)
    except ArtifactNotFound:
        return None
    if not holding:
        return None
    version = holding[0].version
    tag = f"{artifact}@{version}"
    return Registered(version, git(root, "rev-parse", f"{tag}^{{commit}}"), tag)


def promote(
    root: Path,
    experiment: str,
    revision: str = "HEAD",
    *,
    stages: Sequence[str] = ("champion",),
    version: str | None = None,
    message: str = "",
) -> Promotion:
    """Registers the experiment's model at a commit and gives it ``stages``.

    Doing it twice changes nothing the second time.

    Args:
        root: the project's folder.
        experiment: its name, which is that of the artifact.
        revision: a commit with the model in dvc.lock and the entry in ``artifacts:``.
        stages: registry stages that the version gets.
        version: ``v2.0.0``; None: the next minor version.
        message: what the version's tag says.

    Raises:
        UsageError: with the reason why nothing was registered.
    """
    _artifact_name(experiment)
    for stage in stages:
        if not re.fullmatch(NAME, stage):
            raise UsageError(f"stage {stage!r}: use letters, digits, '-' and '_' (git tags)")
    if version is not None and not re.fullmatch(r"v\d+\.\d+\.\d+", version):
        raise UsageError(f"version {version!r}: expected three numbers as in v1.2.0")
    place = Revision(root, revision)
    commit = place.commit
    if revision == "HEAD":
        _clean(root)
    _complete(place, experiment)
    here = _version_at(root, experiment, commit)
    if here is not None and version not in (None, here):
        raise UsageError(
            f"{experiment}: this commit is registered as {here} and cannot become {version} as well"
        )
    number = here or version or _next_version(root, experiment)
    if here is None:
        _free(root, f"{experiment}@{number}")
    held = {s: registered(root, experiment, s) for s in stages}
    missing = [s for s, assigned in held.items() if assigned is None or assigned.version != number]
    created = _write(root, experiment, commit, None if here else number, number, missing, message)
    return Promotion(experiment, number, commit, tuple(stages), tuple(created))


def _write(
    root: Path,
    artifact: str,
    commit: str,
    new: str | None,
    number: str,
    stages: Sequence[str],
    message: str,
) -> list[str]:
    """Writes the tags; takes those written back when one fails."""
    import gto.api
    from gto.exceptions import GTOException
    from scmrepo.exceptions import SCMError

    name, address = stand_in(root) or (None, None)
    who: dict[str, Any] = {"author": name, "author_email": address}
    created: list[str] = []
    try:
        if new is not None:
            event = gto.api.register(
                str(root), artifact, ref=commit, version=new, message=message or None, **who
            )
            created.append(event.tag)
        for stage in stages:
            for other in _higher(root, artifact, stage, number):
                event = gto.api.unassign(str(root), artifact, version=other, stage=stage, **who)
                created.append(event.tag)
            event = gto.api.assign(
                str(root),
                artifact,
                stage,
                version=number,
                skip_registration=True,
                force=True,
                **who,
            )
            created.append(event.tag)
    except (GTOException, SCMError, OSError, ValueError) as error:
        for tag in created:
            git(root, "tag", "-d", tag)
        text = " ".join(str(error).split())
        raise UsageError(f"{artifact}: nothing was registered: {text}") from None
    return created


def _higher(root: Path, artifact: str, stage: str, version: str) -> list[str]:
    """Later versions that hold ``stage``: the registry would go on to prefer them (a way back)."""
    import gto.api
    from gto.exceptions import ArtifactNotFound

    try:
        holding = gto.api.find_versions_in_stage(
            str(root), artifact, stage, versions_per_stage=-1, registered_only=True
        )
    except ArtifactNotFound:
        return []
    return [entry.version for entry in holding or [] if _numbers(entry.version) > _numbers(version)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _artifact_name(experiment: str) -> None:
    if not re.fullmatch(NAME, experiment):
        raise UsageError(
            f"experiment {experiment!r} cannot be registered: a name in the registry starts and "
            "ends with a letter or digit; rename it in params.yaml"
        )


def _clean(root: Path) -> None:
    changed = git(root, "status", "--porcelain", "--untracked-files=no").splitlines()
    if changed:
        names = ", ".join(line[2:].strip() for line in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UsageError(
            f"uncommitted changes ({names}{more}): the tag would name a commit without them; "
            "commit or stash them, or name the revision"
        )


def _complete(place: Revision, experiment: str) -> None:
    """Checks that the commit holds what its version promises: entry, model, metrics, valid data."""
    text = place.read("dvc.yaml")
    if text is None:
        raise UsageError(f"{place.words}: has no dvc.yaml, so it is no commit of this project")
    entry = ((yaml.safe_load(text) or {}).get("artifacts") or {}).get(experiment)
    if not isinstance(entry, dict) or "path" not in entry:
        raise UsageError(
            f"{experiment}: not under `artifacts:` in dvc.yaml of {place.words}; add it and commit"
        )
    path = str(entry["path"])
    stages = lock(place)
    if path not in {out["path"] for stage in stages.values() for out in stage.get("outs", [])}:
        raise UsageError(
            f"{path} is not in dvc.lock of {place.words}: build it and commit dvc.lock"
        )
    stale = _stale(stages, path)
    if stale:
        raise UsageError(
            f"dvc.lock of {place.words} is not of one piece: {stale} was built from something else "
            "than what stands there now; run `dvc repro` and commit dvc.lock"
        )
    seed = re.fullmatch(rf"models/{re.escape(experiment)}/(\d+)/.*", path)
    candidate = load_candidate(place, experiment, [int(seed[1])] if seed else [])
    if seed and not candidate.metrics:
        raise UsageError(f"{experiment}: seed {seed[1]} was not evaluated at {place.words}")
    if not (candidate.validation or {}).get("success"):
        verdict = "failed validation" if candidate.validation else "was not validated"
        raise UsageError(
            f"{experiment}: its data set {candidate.data!r} {verdict} at {place.words}; see "
            f"reports/validation/{candidate.data}"
        )


def _stale(stages: dict[str, Any], path: str) -> str | None:
    """The first stage on the way to ``path`` whose inputs are not the outputs that are locked.

    A stage may depend on a folder of which others make parts; what is in it is followed, though
    the folder's own hash cannot be told from theirs.
    """
    made = {out["path"]: (name, out) for name, s in stages.items() for out in s.get("outs", [])}
    waiting, seen = [path], set()
    while waiting:
        wanted = waiting.pop()
        for out in [key for key in made if key == wanted or key.startswith(f"{wanted}/")]:
            name = made[out][0]
            if name in seen:
                continue
            seen.add(name)
            for dep in stages[name].get("deps", []):
                maker = made.get(dep["path"])
                if maker is not None and maker[1].get("md5") != dep.get("md5"):
                    return name
                waiting.append(dep["path"])
    return None


def _versions(root: Path, artifact: str) -> list[tuple[tuple[int, ...], str]]:
    """Version tags of an artifact, in ascending order, as numbers and text."""
    tags = git(root, "tag", "--list", f"{artifact}@v*").splitlines()
    versions = [tag.removeprefix(f"{artifact}@") for tag in tags]
    plain = [text for text in versions if re.fullmatch(r"v\d+\.\d+\.\d+", text)]
    return sorted((_numbers(text), text) for text in plain)


def _version_at(root: Path, artifact: str, commit: str) -> str | None:
    for _, text in reversed(_versions(root, artifact)):
        if git(root, "rev-parse", f"{artifact}@{text}^{{commit}}") == commit:
            return text
    return None


def _next_version(root: Path, artifact: str) -> str:
    known = _versions(root, artifact)
    if not known:
        return FIRST
    major, minor, _ = known[-1][0]
    return f"v{major}.{minor + 1}.0"


def _free(root: Path, tag: str) -> None:
    if git(root, "tag", "--list", tag):
        raise UsageError(f"tag {tag} exists and is of another commit; give another version")


def artifact_path(experiment: str, seed: int) -> str:
    """The model that an ``artifacts:`` entry names."""
    return f"models/{experiment}/{seed}/prior/model.safetensors"


def declare_artifact(root: Path, experiment: str, seeds: Sequence[int], description: str) -> bool:
    """Enters the experiment's model under ``artifacts:`` of dvc.yaml, if it is not there.

    Of several seeds the entry names the first, never the best: choosing by the test metric would
    flatter the model. An entry that names one of ``seeds`` stays. Only its lines change.

    Args:
        root: the project's folder.
        experiment: its name.
        seeds: those that were built.
        description: one sentence; its end names the seed.

    Returns:
        Whether the file changed.

    Raises:
        UsageError: the layout of ``artifacts:`` cannot be edited.
    """
    _artifact_name(experiment)
    path = root / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    before = yaml.safe_load(text)
    entry = (before.get("artifacts") or {}).get(experiment)
    if entry and entry.get("path") in {artifact_path(experiment, seed) for seed in seeds}:
        return False
    wanted = {
        "path": artifact_path(experiment, seeds[0]),
        "type": "model",
        "desc": f"{' '.join(description.split()) or experiment}, seed {seeds[0]}",
    }
    block = [f"  {experiment}:\n"]
    block += [f"    {key}: {_scalar(value)}\n" for key, value in wanted.items()]
    changed = "".join(_with_entry(text.splitlines(keepends=True), experiment, block))
    expected = {**before, "artifacts": {**(before.get("artifacts") or {}), experiment: wanted}}
    if yaml.safe_load(changed) != expected:
        raise UsageError(f"dvc.yaml: enter {experiment} under `artifacts:` by hand: {wanted}")
    write_text(path, changed)
    return True


def _with_entry(lines: list[str], name: str, block: list[str]) -> list[str]:
    """The file with one entry of its ``artifacts:`` section replaced or added at the end."""
    starts = [
        number for number, line in enumerate(lines) if re.match(r"artifacts:\s*(#.*)?$", line)
    ]
    if not starts:
        return [*lines, "\n", "artifacts:\n", *block]
    begin = starts[0] + 1
    end = begin
    while end < len(lines) and lines[end][0] in " #\n":
        end += 1
    while end > begin and not lines[end - 1].strip():
        end -= 1  # blank lines belong to what follows
    section, inside = [], False
    for line in lines[begin:end]:
        if re.match(r"  \S", line):
            inside = re.match(rf"  ['\"]?{re.escape(name)}['\"]?:", line) is not None
        if not inside:
            section.append(line)
    if section and not section[-1].endswith("\n"):
        section[-1] += "\n"
    return [*lines[:begin], *section, *block, *lines[end:]]


def _scalar(text: str) -> str:
    """One YAML scalar on one line, quoted only where it has to be."""
    return yaml.safe_dump(text, width=10**6, allow_unicode=True).removesuffix("...\n").strip()
