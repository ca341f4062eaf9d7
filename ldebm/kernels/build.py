"""Compiles the kernels: ``python -m ldebm.kernels.build``.

Whoever runs it twice at once gets the same file twice, put in place as a whole. Where it fails, one
line says so, and everything works by plain PyTorch.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ldebm.files import atomic_path
from ldebm.kernels import FLAGS, SOURCES, library, unsupported

__all__ = ["build"]


def build() -> str:
    """Makes the library if it is not there; a line that says what is there now."""
    if (reason := unsupported()) is not None:
        return f"none, {reason}: plain PyTorch is used"
    try:
        target = library()
        if target.is_file():
            return f"compiled already ({target})"
        _compile(target)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"none, {_reason(error)}: plain PyTorch is used"
    return f"compiled ({target})"


def _compile(target: Path) -> None:
    """Raises where there is no compiler, or where it fails."""
    from torch.utils.cpp_extension import get_cxx_compiler, include_paths, library_paths

    compiler = shlex.split(get_cxx_compiler())  # type: ignore[no-untyped-call]
    if shutil.which(compiler[0]) is None:
        raise OSError(f"there is no C++ compiler ({compiler[0]})")
    includes = [f"-I{path}" for path in include_paths()]
    sources = [path for path in SOURCES if path.suffix == ".cpp"]
    with tempfile.TemporaryDirectory() as folder:
        objects = [Path(folder, f"{path.stem}.o") for path in sources]
        running = [
            subprocess.Popen(
                [*compiler, *FLAGS, *includes, "-c", str(path), "-o", str(out)],
                stderr=subprocess.PIPE,
                text=True,
            )
            for path, out in zip(sources, objects, strict=True)
        ]
        messages = [process.communicate()[1] for process in running]
        for process, message in zip(running, messages, strict=True):
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, compiler[0], stderr=message)
        # libgomp is torch's own, which comes with libtorch_cpu: two would be two pools of threads.
        links = [f"-L{path}" for path in library_paths()] + ["-ltorch_cpu", "-lc10"]
        with atomic_path(target) as out:
            command = [*compiler, "-shared", *map(str, objects), "-o", str(out), *links]
            subprocess.run(command, check=True, capture_output=True, text=True)


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """One line."""
    if isinstance(error, OSError):
        return str(error)
    lines = [line for line in str(error.stderr).splitlines() if "error" in line]
    return f"{error.cmd if isinstance(error.cmd, str) else error.cmd[0]} failed: " + (
        " ".join(lines[0].split()) if lines else f"exit code {error.returncode}"
    )


def main() -> int:
    """Builds, and says what is there."""
    print("kernels:", build())
    return 0


if __name__ == "__main__":
    sys.exit(main())
