"""The command ``complete``: fill the gaps of sentences."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ldebm.cli import models
from ldebm.errors import UsageError

if TYPE_CHECKING:
    from ldebm.completion import Completer
    from ldebm.config import CompletionConfig
    from ldebm.model import Model

__all__ = ["COMMANDS"]


def complete(
    target: models.Target,
    text: Annotated[
        list[str] | None, typer.Option(help="A sentence with ___ for every missing word; repeats.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="A UTF-8 file with one sentence a line.")
    ] = None,
    seed: models.Seed = 0,
    as_json: models.AsJson = False,
) -> None:
    """Fill the gaps of sentences: "the ___ of the company"."""
    rows = models.read_texts(text, file, "complete")
    from ldebm.completion import complete as complete_texts
    from ldebm.completion import read_gaps

    model = models.require_text(models.load_target(target), target)
    read_gaps(model, rows)  # a mistake is said before anything is trained
    config, completer = _completer(model)
    found = complete_texts(model, completer, rows, config, seed)
    if as_json:
        pairs = [{"text": a, "completed": b} for a, b in zip(rows, found, strict=True)]
        typer.echo(json.dumps(pairs, indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(found))


def _completer(model: Model) -> tuple[CompletionConfig, Completer]:
    """The network that the evaluation of this run has trained, or one that is trained now."""
    from ldebm.completion import load_completer, train_completer
    from ldebm.config import CompletionConfig
    from ldebm.data.packed import open_packed

    config = model.config.evaluate.completion or CompletionConfig()
    kept = Path("reports", model.experiment, str(model.seed), "details", "completion.safetensors")
    if kept.is_file():
        return config, load_completer(kept, model)
    data = Path("data", "packed", model.config.data)
    if not (data / "meta.json").is_file():
        raise UsageError(
            f"{model.experiment}: neither {kept} nor {data} is here; set evaluate.completion of "
            "the experiment and build it (`make repro`)"
        )
    print(
        f"training {config.updates} updates on {data}; `evaluate.completion` keeps it",
        file=sys.stderr,
    )
    split = open_packed(data).split("train")
    return config, train_completer(model, split, config, model.seed)[0]


COMMANDS = [complete]
