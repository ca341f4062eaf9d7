"""Stage ``code``: checks all parameters, and lists the files that every stage runs.

DVC does not see imports, so this stage reads them: for every stage of dvc.yaml it writes
``data/code/STAGE.json``, path -> md5, of the modules that ``stages/STAGE.py`` imports. The stage
depends on that one file. Any change of code runs this stage; only those whose list has changed run
after it.

It runs before all others and whenever params.yaml changes, which no list depends on: a mistake in a
parameter stops a build here, also one that no stage reads.

Imports are read from the syntax tree, those inside functions too. Only the lazy imports of a
package's ``__init__`` are left out where that package was not imported for its own sake, and
imports under ``if TYPE_CHECKING`` are never followed.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from ldebm.config import load_params
from ldebm.files import write_json
from ldebm.lineage.code_lists import CODE, code_list, native_sources
from ldebm.lineage.records import dvc_md5
from stages._entry import arguments, run

__all__ = ["closure", "stage_names", "write_lists"]


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
    files = [*found, *(source for path in found for source in native_sources(path))]
    return sorted(path.relative_to(root).as_posix() for path in files)


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
    for node in _import_statements(path.read_text(encoding="utf-8"), deep):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            above = package.split(".")[: len(package.split(".")) + 1 - node.level]
            base = ".".join(
                [*(above if node.level else []), *([node.module] if node.module else [])]
            )
            members = [f"{base}.{alias.name}" for alias in node.names]
            modules = [member for member in members if _file(member, root)]
            # Only a package that gives a name of its own (`from ldebm import load`) is read deeply.
            names = modules if len(modules) == len(members) else [base, *modules]
        yield from (item for item in names if item.split(".")[0] in CODE)


@functools.cache  # most files are imported by several stages
def _import_statements(source: str, deep: bool) -> list[ast.Import | ast.ImportFrom]:
    nodes = _nodes(ast.parse(source), deep)
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


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


def write_lists(root: Path = Path()) -> None:
    """Writes the list of every stage of dvc.yaml but this one."""
    hashes: dict[str, str] = {}
    for stage in stage_names(root):
        if stage == "code":
            continue
        files = closure(f"stages.{stage}", root)
        for path in files:
            if path not in hashes:
                hashes[path] = dvc_md5(root / path)
        write_json(root / code_list(stage), {path: hashes[path] for path in files})


def main() -> None:
    """Checks the parameters and writes all lists; those also where the check fails.

    DVC has deleted the lists when the stage begins, and git would miss them.
    """
    options = arguments(__doc__)
    try:
        params = load_params(options.params)
        for experiment in params.run.experiments:
            params.require_datasets(experiment)
    finally:
        write_lists()


if __name__ == "__main__":
    run(main)
