"""Every command of the guides is typed, or held against the program that it would start."""

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.pipeline.guides import PAGES, ROOT, Shown, problem, shown
from tests.pipeline.reader import Operator, Reader

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

# What is not typed, as a pattern, and why. All of it is parsed by its program's own parser.
SAME = "is typed where the guides show it in a block"
HOURS = "downloads the Penn Treebank and trains for hours"
LEFT_OUT = {
    "README.md": {
        "make test": "these tests",
        "make repro RUN=ptb*": HOURS,
        "LDEBM_DATA_MIRROR=../mirror make repro RUN=ptb": HOURS,
        "ldebm serve *": "serves until it is ended; test_serving.py",
    },
    "docs/tutorial.md": {
        "make repro": "the embedded set; typed in README.md",
        "make repro RUN=embedded": "as above",
        "curl *": "needs `ldebm serve`; test_serving.py",
    },
    "docs/compare.md": {
        "dvc exp run": SAME,
        "dvc fetch": "there is no remote here; typed in docs/operations.md",
        "git diff A B -- FILE": "A, B and FILE are the reader's",
    },
    "docs/data.md": {
        "ldebm new": SAME,
        "ldebm new NAME *": "is typed in README.md",
        "ldebm score MODEL *": "MODEL and FILE are the reader's; typed in docs/tutorial.md",
        "ldebm export-embeddings MODEL *": "as above",
        "ldebm respond": "needs a model of responses; test_dialogue_models.py",
    },
    "docs/audit.md": {
        "dvc exp": SAME,
        "dvc exp *": SAME,
        "dvc fetch": "there is no remote here; typed in docs/operations.md",
        "ldebm lineage diff": SAME,
        "ldebm audit": SAME,
        "make gpu-campaign": HOURS,
    },
    "docs/operations.md": {
        "prefect server start": "what `make server` has started; the other needs Postgres",
        "deploy/worker.sh*": "what `make worker` has started",
        "ldebm * --pool ldebm": "needs several clones; test_deployments_pool.py",
        "prefect deployment run sweep/sweep --param pool=ldebm*": "as above",
        "ldebm build --rev HEAD --pull": "as above",
        "SBATCH_PARTITION=gpu *": "needs Slurm; test_slurm.py",
        "ldebm * --slurm": "as above",
        "torchrun *": "two_processes.py",
        "dvc commit backbone@cifar10-nvae-0": "as above",
        "ldebm build": SAME,
        "LDEBM_TRACK=tensorboard make repro": "needs a package of its own; test_tracking.py",
        "tensorboard *": "as above",
        "sudo *": "needs Postgres; test_deployments_postgres.py",
        "export PREFECT_API_DATABASE_CONNECTION_URL=*": "needs Postgres",
        "export PREFECT_SERVER_API_AUTH_STRING=*": "of another server; test_deployments.py",
        "ssh *": "needs another machine",
        "dvc remote add --help": "opens a pager",
        "docker *": "needs Docker",
        "pip install *": "installs, from the network",
        "pg_dump *": "needs Postgres",
        "git clone": SAME,
        "git pull": "needs a branch to pull from",
        "python -m benchmarks.*": "measures for an hour",
        "ldebm lineage verify EXPERIMENT": "the stages of this project write no records",
    },
}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_one_that_its_program_takes(page: str):
    assert [problem(item) for item in shown(page) if problem(item)] == []


@pytest.mark.parametrize("page", sorted(LEFT_OUT))
def test_what_is_not_typed_is_on_its_page(page: str):
    texts = [item.text for item in shown(page)]
    for pattern in LEFT_OUT[page]:
        assert any(fnmatchcase(text, pattern) for text in texts), f"{page}: {pattern}"


@pytest.mark.parametrize(
    "text",
    [
        "ldebm generate chatter-ldebm --samples 5",
        "ldebm lineages chatter-ldebm",
        "ldebm build --seed 0",
        "python -m benchmarks.campaign --go",
        "make reproduce",
        "make repro RUNS=ptb",
        "dvc exp start",
        "dvc metrics show --jsn",
        "prefect deployment start build/build",
        "prefect work-pool create x --base-job x.json",
        "git clon URL",
        "gto shows",
        "export LDEBM_SLOT=1",
        "export PREFECT_API_URI=x",
        "frobnicate --all",
    ],
)
def test_a_command_that_does_not_exist_is_found(text: str):
    assert problem(Shown("a page", text, "sh", 1)) is not None


@pytest.mark.long
def test_the_first_hour_goes_as_written(tmp_path: Path):
    class Newcomer(Reader):
        def after(self, command: str, said: str) -> None:
            if command.startswith("ldebm new"):
                self.shorten()

    page = "docs/tutorial.md"
    said = Newcomer(tmp_path / "project").follow(page, LEFT_OUT[page])
    assert "reports/gaussians16-ldebm/0/summary.json" in said["dvc metrics show"]
    assert "up to date" in said["dvc repro"]
    compared = next(text for line, text in said.items() if line.startswith("ldebm compare"))
    assert "prior.levels" in compared
    assert len(said["ldebm generate chatter-ldebm -n 5"].splitlines()) == 5
    assert "nothing differs" in said["ldebm lineage verify chatter-ldebm"]


class Auditor(Reader):
    """Reads README, then the guides to comparing and auditing, on the embedded set."""

    def change(self, command: str) -> str:
        """A and B are experiments; of the queue's runs one is made here that takes seconds."""
        pair = "ldebm compare chatter-ldebm chatter-ldebm@workspace --all --json"
        command = command.replace("ldebm compare A B [--all] [--json]", pair)
        return command.replace("ptb-ldebm-0 --in", "gaussians16-ldebm-0 --in")

    committed = False

    def after(self, command: str, said: str) -> None:
        """Commits what was first built, twice: the guides look back one commit."""
        if command == "make repro" and not self.committed:
            self.committed = True
            self.type("git add -A && git commit -q -m built")
            self.type("git commit -q --allow-empty -m later")
        if command.startswith("ldebm new"):
            self.shorten()

    def prepare(self) -> None:
        """What the audit guide takes for granted: an experiment of dvc, a run of the queue."""
        level = "experiments.chatter-ldebm.prior.levels=4"
        self.type(f"git add -A && git commit -q -m now && dvc exp run -n my-experiment -S {level}")
        self.type("git checkout -q . && dvc checkout -q")  # takes the unselected one's data away
        self.type("rm -r models/letters-ldebm reports/letters-ldebm && dvc repro -q")
        self.type("mkdir -p campaign/out && echo '{}' > campaign/out/bench.json")
        queue = "python -m benchmarks.campaign"
        self.type(f"{queue} --prepare campaign --runs gaussians16-ldebm --seeds 0")
        self.type(f"{queue} --run campaign --out campaign/out")


@pytest.mark.long
def test_readme_and_the_guides_to_comparing_and_auditing_go_as_written(tmp_path: Path):
    reader = Auditor(tmp_path / "project")
    said = reader.follow("README.md", LEFT_OUT["README.md"])
    assert "nothing differs" in said["ldebm lineage verify chatter-ldebm"]
    assert " cached" in said["ldebm build"]
    reader.type("ldebm select embedded --seeds 0 && dvc repro -q")
    for page in ("docs/data.md", "docs/compare.md"):
        reader.follow(page, LEFT_OUT[page])
    reader.prepare()
    said = reader.follow("docs/audit.md", LEFT_OUT["docs/audit.md"])
    for place in ("", " --workspace"):
        assert "same bytes" in said[f"ldebm audit cluster@chatter-ldebm-0{place}"]
    assert "nothing differs" in said["ldebm lineage verify evaluate@ptb-ldebm-0 --in campaign"]
    assert (reader.folder / "lineage.html").is_file()


@pytest.mark.long
def test_the_operators_guide_goes_as_written(tmp_path: Path):
    operator = Operator(tmp_path / "project")
    remote = operator.change("dvc remote add --local -d team /mnt/share/ldebm-dvc")
    operator.type(f"{remote} && dvc repro -q")
    operator.type("git add -A && git commit -q -m built && git push -q origin main && dvc push -q")
    page = "docs/operations.md"
    with operator.going:
        said = operator.follow(page, LEFT_OUT[page])
        runs = operator.runs()
    wrong = {run["id"]: run["state"] for run in runs if run["state"]["type"] != "COMPLETED"}
    assert wrong.keys() == operator.cancelled, wrong
    assert sum(run["deployment_id"] is not None for run in runs) == 3
    assert "chatter-ldebm" in said["gto show"]
    assert (operator.folder / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation. Strict: a missing page, a broken link or an unknown name is an error."""
    folder = tmp_path_factory.mktemp("documentation") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_documentation_has_the_docstrings_and_formulas_without_a_script(site: Path):
    assert "ldebm.priors.DiffusionPrior" in (site / "reference/priors.html").read_text()
    method = (site / "method.html").read_text()
    assert method.count("<math") > 100
    assert "arithmatex" not in method


def test_the_documentation_is_searched_from_the_file_system_without_a_network(site: Path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no Chromium")
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1300, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.locator("[data-md-component=search-query]").fill("geometric clustering")
        found = page.locator(".md-search-result__link").first
        found.wait_for()
        assert "method.html" in (found.get_attribute("href") or "")
        chromium.close()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
