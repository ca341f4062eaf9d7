"""Measurements that are kept in ``results/``: under what they were made, written as they come."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldebm.files import read_json, write_json

__all__ = ["ROOT", "Rounds", "circumstances"]

ROOT = Path(__file__).parents[1]
CODE = ("benchmarks", "ldebm", "pipelines", "stages", "tests")


def circumstances() -> dict[str, Any]:
    """Commit (``-dirty`` behind it where code differs from it), device, cores, Python, load."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", *CODE)
    return {
        "commit": git("rev-parse", "HEAD") + ("-dirty" if changed else ""),
        "device": "cpu",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


class Rounds:
    """Rounds of a measurement in a JSON file that is complete after every one.

    A round is a mapping with ``kind``, ``number``, ``ok`` and ``seconds``. Those that the file has
    with ``ok`` stand; one that was not moves to ``repeated`` when it runs again, with its commit.

    Args:
        path: the file; what it has is kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = read_json(path) if path.is_file() else {}
        self.rounds: list[dict[str, Any]] = content.get("rounds", [])
        self.repeated: list[dict[str, Any]] = content.get("repeated", [])

    @property
    def ok(self) -> bool:
        """Whether no round lost anything."""
        return all(item["ok"] for item in self.rounds)

    def has(self, kind: str, number: int) -> bool:
        """Whether a round is there and was right."""
        return any(item["ok"] for item in self.rounds if _same(item, kind, number))

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes a round and writes the file."""
        facts = circumstances()
        new = {**row, **{key: facts[key] for key in ("commit", "load")}}
        places = [_same(item, row["kind"], row["number"]) for item in self.rounds]
        if True in places:
            place = places.index(True)
            self.repeated.append(self.rounds[place])
            self.rounds[place] = new
        else:
            self.rounds.append(new)
        seconds = round(_total(self.rounds) + _total(self.repeated), 1)
        content = {**facts, "ok": self.ok, "seconds": seconds}
        write_json(self.path, {**content, "rounds": self.rounds, "repeated": self.repeated})


def _same(item: Mapping[str, Any], kind: str, number: int) -> bool:
    return bool(item["kind"] == kind and item["number"] == number)


def _total(rounds: Sequence[Mapping[str, Any]]) -> float:
    return sum(float(item["seconds"]) for item in rounds)
