"""Every command of the guides is run, on a copy of the project with shorter trainings."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ldebm.data.chatter import generate

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a page."""
    return BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


class Reader:
    """Somebody who types what a guide says, in a clone of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ldebm", "stages", "pipelines", ".dvc"):
            ignore = shutil.ignore_patterns("__pycache__", "cache", "tmp", "config.local")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore", "Makefile"):
            shutil.copy(ROOT / name, folder / name)
        for name in ("constraints.txt", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "results").mkdir()
        (folder / "results/README.md").write_text("recorded runs\n")
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "MAKEFLAGS": "STAMP=.venv/bin/python",  # there: `make setup` has nothing to do
            "DVC_NO_ANALYTICS": "1",
            "OMP_NUM_THREADS": "1",
        }
        (folder / ".venv").symlink_to(sys.prefix)
        self.shorten()
        self.type(
            "git init -q && git config user.name reader && git config user.email r@example.org"
        )
        self.type("git add -A && git commit -q -m start")

    def shorten(self) -> None:
        """Trainings of seconds, in every experiment."""
        path = self.folder / "params.yaml"
        params = yaml.safe_load(path.read_text())
        for experiment in params["experiments"].values():
            backbone, prior = experiment["backbone"], experiment["prior"]
            sizes = {"hidden": 32, "embed": 32} if backbone["arch"] == "gru" else {"hidden": 32}
            backbone.update(sizes)
            training = {"updates": 40, "epochs": None, "validate_every": None}
            backbone["training"] = {**backbone["training"], **training}
            prior["training"] = {**prior["training"], **training}
            prior["energy"] = {**prior.get("energy", {}), "hidden": 16, "blocks": 1}
            small = {"samples": 200, "rows": 20, "importance": 8, "inner": 8, "per_label": 5}
            experiment["evaluate"] = {**experiment.get("evaluate", {}), **small}
        path.write_text(yaml.safe_dump(params, sort_keys=False))

    def type(self, command: str) -> str:
        """Runs it in bash, and gives what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def follow(self, page: str) -> dict[str, str]:
        """Types every block of a page; what each line of shell printed."""
        said: dict[str, str] = {}
        for language, text in blocks(page):
            if language == "python":
                said[text] = self.type(f"python - <<'END'\n{text}END")
                continue
            for line in text.replace("\\\n", "").strip().splitlines():
                said[line] = self.type(line)
                if line.startswith("ldebm new"):
                    self.shorten()
        return said


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    """A reader with a file of their own."""
    reader = Reader(tmp_path_factory.mktemp("reader") / "project")
    rows = [f"{turn.text},{turn.intent}\n" for turn in generate(seed=3)][:600]
    (reader.folder / "letters.csv").write_text("body,topic\n" + "".join(rows))
    return reader


@pytest.mark.long
def test_the_first_hour_goes_as_written(reader: Reader):
    said = reader.follow("tutorial.md")
    assert "reports/gaussians16-ldebm/0/metrics.json" in said["dvc metrics show"]
    assert "up to date" in said["dvc repro"]
    compared = next(text for line, text in said.items() if line.startswith("ldebm compare"))
    assert "prior.levels" in compared
    assert len(said["ldebm generate chatter-ldebm -n 5"].splitlines()) == 5
    assert "nothing differs" in said["ldebm lineage verify chatter-ldebm"]


def test_the_documentation_builds_and_its_links_lead_somewhere(tmp_path: Path):
    """Strict: a missing page, a broken link or an unknown name in the reference is an error."""
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/reference/priors.html").read_text()
    assert "ldebm.priors.DiffusionPrior" in page
