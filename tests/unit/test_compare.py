"""Comparing experiments, revisions, dvc experiments and result files."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ldebm.errors import UsageError
from ldebm.files import json_text, write_csv, write_json
from pipelines.compare.compare import compare
from pipelines.compare.targets import Run, evaluated_runs
from pipelines.compare.text import lines
from pipelines.lineage.origins import origin
from pipelines.lineage.records import recorded
from pipelines.lineage.revisions import find_commit
from pipelines.lineage.snapshots import Revision
from pipelines.results.recorded import record_runs

METRICS = {"nll": 100.0, "nll_low": 98.0, "nll_high": 102.0, "bleu": 11.0, "mi": 2.0}


def evaluated(root: Path, experiment: str, seed: int, levels: int = 6, **metrics: float) -> None:
    """A run as the stages leave it, with its lineage records."""
    model, report = f"models/{experiment}/{seed}", f"reports/{experiment}/{seed}"
    bound = f"data/bound/{experiment}.json"
    if not (root / bound).is_file():
        write_json(
            root / bound, {"path": "data/packed/d", "files": {"train.npy": "1" * 64}, "data": "d"}
        )
    instance = f"{experiment}-{seed}"
    outputs = [f"{model}/prior/config.json", f"{model}/prior/curve.csv"]
    git = {"commit": "c0ffee", "dirty": False}
    with recorded(
        f"prior@{instance}", inputs=[bound], outputs=outputs, params={}, root=root, git=git
    ):
        config = {"data": "d", "prior": {"levels": levels}}
        write_json(root / model / "prior/config.json", {"config": config})
        rows = [[1, 3.0], [2, 2.0 + seed]]
        write_csv(root / model / "prior/curve.csv", ["update", "loss"], rows)
    with recorded(
        f"evaluate@{instance}",
        inputs=[bound, f"{model}/prior/config.json"],
        outputs=[f"{report}/metrics.json"],
        params={},
        root=root,
    ):
        write_json(root / report / "metrics.json", {**METRICS, **metrics})
    samples = [{"kind": "sample", "label": "a", "text": f"{experiment} {i}"} for i in range(20)]
    samples.append({"kind": "reconstruction", "text": "x", "decoded": "y"})
    path = root / report / "details/samples.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in samples))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments with three seeds, recorded; the second is better by 8 to 10 nats."""
    root = tmp_path_factory.mktemp("built")
    for seed in range(3):
        evaluated(root, "plain", seed, nll=100.0 + seed, bleu=11.0 + 0.1 * seed**2)
        evaluated(root, "better", seed, 4, nll=90.0 + seed**2, bleu=11.05, mi=2.0 + seed)
    record_runs(root)
    return root


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(built, tmp_path / "project"))


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def committed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in git, with a later commit in which ``better`` has one level more and scores 80."""
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("git") / "project"))
    git(root, "init", "-q")
    (root / ".gitignore").write_text("lineage/\nmodels/*/*/prior/*.csv\n*.jsonl\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    for seed in range(3):
        evaluated(root, "better", seed, 5, nll=80.0 + seed)
    git(root, "add", ".")
    git(root, "commit", "-qm", "two")
    return root


@pytest.fixture
def repository(committed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(committed, tmp_path / "project"))


def only(comparisons):
    (pair,) = comparisons.pairs
    return pair


def test_metrics_are_paired_by_seed_and_judged_in_their_direction(project: Path):
    pair = only(compare("plain", "better", project))
    nll = pair.metrics["nll"]
    assert (nll["first"], nll["difference"]) == (101.0, pytest.approx(-28 / 3))
    # Differences -10, -10, -8: half width t_2 s / sqrt 3.
    assert nll["interval"] == pytest.approx(4.302653 * (4 / 3) ** 0.5 / 3**0.5, rel=1e-5)
    assert (nll["method"], nll["verdict"]) == ("paired", "better")
    assert pair.metrics["bleu"]["verdict"] == "within seed noise"
    assert pair.metrics["mi"]["verdict"] == "within seed noise"
    assert only(compare("better", "plain", project)).metrics["nll"]["verdict"] == "worse"


def test_parameters_curves_and_samples_are_side_by_side(project: Path):
    pair = only(compare("plain", "better", project))
    assert pair.params == {"prior.levels": (6, 4)}
    assert pair.curves == {"prior/loss": (2.0, 2.0)}
    assert pair.samples[0][0] == "[a] plain 0"
    assert len(pair.samples[1]) == 8
    text = "\n".join(lines(compare("plain", "better", project)))
    assert "prior.levels  6 -> 4" in text
    assert "[a] plain 0" in text
    assert "better*" in text or "better" in text


def test_one_seed_is_never_judged_but_its_interval_over_test_rows_is_given(project: Path):
    pair = only(compare("results/plain/0.json", "better", project))
    nll = pair.metrics["nll"]
    assert (nll["verdict"], nll["interval"], nll["p"]) == ("one seed", None, None)
    assert nll["rows"] == {"first": [98.0, 102.0], "second": [98.0, 102.0], "overlap": True}
    assert pair.metrics["bleu"]["rows"] is None
    assert any("one seed" in note for note in pair.notes)


def test_metrics_of_different_data_are_not_judged(project: Path):
    for seed in range(2):
        config = project / f"models/plain/{seed}/prior/config.json"
        write_json(config, {"config": {"data": "other"}})
    pair = only(compare("plain@workspace", "better", project))
    assert {row["verdict"] for row in pair.metrics.values()} == {"other data"}
    assert any("different data sets" in note for note in pair.notes)


def test_a_name_that_is_recorded_and_evaluated_here_says_which_is_taken(project: Path):
    assert compare("results/plain/0.json", "better@workspace", project).notes == []
    comparisons = compare("plain", "better@workspace", project)
    assert comparisons.notes == [
        "plain is its recorded run; plain@workspace is the one evaluated here"
    ]
    assert list(lines(comparisons))[-1] == f"note: {comparisons.notes[0]}"


def test_code_and_data_that_differ_come_from_the_records_of_these_very_metrics(
    project: Path, monkeypatch: pytest.MonkeyPatch
):
    pair = only(compare("plain", "better", project))
    assert pair.code == {}
    assert pair.data == {}
    bound = {"path": "data/packed/d", "files": {"train.npy": "2" * 64}, "data": "d"}
    write_json(project / "data/bound/better.json", bound)
    (project / "ldebm").mkdir()
    (project / "ldebm/priors.py").write_text("changed = True\n")
    monkeypatch.setattr(
        "pipelines.lineage.records.code_hashes", lambda root, stage: {"ldebm/priors.py": "b" * 64}
    )
    for seed in range(3):
        evaluated(project, "better", seed, 4, nll=70.0 + seed)
    pair = only(compare("plain", "better@workspace", project))
    assert pair.code is not None
    assert pair.code["ldebm/priors.py"][1] == "b" * 64
    assert pair.data == {"data/packed/d/train.npy": ("1" * 64, "2" * 64)}
    assert any("the data differ" in note for note in pair.notes)


def test_the_code_of_a_restored_backbone_is_that_of_the_record_of_its_twin():
    """DVC restored backbone@b-0 with the weights of backbone@a-0, and ran no code of ours."""

    def record(stage: str, read: dict[str, str], wrote: dict[str, str]) -> dict:
        inputs, outputs = (
            [{"path": path, "md5": md5} for path, md5 in items.items()] for items in (read, wrote)
        )
        facts = {"git": {"commit": "c", "dirty": False}, "device": "cpu", "versions": {}}
        parts = {"inputs": inputs, "outputs": outputs, "params": {}, "file": f"lineage/{stage}"}
        return {"stage": stage, **parts, **facts, "code": {f"stages/{stage[:5]}.py": "1" * 64}}

    run = Run("b", 0, {}, {"nll": 1.0})
    md5 = hashlib.md5(json_text(run.raw_metrics).encode()).hexdigest()
    bound, model, weights = "data/bound/b.json", "models/b/0/prior/model.safetensors", "/backbone/w"
    known = [
        record("evaluate@b-0", {model: "2", bound: "4"}, {"reports/b/0/metrics.json": md5}),
        record("prior@b-0", {f"models/b/0{weights}": "3", bound: "4"}, {model: "2"}),
        record("backbone@a-0", {"data/bound/a.json": "5"}, {f"models/a/0{weights}": "3"}),
        record("backbone@c-0", {"data/bound/c.json": "6"}, {f"models/c/0{weights}": "other"}),
    ]
    result = origin(run, known)
    assert set(result.code["sha256"]) == {"stages/evalu.py", "stages/prior.py", "stages/backb.py"}
    assert result.data == {bound: "4"}


def test_parameters_of_the_evaluation_are_those_it_was_made_with(project: Path):
    """The model's configuration does not change when a model is evaluated anew."""
    for record in (project / "lineage").glob("evaluate@better-0-*.json"):
        content = json.loads(record.read_text())
        write_json(record, content | {"params": {"experiments.better.evaluate": {"rows": 40}}})
    for record in (project / "lineage").glob("evaluate@plain-0-*.json"):
        content = json.loads(record.read_text())
        write_json(record, content | {"params": {"experiments.plain.evaluate": {"rows": 50}}})
    pair = only(compare("plain", "better", project))
    assert pair.params == {"evaluate.rows": (50, 40), "prior.levels": (6, 4)}


def test_without_records_the_code_is_said_to_be_unknown(project: Path):
    for path in (project / "lineage").glob("*.json"):
        path.unlink()
    pair = only(compare("plain", "better", project))
    assert pair.code is None
    assert any("code unknown" in note for note in pair.notes)
    assert "code: not known for both sides" in "\n".join(lines(compare("plain", "better", project)))


def test_without_records_dvc_lock_tells_the_code_if_it_is_of_these_metrics(project: Path):
    for path in (project / "lineage").glob("*.json"):
        path.unlink()
    stages = {}
    for experiment, code in (("plain", "1" * 32), ("better", "2" * 32)):
        path = f"reports/{experiment}/0/metrics.json"
        md5 = hashlib.md5((project / path).read_bytes()).hexdigest()
        stages[f"evaluate@{experiment}-0"] = {
            "cmd": "x",
            "deps": [{"path": "ldebm/priors.py", "md5": code}],
            "outs": [{"path": path, "md5": md5}],
        }
    write_json(project / "dvc.lock", {"schema": "2.0", "stages": stages})  # JSON is YAML
    pair = only(compare("plain", "better", project))
    assert pair.code == {"ldebm/priors.py": ("1" * 32, "2" * 32)}
    stages["evaluate@better-0"]["outs"][0]["md5"] = "0" * 32
    write_json(project / "dvc.lock", {"schema": "2.0", "stages": stages})
    assert only(compare("plain", "better", project)).code is None


def test_two_revisions_are_compared_experiment_by_experiment(repository: Path):
    comparisons = compare("HEAD~1", "HEAD", repository)
    assert [pair.first for pair in comparisons.pairs] == ["better@HEAD~1", "plain@HEAD~1"]
    better, plain = comparisons.pairs
    assert better.params == {"prior.levels": (4, 5)}
    assert better.metrics["nll"]["verdict"] == "better"
    assert {row["verdict"] for row in plain.metrics.values()} == {"equal"}
    text = "\n".join(lines(comparisons))
    assert text.startswith("better@HEAD~1")
    assert text.endswith("\n\nthe same in both (--all shows them): 1 experiment")
    assert "plain@HEAD~1" not in text
    assert "plain@HEAD~1" in "\n".join(lines(comparisons, everything=True))
    same = list(lines(compare("HEAD", "workspace", repository)))
    assert same == ["the same in both (--all shows them): 2 experiments"]


def test_an_experiment_of_a_revision_is_compared_with_the_workspace(repository: Path):
    pair = only(compare("better@HEAD~1", "better@workspace", repository))
    assert pair.metrics["nll"]["difference"] == pytest.approx(-32 / 3 + 0.0, abs=0.7)
    assert pair.params == {"prior.levels": (4, 5)}
    assert only(compare("HEAD~1", "better@workspace", repository)).params == pair.params


def test_experiments_that_one_revision_lacks_are_named(repository: Path):
    evaluated(repository, "new", 0)
    comparisons = compare("HEAD", "workspace", repository)
    assert comparisons.only_second == ["new"]
    assert "not in HEAD: new" in "\n".join(lines(comparisons))


def test_a_dvc_experiment_is_found_by_its_name(repository: Path):
    head, first = git(repository, "rev-parse", "HEAD"), git(repository, "rev-parse", "HEAD~1")
    git(repository, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/sunny-beam", first)
    assert find_commit("sunny-beam", repository) == first
    assert compare("sunny-beam", "HEAD", repository).pairs[0].params == {"prior.levels": (4, 5)}
    git(repository, "update-ref", f"refs/exps/{first[:2]}/{first[2:]}/sunny-beam", head)
    with pytest.raises(UsageError, match="experiments on several commits"):
        compare("sunny-beam", "HEAD", repository)


def test_what_git_does_not_hold_is_read_from_the_cache_that_dvc_is_set_to(repository: Path):
    curve, sample = b"update,loss\n1,7.5\n", b'{"kind": "sample", "text": "kept"}\n'
    listing = json.dumps(
        [{"md5": hashlib.md5(sample).hexdigest(), "relpath": "samples.jsonl"}]
    ).encode()
    metrics = json.dumps({"nll": 4.5, "acceptance": 0.6}).encode()
    cache = repository / "elsewhere/files/md5"
    for content, suffix in ((curve, ""), (sample, ""), (listing, ".dir"), (metrics, "")):
        md5 = hashlib.md5(content).hexdigest() + suffix
        (cache / md5[:2]).mkdir(parents=True, exist_ok=True)
        (cache / md5[:2] / md5[2:]).write_bytes(content)
    outs = [
        {"path": "models/better/0/prior/curve.csv", "md5": hashlib.md5(curve).hexdigest()},
        {"path": "reports/better/0/details", "md5": hashlib.md5(listing).hexdigest() + ".dir"},
        {"path": "reports/newer/0/metrics.json", "md5": hashlib.md5(metrics).hexdigest()},
    ]
    write_json(repository / "dvc.lock", {"stages": {"x": {"cmd": "x", "outs": outs}}})
    (repository / ".dvc").mkdir()
    (repository / ".dvc/config").write_text("[cache]\n    dir = ../elsewhere\n")
    write_json(repository / "reports/newer/0/summary.json", {"nll": 4.5})
    git(repository, "add", "dvc.lock", "reports/newer/0/summary.json")
    git(repository, "commit", "-qm", "three")
    pair = compare("better@HEAD", "better@HEAD~1", repository).pairs[0]
    assert pair.curves == {"prior/loss": (7.5, None)}
    assert pair.samples == (["kept"], [])
    newer = evaluated_runs(Revision(repository, git(repository, "rev-parse", "HEAD"), "HEAD"))
    assert newer["newer"][0].raw_metrics == {"nll": 4.5, "acceptance": 0.6}


def test_the_lock_of_a_revision_is_read_once_for_all_its_runs(repository: Path, monkeypatch):
    evaluated(repository, "second", 0)
    evaluated(repository, "third", 0)
    write_json(repository / "dvc.lock", {"stages": {"once": {"cmd": "x"}}})
    git(repository, "add", "-Af")
    git(repository, "commit", "-qm", "three")
    read = []
    monkeypatch.setattr(
        "pipelines.lineage.snapshots.parse_yaml", lambda lock: read.append(lock) or json.loads(lock)
    )
    assert len(compare("HEAD", "workspace", repository).pairs) > 2
    assert len(read) == 1


def test_a_revision_reads_only_what_its_commit_holds(repository: Path):
    (repository / "reports/stray.json").write_text("{}")
    state = Revision(repository, git(repository, "rev-parse", "HEAD"), "HEAD")
    assert "reports/stray.json" not in state.paths("reports")
    assert state.read("reports/stray.json") is None
    assert state.read("models/better/0/prior/config.json") is not None


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("bettr", "did you mean 'better'"),
        ("better@nowhere", "no git revision and no dvc experiment"),
        ("bettr@HEAD", "did you mean 'better'"),
        ("--output=x", "no experiment, git revision"),
        ("dvc.yaml", "not valid JSON"),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest_name(repository: Path, target, message):
    (repository / "dvc.yaml").write_text("stages: {}\n")
    with pytest.raises(UsageError, match=message):
        compare("plain", target, repository)


def test_states_without_a_common_experiment_cannot_be_compared(repository: Path):
    evaluated(repository, "new", 0)
    with pytest.raises(UsageError, match="no experiment in common"):
        compare("new", "HEAD", repository)


def test_the_json_of_a_comparison_has_every_metric(project: Path):
    content = json.loads(json.dumps(compare("plain", "better", project).to_json()))
    assert set(content["pairs"][0]["metrics"]) == set(METRICS)
    assert content["pairs"][0]["seeds"] == [[0, 1, 2], [0, 1, 2]]
