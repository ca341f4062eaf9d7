"""Which files of the project a module imports, read from the source.

Imports inside functions count too. Only the lazy imports of a package's ``__init__`` are left out
where that package was not imported for its own sake, and imports under ``if TYPE_CHECKING`` are
never followed.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CODE", "closure", "native_sources"]

CODE = ("ldebm", "pipelines", "stages")  # the packages whose files stages run


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


def native_sources(module: Path) -> list[Path]:
    """The C++ files beside a package's ``__init__``, and a module's table: code as it is."""
    if module.name != "__init__.py":
        return [table] if (table := module.with_suffix(".toml")).is_file() else []
    return sorted(path for path in module.parent.iterdir() if path.suffix in (".cpp", ".h"))
