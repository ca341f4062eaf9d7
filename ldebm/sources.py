"""Which files of the project a module imports, read from the source.

Imports inside functions count too. Only the lazy imports of a package's ``__init__`` are left out
where that package was not imported for its own sake, and imports under ``if TYPE_CHECKING`` are
never followed.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path

__all__ = ["CODE", "GROUPS", "OWN", "PLUGINS", "closure", "files_of", "native_sources"]

OWN = ("ldebm", "pipelines", "stages")
PLUGINS = "plugins"  # the project's folder of what is added from outside
GROUPS = ("priors", "backbones", "metrics", "kinds")  # of plugins
CODE = (*OWN, PLUGINS)  # the packages whose files stages run


def closure(module: str, root: Path = Path()) -> list[str]:
    """The project's files that ``module`` imports, itself and the packages above it included.

    Args:
        module: dotted name, ``stages.prior``.
        root: the project's folder.

    Returns:
        Sorted paths relative to ``root``.
    """
    followed: dict[Path, bool] = {}  # file -> whether its function-level imports were followed
    waiting = [(module, True)]
    while waiting:
        name, deep = waiting.pop()
        path = _file(name, root)
        if path is None or (followed.get(path, not deep) >= deep and path in followed):
            continue
        followed[path] = deep
        waiting += [(parent, False) for parent in _parents(name)]
        waiting += [(item, True) for item in _imports(path, name, root, deep)]
    files = [*followed, *(source for path in followed for source in native_sources(path))]
    return sorted(path.relative_to(root).as_posix() for path in files)


def files_of(module: str, root: Path = Path()) -> dict[str, Path]:
    """The files that a module runs, by path; also of one that is installed outside the project.

    An installed one counts with all Python files of its package, under the package's name and
    version, and with the project's files that these import.

    Args:
        module: dotted name.
        root: the project's folder.
    """
    if _file(module, root) is not None:
        return {path: root / path for path in closure(module, root)}
    top = module.split(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:  # of no file, as what a notebook defines
        return {}
    whole, origin = _distribution(top), Path(spec.origin)
    folder = origin.parent.parent if spec.submodule_search_locations else origin.parent
    package = sorted(origin.parent.rglob("*.py")) if folder != origin.parent else [origin]
    paths: dict[str, Path] = {}
    for path in package:
        inside = path.relative_to(folder)
        paths[f"{whole}/{inside.as_posix()}"] = path
        name = ".".join(inside.with_suffix("").parts).removesuffix(".__init__")
        for item in _imports(path, name, root, deep=True):
            paths |= {own: root / own for own in closure(item, root)}
    return dict(sorted(paths.items()))


def _distribution(top: str) -> str:
    """The name and version of the installed package whose plugins are in a top-level module."""
    for group in GROUPS:
        for entry in importlib.metadata.entry_points(group=f"ldebm.{group}"):
            if entry.module.split(".")[0] == top and entry.dist is not None:
                return f"{entry.dist.name} {entry.dist.version}"
    return "installed"


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
