"""Parts of a sweep or a retraining, built by whoever is free, each after those that it needs.

A part whose machine is lost is handed out again. This module knows no Prefect: a :class:`Crew`
hands the parts out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ldebm.errors import LdebmError
from pipelines import signals
from pipelines.engine import Engine
from pipelines.estimate import words
from pipelines.point import Built
from pipelines.types import Selection

__all__ = ["Crew", "News", "Part", "Unreachable", "fan_out", "why"]

POLL = 2.0  # seconds
SIGN_SECONDS = 60.0  # between two lines that say what is waited for
TRIES = 3  # machines that a part may lose
AWAY_SECONDS = 300.0  # without an answer of who hands out, after which there will be none


class Unreachable(LdebmError):
    """Who hands out does not answer now; what was asked can be asked again."""


@dataclass(frozen=True)
class Part:
    """What one machine builds at a time.

    Attributes:
        name: for people, ``point 3``.
        selection: a commit with overrides; targets where it is not all.
        builds: names of the stages that are its own.
        needs: parts that have to be done before.
        resources: what it takes, by name: cpus, gpus, memory in GiB, time in minutes.
    """

    name: str
    selection: Selection
    builds: tuple[str, ...]
    needs: tuple[str, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class News:
    """How a part that was handed out is.

    Attributes:
        state: ``waits``: nobody has taken it; ``runs``; ``done``, with ``built``; ``lost``: its
            machine is gone; ``failed``: it will not get better by another try.
        text: where it runs, or why it is lost or failed.
        built: the result.
    """

    state: Literal["waits", "runs", "done", "lost", "failed"]
    text: str = ""
    built: Built | None = None


class Crew(Protocol):
    """Hands parts out. All of it may raise :class:`Unreachable`.

    Attributes:
        remote: those who build have folders of their own, and outputs go through the DVC remote.
    """

    remote: bool

    def start(self, part: Part) -> str:
        """Has a part built, by whoever is free; gives the name of this try."""

    def news(self, tries: Sequence[str]) -> Mapping[str, News]:
        """How they are."""

    def drop(self, run: str) -> None:
        """Stops a try that waits or runs; what it has finished is kept."""


class _Work:
    """Parts on their way.

    Args:
        parts: those that others need first.
        crew: hands them out.
        engine: takes the lines.
    """

    def __init__(self, parts: Sequence[Part], crew: Crew, engine: Engine) -> None:
        self.crew, self.engine, self.total = crew, engine, len(parts)
        self.left = {part.name: part for part in parts}
        self.running: dict[str, Part] = {}  # by the name of the try
        self.states: dict[str, News] = {}
        self.losses = dict.fromkeys(self.left, 0)
        self.ended: dict[str, Built | str] = {}

    def start(self) -> None:
        """Hands out what has all that it needs."""
        for name, part in list(self.left.items()):
            lost = [need for need in part.needs if need in self.ended and why(self.ended[need])]
            if lost:
                self._end(self.left.pop(name), f"needs {lost[0]}: {why(self.ended[lost[0]])}")
            elif all(need in self.ended for need in part.needs):
                self.running[self.crew.start(part)] = part
                del self.left[name]

    def look(self) -> None:
        """Takes what has ended."""
        for run, news in self.crew.news(list(self.running)).items():
            part, before = self.running[run], self.states.get(run)
            self.states[run] = news
            if news.state == "runs" and news != before:
                self.engine.say(f"{part.name}: {news.text}")
            if news.state in ("waits", "runs"):
                continue
            del self.running[run]
            self.losses[part.name] += news.state == "lost"
            if news.state == "lost" and self.losses[part.name] < TRIES:
                self.engine.say(f"{part.name}: lost, and handed out again ({news.text})")
                self.left[part.name] = part
            else:
                self._end(part, news.built or news.text)

    def _end(self, part: Part, built: Built | str) -> None:
        self.ended[part.name] = built
        self.engine.say(f"{len(self.ended)}/{self.total} {_line(part, built)}")

    def drop(self) -> None:
        """Stops everything; what cannot be told is left to itself."""
        for run in self.running:
            with contextlib.suppress(Unreachable):
                self.crew.drop(run)

    def line(self) -> str:
        """How many run, and how many nobody has taken."""
        states = [self.states[run].state for run in self.running if run in self.states]
        return f"{states.count('runs')} running, {states.count('waits')} waiting for a worker"


def fan_out(parts: Sequence[Part], crew: Crew, engine: Engine) -> dict[str, Built | str]:
    """Has all parts built.

    Args:
        parts: those that others need first.
        crew: hands them out.
        engine: takes the lines.

    Returns:
        By name of the part the result, or why there is none.

    Raises:
        Unreachable: nobody has handed anything out for minutes.
    """
    work = _Work(parts, crew, engine)
    said = answered = time.monotonic()
    try:
        while work.left or work.running:
            signals.check()
            try:
                work.start()
                work.look()
                answered = time.monotonic()
            except Unreachable as error:
                if time.monotonic() - answered > AWAY_SECONDS:
                    raise
                engine.say(f"{error}; trying again")
            if work.running and time.monotonic() - said > SIGN_SECONDS:
                said = time.monotonic()
                engine.say(work.line())
            time.sleep(POLL)
    except BaseException:
        work.drop()
        raise
    return work.ended


def why(built: Built | str) -> str:
    """In one line why a part is not built; empty if it is."""
    if isinstance(built, str):
        return built
    failed = next(iter(built.report.having("failed", "skipped")), None)
    return "" if failed is None else f"{failed.name}: {failed.message.partition(chr(10))[0]}"


def _line(part: Part, built: Built | str) -> str:
    if isinstance(built, str):
        return f"{part.name}: failed: {built}"
    report = built.report
    done = f"{len(report.having('built'))} built, {len(report.having('cached'))} there already"
    state = f"failed: {why(built)}" if why(built) else done
    return f"{part.name}: {state}, in {words(report.seconds)}; {built.where}"
