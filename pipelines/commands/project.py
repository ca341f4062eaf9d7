"""Commands on params.yaml and data: ``data list|fetch|check``, ``new``, ``select``."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ldebm.errors import UsageError

__all__ = ["data", "new", "select"]

data = typer.Typer(
    help="List, fetch and check data sets.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
PARAMS = Path("params.yaml")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class TokenizerKind(StrEnum):
    """How text is cut into tokens."""

    word = "word"
    unigram = "unigram"
    bpe = "bpe"


class DocumentKind(StrEnum):
    """The kind that a file does not show."""

    documents = "documents"


@data.command("list")
def list_sources(as_json: AsJson = False) -> None:
    """List the known data sets.

    Kind, size, licence, and whether they are prepared here.
    """
    from ldebm.data.registry import SOURCES

    rows = [
        {
            "name": source.name,
            "kind": source.kind,
            "bytes": sum(item.bytes or 0 for item in source.files),
            "licence": source.licence,
            "citation": source.citation,
            "description": source.description,
            "here": Path("data", "packed", source.name, "meta.json").is_file(),
        }
        for source in SOURCES.values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        here = "here" if row["here"] else "-"
        typer.echo(
            f"{row['name']:<14} {row['kind']:<10} {here:<5} {row['licence']}: {row['description']}"
        )


@data.command("fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(help="A data set of params.yaml or conf/.")],
    mirror: Annotated[
        Path | None, typer.Option(help="Local mirror; default: LDEBM_DATA_MIRROR.")
    ] = None,
) -> None:
    """Fetch a data set, checking its hashes."""
    from ldebm.config import load_params
    from ldebm.data.fetch import MIRROR_VARIABLE, fetch
    from ldebm.data.registry import find_source
    from pipelines.library import Library

    params = load_params(PARAMS)
    library = Library()
    here = name in params.data or name not in library.data
    config = params.dataset(name) if here else library.dataset(name)
    source = None if config.source == "file" else find_source(config.source)
    place = mirror or os.environ.get(MIRROR_VARIABLE)
    fetch(source, config, Path("data", "raw", name), place or None)
    typer.echo(f"data/raw/{name}")


@data.command("check")
def check_data(as_json: AsJson = False) -> None:
    """Show the state of each data set.

    Which stages are built, and the verdict of validation.
    """
    from ldebm.config import load_params
    from ldebm.files import read_json

    rows: list[dict[str, Any]] = []
    for name in load_params(PARAMS).data:
        folders = ("raw", "prepared", "packed")
        done = [folder for folder in folders if Path("data", folder, name).is_dir()]
        report = Path("reports", "validation", name, "report.json")
        verdict = read_json(report).get("success") if report.is_file() else None
        rows.append({"name": name, "done": done, "valid": verdict})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    words = {True: "valid", False: "NOT valid", None: "not validated"}
    for row in rows:
        here = ", ".join(row["done"]) or "nothing here"
        typer.echo(f"{row['name']:<16} {words[row['valid']]:<14} {here}")


def new(
    name: Annotated[str, typer.Argument(help="Name of the new data set.")],
    source: Annotated[
        str,
        typer.Option(
            "--from", help="A txt, csv, jsonl or parquet file; images also as folder, zip or npz."
        ),
    ],
    text: Annotated[str | None, typer.Option(help="Column of the text.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Column of a label; an empty cell means no label. Repeatable."),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Column with the previous turns.")] = None,
    dialogue: Annotated[
        str | None, typer.Option(help="Column that names the dialogue of a turn.")
    ] = None,
    turn: Annotated[str | None, typer.Option(help="Column with the number of the turn.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Column that names the speaker.")] = None,
    kind: Annotated[
        DocumentKind | None,
        typer.Option(help="documents: bags of words, in which order does not count."),
    ] = None,
    tokenizer: Annotated[
        TokenizerKind | None,
        typer.Option(help="Default: word; bpe where the vocabulary is very large."),
    ] = None,
) -> None:
    """Add a data set and an experiment on it to conf/."""
    from pipelines.new.dataset import add_dataset

    roles = {"text": text, "context": context, "dialogue": dialogue, "turn": turn}
    columns = {role: column for role, column in (roles | {"speaker": speaker}).items() if column}
    experiment = add_dataset(
        name,
        source,
        columns,
        label or [],
        kind.value if kind else None,
        tokenizer.value if tokenizer else None,
        say=typer.echo,
    )
    typer.echo(f"added {experiment}; build it with `make repro RUN={experiment}`")


def select(
    names: Annotated[list[str] | None, typer.Argument(help="Groups or experiments.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, as in 0,1,2.")] = None,
    epochs: Annotated[str | None, typer.Option(help="Length of every training, or null.")] = None,
    show: Annotated[
        bool, typer.Option("--status", help="List the values that differ from conf/.")
    ] = False,
    save: Annotated[
        str | None, typer.Option(metavar="NAME", help="Save those values as a file of conf/.")
    ] = None,
    discard: Annotated[bool, typer.Option("--discard", help="Drop those values.")] = False,
) -> None:
    """Choose what `dvc repro` builds.

    Composes params.yaml from conf/. Without names the present selection is composed again;
    --seeds and --epochs alone change nothing else.
    """
    from ldebm.config import load_params
    from pipelines.selection import length_line, select_run, status

    changing = bool(names) or seeds is not None or epochs is not None
    if (show or save is not None) and (changing or discard or (show and save is not None)):
        raise UsageError("select: --status and --save stand alone")
    if show:
        state = status(PARAMS)
        for item in state.differences:
            typer.echo(str(item))
        if state.edits:
            typer.echo(
                "not in conf/: `--save NAME` keeps these values there, `--discard` drops them"
            )
        else:
            typer.echo(state.summary() or "params.yaml is what conf/ gives")
        for key in state.own:
            typer.echo(f"{key} is not in conf/: it stays as params.yaml has it")
        if line := length_line(state.params.run):
            typer.echo(line)
        return
    if save is not None:
        from pipelines.saving import save_edits

        for file in save_edits(PARAMS, save):
            typer.echo(f"wrote {file.relative_to(Path.cwd())}")
    elif discard:
        select_run(PARAMS, names or [], seeds, epochs, "discard")
    else:
        select_run(PARAMS, names or [], seeds, epochs)
    run = load_params(PARAMS).run
    typer.echo(f"experiments {', '.join(run.experiments)}; seeds {run.seeds}")
    if line := length_line(run):
        typer.echo(line)
