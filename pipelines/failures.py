"""What a failed stage means: whether trying again can help, and what to tell the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["LOCK", "Failure", "dvc_said", "explain"]

INTERRUPTED = 75  # a training's exit code after SIGTERM, with its checkpoint written
LOCK = re.compile(
    r"Unable to acquire lock|is busy, it is being blocked by|RWLock-file|database is locked",
    re.I,
)
_MEMORY = re.compile(r"out of memory|MemoryError|Cannot allocate memory|bad_alloc", re.I)
_DEVICE = re.compile(r"CUDA error: (device|unspecified|unknown)|GPU is lost|NCCL .*error", re.I)
_FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|Errno 27|Errno 28")
_READ_ONLY = re.compile(r"Read-only file system|Permission denied|Errno 30|Errno 13")
_DVC = re.compile(r"ERROR: unexpected error( -)?\s*$|is corrupted|AssertionError", re.M)
_EXITED = re.compile(r"exited with (-?\d+)")


@dataclass(frozen=True)
class Failure:
    """Why a stage failed.

    Attributes:
        reason: a few words.
        retry: whether it is an infrastructure error, which may be gone the next time.
        hint: what to do, or nothing.
    """

    reason: str
    retry: bool
    hint: str = ""


def dvc_said(stderr: str) -> str:
    """The first error in what a dvc command printed, as one line, and how many more there are.

    Example:
        >>> dvc_said("WARNING: x\\nERROR: no such remote\\n\\nHaving any troubles? Ask us")
        'no such remote'
        >>> dvc_said("ERROR: failed to transfer a\\nERROR: failed to transfer b")
        'failed to transfer a (and 1 more)'
    """
    lines = [line.partition("ERROR: ")[2] for line in stderr.splitlines() if "ERROR: " in line]
    first = " ".join((lines or [stderr])[0].split()) or "no reason given"
    return f"{first} (and {len(lines) - 1} more)" if len(lines) > 1 else first


def explain(code: int, lines: Sequence[str]) -> Failure:
    """Reads the exit code of ``dvc repro`` and its last lines.

    Only an infrastructure error is worth another try: killed by a signal, no memory, a lock, a
    lost device, an interrupted training. Wrong parameters or data fail again.

    Example:
        >>> explain(1, ["error: data/x: no such file", "ERROR: failed to run: y, exited with 2"])
        Failure(reason='wrong parameters or data (exit code 2)', retry=False, hint='')
        >>> explain(1, ["ERROR: failed to run: python -m stages.x, exited with -9"]).retry
        True
    """
    text = "\n".join(lines)
    codes = _EXITED.findall(text)
    status = int(codes[-1]) if codes else code
    signalled = -status if status < 0 else status - 128 if 128 < status <= 192 else 0
    if _FULL.search(text):
        hint = "free some space, or `ldebm clean`; finished stages are kept"
        return Failure("the disk is full", False, hint)
    if _READ_ONLY.search(text):
        return Failure("a folder cannot be written to", False, "check owner, mode and mount")
    if not codes and _DVC.search(text):
        return Failure("dvc was disturbed by the death of another one", True)
    if LOCK.search(text):
        return Failure("a lock of dvc was busy", True)
    if _MEMORY.search(text):
        return Failure("out of memory", True, "fewer slots, or a smaller batch")
    if signalled:
        return Failure(f"killed by signal {signalled}", True, "out of memory is the usual cause")
    if status == INTERRUPTED:
        return Failure("interrupted; its checkpoint is kept", True)
    if _DEVICE.search(text):
        return Failure("the device was lost", True)
    if status == 2:
        return Failure("wrong parameters or data (exit code 2)", False)
    return Failure(f"exit code {status}", False)
