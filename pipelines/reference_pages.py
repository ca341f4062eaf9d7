"""Reference pages that are written from the program: its commands, and what its metrics mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipelines.results.glossary import FORMER, METRICS, describe

__all__ = ["commands", "metrics"]

COMMANDS = """\
# Commands

<!-- Written by `python -m pipelines.reference` from the help of `ldebm`. -->

`--help` after a command prints the same. Exit codes: 0 done; 1 it failed; 2 wrong usage or data;
128 + N ended by signal N (130 after Ctrl-C). `--debug`, anywhere, shows the traceback of a failure.
`--install-completion` has the shell complete names. `python -m pipelines` is another name for the
commands that run stages.
"""
GLOSSARY = """\
# Metrics

<!-- Written by `python -m pipelines.reference` from pipelines/results/glossary.py. -->

What the names in `reports/E/S/metrics.json` mean, and which way is better. Metrics without a
direction describe; a comparison calls them different, never better or worse. Names with a part for
a label, a level or a data set (`ami_intent`, `nll_ess_2`) are described by the name without it.
Formulas: [method](../method.md), section 5.
"""


def commands() -> str:
    """Every command with its help, as a page."""
    import typer

    from ldebm.cli import app

    group: Any = typer.main.get_command(app)
    lines = [COMMANDS]
    settings = {"resilient_parsing": True, "terminal_width": 80, "max_content_width": 80}
    above = group.make_context("ldebm", [], **settings)
    for words, command in _commands(group, ("ldebm",)):
        context = command.make_context(" ".join(words[1:]), [], parent=above, **settings)
        usage, _, rest = context.get_help().partition("\n\n")
        usage = " ".join(usage.removeprefix("Usage: ").split())
        lines += [f"## {' '.join(words)}", "", "```text", usage, "", rest.rstrip(), "```", ""]
    return "\n".join(lines)


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if hasattr(command, "list_commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def metrics() -> str:
    """Every metric with its direction, as a page."""
    lines = [GLOSSARY, "| metric | better | meaning |", "| --- | --- | --- |"]
    for name in sorted(METRICS):
        metric = describe(name)
        meaning = re.sub(r"\|", r"\\|", metric.meaning)
        lines.append(f"| `{name}` | {metric.better or '-'} | {meaning} |")
    lines += ["", "Earlier names, which are still read:", ""]
    lines += [f"- `{old}...` is `{new}...`" for old, new in sorted(FORMER.items())]
    return "\n".join(lines) + "\n"
