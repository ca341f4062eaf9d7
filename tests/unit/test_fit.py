"""``ldebm.fit``: rows in memory to a model, what it may be given, and how it says no."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import ldebm
from ldebm.config import ExperimentConfig
from ldebm.errors import UsageError
from ldebm.fitting import presets
from ldebm.fitting.loop import Trainer
from ldebm.fitting.rows import divide, read_labels, read_rows
from ldebm.fitting.words import classes_from_words
from ldebm.model import Model
from ldebm.optimisers import ParameterGroup
from ldebm.training.objectives import Terms
from pipelines.library import Library

SMALL = {"hidden": 16, "blocks": 1}
TEXT = {"latent": 4, "hidden": 16, "embed": 16, "training": {"updates": 4, "validate_every": None}}
PRIOR = {"energy": SMALL, "sampler": {"steps": 2}, "training": {"updates": 4, "batch": 32}}
ANIMALS = ["the cat sat on the mat", "a dog ran after the cat", "the horse and the dog sat"]
WEATHER = ["rain falls on the hill", "the sun and the wind", "snow and rain in the wind"]


def texts(n=120):
    return [(ANIMALS if i % 2 else WEATHER)[i % 3] + f" {i % 7}" for i in range(n)]


def quiet(data, labels=None, **changes):
    """A model after a few updates."""
    given = {"backbone": TEXT, "prior": PRIOR, **changes}
    return ldebm.fit(data, labels, progress=False, **given)


@pytest.fixture(scope="module")
def text_model():
    return quiet(texts(), ["a" if i % 2 else "w" for i in range(120)])


@pytest.fixture(scope="module")
def image_model():
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (60, 8, 8), dtype=np.uint8)
    training = {"training": {"updates": 2, "batch": 8}}
    return quiet(images, draws.integers(0, 2, 60), backbone=training, prior=training)


@pytest.fixture(scope="module")
def point_model():
    points = np.random.default_rng(0).normal(size=(80, 3))
    return quiet(points, backbone={"training": {"updates": 4}}, prior={**PRIOR, "classes": 3})


def test_a_model_of_texts_does_what_models_do(text_model, tmp_path):
    assert text_model.class_names == ["a", "w"]
    generated = text_model.generate(3, label="w", seed=1)
    assert len(generated) == 3
    assert all(isinstance(text, str) for text in generated)
    assert text_model.encode(["the cat"]).shape == (1, 4)
    assert text_model.classify(texts(5)).shape == (5, 2)
    assert len(text_model.interpolate("the cat", "the rain", 4)) == 4
    scores = text_model.score(["the cat sat"], importance=4, inner=4)
    assert np.isfinite(scores.bound).all()
    path = text_model.save(tmp_path / "mine")
    assert path == tmp_path / "mine.safetensors"
    again = ldebm.load(path)
    assert again.generate(3, label="w", seed=1) == generated
    assert again.class_names == ["a", "w"]


def test_the_same_seed_gives_the_same_model(text_model):
    again = quiet(texts(), ["a" if i % 2 else "w" for i in range(120)])
    one, other = (m.prior.state_dict() | m.backbone.state_dict() for m in (text_model, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_gaps_are_filled_by_a_network_that_the_rows_of_the_fit_have_trained(
    text_model, tmp_path, monkeypatch
):
    completed = text_model.complete(["the ___ sat on the mat"])
    assert completed[0].startswith("the ")
    assert "___" not in completed[0]
    saved = ldebm.load(text_model.save(tmp_path / "m"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="needs the rows that the model was trained on"):
        saved.complete(["the ___ sat"])


def test_the_command_line_reads_what_is_saved(text_model, tmp_path):
    path = text_model.save(tmp_path / "m.safetensors")
    command = [sys.executable, "-m", "ldebm.cli", "generate", str(path), "-n", "2", "--label", "a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_model_loads_by_the_name_that_it_was_saved_by(text_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    text_model.save("mine")
    loaded = ldebm.load("mine")
    assert loaded.generate(2, seed=1) == text_model.generate(2, seed=1)


def test_images_may_have_their_channels_last_or_none(image_model, tmp_path):
    generated = image_model.generate(2, label="1")
    assert generated.shape == (2, 1, 8, 8)
    last, none = generated.transpose(0, 2, 3, 1), generated[:, 0]
    for images in (last, none):
        assert np.array_equal(image_model.encode(images), image_model.encode(generated))
    assert image_model.score(generated).bound.shape == (2,)
    assert ldebm.load(image_model.save(tmp_path / "i")).generate(1).shape == (1, 1, 8, 8)
    assert image_model.interpolate(generated[0], generated[1], 3).shape == (3, 1, 8, 8)


def test_points_may_have_any_number_of_coordinates(point_model, tmp_path):
    assert point_model.generate(5).shape == (5, 3)
    scores = point_model.score(np.zeros((2, 3)), importance=8, inner=8)
    assert np.isfinite(scores.bound).all()
    again = ldebm.load(point_model.save(tmp_path / "p"))
    assert np.array_equal(again.generate(5, seed=2), point_model.generate(5, seed=2))
    with pytest.raises(UsageError, match=r"expected shape \(n, 3\), got \(2, 2\)"):
        point_model.encode(np.zeros((2, 2)))


def test_clusters_name_sizes_words_and_examples(text_model):
    found = text_model.cluster(texts(40))
    assert found.labels.shape == (40,)
    assert sum(item.size for item in found.classes) == 40
    assert "Clusters(40 rows" in repr(found)
    assert "<table>" in found._repr_html_()
    first = found.classes[0]
    assert all(found.labels[row] == first.number for row in first.examples)


def test_models_say_what_they_are(text_model, image_model, point_model):
    assert "prior: ldebm; classes: 2 (a, w)" in repr(text_model)
    assert "108 train" in repr(text_model)
    for model in (text_model, image_model, point_model):
        assert model._repr_html_().startswith("<table>")


def test_pictures_of_images_are_shown_by_notebooks():
    images = np.zeros((4, 3, 8, 8), dtype=np.uint8)
    assert ldebm.grid(images).mode == "RGB"
    assert ldebm.grid(images.transpose(0, 2, 3, 1)).size == ldebm.grid(images).size
    with pytest.raises(UsageError, match="expected uint8"):
        ldebm.grid(np.zeros((4, 8, 8)))


def test_without_labels_classes_of_texts_are_found_by_their_words():
    model = quiet(texts(), prior={**PRIOR, "classes": 2})
    assert len(model.class_names) == 2
    assert model.config.cluster.labels == "given"
    by_latents = quiet(texts(), prior={**PRIOR, "classes": 2}, cluster={"labels": "gc"})
    assert by_latents.class_names is None


def test_words_tell_animals_from_the_weather():
    about = ["cat dog", "dog horse", "horse cat", "rain sun", "sun snow", "snow rain"]
    mixed = [f"{about[i % 6]} {i}" for i in range(240)]
    found = classes_from_words(mixed, 2, 0)
    assert len({(int(code), i % 6 < 3) for i, code in enumerate(found.codes)}) == 2
    assert {frozenset(name.split("/")) for name in found.names} == {
        frozenset(("cat", "dog", "horse")), frozenset(("rain", "snow", "sun"))
    }  # fmt: skip
    assert classes_from_words([f"{i}x" for i in range(50)], 2, 0) is None


@pytest.mark.parametrize(
    "column",
    [
        pl.Series(texts(20)),
        pd.Series(texts(20)),
        np.array(texts(20)),
        np.array(texts(20), dtype=object),
        tuple(texts(20)),
        pl.DataFrame({"t": texts(20)})["t"].to_arrow(),
    ],
    ids=["polars", "pandas", "numpy", "objects", "tuple", "arrow"],
)
def test_columns_of_texts_are_read(column):
    rows = read_rows(column)
    assert rows.kind == "sentences"
    assert rows.values == texts(20)


def test_numbers_are_read_as_points_or_images():
    assert read_rows(pl.DataFrame({"x": [1.0] * 20, "y": [2.0] * 20})).values.shape == (20, 2)
    assert read_rows(torch.zeros(20, 5)).values.shape == (20, 5)
    assert read_rows([[0.0, 1.0]] * 20).kind == "points"
    images = np.zeros((20, 8, 8, 3), dtype=np.uint8)
    assert read_rows(images).values.shape == (20, 3, 8, 8)
    assert read_rows(list(images)).values.shape == (20, 3, 8, 8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("hello", "got one text ('hello'); give a list of texts"),
        (["a b"] * 5, "5 rows; at least 20 are needed"),
        ([*texts(20), ""], "row 20 is empty"),
        ([*texts(20), None], "row 20 is None; expected a text"),
        (np.full((20, 2), np.nan), "row 0 holds NaN"),
        (np.zeros((20, 8, 8)), "images of float64; expected uint8"),
        (np.zeros((20, 8, 9), dtype=np.uint8), "expected square ones"),
        (np.zeros((20, 2, 2, 2, 2)), "expected texts, images"),
        (3, "expected texts, images or points, got int"),
        ([[1.0], [1.0, 2.0]] * 20, "rows of different shapes"),
        (pl.DataFrame({"a": texts(20), "b": texts(20)}), "give the column of the texts"),
    ],
)
def test_data_that_cannot_be_used_are_refused_in_one_line(data, said):
    with pytest.raises(UsageError) as caught:
        ldebm.fit(data)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 3, "3 for 120 rows; expected one a row"),
        ("a", "expected one a row, got one text"),
        (["a"] * 120, "only 'a'; at least two classes"),
        ([None] * 120, "no label at all"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels, said):
    with pytest.raises(UsageError, match=said):
        ldebm.fit(texts(), labels)


def test_labels_may_be_missing_in_three_ways():
    labels = read_labels(np.array([2.0, np.nan, 10.0, 2.0]), 4)
    assert labels.names == ["2", "10"]
    assert labels.codes.tolist() == [0, -1, 1, 0]
    assert read_labels([1, -1, 0, None], 4).codes.tolist() == [1, -1, 0, -1]
    assert read_labels(pl.Series(["x", None, "y"]), 3).codes.tolist() == [0, -1, 1]


def test_a_few_labels_are_enough():
    labels = [("a" if i % 2 else "w") if i < 30 else None for i in range(120)]
    model = quiet(texts(), labels)
    assert model.config.prior.labelled_batch == 15
    assert model.classify(texts(3)).shape == (3, 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "smal"}, "preset 'smal': no such preset; did you mean 'small'?"),
        ({"prior": {"levls": 3}}, "settings: unknown key 'prior.levls'; did you mean 'levels'?"),
        ({"prio": {}}, "unknown section 'prio'; did you mean 'prior'?"),
        ({"prior": 3}, "prior: expected a mapping, got 3"),
        ({"prior": {"levels": 1}}, "prior.levels: expected an integer of at least 2, got 1"),
        ({"seconds": -1}, "seconds -1: expected a number above 0"),
        ({"kind": "document"}, "kind 'document': no such kind; did you mean 'documents'?"),
        ({"kind": "images"}, "kind 'images': the data are sentences; leave kind out"),
        ({"data": {"vocab_size": 2}}, "data.vocab_size: expected an integer of at least 8"),
    ],
)
def test_wrong_settings_are_refused_with_a_suggestion(changes, said):
    section = changes.pop("data", None)
    settings = None if section is None else {"data": section}
    with pytest.raises(UsageError) as caught:
        ldebm.fit(texts(), settings=settings, **changes)
    assert said in str(caught.value)


@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_numbers_of_samples_are_whole_and_from_one_on(text_model, n):
    with pytest.raises(UsageError, match="expected a whole number from 1 on"):
        text_model.generate(n)


def test_unknown_labels_are_named_with_those_there_are(text_model):
    with pytest.raises(UsageError, match="label 'x': expected one of a, w"):
        text_model.generate(1, label="x")


class Counting:
    """A task that presses Ctrl-C at an update, and is best at another."""

    steps_per_epoch = 1

    def __init__(self, press_at=None, best_at=3):
        self.module = torch.nn.Linear(1, 1)
        self.press_at, self.best_at = press_at, best_at

    def groups(self):
        from ldebm.config.training import OptimiserConfig

        return [ParameterGroup("all", list(self.module.parameters()), OptimiserConfig(lr=0.1))]

    def begin_epoch(self, epoch):
        pass

    def loss(self, step):
        if step == self.press_at:
            os.kill(os.getpid(), signal.SIGINT)
        return Terms(self.module(torch.ones(1, 1)).square().sum(), {})

    def after_update(self, step, averaged):
        pass

    def validate(self, step):
        return {"score": float(abs(step - self.best_at))}


def training(**changes):
    from ldebm.config import TrainingConfig

    return TrainingConfig(updates=50, validate_every=1.0, **changes)


def test_ctrl_c_keeps_the_best_weights_and_says_so(capsys):
    trainer, task = Trainer(), Counting(press_at=9)
    result = trainer.run(task, training(), title="prior")
    assert result.updates == 10
    assert trainer.ended == {"prior": "Ctrl-C"}
    assert "stopped by Ctrl-C at update 10; the best weights are kept" in capsys.readouterr().err
    short = Trainer().run(Counting(), training().model_copy(update={"updates": 3}), title="prior")
    assert short.updates == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_budget_of_seconds_shortens_a_training():
    class Slow(Counting):
        wanted = None

        def loss(self, step):
            __import__("time").sleep(0.02)
            return super().loss(step)

        def shorten(self, total):
            self.wanted = total

    trainer, task = Trainer(seconds=1.0), Slow()
    config = training().model_copy(update={"updates": 10_000})
    result = trainer.run(task, config, title="prior")
    assert 20 <= result.updates < 200
    assert task.wanted is not None


def test_ctrl_c_in_a_fit_leaves_a_whole_model(monkeypatch):
    from ldebm.training.backbone_task import BackboneTask

    inner, pressed = BackboneTask.loss, []

    def loss(self, step):
        if step == 1 and not pressed:
            pressed.append(step)
            os.kill(os.getpid(), signal.SIGINT)
        return inner(self, step)

    monkeypatch.setattr(BackboneTask, "loss", loss)
    model = quiet(texts(), ["a" if i % 2 else "w" for i in range(120)])
    assert model.fitted.ended == {"backbone": "Ctrl-C"}
    assert model.fitted.updates == {"backbone": 2, "prior": 4}
    assert "backbone ended by Ctrl-C" in repr(model.fitted)
    assert len(model.generate(2)) == 2


def test_the_callers_torch_settings_stay(text_model):
    before = _settings()
    quiet(np.random.default_rng(0).normal(size=(40, 2)), backbone={"training": {"updates": 1}})
    assert _settings() == before


def _settings() -> tuple[object, ...]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return torch.get_num_threads(), torch.get_float32_matmul_precision(), deterministic


TEMPLATES = {
    **{(kind, size): f"{kind}-{size}" for kind in ("sentences", "documents")
       for size in presets.PRESETS},
    ("points", "small"): "points",
    ("images", "small"): "images",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "preset"), TEMPLATES)
def test_presets_are_the_templates_of_ldebm_new(kind, preset):
    template = Library(Path(__file__).parents[2])._compose(f"template/{TEMPLATES[kind, preset]}")
    rows = {  # what the rows decide
        "sentences": {"training": {"epochs": 12}},
        "documents": {"training": {"epochs": 12}},
        "points": {"noise": 0.5},
        "images": {"hvae": presets.groups_of_images(8, 1), "training": {"updates": 800}},
    }
    more = {"data": "python", "backbone": rows[kind]}
    wanted = ExperimentConfig.model_validate(presets.merged(template, more))
    assert presets.compose(kind, preset, more) == wanted


def test_splits_are_a_function_of_rows_and_seed():
    train, held_out = divide(100, 0)
    assert len(held_out) == 10
    assert sorted([*train, *held_out]) == list(range(100))
    assert np.array_equal(divide(100, 0)[0], train)


def test_importing_ldebm_loads_neither_torch_nor_polars():
    script = (
        "import sys, ldebm; assert not {'torch', 'numpy', 'polars'} & set(sys.modules)\n"
        "sys.modules['polars'] = sys.modules['dvc'] = sys.modules['prefect'] = None\n"
        "assert ldebm.fit and ldebm.fit_prior and ldebm.grid and ldebm.load\n"
        "import ldebm.fitting.kinds"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_model_has_the_methods_of_python():
    for name in ("save", "cluster", "interpolate", "complete", "_repr_html_"):
        assert hasattr(Model, name)
