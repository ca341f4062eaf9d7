"""The code that a stage runs, for the `deps:` of dvc.yaml: DVC does not see imports (C9).

    python -m stages.closure            prints the modules of every stage
    python -m stages.closure --update   rewrites the ldebm/ and stages/ lines of dvc.yaml

Imports are read from the syntax tree, those inside functions too. Only the lazy imports of a
package's ``__init__`` are left out where that package was not imported for its own sake, and
imports under ``if TYPE_CHECKING`` are never followed.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ldebm.files import write_text

__all__ = ["closure", "stage_names", "update"]

_PACKAGES = ("ldebm", "stages")
_STAGE = re.compile(r"  ([a-z_]+):\n")


def closure(module: str, root: Path = Path()) -> list[str]:
    """The project's files that ``module`` imports, itself and the packages above it included.

    Args:
        module: dotted name, ``stages.prior``.
        root: the project's folder.

    Returns:
        Sorted paths relative to ``root``.
    """
    found: dict[Path, bool] = {}  # file -> whether its function-level imports were followed
    waiting = [(module, True)]
    while waiting:
        name, deep = waiting.pop()
        path = _file(name, root)
        if path is None or (found.get(path, not deep) >= deep and path in found):
            continue
        found[path] = deep
        waiting += [(parent, False) for parent in _parents(name)]
        waiting += [(item, True) for item in _imports(path, name, root, deep)]
    return sorted(path.relative_to(root).as_posix() for path in found)


def _file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _parents(name: str) -> Iterator[str]:
    parts = name.split(".")
    for end in range(1, len(parts)):
        yield ".".join(parts[:end])


def _imports(path: Path, name: str, root: Path, deep: bool) -> Iterator[str]:
    """Dotted names of the project's modules that a file imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8")), deep):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join(
                [*(above if node.level else []), *([node.module] if node.module else [])]
            )
            members = [f"{base}.{alias.name}" for alias in node.names]
            modules = [member for member in members if _file(member, root)]
            # Only a package that gives a name of its own (`from ldebm import load`) is read deeply.
            names = modules if len(modules) == len(members) else [base, *modules]
        else:
            continue
        yield from (item for item in names if item.split(".")[0] in _PACKAGES)


def _nodes(tree: ast.AST, deep: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if not deep and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield node
        yield from _nodes(node, deep)


def stage_names(root: Path = Path()) -> list[str]:
    """The stages of dvc.yaml, in its order."""
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    stages = text.partition("\nstages:\n")[2].partition("\nartifacts:\n")[0]
    return [match.group(1) for match in re.finditer(r"^  ([a-z_]+):$", stages, re.MULTILINE)]


def update(root: Path = Path()) -> bool:
    """Rewrites the code lines of every `deps:` in dvc.yaml; returns whether that changed it."""
    path = root / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    stage, in_deps, lines = "", False, []
    for line in text.splitlines(keepends=True):
        match = _STAGE.fullmatch(line)
        stage = match.group(1) if match else stage
        if in_deps and not line.startswith("      - "):
            lines += [f"      - {item}\n" for item in closure(f"stages.{stage}", root)]
            in_deps = False
        if in_deps and re.fullmatch(r"      - (ldebm|stages)/\S+\.py\n", line):
            continue
        lines.append(line)
        in_deps = in_deps or line == "    deps:\n"
    changed = "".join(lines) != text
    if changed:
        write_text(path, "".join(lines))
    return changed


def main() -> None:
    """Prints the closures, or updates dvc.yaml."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--update", action="store_true", help="rewrite the deps of dvc.yaml")
    if parser.parse_args().update:
        print("dvc.yaml: updated" if update() else "dvc.yaml: already right")
        return
    for stage in stage_names():
        print(f"{stage}:", *closure(f"stages.{stage}"), sep="\n  ")


if __name__ == "__main__":
    main()
