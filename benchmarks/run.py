"""Measures the project and writes ``reports/bench.json`` (``make bench``).

``ratio`` is how many times faster than the published procedure in plain PyTorch, which takes turns
with it in the same process (:mod:`benchmarks.eager`); ``roofline`` how many times the seconds of
its products at this machine's rates. Each part runs in a process of its own for each number of
threads, so that its peak memory is its own, and one that fails loses no other.

    python -m benchmarks.run --check results/bench.json    # make bench-check

measures the rows again with few repeats and one thread, and fails where a ratio fell below half of
the one recorded: times of another machine say nothing, ratios do.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.parts import PARTS
from benchmarks.timing import Record
from ldebm.files import read_json, write_json
from ldebm.seeding import configure, numerics

REPEATS, QUICK = 7, 5
ONCE = ("rounding", "priors_together", "images")  # no matter of threads
ROWS = ("joint_update", "prior_samples", "generation", "nll500", "cluster_features", "first_stage")
WORSE = 0.5  # of a recorded ratio: machines differ, and this is for mistakes


def measure(part: str, repeats: int, threads: int) -> list[Record]:
    """The lines of one part, with what they were measured on."""
    configure(threads)
    machine = numerics(torch.device("cpu")) | {"load": os.getloadavg()[0]}
    lines = PARTS[part](repeats)
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    more = {"peak_memory_mb": peak, "machine": machine}
    return [line | more for line in lines]


def isolated(part: str, repeats: int, threads: int) -> list[Record]:
    """:func:`measure` in another process; a line with the error if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        command = [sys.executable, "-m", "benchmarks.run", "--part", part, "--out", str(out)]
        command += ["--repeats", str(repeats), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            command, stderr=subprocess.PIPE, text=True, check=False, env=environment
        )
        if done.returncode == 0 and out.is_file():
            lines: list[Record] = read_json(out)
            return lines
    reason = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    error = f"exit code {done.returncode}: {reason[-1]}"
    return [{"name": part, "threads": threads, "value": None, "unit": None, "error": error}]


def show(line: Record) -> str:
    """One line for the terminal."""
    name = f"{line['name']}, {line['threads']} thread{'s' * (line['threads'] > 1)}"
    if "error" in line:
        return f"{name:<42} failed: {line['error']}"
    text = f"{name:<42} {line['value']:9.4g} {line['unit']}"
    if "ratio" in line:
        low, high = line["ratio_quartiles"]
        against = line.get("against", "plain PyTorch")
        text += f"  {line['ratio']:.2f} ({low:.2f} to {high:.2f}) times as fast as {against}"
    if "roofline" in line:
        text += f"  {line['roofline']:.2f} x its products"
    return text


def fallen(now: Sequence[Record], recorded: Sequence[Record]) -> list[str]:
    """A line for each ratio that is below :data:`WORSE` of the recorded one.

    Args:
        now: what was measured.
        recorded: on whatever machine; rows that are in one of both alone are left out.

    Example:
        >>> fast = {"name": "a", "threads": 1, "ratio": 6.0}
        >>> fallen([fast | {"ratio": 2.9}], [fast])
        ['a: 2.9 times as fast as plain PyTorch, recorded 6.0']
    """
    known = {(row["name"], row["threads"]): row["ratio"] for row in recorded if "ratio" in row}
    lines = []
    for row in now:
        before = known.get((row["name"], row["threads"]))
        if before is not None and row["ratio"] < WORSE * before:
            ratios = f"{row['ratio']:.1f} times as fast as plain PyTorch, recorded {before:.1f}"
            lines.append(f"{row['name']}: {ratios}")
    return lines


def check(path: Path) -> int:
    """Measures the recorded rows again; 1 if one of them fell, or a part failed."""
    results = [line for part in ROWS for line in isolated(part, QUICK, 1)]
    for line in results:
        print(show(line), flush=True)
    problems = fallen([line for line in results if "ratio" in line], read_json(path))
    problems += [f"{line['name']}: {line['error']}" for line in results if "error" in line]
    for text in problems:
        print(text, file=sys.stderr)
    return int(bool(problems))


def main() -> int:
    """Measures what was asked for; 1 if a part failed, or a ratio fell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="reports/bench.json")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--repeats", type=int, help="turns that count")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="one run each")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with recorded ratios")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    repeats = options.repeats or (QUICK if options.quick else REPEATS)
    if options.check:
        return check(options.check)
    if options.part:
        write_json(options.out, measure(options.part, repeats, options.threads[0]))
        return 0
    results: list[Record] = []
    for part in options.only:
        for threads in options.threads[:1] if part in ONCE else options.threads:
            for line in isolated(part, repeats, threads):
                results.append(line)
                print(show(line), flush=True)
            write_json(options.out, results)
    return int(any("error" in line for line in results))


if __name__ == "__main__":
    sys.exit(main())
