"""Word vectors, the metrics of responses in their space, and diversity beside real text."""

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ldebm.data.chatter import generate
from ldebm.errors import UsageError
from ldebm.evaluate.language import diversity
from ldebm.evaluate.responses import average, extrema, greedy, response_metrics
from ldebm.evaluate.word_vectors import WordVectors, ppmi_vectors, read_vectors, word_vectors

TEXTS = [turn.text for turn in generate(3000, seed=0)]
AXES = WordVectors(
    {"east": 0, "north": 1, "west": 2, "north-east": 3},
    np.array([[1, 0], [0, 1], [-1, 0], [1, 1]], dtype=np.float32),
    "by hand",
)


def _cosine(vectors: WordVectors, first: str, second: str) -> float:
    return average(vectors.of(first), vectors.of(second))


def test_vectors_of_text_place_words_of_one_slot_together_and_repeat() -> None:
    vectors = ppmi_vectors(TEXTS, dimensions=40, seed=3)
    assert vectors.matrix.shape == (len(vectors.index), 40)
    assert "window 5, 40 dimensions" in vectors.origin
    near = _cosine(vectors, "paris", "berlin")
    assert near > _cosine(vectors, "paris", "pizza") + 0.3
    assert near > _cosine(vectors, "paris", "guitar") + 0.3
    again = ppmi_vectors(TEXTS[::-1], dimensions=40, seed=3)
    assert again.index == vectors.index
    products = vectors.matrix @ vectors.matrix.T, again.matrix @ again.matrix.T
    assert np.allclose(*products, atol=1e-3)
    assert np.array_equal(ppmi_vectors(TEXTS, 40, seed=3).matrix, vectors.matrix)


def test_ppmi_of_a_corpus_by_hand() -> None:
    from ldebm.evaluate.word_vectors import _neighbours, _ppmi

    index = {"a": 0, "b": 1, "c": 2}
    counts = _neighbours([["a", "b", "c"], ["a", "b"]], index, 2).toarray()
    assert counts.tolist() == [[0, 2, 0.5], [2, 0, 1], [0.5, 1, 0]]
    weights = _ppmi(_neighbours([["a", "b", "c"], ["a", "b"]], index, 2)).toarray()
    p_word = counts.sum(1) / counts.sum()
    smooth = counts.sum(0) ** 0.75 / (counts.sum(0) ** 0.75).sum()
    assert weights[0, 1] == pytest.approx(math.log(2 / counts.sum() / (p_word[0] * smooth[1])))
    assert (weights >= 0).all()
    assert weights[0, 0] == 0


def test_too_little_text_for_vectors_is_an_error() -> None:
    with pytest.raises(UsageError, match="0 words occur at least 2 times"):
        ppmi_vectors(["one two", "three"])


@pytest.mark.parametrize("packed", [False, True])
def test_glove_is_read_for_the_words_of_the_corpus(tmp_path: Path, packed: bool) -> None:
    content = "the 0.5 1\neast 1 2\nof -1 0\n"
    path = tmp_path / "tiny.txt"
    path.write_text(content)
    if packed:
        path = tmp_path / "tiny.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("small.txt", "the 9\n")
            archive.writestr("large.txt", content)
    vectors = word_vectors(["the sun in the east"], path)
    assert vectors.index == {"the": 0, "east": 1}
    assert vectors.matrix.tolist() == [[0.5, 1], [1, 2]]
    assert vectors.origin == f"{path.name}, 2 dimensions"
    assert vectors.of("the <east> east moon").tolist() == [[0.5, 1], [1, 2]]


def test_bad_files_of_vectors_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the 1 2\neast 1\n")
    with pytest.raises(UsageError, match="line 2: 1 numbers"):
        read_vectors(tmp_path / "a.txt", {"the", "east"})
    with pytest.raises(UsageError, match="no vector of a word"):
        read_vectors(tmp_path / "a.txt", {"moon"})
    with pytest.raises(UsageError, match=r"no such file; give evaluate\.word_vectors"):
        read_vectors(tmp_path / "b.txt", {"moon"})
    (tmp_path / "glove.6B.zip").write_bytes(b"PK no archive")
    with pytest.raises(UsageError, match="wrong sha256; expected 617afb2f"):
        read_vectors(tmp_path / "glove.6B.zip", {"moon"})


def test_the_three_metrics_on_an_example_by_hand() -> None:
    ours, theirs = AXES.of("east north"), AXES.of("east west")
    assert average(AXES.of("east east"), AXES.of("north-east")) == pytest.approx(math.sqrt(0.5))
    assert extrema(AXES.of("east north"), AXES.of("north-east")) == pytest.approx(1)
    # 1 and -1 are equally large: the lower one counts, as in the public code
    assert extrema(theirs, AXES.of("west")) == pytest.approx(1)
    # east finds east, north nothing nearer than a right angle; east finds east, west north
    assert greedy(ours, theirs) == pytest.approx(((1 + 0) / 2 + (1 + 0) / 2) / 2)


def test_pairs_without_a_known_word_are_left_out_and_counted() -> None:
    scores = response_metrics(["east", "moon", "<usr> east"], ["east", "east", "west"], AXES)
    assert scores["embedding_pairs"] == pytest.approx(2 / 3)
    assert scores["embedding_average"] == pytest.approx(0, abs=1e-5)
    assert scores["embedding_greedy"] == pytest.approx(0, abs=1e-5)
    nothing = response_metrics(["moon"], ["east"], AXES)
    assert math.isnan(nothing["embedding_extrema"])
    with pytest.raises(ValueError, match="responses: 1, references: 2"):
        response_metrics(["east"], ["east", "west"], AXES)


def test_the_same_responses_score_100_and_others_less() -> None:
    vectors = ppmi_vectors(TEXTS, dimensions=40)
    same = response_metrics(TEXTS[:100], TEXTS[:100], vectors)
    other = response_metrics(TEXTS[:100], TEXTS[100:200], vectors)
    for name in ("embedding_average", "embedding_extrema", "embedding_greedy"):
        assert same[name] == pytest.approx(100, abs=1e-3)
        assert other[name] < 90


def test_diversity_compares_equally_many_texts_and_shows_collapse() -> None:
    real, collapsed = TEXTS[:400], ["i want a pizza , please", "i want a pasta , please"] * 100
    fair, poor = diversity(TEXTS[400:800], real, rows=150), diversity(collapsed, real, rows=150)
    assert abs(fair["self_bleu_excess"]) < 12
    assert poor["self_bleu_excess"] > 30
    assert poor["distinct_2"] < 0.1 < poor["distinct_2_real"]
    assert poor["distinct"] == pytest.approx(2 / 150)
    assert poor["self_bleu_real"] == fair["self_bleu_real"]
    assert diversity(TEXTS[400:800], real, rows=150) == fair
    with pytest.raises(ValueError, match="1 texts to compare"):
        diversity(["a"], real)
