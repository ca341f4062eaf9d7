"""The command ``complete``: fill the gaps of sentences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldebm.cli import models
from ldebm.cli.output import progress
from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.completion import Completer
    from ldebm.config import CompletionConfig
    from ldebm.model import Model

__all__ = ["COMMANDS"]

TRAINED_BY = {"share", "hidden", "observed", "updates", "batch", "lr"}  # of the settings


def complete(
    target: models.Target,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Sentences with ___ for every missing word; or use --from."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--from", "--file", help="Sentences, as `ldebm score` reads texts."),
    ] = None,
    column: models.Column = None,
    seed: models.Seed = 0,
    as_json: models.AsJson = False,
    device: models.Device = "auto",
) -> None:
    """Fill gaps: "the ___ of the company"."""
    rows = models.read_texts(texts, file, "complete", column)
    from ldebm.completion import complete as complete_texts
    from ldebm.completion import read_gaps

    model = models.require_text(models.load_target(target, device), target)
    read_gaps(model, rows)  # a mistake is said before anything is trained
    config, completer = _completer(model)
    with progress("complete", len(rows), "texts") as bar:
        completed = complete_texts(model, completer, rows, config, seed, lambda n: bar.show(n, {}))
    if as_json:
        pairs = [{"text": a, "completed": b} for a, b in zip(rows, completed, strict=True)]
        typer.echo(json.dumps(pairs, indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(completed))


def _completer(model: Model) -> tuple[CompletionConfig, Completer]:
    """The network that the evaluation of this run has trained, or one that is trained once."""
    from ldebm.completion import load_completer, save_completer
    from ldebm.config import CompletionConfig
    from ldebm.user_cache import kept

    config = model.config.evaluate.completion or CompletionConfig()
    run = Path("reports", model.experiment, str(model.seed))
    evaluated = run / "details" / "completion.safetensors"
    if evaluated.is_file():
        try:
            return config, load_completer(evaluated, model)
        except UsageError as error:
            typer.echo(f"not used: {error}", err=True)
    if model.fingerprint is None:
        return config, _trained(model, config, evaluated)
    about = {"model": model.fingerprint, "seed": model.seed}
    completer, said = kept(
        "completion.safetensors",
        {**about, **config.model_dump(mode="json", include=TRAINED_BY)},
        lambda path: load_completer(path, model),
        lambda: _trained(model, config, evaluated),
        lambda path, made: save_completer(path, made, about),
    )
    if said:
        typer.echo(f"trained the network that completes sentences; {said}", err=True)
    return config, completer


def _trained(model: Model, config: CompletionConfig, evaluated: Path) -> Completer:
    """Trains the network on the rows that the model was trained on."""
    from ldebm.completion import train_completer
    from ldebm.data.packed import open_packed

    data = Path("data", "packed", model.config.data)
    if not (data / "meta.json").is_file():
        raise UsageError(
            f"{model.experiment}: neither {evaluated} nor {data} is here; set evaluate.completion "
            "of the experiment and build it (`make repro`)"
        )
    typer.echo(
        f"training the network that completes sentences on {data}: once for this model", err=True
    )
    split = open_packed(data).split("train")
    with progress("completion", config.updates, "updates") as bar:
        return train_completer(model, split, config, model.seed, bar.show)[0]


COMMANDS = [complete]
