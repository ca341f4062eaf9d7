"""What the code and the documentation cite exists: sections, equations, works, files and names."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
METHOD, TABLE, WORKS = (
    ROOT / f"docs/{name}.md" for name in ("method", "equations", "bibliography")
)
SOURCES = (".py", ".yaml", ".md", ".cpp", ".h")
NOT_OURS = ("results/", "docs/reference/", "docs/results.md", "dvc.lock")
INNER = re.compile(
    r"\bMR \d|\bC[1-9]\d?\b|\b[Dd]esign \d|\bfindings-|(?<![\d.,_])00[0134] [a-zA-Z]|\(00[0134]\b"
)
NUMBER = r"A?\d+(?:\.\d+)*"
LIST = rf"{NUMBER}(?:(?:, | and | to |-){NUMBER})*"
SECTIONS = re.compile(rf"docs/method\.md, sections? ({LIST})")
WORK = r"[A-Z][\w'-]+(?: et al\.| and [A-Z][a-z]+)"
CITED = re.compile(
    rf"(?P<work>{WORK}),? \(?(?P<year>\d{{4}})\)?|\beq(?:uation|\.) (?P<list>{LIST})"
)
KINDS = {"eq.": "Equations", "table": "Tables", "figure": "Figures", "algorithm": "Algorithms"}


def _files() -> list[Path]:
    """What git keeps of this project, as text, without this file."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kept = (name for name in listed if name.endswith(SOURCES) and not name.startswith(NOT_OURS))
    return [
        ROOT / name for name in kept if ROOT / name != Path(__file__) and (ROOT / name).exists()
    ]


def _text(path: Path) -> str:
    """A file with comments and lines joined."""
    return " ".join(line.strip().lstrip("#/").strip() for line in path.read_text().splitlines())


def _numbers(listed: str) -> Iterator[str]:
    """The numbers of a list, ranges of whole numbers filled."""
    parts = re.split(r"(, | and | to |-)", listed)
    for i in range(0, len(parts), 2):
        if i and parts[i - 1] in (" to ", "-") and "." not in listed:
            letter = "A" if parts[i].startswith("A") else ""
            first, last = (int(parts[j].lstrip("A")) for j in (i - 2, i))
            yield from (f"{letter}{n}" for n in range(first + 1, last))
        yield parts[i]


def _works() -> dict[str, dict[str, set[str]]]:
    """Every work of the bibliography with the numbers that may be cited of it, by kind."""
    works = {}
    for entry in re.split(r"\n(?=\* |## )", WORKS.read_text()):
        if head := re.match(r"\* (.+? \(\d{4}\))\.", entry):
            said = {
                kind: {
                    number
                    for listed in re.findall(
                        rf"(?<![\w.]){NUMBER}(?:-{NUMBER})?", match[1].replace("\n", " ")
                    )
                    for number in _numbers(listed)
                }
                for kind in KINDS.values()
                if (match := re.search(rf"{kind}: ((?:[^.]|\.\n)+)\.", entry))
            }
            works[head[1]] = said
    return works


def _headings() -> set[str]:
    return set(re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", METHOD.read_text(), re.MULTILINE))


def _names(path: Path) -> set[str]:
    """Classes, functions, methods and assigned names of a module."""
    names: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            targets = (
                node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            )
            names.update(prefix + item.id for item in targets if isinstance(item, ast.Name))

    visit(ast.parse(path.read_text()).body, "")
    return names


def test_nothing_refers_to_documents_that_are_not_here() -> None:
    hits = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in _files()
        for match in INNER.finditer(path.read_text())
    ]
    assert hits == []


def test_every_cited_section_exists() -> None:
    headings = _headings()
    wrong = [
        (str(path.relative_to(ROOT)), number)
        for path in _files()
        for listed in SECTIONS.findall(_text(path))
        for number in _numbers(listed)
        if number not in headings
    ]
    own = re.findall(rf"(?<!\d\), )(?<!\d, )\bsections? ({LIST})", _text(METHOD))
    wrong += [("in itself", n) for listed in own for n in _numbers(listed) if n not in headings]
    assert wrong == []
    assert len(headings) > 30


def test_every_cited_work_and_equation_is_in_the_bibliography() -> None:
    """An equation is one of the work that is cited last before it."""
    works = _works()
    wrong, equations = [], 0
    for path in _files():
        if path.suffix == ".md" and path not in (METHOD, TABLE):
            continue
        work = ""
        for match in CITED.finditer(_text(path)):
            at = f"{path.relative_to(ROOT)}: {match[0]}"
            if match["list"] is None:
                work = f"{match['work']} ({match['year']})"
                wrong += [] if work in works else [at]
                continue
            equations += 1
            known = works.get(work, {}).get("Equations", set())
            wrong += [f"{at} of {work}" for n in _numbers(match["list"]) if n not in known]
    assert wrong == []
    assert equations > 100


def _rows() -> Iterator[tuple[str, str, str]]:
    """(work, first cell, whole row) of the table of equations."""
    work = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("## "):
            work = line.removeprefix("## ").split("), ")[0] + ")"
        elif line.startswith("| ") and not line.startswith(("| item", "| ---")):
            yield work, line.split(" | ")[0].removeprefix("| "), line


@pytest.mark.parametrize("work", ["Yu et al. (2022)", "Pang and Wu (2021)", "Cui and Han (2024)"])
def test_the_table_has_every_equation_table_and_figure_once(work: str) -> None:
    for kind, title in KINDS.items():
        cited = [
            number
            for of, item, _ in _rows()
            if of == work and (match := re.match(rf"{re.escape(kind)}?s? ({LIST})$", item))
            for number in _numbers(match[1])
        ]
        assert sorted(cited) == sorted(_works()[work][title]), (work, kind)


def test_files_names_and_experiments_of_the_documentation_exist() -> None:
    experiments = {
        f"{path.parent.name}-{path.stem}" for path in (ROOT / "conf/experiment").glob("*/*.yaml")
    }
    wrong = []
    for page in (METHOD, TABLE):
        for path, name in re.findall(
            r"`((?:ldebm|tests|benchmarks|stages|pipelines)/[\w/]+(?:\.py)?)/?(?::([\w.]+))?`",
            page.read_text(),
        ):
            file = ROOT / path
            if not file.exists() or (name and name not in _names(file)):
                wrong.append(f"{page.name}: {path} {name}")
    for _, _, row in _rows():
        for name in re.findall(r"`([a-z0-9*]+-[a-z0-9*-]+|\*-[a-z]+)`", row):
            if name.startswith("-") or any(fnmatchcase(item, name) for item in experiments):
                continue
            wrong.append(f"{TABLE.name}: no experiment {name}")
    assert wrong == []
