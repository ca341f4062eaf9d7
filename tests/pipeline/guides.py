"""The commands that the guides show: found in their pages, and held against the programs.

A command is a line of a block of code, or a piece of code in the text that begins with a program.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md")))
NO_COMMANDS = ("params.yaml     what is built",)  # how blocks begin that show something else
OPERATORS = {";", "&&", "||", "|", "(", ")"}
INLINE = re.compile(r"`([^`]+)`")
VARIABLE = re.compile(r"((?:LDEBM|PREFECT)_[A-Z_]+)(?:=\S*)?")


@dataclass(frozen=True)
class Shown:
    """A command, a piece of Python or a variable on a page.

    Attributes:
        page: its file.
        text: continued lines joined, without comment.
        kind: ``sh`` and ``python`` of blocks, ``inline`` and ``variable`` of the text.
        block: number of its block on the page; 0: of none.
    """

    page: str
    text: str
    kind: str
    block: int = 0


def shown(page: str) -> list[Shown]:
    """What a page shows, in its order."""
    commands: list[Shown] = []
    for number, (language, lines) in enumerate(_pieces(page), start=1):
        text = "\n".join(lines)
        if language is None:
            commands += _in_text(page, text)
        elif language == "python":
            commands.append(Shown(page, text, "python", number))
        elif language == "sh" and not text.startswith(NO_COMMANDS):
            for line in text.replace("\\\n", " ").splitlines():
                if command := _without_comment(line):
                    commands.append(Shown(page, command, "sh", number))
    return commands


def _pieces(page: str) -> Iterator[tuple[str | None, list[str]]]:
    """Text (language None) and blocks of code, fenced or indented, in order."""
    language: str | None = None
    lines: list[str] = []
    fenced = False
    before = ""
    for line in [*(ROOT / page).read_text(encoding="utf-8").splitlines(), ""]:
        indented = line.startswith("    ") and (language == "sh" or not before.strip())
        if line.startswith("```"):
            yield language, lines
            fenced, lines = not fenced, []
            language = (line.removeprefix("```") or "text") if fenced else None
        elif fenced:
            lines.append(line)
        elif indented == (language == "sh") or (not line and lines and language == "sh"):
            lines.append(line.removeprefix("    "))
        else:
            yield language, lines
            language, lines = "sh" if indented else None, [line.removeprefix("    ")]
        before = line
    yield language, lines


def _without_comment(line: str) -> str:
    """The command in a line; a comment begins with # after a space."""
    lexer = shlex.shlex(line, posix=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = list(lexer)
    cut = next((i for i, word in enumerate(words) if word.startswith("#")), len(words))
    return " ".join(words[:cut])


def _in_text(page: str, text: str) -> Iterator[Shown]:
    for match in INLINE.finditer(text):
        code = " ".join(match[1].split()).removesuffix(" ...").replace("\\|", "|")
        if VARIABLE.fullmatch(code):
            yield Shown(page, code, "variable")
        elif " " in code and re.sub(r"^[A-Z_]+=\S* ", "", code).split()[0] in PROGRAMS:
            yield Shown(page, code, "inline")


def simple(text: str) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The simple commands of a line: the variables that each is given, and its words."""
    lexer = shlex.shlex(re.sub(r"[\[\]]", "", text), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in OPERATORS:
            words.append(word)
            continue
        given = 1 if words and words[0] == "export" else 0
        variables = {}
        while len(words) > given and re.fullmatch(r"[A-Z_]+=.*", words[given]):
            name, _, value = words.pop(given).partition("=")
            variables[name] = value
        if words or variables:
            yield variables, words[given:]
        words = []


def problem(item: Shown) -> str | None:
    """What is wrong with a command by the program that it starts; None if nothing is."""
    try:
        if item.kind == "python":
            compile(item.text, item.page, "exec")
            return None
        if item.kind == "variable":
            _known(item.text.partition("=")[0])
            return None
        for variables, words in simple(item.text):
            for name in variables:
                _known(name)
            if words:
                if words[0] not in PROGRAMS:
                    raise ValueError(f"{words[0]}: no program that the guides may use")
                if check := PROGRAMS[words[0]]:
                    check(words[1:], item.kind == "inline")
    except (ValueError, SyntaxError) as error:
        return f"{item.page}: {item.text}: {error}"
    return None


@functools.cache
def _variables() -> str:
    """All that may name a variable: Prefect's settings, and the code of the project."""
    from prefect.settings import get_current_settings

    known = get_current_settings().to_environment_variables(include_aliases=True)
    folders = ("ldebm", "stages", "pipelines", "deploy")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in code]
    return "\n".join([*known, *texts])


def _known(name: str) -> None:
    """A variable has to be one of Prefect's, or be read by the project."""
    if VARIABLE.fullmatch(name) and not re.search(rf"\b{name}\b", _variables()):
        raise ValueError(f"variable {name}: nobody reads it")


def _parsed_by(module: str, name: str) -> Callable[[list[str], bool], None]:
    """A check by the parser of a command line of typer or click."""

    def check(words: list[str], partial: bool) -> None:
        command: Any = getattr(importlib.import_module(module), name)
        if not hasattr(command, "make_context"):
            command = importlib.import_module("typer.main").get_command(command)
        context, rest, known = None, words, "command"
        try:
            while True:
                context = command.make_context(known, list(rest), parent=context)
                if not hasattr(command, "resolve_command"):
                    return
                left = [*context._protected_args, *context.args]
                known, command, rest = command.resolve_command(context, left)
        except Exception as error:
            said = str(getattr(error, "message", "") or error)
            if not (partial and type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError")):
                raise ValueError(f"{type(error).__name__}: {said}") from None

    return check


def _python(words: list[str], partial: bool) -> None:
    """``python -m MODULE``: by its parser, or the options by its help."""
    if words[:2] == ["-m", "pipelines"]:
        return _parsed_by("pipelines.cli", "app")(words[2:], partial)
    command = [sys.executable, *words[:2], "--help"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if words[:1] != ["-m"] or said.returncode:
        raise ValueError("no such module")
    _has_options(words[2:], said.stdout)
    return None


def _has_options(words: list[str], text: str) -> None:
    for word in words:
        if word.startswith("-") and word != "--":
            name = word.partition("=")[0]
            if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
                raise ValueError(f"no option {name}")


def _dvc(words: list[str], partial: bool) -> None:
    from dvc.cli.parser import DvcParserError, get_main_parser

    try:
        get_main_parser().parse_args(words)
    except (DvcParserError, argparse.ArgumentError, SystemExit) as error:
        if not partial and error.args != (0,):  # --help is one too
            raise ValueError(f"dvc does not take that: {error!r}") from None


def _torchrun(words: list[str], partial: bool) -> None:
    from torch.distributed.run import get_args_parser

    try:
        get_args_parser().parse_args(words)
    except SystemExit:
        raise ValueError("torchrun does not take that") from None


def _prefect(words: list[str], partial: bool) -> None:
    from cyclopts import CoercionError, CycloptsError, MissingArgumentError
    from prefect.cli._app import _app

    try:
        _app.parse_args(words, print_error=False, exit_on_error=False)
    except CoercionError:  # a name stands where a number goes: RUN_ID
        return
    except MissingArgumentError as error:
        if not partial:
            raise ValueError(str(error)) from None
    except CycloptsError as error:
        raise ValueError(str(error)) from None


def _git(words: list[str], partial: bool) -> None:
    said = subprocess.run(["git", words[0], "-h"], capture_output=True, text=True, check=False)
    if "usage:" not in said.stdout + said.stderr:
        raise ValueError(f"git has no {words[0]}")


def _make(words: list[str], partial: bool) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, assigned, _ = word.partition("=")
        rule = rf"^{name}\s*[?:]?=" if assigned else rf"^{name}:"
        if not re.search(rule, text, re.MULTILINE):
            raise ValueError(f"Makefile has no {word}")


def _script(words: list[str], partial: bool) -> None:
    """deploy/worker.sh gives its options to the worker."""
    _prefect(["worker", "start", "--pool", "ldebm", *words], partial)


PROGRAMS: dict[str, Callable[[list[str], bool], None] | None] = {
    "ldebm": _parsed_by("ldebm.cli", "app"),
    "python": _python,
    "make": _make,
    "dvc": _dvc,
    "torchrun": _torchrun,
    "git": _git,
    "gto": _parsed_by("gto.cli", "app"),
    "prefect": _prefect,
    "deploy/worker.sh": _script,
    **dict.fromkeys(  # of the system, or not installed with the project
        (
            "source",
            "cat",
            "cd",
            "curl",
            "tensorboard",
            "head",
            "sudo",
            "ssh",
            "docker",
            "pip",
            "pg_dump",
        ),
        None,
    ),
}
