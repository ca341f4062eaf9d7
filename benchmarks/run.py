"""Measures the project and writes ``reports/bench.json`` (``make bench``).

References are the public code's medians on two threads of a two-core machine. ``ratio`` is how many
times faster the project is; ``matmul`` tells what the present machine's products are worth. Each
part runs in a process of its own, so that its peak memory is its own, and one that fails loses no
other.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.parts import PARTS
from benchmarks.timing import Record
from ldebm.files import read_json, write_json
from ldebm.seeding import configure, numerics

REPEATS, QUICK = 7, 3


def measure(part: str, repeats: int, threads: int) -> list[Record]:
    """The lines of one part, with what they were measured on."""
    configure(threads)
    machine = numerics(torch.device("cpu")) | {"load": os.getloadavg()[0]}
    lines = PARTS[part](repeats)
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    more = {"peak_memory_mb": peak, "threads": threads, "machine": machine}
    return [line | more for line in lines]


def isolated(part: str, repeats: int, threads: int) -> list[Record]:
    """:func:`measure` in another process; a line with the error if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "part.json"
        command = [sys.executable, "-m", "benchmarks.run", "--part", part, "--out", str(out)]
        command += ["--repeats", str(repeats), "--threads", str(threads)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode == 0 and out.is_file():
            lines: list[Record] = read_json(out)
            return lines
    reason = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    error = f"exit code {done.returncode}: {reason[-1]}"
    empty = {"value": None, "unit": None, "reference": None, "ratio": None}
    return [{"name": part, **empty, "error": error}]


def show(line: Record) -> str:
    """One line for the terminal."""
    if "error" in line:
        return f"{line['name']:<30} failed: {line['error']}"
    ratio = "" if line["ratio"] is None else f"  {line['ratio']:.1f} x the public code"
    if "times_faster" in line:
        ratio += f"  {line['times_faster']:.2f} x the plain path"
    if "roofline" in line:
        ratio += f"  {line['roofline']:.2f} x the time of its products"
    return f"{line['name']:<30} {line['value']:10.4g} {line['unit']}{ratio}"


def main() -> int:
    """Measures what was asked for; 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="reports/bench.json")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--repeats", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    repeats = options.repeats or (QUICK if options.quick else REPEATS)
    if options.part:
        write_json(options.out, measure(options.part, repeats, options.threads))
        return 0
    results: list[Record] = []
    for part in options.only:
        for line in isolated(part, repeats, options.threads):
            results.append(line)
            print(show(line), flush=True)
        write_json(options.out, results)
    return int(any("error" in line for line in results))


if __name__ == "__main__":
    sys.exit(main())
