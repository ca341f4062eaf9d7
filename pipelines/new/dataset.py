"""Adding a user's data to conf/: what the file is, and an experiment that suits its size."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ldebm.config import RunConfig
from ldebm.data.folders import as_file
from ldebm.data.packed import check_classes
from ldebm.errors import UsageError
from ldebm.files import hash_path, write_text
from ldebm.yaml_text import format_yaml
from pipelines.library import CONF, Library
from pipelines.names import check_name
from pipelines.new import images, tables
from pipelines.new.summary import Summary, expected_minutes

__all__ = ["add_dataset"]


def add_dataset(
    name: str,
    source: str | Path,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
    kind: str | None = None,
    tokenizer: str | None = None,
    root: str | Path = ".",
    say: Callable[[str], None] | None = None,
) -> str:
    """Writes a data set and an experiment on it as files of ``conf/``.

    Args:
        name: of the data set.
        source: a file, or a folder of images.
        columns: role (text, context, dialogue, turn, speaker) to column, where it is not clear.
        labels: label columns; the classes of the experiment are those of the first.
        kind: ``documents`` for texts of which only the words count; otherwise it is found out.
        tokenizer: word, unigram or bpe; by default by the number of different words.
        root: the project's folder.
        say: takes lines on what was found in the file.

    Returns:
        The name of the experiment.

    Raises:
        UsageError: the name is taken or not one, or the file does not fit; nothing is then written.
    """
    check_name(name)
    if "://" in str(source):
        raise UsageError(
            f"{source}: expected a file or a folder on this machine, not an address; download it "
            "first"
        )
    source, root = Path(source), Path(root)
    library = Library(root)
    if name in library.data:
        raise UsageError(f"data set {name!r} is in {CONF}/ already; choose another name")
    place = Path(os.path.relpath(source, root)).as_posix()
    options = {**(columns or {}), **({"kind": kind} if kind else {})}
    options |= {"tokenizer": tokenizer} if tokenizer else {}
    experiment, data, section, summary = _sections(name, source, place, options, labels)
    if experiment in library.experiments or experiment in library.groups:
        raise UsageError(f"{experiment!r} is in {CONF}/ already; choose another name")
    files = {
        library.folder / "data" / f"{name}.yaml": data,
        library.folder / "experiment" / name / f"{experiment[len(name) + 1 :]}.yaml": section,
    }
    head = f"# Written by `ldebm new {name}`; `make repro RUN={experiment}` builds it.\n"
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, head + format_yaml(content))
        params = Library(root).params(RunConfig(datasets=[], experiments=[experiment], seeds=[0]))
        composed = params.experiment(experiment)
        if composed.cluster.labels == "gc" and summary is not None:
            check_classes(composed.prior.classes, summary.rows["train"], source)
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        raise
    if summary and say:
        minutes = summary.minutes or expected_minutes(params.experiment(experiment))
        for line in dataclasses.replace(summary, minutes=minutes).lines():
            say(line)
    return experiment


def _sections(
    name: str, source: Path, place: str, options: dict[str, str], labels: Sequence[str]
) -> tuple[str, dict[str, Any], dict[str, Any], Summary | None]:
    """The name of the experiment, the data section, the experiment's, and what was found."""
    if not images.holds_images(source):
        kind, tokenizer = options.pop("kind", None), options.pop("tokenizer", None)
        facts = tables.inspect_file(source, options, labels, kind, tokenizer)
        data = tables.data_section(place, hash_path(source), facts)
        return f"{name}-ldebm", data, tables.table_experiment(name, facts), facts.summary
    for option in options:
        raise UsageError(f"{source}: images have no {option}; leave --{option} out")
    if len(labels) > 1:
        raise UsageError(f"{source}: images take one --label; got {', '.join(labels)}")
    label = labels[0] if labels else None
    with as_file(source) as file:
        if not file.is_file():
            raise UsageError(f"{source}: no such file")
        try:
            seen = images.inspect_images(file, label, source)
        except UsageError as error:  # of a folder the user knows no zip
            raise UsageError(str(error).replace(str(file), str(source))) from None
        data = images.data_section(place, hash_path(file), seen)
    return f"{name}-hvae", data, images.image_experiment(name, seen), seen.summary
