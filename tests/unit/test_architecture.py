"""The shape of the code: who may import whom, and sizes that may only shrink."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("ldebm", "pipelines", "stages")
LAYERS = (  # rooms and files of ldebm/: each imports those of its own line and of lines above
    {"errors", "files", "notes", "plugins", "sources", "user_cache", "yaml_text"},
    {"config", "devices", "draws", "kernels", "optimisers", "seeding"},
    {"data"},
    {"nn"},
    {"backbones"},
    {"priors"},
    {"training"},
    {"baselines"},
    {"completion", "grids", "in_python", "model", "trained"},
    {"evaluate"},
    {"modalities"},
    {"assembly"},
    {"fitting"},
    {"api"},
    {"cli"},
)
UPWARD = {  # imports against that order: this list may only shrink
    ("ldebm.baselines.evaluation", "ldebm.evaluate.clusters"),
    ("ldebm.baselines.evaluation", "ldebm.evaluate.report"),
    ("ldebm.baselines.evaluation", "ldebm.model"),
    ("ldebm.baselines.likelihood", "ldebm.evaluate.likelihood"),
    ("ldebm.evaluate.text_control", "ldebm.modalities.self_filtered"),
    ("ldebm.seeding", "ldebm.training.memory"),
    ("ldebm.training.first_stage", "ldebm.assembly"),
    ("ldebm.training.second_stage", "ldebm.assembly"),
    ("ldebm.training.second_stage", "ldebm.model"),
}
LINES, FUNCTION_LINES = 400, 80
LONG_FILES = {  # what may still be longer, and how long: these lists may only shrink
}
LONG_FUNCTIONS: dict[str, int] = {}
DISPATCH_SITES = 28  # places that ask what kind of thing they hold: may only fall
TABLES = ("ldebm.assembly", "ldebm.modalities")  # where that is known
CLASSES = re.compile(r"(\w*Prior|\w*VAE|\w*Baseline|HierarchicalBackbone)$")
KINDS = {"is_text", "is_image", "is_document", "is_dialogue"}


@functools.cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module, by its dotted name."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *ROOMS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    paths = [name for name in listed if name.endswith(".py") and (ROOT / name).is_file()]
    return {
        name[:-3].replace("/", ".").removesuffix(".__init__"): ast.parse((ROOT / name).read_text())
        for name in paths
    }


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield node
            yield from nodes(node)


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Module -> the modules of the project that it imports, in functions too."""
    imports_of: dict[str, set[str]] = {}
    for name, tree in trees().items():
        imported = set()
        for node in nodes(tree):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = members & trees().keys()
                imported |= modules if modules == members else {node.module, *modules}
        imports_of[name] = (imported & trees().keys()) - {name}
    return imports_of


def layer(module: str) -> int:
    """The number of a module's line in LAYERS."""
    room = module.split(".")[1]
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def named(node: ast.AST) -> str:
    """The last part of a name, or the key of an item."""
    if isinstance(node, ast.Subscript):
        return str(getattr(node.slice, "value", ""))
    return str(getattr(node, "id", getattr(node, "attr", "")))


def of_numbers(node: ast.AST) -> bool:
    """Whether it is numpy's ``dtype.kind``: a format of numbers."""
    return isinstance(node, ast.Attribute) and named(node.value) == "dtype"


def dispatches(tree: ast.AST) -> Iterator[int]:
    """The lines that ask what kind of thing they hold."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and named(node.func) == "isinstance":
            asked = any(CLASSES.match(named(item)) for item in ast.walk(node.args[1]))
        elif isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            asked = any(named(item) in ("arch", "kind") and not of_numbers(item) for item in sides)
        else:
            asked = isinstance(node, ast.Attribute) and node.attr in KINDS
        if asked:
            yield node.lineno


def test_no_file_imports_itself_by_way_of_others():
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


def test_the_models_import_nothing_of_what_is_around_them():
    for name, imported in arrows().items():
        others = {item.split(".")[0] for item in imported} - {name.split(".")[0]}
        assert name.split(".")[0] == "stages" or others <= {"ldebm"}, name
        assert name.split(".")[0] != "ldebm" or not others, name


def test_the_rooms_of_the_models_import_downwards():
    upward = {
        (name, item)
        for name, imported in arrows().items()
        for item in imported
        if name.startswith("ldebm.") and item.startswith("ldebm.") and layer(item) > layer(name)
    }
    assert upward == UPWARD


def test_the_places_that_ask_for_a_kind_do_not_grow_in_number():
    places = [
        f"{name}:{line}"
        for name, tree in trees().items()
        if not name.startswith(TABLES)
        for line in dispatches(tree)
    ]
    assert len(places) <= DISPATCH_SITES, "\n".join(places)


def test_files_and_functions_stay_short():
    files, functions = {}, {}
    for name, tree in trees().items():
        if (lines := max((node.end_lineno for node in tree.body), default=0)) > LINES:
            files[name] = lines
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions[f"{name}:{node.name}"] = node.end_lineno - node.lineno + 1
    functions = {name: lines for name, lines in functions.items() if lines > FUNCTION_LINES}
    for long, allowed in ((files, LONG_FILES), (functions, LONG_FUNCTIONS)):
        assert long.keys() == allowed.keys()
        assert all(long[name] <= lines for name, lines in allowed.items()), long


def test_pipelines_do_not_load_torch():
    names = sorted(name for name in trees() if name.split(".")[0] == "pipelines")
    script = (
        "import importlib, sys\n"
        "sys.modules['torch'] = None\n"
        f"for name in {[name for name in names if not name.endswith('__main__')]!r}:\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
