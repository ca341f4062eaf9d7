"""Of several draws of a class the model keeps the first in which it finds the class itself."""

import numpy as np
import pytest

from ldebm.errors import UsageError
from ldebm.modalities.self_filtered import self_filtered
from tests.unit.test_text_use import _model

LABEL, N = 1, 40


@pytest.fixture(scope="module")
def model():
    return _model()


def test_one_draw_gives_the_sentences_of_generate(model):
    filtered = self_filtered(model, N, LABEL, draws=1, seed=3)
    assert filtered.texts == model.generate(N, LABEL, seed=3)
    assert filtered.draws.tolist() == [1] * N


def test_what_is_kept_is_what_the_model_finds_the_class_in(model, monkeypatch):
    eye = np.eye(3)
    monkeypatch.setattr(
        type(model), "classify", lambda _, texts, **__: eye[[len(text) % 3 for text in texts]]
    )
    once = self_filtered(model, N, LABEL, draws=1, seed=3)
    several = self_filtered(model, N, LABEL, draws=6, seed=3)
    classes = model.classify(several.texts).argmax(-1)
    assert np.array_equal(classes == LABEL, several.agreed)
    assert 0 < once.agreed.sum() < several.agreed.sum()
    kept = np.flatnonzero(once.agreed)
    assert [several.texts[i] for i in kept] == [once.texts[i] for i in kept]
    assert (several.draws[kept] == 1).all()
    assert (several.draws[~once.agreed] > 1).all()
    assert (several.draws[~several.agreed] == 6).all()
    assert model.generate(N, LABEL, seed=3, draws=6) == several.texts


def test_where_no_draw_is_of_the_class_the_most_probable_stays(model, monkeypatch):
    drawn = iter([["a", "b", " "], ["c", "d", "e"]])
    p = {"a": 0.3, "b": 0.1, "c": 0.2, "d": 0.4, "e": 0.05}
    monkeypatch.setattr(type(model), "generate", lambda *_: next(drawn))
    monkeypatch.setattr(
        type(model),
        "classify",
        lambda _, texts, **__: np.array([[0.6, p[t], 0.4 - p[t]] for t in texts]),
    )
    filtered = self_filtered(model, 3, LABEL, draws=2)
    assert filtered.texts == ["a", "d", "e"]
    assert not filtered.agreed.any()


def test_there_must_be_classes_and_a_label_to_choose_by(model):
    with pytest.raises(UsageError, match="draws 4: give a label"):
        model.generate(2, draws=4)
    with pytest.raises(UsageError, match="sentences with classes"):
        _model("gaussian").generate(2, LABEL, draws=4)
    with pytest.raises(UsageError, match="label 7"):
        self_filtered(model, 2, 7, draws=2)
