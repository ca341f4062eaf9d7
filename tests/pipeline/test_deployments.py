"""Server, worker and the deployments of prefect.yaml on one machine."""

import inspect
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from tests.pipeline.numbers_project import NumbersProject
from tests.pipeline.prefect_server import BIN, Server, until
from tests.pipeline.project_copy import ROOT

PREFECT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
NAMES = ["build", "retrain", "retrain-on-change", "sweep", "point", "audit", "clean"]


def entry(deployment: dict) -> object:
    """The flow that a deployment runs."""
    path, _, name = deployment["entrypoint"].partition(":")
    return getattr(import_module(path.removesuffix(".py").replace("/", ".")), name)


def test_every_deployment_names_a_flow_and_gives_it_parameters_that_it_has():
    assert [item["name"] for item in PREFECT["deployments"]] == NAMES
    for item in PREFECT["deployments"]:
        flow = entry(item)
        known = inspect.signature(flow.fn).parameters
        assert set(item.get("parameters", {})) <= set(known), item["name"]
        assert item["work_pool"]["name"] == "ldebm"
        assert item["work_pool"]["job_variables"] == {"working_dir": "."}
        required = [name for name, p in known.items() if p.default is inspect.Parameter.empty]
        scheduled = bool(item.get("schedules"))
        assert not scheduled or set(required) <= set(item.get("parameters", {}))


def test_retraining_is_on_a_schedule_and_does_not_overlap_itself():
    deployments = {item["name"]: item for item in PREFECT["deployments"]}
    for name in ("retrain", "retrain-on-change"):
        assert deployments[name]["schedules"][0]["timezone"] == "UTC"
        assert deployments[name]["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW"
    assert deployments["retrain-on-change"]["parameters"] == {"only_on_change": True}


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_a_job_template_declares_what_it_uses_and_sets_what_its_worker_knows(kind):
    template = json.loads((ROOT / f"deploy/{kind}-pool.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    folder = Path(import_module("prefect").__file__).parent
    path = folder / "server/api/collections_data/views/aggregate-worker-metadata.json"
    workers = json.loads(path.read_text())[f"prefect-{kind}"][kind]
    known = workers["default_base_job_configuration"]
    assert set(template["job_configuration"]) <= set(known["job_configuration"])
    assert {"command", "env", "image"} <= used


def test_published_ports_and_the_server_of_the_examples_stay_on_the_loopback():
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:4200:4200"]
    assert "ports" not in services["database"]
    assert "--host 127.0.0.1" in (ROOT / "deploy/ldebm-server.service").read_text()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> NumbersProject:
    """Built and committed."""
    made = NumbersProject(tmp_path_factory.mktemp("deployed") / "project")
    made.dvc("repro", "-q")
    made.commit("built")
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory, project: NumbersProject, tables: Path):
    """One server with a password for all tests of this file."""
    with Server(tmp_path_factory.mktemp("server"), tables=tables).running(
        project.folder
    ) as running:
        yield running


@pytest.fixture(scope="module")
def worker(server: Server, project: NumbersProject):
    """A worker that has registered prefect.yaml."""
    with server.worker(project.folder) as log:
        yield log


def shown(server: Server, key: str) -> str:
    """The newest page that a flow published under a key."""
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
    return server.get("/artifacts/filter", wanted)[0]["data"]


@pytest.mark.pipeline
@pytest.mark.slow
class TestOnOneMachine:
    """The two commands of docs/operations.md: server, worker."""

    def test_without_the_password_the_api_answers_401(self, server: Server):
        for password in (None, "operator:wrong"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                server.get("/deployments/filter", {}, password)
            assert caught.value.code == 401
        assert server.get("/deployments/filter", {}) is not None

    def test_the_server_listens_on_the_loopback_alone(self, server: Server):
        table = Path("/proc/net/tcp").read_text().splitlines()[1:]
        rows = [line.split() for line in table]
        listening = {row[1] for row in rows if row[3] == "0A"}
        mine = {address for address in listening if int(address.split(":")[1], 16) == server.port}
        assert mine == {f"0100007F:{server.port:04X}"}

    def test_telemetry_is_off_by_the_projects_own_settings(self, server: Server):
        assert server.get("/admin/settings")["server"]["analytics_enabled"] is False

    def test_starting_a_worker_registers_every_deployment(self, server: Server, worker: Path):
        deployments = {item["name"]: item for item in server.get("/deployments/filter", {})}
        assert sorted(deployments) == sorted(NAMES)
        for item in PREFECT["deployments"]:
            assert deployments[item["name"]]["entrypoint"] == item["entrypoint"]
            crons = [s["schedule"]["cron"] for s in deployments[item["name"]]["schedules"]]
            assert crons == [s["cron"] for s in item.get("schedules", [])]

    def test_the_server_plans_the_runs_of_a_schedule(self, server: Server, worker: Path):
        deployments = {item["name"]: item for item in server.get("/deployments/filter", {})}
        wanted = {name for name, item in deployments.items() if item["schedules"]}
        assert "retrain" in wanted
        planned: set[str] = set()
        end = time.monotonic() + 120
        while planned != wanted and time.monotonic() < end:
            time.sleep(2)
            states = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
            runs = server.get("/flow_runs/filter", states)
            of_id = {item["id"]: name for name, item in deployments.items()}
            planned = {of_id[run["deployment_id"]] for run in runs if run["auto_scheduled"]}
        assert planned == wanted

    def test_a_build_runs_in_the_folder_of_the_worker(self, server, worker, project):
        path = project.folder / "params.yaml"
        path.write_text(path.read_text().replace("seeds: [0]\n", "seeds: [0, 7]\n"))
        state = server.finished(server.run("build/build"))
        assert state["type"] == "COMPLETED", worker.read_text()[-3000:]
        assert (project.folder / "reports/gauss/7/metrics.json").is_file()
        assert project.dvc("status").strip() == "Data and pipelines are up to date."

    def test_an_audit_runs_in_the_folder_of_the_worker(self, server, worker, project):
        state = server.finished(server.run("audit/audit", stages=["prior", "bind@gauss"]))
        assert state["type"] == "COMPLETED", worker.read_text()[-3000:]
        page = shown(server, "audit-report")
        for stage in ("prior@gauss-0", "prior@gauss-7", "bind@gauss"):
            assert f"- {stage}: same" in page
        assert project.git("worktree", "list").count("ldebm-audit") == 0

    def test_an_audit_that_finds_other_bytes_fails_its_run_and_names_the_value(
        self, server, worker, project
    ):
        lock = project.folder / "dvc.lock"
        before = lock.read_text()
        path = "experiments.gauss.prior"
        content = yaml.safe_load(before)
        content["stages"]["prior@gauss-0"]["params"]["params.yaml"][path]["mi_weight"] = 0.5
        project.edit("mi_weight: 0.0", "mi_weight: 0.5")
        lock.write_text(yaml.safe_dump(content))
        try:
            state = server.finished(server.run("audit/audit", stages=["prior@gauss-0"]))
        finally:
            lock.write_text(before)
            project.edit("mi_weight: 0.5", "mi_weight: 0.0")
        assert state["type"] == "FAILED", worker.read_text()[-3000:]
        assert state["message"].endswith("prior@gauss-0: not the same bytes again")
        page = shown(server, "audit-report")
        assert "models/gauss/0/prior/model.safetensors" in page

    def test_cleaning_deletes_the_worktree_that_the_build_has_left(self, server, worker, project):
        runs = project.folder / ".dvc/tmp/runs"
        assert (runs / "workspace/.git").exists()
        state = server.finished(server.run("clean/clean", days=7))
        assert state["type"] == "COMPLETED", worker.read_text()[-3000:]
        assert (runs / "workspace/.git").exists(), "it is young"
        state = server.finished(server.run("clean/clean", days=0))
        assert state["type"] == "COMPLETED", worker.read_text()[-3000:]
        assert not (runs / "workspace").exists()
        assert "deleted worktree .dvc/tmp/runs/workspace" in shown(server, "clean-report")
        assert project.dvc("status").strip() == "Data and pipelines are up to date."

    def test_retraining_on_change_with_nothing_changed_says_so(self, server, worker, project):
        state = server.finished(server.run("retrain/retrain-on-change", only_on_change=True))
        assert state["message"] == "nothing changed in numbers: nothing was built"
        assert "numbers.csv is what dvc.lock has" in shown(server, "retrain-verdict")

    def test_an_unknown_experiment_fails_the_run_with_one_line(self, server, worker):
        state = server.finished(server.run("retrain/retrain", experiments=["gaus"]))
        assert state["type"] == "FAILED"
        assert "did you mean 'gauss'" in state["message"]

    def test_a_webhook_is_told_of_a_run_that_fails(self, server, worker, project):
        told: list[dict[str, str]] = []

        class Hook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

        def notify(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "pipelines.notify", *words]
            return subprocess.run(
                command, cwd=project.folder, env=server.environment, capture_output=True, text=True
            )

        assert "'mail@example'" in notify("mail@example").stderr
        with HTTPServer(("127.0.0.1", 0), Hook) as hook:
            threading.Thread(target=hook.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{hook.server_port}/told"
            for _ in range(2):  # the second replaces the first
                made = notify(url)
                assert made.returncode == 0, made.stderr
            server.finished(server.run("audit/audit", stages=["nothing@gauss-0"]))
            until(60, "the webhook is told", lambda: bool(told))
            assert notify("--remove").stdout == "removed\n"
            hook.shutdown()
        (message,) = told
        assert message["text"].startswith("audit: ")
        assert "is Failed\n" in message["text"]
        assert "nothing@gauss-0" in message["text"]

    @pytest.mark.parametrize("kind", ["docker", "kubernetes"])
    def test_a_pool_can_be_made_from_each_job_template(self, server, kind):
        template = str(ROOT / f"deploy/{kind}-pool.json")
        command = [str(BIN / "prefect"), "--no-prompt", "work-pool", "create", f"on-{kind}"]
        command += ["--type", kind, "--base-job-template", template]
        done = subprocess.run(
            command, env=server.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        pool = server.get(f"/work_pools/on-{kind}")
        assert pool["base_job_template"] == json.loads(Path(template).read_text())
