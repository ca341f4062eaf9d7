"""Commands that use a trained model: generate, respond, classify, cluster, interpolate."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ldebm.cli.images import generate_images
from ldebm.cli.output import class_records, progress, show_classes
from ldebm.errors import UsageError
from ldebm.trained import find_model

if TYPE_CHECKING:
    from ldebm.evaluate.clusters import ClusterDescription
    from ldebm.modalities.dialogues import ResponseModel
    from ldebm.modalities.sentences import TextModel
    from ldebm.model import Model, UserRows

__all__ = ["COMMANDS", "find_model", "load_target", "read_rows", "read_texts", "require_text"]

CLUSTER_ROWS, ENCODED = 5000, 512  # rows that are described, and encoded at a time
Target = Annotated[str, typer.Argument(help="An experiment, or the path of a trained model.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Resize = Annotated[bool, typer.Option("--resize", help="Crop and scale images that need it.")]
Column = Annotated[str | None, typer.Option("--text", help="Column of the text, of a table.")]
Seed = Annotated[int, typer.Option(help="Seed of the draws.")]
Device = Annotated[str, typer.Option(help="auto (the GPU if there is one), cpu or cuda.")]


def load_target(target: str, device: str = "auto") -> Model:
    """The model that a user means by ``target``, on the threads that suit it.

    Models of text and points compute on as many threads as their evaluation (one, where nothing
    else is said): more would mostly wait for each other. ``OMP_NUM_THREADS`` overrides that.
    """
    import torch

    import ldebm

    model = ldebm.load(str(find_model(target)), device)
    if not model.threads and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(model.config.evaluate.threads)
    return model


def generate(
    target: Target,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of samples.")] = 10,
    label: Annotated[str | None, typer.Option(help="Class: its number or name.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    draws: Annotated[
        int,
        typer.Option(
            min=1,
            help="Text with --label: candidates for each sample; the first that the model itself "
            "assigns to the class is kept.",
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--to",
            "--out",
            help="Images: the file to write, FILE.png (one picture) or FILE.parquet.",
        ),
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="Images: NAME=VALUE, as in Smiling=1; repeatable.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Sample from the prior and decode."""
    model = load_target(target, device)
    if draws > 1 and model.rows != "texts":
        raise UsageError(f"{target}: --draws is for models of text")
    if model.rows == "images":
        generate_images(model, number, label, attribute or [], seed, out, as_json=as_json)
        return
    if out is not None or attribute:
        raise UsageError(f"{target}: --to and --attribute are for models of images")
    drawn = model.generate(number, label=model.label_index(label), seed=seed, draws=draws)
    rows = drawn if isinstance(drawn, list) else drawn.tolist()
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(row if isinstance(row, str) else " ".join(f"{value:.4f}" for value in row))


def respond(
    target: Target,
    context: Annotated[
        list[str] | None,
        typer.Option(
            help="A previous turn; repeatable, oldest first. Without it a dialogue begins."
        ),
    ] = None,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="Number of replies.")] = 1,
    label: Annotated[str | None, typer.Option(help="Class: its number or name.")] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Sample words instead of taking the most probable.")
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Reply to a dialogue.

    Several replies differ by their latent vector.
    """
    model = load_target(target, device)
    if model.task != "responses":
        raise UsageError(f"{target}: reads no context; this needs a model of arch 'dialogue'")
    model = cast("ResponseModel", model)
    mode = "sample" if sample else "greedy"
    rows = model.respond(context or [], number, model.label_index(label), seed, mode)
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else "\n".join(rows))


def classify(
    target: Target,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; or use --from.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--from",
            "--file",
            help="Texts, as `ldebm score` reads them; or images. Default: lines of input.",
        ),
    ] = None,
    column: Column = None,
    resize: Resize = False,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Classify texts or images.

    Every row has its most probable class, and how sure that is.
    """
    if file is not None and not file.exists():
        raise UsageError(f"{file}: no such file")
    if file is not None and texts:
        raise UsageError("give texts or --from, not both")
    model = load_target(target, device)
    if file is not None:
        rows = read_rows(model, file, column, resize=resize)
    elif model.rows != "texts":
        raise UsageError(f"{target}: a model of {model.rows}; give the {model.rows} by --from")
    else:
        from ldebm.model import UserRows

        lines = read_texts(texts, None, "classify", column)
        rows = UserRows(lines, {"text": lines})
    model.label_index(0)  # says what is wrong where the prior has no classes
    records = class_records(model.classify(rows.values), model.class_labels())
    for name, record in zip(rows.columns[rows.name], records, strict=True):
        record |= {rows.name: name, "unknown": model.unknown_words(name)}
    show_classes(records, rows.name, as_json=as_json)


def read_rows(
    model: Model,
    file: Path,
    column: str | None = None,
    context: str | None = None,
    *,
    resize: bool = False,
) -> UserRows:
    """The rows of a file; how many are left out goes to standard error."""
    rows = model.read(file, column, context, resize=resize)
    _say_left_out(file, len(rows), rows.left_out)
    return rows


def _say_left_out(file: Path, kept: int, left_out: int) -> None:
    if left_out:
        typer.echo(
            f"{file}: {left_out} of {kept + left_out} rows have no text and are left out", err=True
        )


def read_texts(
    texts: list[str] | None, file: Path | None, verb: str, column: str | None = None
) -> list[str]:
    """The texts given, those of a file, or the lines of standard input.

    Raises:
        UsageError: both are given, nothing is, or the file cannot be read.
    """
    from ldebm.data.user_texts import read_stream
    from ldebm.data.user_texts import read_texts as read_file

    if file is not None and texts:
        raise UsageError("give texts or --from, not both")
    if file is not None:
        lines = read_file(file, column)
        _say_left_out(file, len(lines.texts), lines.left_out)
        return lines.texts
    if column is not None:
        raise UsageError(f"column {column!r} is one of --from, which is not given")
    rows = [text for text in texts or [] if text.strip()]
    if not texts and not sys.stdin.isatty():
        data = sys.stdin.buffer.read()
        rows = read_stream(data).texts if data.strip() else []
    if not rows:
        raise UsageError(f"nothing to {verb}: give texts, or --from FILE with one text a line")
    return rows


def require_text(model: Model, target: str) -> TextModel:
    """The model, if it is one of text.

    Raises:
        UsageError: it is not.
    """
    if model.rows != "texts":
        raise UsageError(f"{target}: a model of {model.rows}; this command needs a model of text")
    return cast("TextModel", model)


def interpolate(
    target: Target,
    first: Annotated[str, typer.Argument(help="Text to start from.")],
    second: Annotated[str, typer.Argument(help="Text to end with.")],
    steps: Annotated[int, typer.Option(min=2, help="Number of texts, both ends included.")] = 7,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Decode the line between two texts."""
    model = require_text(load_target(target, device), target)
    rows = list(model.interpolate(first, second, steps))
    typer.echo(json.dumps(rows, indent=1, ensure_ascii=False) if as_json else "\n".join(rows))


def cluster(
    target: Target,
    top: Annotated[int, typer.Option(min=1, help="Examples and words per class.")] = 10,
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Describe the classes of a model.

    Size, true labels, distinctive words and examples of the test rows.
    """
    model = require_text(load_target(target, device), target)
    rows = [asdict(item) for item in _described(model, top)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    for row in rows:
        labels = ", ".join(f"{name} {share:.0%}" for name, share in row["labels"])
        typer.echo(f"class {row['cluster']}: {row['size']} rows{f' ({labels})' if labels else ''}")
        if row["words"]:
            typer.echo("  words: " + ", ".join(word for word, _ in row["words"]))
        for exemplar in row["exemplars"]:
            typer.echo(f"  - {exemplar}")


def _described(model: TextModel, top: int) -> list[ClusterDescription]:
    """The classes of (at most 5,000) test rows of the data that the model was trained on."""
    import torch

    from ldebm.data.packed import open_packed
    from ldebm.evaluate.clusters import describe_clusters
    from ldebm.evaluate.report import encode_rows, subset

    packed = open_packed(Path("data", "packed", model.config.data))
    split = packed.split("test")
    rows = subset(split.n, CLUSTER_ROWS, 0, "cluster")
    means = []
    with progress("cluster", len(rows), "rows") as bar:
        for start in range(0, len(rows), ENCODED):
            part = rows[start : start + ENCODED]
            means.append(encode_rows(model.backbone, split, part, model.device)[0])
            bar.show(start + len(part), {})
    mu = torch.cat(means)
    model = model.in_contexts_of(split, rows)
    logits = model.prior.class_logits(mu).detach().cpu()
    tokenizer = packed.tokenizer
    texts = [tokenizer.decode(split.row(int(row)).tolist()) for row in rows]
    labels = None
    column = next(iter(packed.meta.get("labels", {})), None)
    if column is not None:
        names = [*packed.meta["labels"][column], "none"]  # -1, no label, is the last
        labels = [names[int(number)] for number in split.labels(column)[rows]]
    return describe_clusters(logits, texts, labels, exemplars=top, words=top)


COMMANDS = [generate, respond, classify, interpolate, cluster]
