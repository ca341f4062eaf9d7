"""Bad input through the real commands: one clear line, exit code 2, and nothing half-written."""

import hashlib
import json
import os
import shutil
import signal
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.forked import Forked, forked

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
TRAINING = {"updates": 4, "batch": 16, "checkpoint_seconds": 0, "device": "cpu"}
LETTERS = "body,topic\n" + "".join(f"letter {i} to you,{'ab'[i % 2]}\n" for i in range(40))
PARAMS = {
    "run": {"datasets": ["dots"], "experiments": ["small"], "seeds": [0]},
    "data": {
        "dots": {"kind": "points", "source": "gaussians16", "train": 60, "valid": 20, "test": 20},
        "ptb": {"kind": "sentences", "source": "ptb"},
        "letters": {
            "kind": "sentences",
            "source": "file",
            "path": "letters.csv",
            "columns": {"text": "body"},
            "labels": ["topic"],
        },
    },
    "experiments": {
        "small": {
            "data": "dots",
            "backbone": {"arch": "mlp", "latent": 2, "hidden": 8, "training": TRAINING},
            "prior": {
                "classes": 4,
                "levels": 2,
                "energy": {"hidden": 8, "blocks": 1, "spectral_norm": False},
                "training": TRAINING,
            },
            "evaluate": {"device": "cpu"},
        }
    },
}


class Project:
    """A project folder in which the stages and the command line run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.set({})
        shutil.copy(ROOT / "dvc.yaml", folder)

    def set(self, changes: dict[str, object]) -> None:
        """Writes params.yaml with some dotted keys changed."""
        params = json.loads(json.dumps(PARAMS))
        for key, value in changes.items():
            *path, last = key.split(".")
            node = params
            for part in path:
                node = node[part]
            node[last] = value
        (self.folder / "params.yaml").write_text(json.dumps(params))

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, **here, **variables}

    def start(self, *command: str, **variables: str) -> Forked:
        return Forked(command, self.folder, self.environment(variables))

    def run(self, *command: str, **variables: str) -> SimpleNamespace:
        return forked(command, self.folder, self.environment(variables))

    def stage(self, name: str, **variables: str) -> SimpleNamespace:
        return self.run(f"stages.{name}", "--experiment", "small", "--seed", "0", **variables)

    def data_stage(self, name: str, data: str, **variables: str) -> SimpleNamespace:
        return self.run(f"stages.{name}", "--data", data, **variables)

    def files(self) -> dict[str, bytes]:
        """Every file and its content."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths}

    def refuses(self, expected: str, call: SimpleNamespace, before: dict[str, bytes]) -> None:
        """Asserts that the command refused its input as it has to."""
        assert call.code == 2, call.err
        assert call.err.count("\n") == 1, call.err
        assert call.err.startswith(("error: ", "ldebm: "))
        assert "Traceback" not in call.err
        assert expected in call.err
        assert call.out == ""
        assert self.files().keys() == before.keys()
        assert self.files() == before, "nothing is written"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "letters.csv").write_text(LETTERS)
    return Project(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Project:
    """A project whose small experiment went through all stages up to the prior."""
    project = Project(tmp_path_factory.mktemp("trained"))
    for stage in ("fetch", "prepare", "validate", "pack", "judge"):
        if stage == "validate":  # its report costs more than what these tests ask of it
            report = project.folder / "reports/validation/dots/report.json"
            report.parent.mkdir(parents=True)
            report.write_text('{"success": true}\n')
        else:
            assert project.data_stage(stage, "dots").code == 0
    assert project.run("stages.bind", "--experiment", "small").code == 0
    for stage in ("backbone", "cluster", "prior"):
        call = project.stage(stage)
        assert call.code == 0, call.err
    return project


def broken(path: Path) -> None:
    """Cuts a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Changes one bit of the largest tensor of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        tensor = archive.read(max(archive.infolist(), key=lambda item: item.file_size))
    content = bytearray(path.read_bytes())
    content[content.index(tensor) + len(tensor) // 2] ^= 1
    path.write_bytes(content)


def test_an_unknown_key_names_the_nearest_one(project: Project):
    project.set({"experiments.small.backbone.latnt": 3})
    before = project.files()
    expected = "unknown key 'experiments.small.backbone.latnt'; did you mean 'latent'?"
    project.refuses(expected, project.stage("backbone"), before)
    project.refuses(expected, project.run("ldebm.cli", "data", "check"), before)


def test_a_file_that_the_mirror_lacks_is_named_and_those_it_has_are_not_left_behind(
    project: Project,
):
    mirror = project.folder / "mirror/ptb"
    mirror.mkdir(parents=True)
    text = b"a line of text\n"
    (mirror / "ptb.train.txt").write_bytes(text)

    known = {"ptb.train.txt": hashlib.sha256(text).hexdigest()}
    project.set({"data.ptb.checksums": known})
    before = project.files()
    nowhere = "http://127.0.0.1:9"  # no network: nothing listens there
    call = project.data_stage(
        "fetch", "ptb", LDEBM_DATA_MIRROR="mirror", https_proxy=nowhere, no_proxy=""
    )
    project.refuses("ptb/ptb.valid.txt is not in the mirror mirror", call, before)


def test_a_wrong_sha256_names_both(project: Project):
    mirror = project.folder / "mirror/ptb"
    mirror.mkdir(parents=True)
    (mirror / "ptb.train.txt").write_text("another text\n")
    before = project.files()
    call = project.data_stage("fetch", "ptb", LDEBM_DATA_MIRROR="mirror")
    project.refuses("ptb.train.txt: wrong sha256: expected fcea919f", call, before)


def test_the_sha256_of_a_users_file_is_checked(project: Project):
    project.set({"data.letters.sha256": "0" * 64})
    before = project.files()
    call = project.data_stage("fetch", "letters")
    project.refuses("letters.csv: wrong sha256: expected 0000", call, before)


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (b"body,topic\n\xff\xfe,a\n", [], "line 2 is not UTF-8 text (byte 0xff)"),
        (LETTERS.encode(), ["--text", "boody"], "no column 'boody' for --text; columns there"),
        (LETTERS.encode(), ["--tokenizer", "letters"], "'letters' is not one of"),
    ],
    ids=["not UTF-8", "no such column", "no such tokenizer"],
)
def test_a_file_that_new_cannot_use(project: Project, content, options, expected):
    (project.folder / "mine.csv").write_bytes(content)
    before = project.files()
    call = project.run("ldebm.cli", "new", "mine", "--from", "mine.csv", *options)
    project.refuses(expected, call, before)


def raw_letters(project: Project, content: bytes) -> None:
    raw = project.folder / "data/raw/letters"
    raw.mkdir(parents=True)
    (raw / "letters.csv").write_bytes(content)


@pytest.mark.parametrize(
    ("content", "changes", "expected"),
    [
        (b"body,topic\nbl\xe4tter,a\n", {}, "line 2 is not UTF-8 text (byte 0xe4)"),
        (LETTERS.encode(), {"labels": ["tpic"]}, "no column 'tpic' for label"),
        (LETTERS.replace(",b", ",a").encode(), {}, "label 'topic' has only 'a'"),
    ],
    ids=["not UTF-8", "no such label", "one class"],
)
def test_a_file_that_prepare_cannot_use(project: Project, content, changes, expected):
    project.set({f"data.letters.{key}": value for key, value in changes.items()})
    raw_letters(project, content)
    before = project.files()
    project.refuses(expected, project.data_stage("prepare", "letters"), before)


def test_labels_that_training_lacks_stop_packing_by_their_name_where_they_are_many(
    project: Project,
):
    splits = ["train"] * 30 + ["dev"] * 5 + ["test"] * 5
    rows = [f"{split},letter {i} to you,{'ab'[i % 2]}" for i, split in enumerate(splits)]
    rows += [f"dev,note {i} to you,gossip" for i in range(2)]
    raw_letters(project, "\n".join(["split,body,topic", *rows]).encode())
    assert project.data_stage("prepare", "letters").code == 0
    assert project.data_stage("validate", "letters").code == 0, "the report is kept"
    before = project.files()
    expected = "no training row has is 0.1; expected at most 0.05"
    project.refuses(expected, project.data_stage("pack", "letters"), before)


def test_an_empty_file_is_not_fetched(project: Project):
    (project.folder / "letters.csv").write_bytes(b"")
    before = project.files()
    project.refuses("the file is empty", project.data_stage("fetch", "letters"), before)


@pytest.mark.parametrize("stage", ["backbone", "prior", "evaluate"])
def test_cuda_that_is_asked_for_and_absent(trained: Project, stage):
    section = "evaluate" if stage == "evaluate" else f"{stage}.training"
    trained.set({f"experiments.small.{section}.device": "cuda"})
    before = trained.files()
    trained.refuses("device 'cuda': no CUDA device", trained.stage(stage), before)
    trained.set({})


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_corrupt_checkpoint(trained: Project, damage):
    training = {**TRAINING, "updates": 100000}
    trained.set({"experiments.small.prior.training": training})
    process = trained.start("stages.prior", "--experiment", "small", "--seed", "0")
    deadline = time.monotonic() + 60
    try:
        while not (checkpoints := list(trained.folder.glob(".ckpt/prior-*.pt"))):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 75
    finally:
        process.kill()
    if damage == "cut":
        broken(checkpoints[0])
    else:
        flip(checkpoints[0])
    before = trained.files()
    trained.refuses("corrupt checkpoint", trained.stage("prior"), before)
    checkpoints[0].unlink()
    trained.set({})


def test_a_corrupt_model(trained: Project):
    backbone = trained.folder / "models/small/0/backbone/model.safetensors"
    complete = trained.folder / "models/small/0/prior/model.safetensors"
    kept = {path: path.read_bytes() for path in (backbone, complete)}
    for path in kept:
        broken(path)
    before = trained.files()
    expected = "model.safetensors: not a readable ldebm model"
    for stage in ("cluster", "prior", "evaluate"):
        trained.refuses(expected, trained.stage(stage), before)
    trained.refuses(expected, trained.run("ldebm.cli", "generate", "small"), before)
    for path, content in kept.items():
        path.write_bytes(content)
