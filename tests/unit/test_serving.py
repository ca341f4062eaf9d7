"""``ldebm serve``: what it answers, what it refuses, and that one request does not hold up all."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from ldebm.cli.service import Limits, application
from ldebm.errors import UsageError
from tests.unit.test_text_use import _model

LIMITS = Limits(rows=4, seconds=1.0, bytes=2000, waiting=1)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(application(_model(), Limits(rows=4, bytes=2000)))


def test_it_says_what_it_serves(client):
    said = client.get("/").json()
    assert said["rows"] == "texts"
    assert said["limits"] == {"rows": 4, "seconds": 60.0, "bytes": 2000}
    assert len(said["classes"]) > 1


def test_it_answers_as_the_commands_do(client):
    first, again = (client.post("/generate", json={"n": 3, "seed": 5}).json() for _ in range(2))
    assert first == again
    texts = first["texts"]
    assert len(texts) == 3
    rows = client.post("/classify", json={"texts": ["hello there"]}).json()["rows"]
    assert rows[0]["text"] == "hello there"
    assert 0 < rows[0]["probability"] <= 1
    scores = client.post("/score", json={"texts": ["hello there"], "importance": 4}).json()["rows"]
    assert np.isfinite([v for v in scores[0].values() if isinstance(v, float)]).all()


@pytest.mark.parametrize(
    ("path", "content", "status", "words"),
    [
        ("generate", {"n": 5}, 400, "5 samples: at most 4 a request"),
        ("generate", {"n": 0}, 400, "n: Input should be greater than or equal to 1"),
        ("generate", {"number": 2}, 400, "number: Extra inputs are not permitted"),
        ("generate", {"label": "nothing"}, 400, "label 'nothing': expected"),
        ("classify", {"texts": "hello"}, 400, "texts: Input should be a valid list"),
        ("classify", {"texts": []}, 400, "texts: List should have at least 1 item"),
        ("classify", {"texts": ["a"] * 5}, 400, "5 texts: at most 4 a request"),
        ("score", {"texts": ["a", "  "]}, 400, "texts[1]: empty"),
        ("respond", {"context": ["hi"]}, 400, "reads no context"),
        ("classify", {"texts": ["x" * 3000]}, 413, "at most 2000 a request"),
        ("nowhere", {}, 404, "Not Found"),
    ],
)
def test_what_it_refuses_is_said_in_one_line(client, path, content, status, words):
    answer = client.post(f"/{path}", json=content)
    assert answer.status_code == status
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_that_is_not_called_json_is_told_how(client):
    answer = client.post("/generate", content=b'{"n": 1}')
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["error"]


class Slow:
    """A model whose samples take as long as it is told."""

    experiment, seed, rows = "slow", 0, "texts"
    config = SimpleNamespace(prior=SimpleNamespace(kind="gaussian"))
    prior = SimpleNamespace(has_classes=False)

    def __init__(self) -> None:
        self.go = threading.Event()

    def label_index(self, label):
        if label is not None:
            raise UsageError("no classes")

    def generate(self, n, label, seed):
        self.go.wait(20)
        return ["done"] * n


def test_a_request_that_takes_too_long_is_told_so_and_too_many_are_turned_away():
    model = Slow()
    answers = []
    with TestClient(application(model, LIMITS)) as client:  # type: ignore[arg-type]

        def ask() -> None:
            answers.append(client.post("/generate", json={"n": 1}))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        for thread in threads:
            thread.join()
        assert sorted(answer.status_code for answer in answers) == [503, 504, 504]
        assert "no answer within 1 s" in json.dumps([answer.json() for answer in answers])
        model.go.set()
        time.sleep(0.2)
        assert client.post("/generate", json={"n": 2}).json() == {"texts": ["done", "done"]}
        assert client.get("/").json()["classes"] == []


def test_the_command_serves_on_this_machine_and_says_where(tmp_path):
    """Typed as in the tutorial: a free port, a request, Ctrl-C."""
    path = _model().save(tmp_path / "model")
    command = [sys.executable, "-m", "ldebm.cli", "serve", str(path), "--port", "0"]
    env = os.environ | {"LDEBM_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            said = next(line for line in lines if " at http://127.0.0.1:" in line)
            address = said.split(" at ")[1].split()[0]
            answer = httpx.post(f"{address}generate", json={"n": 2}, timeout=60)
            assert len(answer.json()["texts"]) == 2
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def test_an_address_that_is_none_is_said_in_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr("ldebm.cli.serving.load_target", lambda target, device: _model())
    done = run("serve", "talk", "--host", "example")
    assert done.code == 2
    assert "example:8000" in done.err
    assert "expected an address of this machine" in done.err
