"""The snippets of docs/python.md and README.md, and the cells of the notebook, run as written."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import ldebm

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
LARGEST = 100_000  # bytes of a notebook with its outputs


@pytest.fixture(autouse=True)
def shortly(monkeypatch, tmp_path):
    """Trainings of a second, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    for name in ("fit", "fit_prior"):
        inner = getattr(ldebm, name)

        def briefly(*given, inner=inner, **settings):
            settings["seconds"] = 1.0
            return inner(*given, progress=False, **settings)

        monkeypatch.setattr(ldebm, name, briefly, raising=False)


def run_cell(source: str, names: dict[str, Any], where: str) -> Any:
    """Runs a cell; the value of its last expression, which a notebook would show."""
    tree = ast.parse(source, where)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, where, "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), where, "exec"), names)
    return eval(compile(ast.Expression(last.value), where, "eval"), names)


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def test_the_guide_goes_as_written(capsys):
    names: dict[str, Any] = {}
    for number, snippet in enumerate(snippets("docs/python.md")):
        run_cell(snippet, names, f"docs/python.md, snippet {number + 1}")
    assert "did you mean 'levels'?" in capsys.readouterr().out
    assert Path("digits-prior.safetensors").is_file()


def test_the_first_example_of_the_readme_goes_as_written():
    named = [text for text in snippets("README.md") if "ldebm.fit(" in text]
    assert len(named) == 1
    run_cell(named[0], {}, "README.md")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_show_what_they_say(path):
    assert path.stat().st_size < LARGEST
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    names: dict[str, Any] = {}
    shown = []
    for number, cell in enumerate(notebook["cells"]):
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            value = run_cell("".join(cell["source"]), names, f"{path.name}, cell {number}")
            shown.append(type(value).__name__)
    assert {"VectorPrior", "Image"} <= set(shown)
