"""A training that is killed or asked to stop, and started again, ends with the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ldebm.config import Params, load_params
from ldebm.data.fetch import fetch
from ldebm.data.packed import open_packed
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.files import write_json
from ldebm.training.labelling import cluster_stage
from tests.forked import Forked
from tests.warm import warm_python
from tests.yaml_params import written_out

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

# A checkpoint after every update, three epochs, and every kind of state that a checkpoint holds:
# averaged weights, best weights, rows drawn by class, refreshed labels, persistent chains, and of
# image models running means of batch norms and vectors of spectral norms.
PARAMS = written_out("""\
run: {datasets: [talk, dots, marks], experiments: [talk], seeds: [0]}
presets:
  optimiser: &optimiser {lr: 0.003, clip: 1.0, schedule: linear, warmup: 5, ema: 0.9}
  training: &training
    {epochs: 3, batch: 24, validate_every: 0.5, checkpoint_seconds: 0, optimiser: *optimiser}
  prior: &prior
    classes: 4
    levels: 3
    energy: {hidden: 8, blocks: 1}
    sampler: {steps: 2}
    score_matching: 0.3
    training: *training
  joint: &joint {<<: *prior, scheme: joint, standardise: none, score_matching: 0.0}
  refined: &refined
    <<: *prior
    scheme: refined
    standardise: diagonal
    refinement: {warmup: 5, training: {<<: *training, epochs: 2}}
  svebm: &svebm
    <<: *prior
    kind: svebm
    score_matching: 0.0
    sampler: {method: ula, steps: 3, adapt: false, start: noise, persistent: true}
data:
  talk:
    {kind: dialogues, source: chatter, train: 312, valid: 40, test: 40, vocab_size: 700,
     max_len: 12}
  dots: {kind: points, source: gaussians16, train: 312, valid: 40, test: 40}
  marks: {kind: images, source: digits, valid: 40, test: 1445, labels: [digit]}
experiments:
  talk: &talk
    data: talk
    backbone:
      {arch: gru, latent: 4, hidden: 12, embed: 8, word_dropout: 0.3, kl_warmup: 10,
       training: *training}
    cluster: {labels: gc, dims: 2, sampler: balanced}
    prior: *prior
  talk-joint: {<<: *talk, prior: *joint}
  talk-refined: {<<: *talk, prior: *refined}
  dots: &dots
    data: dots
    backbone: {arch: mlp, latent: 2, hidden: 8, noise: 0.5, training: *training}
    cluster: {labels: gc, dims: 2}
    prior: *prior
  dots-joint: {<<: *dots, prior: *joint}
  dots-svebm: {<<: *dots, cluster: {labels: none}, prior: *svebm}
  hvae:
    data: marks
    backbone:
      arch: hvae
      hvae:
        {likelihood: bernoulli, layers: [{dense: 3}, {conv: [2, 2]}, {conv: [2, 4]}],
         widths: [4, 6], hidden: 8, free_nats: [1, 1, 1]}
      kl_warmup: 10
      training: *training
    cluster: {labels: given, column: digit, sampler: balanced}
    prior:
      <<: *prior
      classes: 10
      standardise: diagonal
      hierarchy:
        {inputs: context, channels: 4, flat: 8, label_groups: [0, 1], label_levels: all,
         cached_draws: 2}
  nvae:
    data: marks
    backbone:
      arch: nvae
      nvae:
        {likelihood: bernoulli, channels: 4, latents: 2, scales: 2, groups: [1, 2], cells: 1,
         cells_per_group: 1, flows: 1, bn_readjust: data, bn_passes: 3, checkpointing: true}
      kl_warmup: 10
      training: {<<: *training, optimiser: {name: adamax, lr: 0.003, schedule: cosine}}
    prior:
      <<: *prior
      energy_scale: code
      t_weight: step
      score_matching: 0.0
      standardise: none
      energy: {activation: silu}
      sampler: {method: ula, rule: published, steps: 3, start: previous}
      hierarchy: {inputs: z, channels: 4}
      training: {<<: *training, optimiser: {lr: 0.001, schedule: exponential, decay: 0.5}}
""")
KILL, TERM = signal.SIGKILL, signal.SIGTERM
CODES = {KILL: -KILL, TERM: 75}
CASES = [
    ("backbone", "talk", [KILL, TERM]),
    ("backbone", "dots", [KILL]),
    ("prior", "talk", [KILL]),
    ("prior", "talk-joint", [KILL, KILL]),
    ("prior", "talk-refined", [KILL, TERM]),
    ("prior", "dots", [KILL]),
    ("prior", "dots-joint", [TERM, KILL]),
    ("prior", "dots-svebm", [KILL]),
    ("backbone", "hvae", [KILL]),
    ("backbone", "nvae", [TERM]),
    ("prior", "hvae", [KILL]),
    ("prior", "nvae", [KILL]),
]


class Runs:
    """Stages as commands, each training in a project folder of its own that shares the data."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.params = _data(base)
        self.complete: dict[tuple[str, str], Path] = {}

    def folder(self, name: str) -> Path:
        """A project without models."""
        path = self.base / name
        path.mkdir()
        (path / "data").symlink_to(self.base / "data")
        (path / "params.yaml").write_text(PARAMS)
        return path

    def start(self, folder: Path, stage: str, experiment: str) -> Forked:
        """Starts the command of a stage."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = [f"stages.{stage}", "--experiment", experiment, "--seed", "0"]
        return Forked(words, folder, environment)

    def finish(self, folder: Path, stage: str, experiment: str) -> str:
        """Runs the command to its end; gives what it said."""
        process = self.start(folder, stage, experiment)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return said

    def stop(
        self, folder: Path, stage: str, experiment: str, number: int, wait: float
    ) -> tuple[int, str]:
        """Starts the command and sends it a signal after ``wait`` more checkpoints.

        Returns:
            Its exit code, and what it said.
        """
        saves = int(wait)
        before = _checkpoint(folder)
        process = self.start(folder, stage, experiment)
        deadline = time.monotonic() + 60
        while saves and process.poll() is None and time.monotonic() < deadline:
            now = _checkpoint(folder)
            if now != before:
                before, saves = now, saves - 1
            time.sleep(0.001)
        time.sleep(0.02 * (wait % 1))  # into a step, or into the next checkpoint
        process.send_signal(number)
        _, said = process.communicate(timeout=10)  # the promise to who sends SIGTERM
        return process.returncode, said

    def inputs(self, folder: Path, experiment: str) -> None:
        """Puts a backbone and labelled latents where the prior stage looks for them."""
        source = experiment.split("-")[0]
        reference = self.reference("backbone", source)
        config = self.params.experiment(experiment)
        target = folder / "models" / experiment / "0"
        shutil.copytree(reference / "models" / source / "0" / "backbone", target / "backbone")
        packed = open_packed(self.base / "data/packed" / config.data)
        cluster_stage(config, packed, 0, target / "backbone", target / "latents.parquet")

    def project(self, name: str, stage: str, experiment: str) -> Path:
        """A project in which the stage can run."""
        folder = self.folder(name)
        if stage == "prior":
            self.inputs(folder, experiment)
        return folder

    def reference(self, stage: str, experiment: str) -> Path:
        """The project in which the stage ran without interruption.

        It is forked from another process than those that are stopped, with another seed of hashes.
        """
        key = (stage, experiment)
        if key not in self.complete:
            folder = self.project(f"{stage}-{experiment}", stage, experiment)
            command = [str(warm_python() / "python"), "-m", f"stages.{stage}"]
            command += ["--experiment", experiment, "--seed", "0"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            with (folder / "said").open("w") as said:
                run = {"cwd": folder, "env": environment, "check": True}
                subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, **run)
            self.complete[key] = folder
        return self.complete[key]


def _data(base: Path) -> Params:
    """Makes, prepares, packs and binds the data sets."""
    (base / "params.yaml").write_text(PARAMS)
    params = load_params(base / "params.yaml")
    for name, config in params.data.items():
        raw, prepared, packed = (base / "data" / part / name for part in ("raw", "prep", "packed"))
        fetch(None, config, raw)
        prepare(config, raw, prepared)
        pack(config, prepared, packed)
    for name, experiment in params.experiments.items():
        bound = {"data": experiment.data, "path": f"data/packed/{experiment.data}", "files": {}}
        write_json(base / "data/bound" / f"{name}.json", bound)
    return params


def _checkpoint(folder: Path) -> tuple[int, int] | None:
    """What changes with every checkpoint; None before the first."""
    for path in (folder / ".ckpt").glob("*.pt"):
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue  # the training has just ended
        return facts.st_ino, facts.st_mtime_ns
    return None


def outputs(folder: Path) -> dict[str, bytes]:
    """Everything that stages wrote into the models."""
    models = folder / "models"
    return {
        path.relative_to(models).as_posix(): path.read_bytes()
        for path in sorted(models.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("resume"))


@pytest.mark.parametrize(("stage", "experiment", "signals"), CASES)
def test_a_training_stopped_at_random_moments_ends_with_the_same_bytes(
    runs, stage, experiment, signals
):
    expected = outputs(runs.reference(stage, experiment))
    folder = runs.project(f"{stage}-{experiment}-stopped", stage, experiment)
    before = outputs(folder)
    stream = random.Random(f"{stage} {experiment}")
    for number in signals:
        wait = stream.uniform(1, 14)
        code, said = runs.stop(folder, stage, experiment, number, wait)
        assert code == CODES[number], said
        assert outputs(folder) == before, "an interrupted training writes no output"
        if number == TERM:
            assert said.splitlines()[-1].endswith("start it again to continue")
    assert "continuing at update" in runs.finish(folder, stage, experiment)
    actual = outputs(folder)
    assert actual.keys() == expected.keys()
    assert [name for name in actual if actual[name] != expected[name]] == []
    assert not list((folder / ".ckpt").glob("*.pt")), "the checkpoint goes when the work is done"


def test_the_problem_refreshes_its_labels_between_epochs(runs):
    folder = runs.reference("prior", "talk-joint")
    assert (folder / "said").read_text().count("of the rows kept theirs") == 2
