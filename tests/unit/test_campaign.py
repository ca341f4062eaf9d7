"""The queue of GPU runs: what travels, what is left out, and how it stops."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from benchmarks import campaign
from ldebm.errors import DivergenceError, UsageError
from ldebm.files import read_json, write_array, write_json
from pipelines.lineage.records import read_records, seal
from pipelines.lineage.trace import trace
from pipelines.lineage.verify import verify
from tests.yaml_params import written_out

PARAMS = written_out("""\
run: {datasets: [d], experiments: [a], seeds: [0]}
data:
  d: {kind: points, source: gaussians16}
experiments:
  a: &a
    data: d
    backbone: {arch: mlp, latent: 2, training: {epochs: 1}}
    prior: {training: {updates: 10}}
  b: *a
""")


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """A project with packed data, as the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    packed = tmp_path / "data/packed/d"
    write_json(packed / "meta.json", {"kind": "points", "source": "gaussians16", "labels": {}})
    for split in ("train", "valid", "test"):
        write_array(packed / f"{split}.x.npy", np.zeros((4, 2), dtype=np.float32))
        write_array(packed / f"{split}.id.npy", np.arange(4))
    return tmp_path


@pytest.fixture
def done(monkeypatch) -> list[str]:
    """Stands in for the work of the jobs, and lists them."""
    names: list[str] = []

    def work(folder, job):
        names.append(job.name)
        return {"experiment": job.experiment}

    monkeypatch.setattr(campaign, "_train_and_evaluate", work)
    monkeypatch.setattr(campaign, "_benchmarks", lambda seconds: {"figures": []})
    return names


def test_what_travels_is_json_and_arrays(project: Path):
    queue = campaign.prepare(Path("f"), ["a", "b"], [0, 1])
    assert [job.name for job in queue] == ["bench", "a-0", "b-0", "a-1", "b-1"]
    assert read_json("f/params.json")["experiments"]["a"]["prior"]["levels"] == 6
    assert (project / "f/data/d/train.x.npy").is_file()
    assert not {path.suffix for path in Path("f").rglob("*.*")} - {".json", ".npy"}


def test_data_that_is_not_packed_and_unknown_names_are_refused(project: Path):
    with pytest.raises(UsageError, match="neither a group nor an experiment"):
        campaign.prepare(Path("f"), ["bth"], [0])
    (project / "data/packed/d/meta.json").unlink()
    with pytest.raises(UsageError, match="dvc repro pack@d"):
        campaign.prepare(Path("f"), ["a"], [0])


def test_finished_jobs_are_left_out_of_the_next_run(project: Path, done: list[str]):
    campaign.prepare(Path("f"), ["a", "b"], [0])
    write_json("out/a-0.json", {})
    assert campaign.run(Path("f"), Path("out")) == 0
    assert done == ["b-0"]
    assert read_json("out/b-0.json") == {"experiment": "b"}
    assert campaign.run(Path("f"), Path("out")) == 0
    assert done == ["b-0"]


def test_a_run_that_diverges_does_not_stop_the_queue(project: Path, done: list[str], monkeypatch):
    def work(folder, job):
        if job.name == "a-0":
            raise DivergenceError("loss is not finite")
        done.append(job.name)
        return {}

    monkeypatch.setattr(campaign, "_train_and_evaluate", work)
    campaign.prepare(Path("f"), ["a", "b"], [0])
    assert campaign.run(Path("f"), Path("out")) == 1
    assert done == ["b-0"]
    assert not Path("out/a-0.json").exists()


def test_the_end_of_the_time_stops_the_job_in_hand_with_75(project: Path, done, monkeypatch):
    def work(folder, job):
        signal.pause()
        raise AssertionError("the alarm did not stop the job")

    previous = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(campaign, "_train_and_evaluate", work)
    monkeypatch.setattr(campaign, "MARGIN", 0.0)
    campaign.prepare(Path("f"), ["a"], [0])
    assert campaign.run(Path("f"), Path("out"), minutes=0.5 / 60) == campaign.EXIT_INTERRUPTED
    assert sorted(os.listdir("out")) == ["bench.json"]
    signal.signal(signal.SIGTERM, previous)


def test_without_time_left_no_job_is_begun(project: Path, done: list[str]):
    campaign.prepare(Path("f"), ["a"], [0])
    assert campaign.run(Path("f"), Path("out"), minutes=0.01) == campaign.EXIT_INTERRUPTED
    assert done == []


TRAINED = """\
run: {datasets: [d], experiments: [small], seeds: [0]}
data:
  d: {kind: points, source: gaussians16}
experiments:
  small:
    data: d
    backbone: {arch: mlp, latent: 2, hidden: 8, noise: 0.5, training: {updates: 5, batch: 16}}
    cluster: {labels: none}
    prior:
      classes: 4
      levels: 2
      class_weight: 0.0
      energy: {hidden: 8, blocks: 1, spectral_norm: false}
      sampler: {steps: 1}
      training: {updates: 3, batch: 16}
    evaluate: {samples: 40, rows: 10, importance: 4, inner: 4}
"""


def test_a_job_leaves_the_records_of_its_stages_without_dvc(project: Path, monkeypatch):
    (project / "params.yaml").write_text(TRAINED)
    stream = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        points = stream.normal(size=(64, 2)).astype(np.float32)
        write_array(project / f"data/packed/d/{split}.x.npy", points)
        write_array(project / f"data/packed/d/{split}.id.npy", np.arange(64))
    write_json(project / "reports/validation/d/report.json", {"success": True})
    monkeypatch.setattr(campaign, "_benchmarks", lambda seconds: {"figures": []})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    campaign.prepare(Path("f"), ["small"], [0])
    assert campaign.run(Path("f"), Path("out")) == 0

    records = {record["stage"]: record for record in read_records(Path("f"))[0]}
    assert set(records) == {f"{s}@small-0" for s in ("backbone", "cluster", "prior", "evaluate")}
    for record in records.values():
        assert record["ran_by"] == "campaign"
        assert record["validation"] == {"data": "d", "success": True}
        assert record["code"]["pipelines/lineage/records.py"]
        assert record["seal"] == seal(record)
    prior = records["prior@small-0"]
    assert prior["params"]["experiments.small.prior"]["levels"] == 2
    assert prior["numerics"]["device"] == prior["device"] == "cpu"
    read = {Path(item["path"]).name for item in prior["inputs"]}
    assert read == {"d", "backbone", "latents.parquet", "report.json"}

    lineage = trace("evaluate@small-0", Path("f"))
    assert {step.stage for step in lineage.steps} == set(records)
    assert verify(lineage, Path("f")) == []
    model = next(Path("f").glob("models/*/0/prior/model.safetensors"))
    model.write_bytes(model.read_bytes() + b"x")
    problems = verify(lineage, Path("f"))
    assert any("model.safetensors" in str(problem) for problem in problems)
    assert {path.name for path in Path("out/lineage").iterdir()} == {
        path.name for path in Path("f/lineage").iterdir()
    }
