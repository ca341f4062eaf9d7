"""Tokenizer, packing and the packed arrays."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as spm
from hypothesis import given, settings
from hypothesis import strategies as st

from ldebm.config import DataConfig
from ldebm.data.columns import label_names
from ldebm.data.packed import open_bound, open_packed, require_valid
from ldebm.data.packing import pack
from ldebm.data.tokenizer import Tokenizer, sample, train_tokenizer
from ldebm.errors import UsageError
from ldebm.files import hash_path, write_json, write_parquet

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog's", "N", "é"]
CORPUS = [" ".join(WORDS[i % 7 : i % 7 + 4]) for i in range(40)] + ["the <unk> dog's é N"]


def test_words_get_the_ids_after_the_four_control_tokens() -> None:
    tokenizer = train_tokenizer(CORPUS, "word", 100)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == (0, 1, 2, 3)
    assert tokenizer.vocab_size == 4 + len(WORDS)  # <unk> is no word of its own
    ids = tokenizer.encode("the cat")
    assert (ids[0], ids[-1], len(ids)) == (2, 3, 4)
    assert min(ids[1:-1]) > 3


@given(st.lists(st.sampled_from([*WORDS, "<unk>"]), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_known_words_and_unk_come_back_from_every_kind(words: list[str]) -> None:
    text = " ".join(words)
    for kind, size in (("word", 100), ("unigram", 40), ("bpe", 40)):
        tokenizer = _tokenizer(kind, size)
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.encode(text).count(tokenizer.unk_id) == words.count("<unk>")


_cache: dict[str, Tokenizer] = {}


def _tokenizer(kind: str, size: int) -> Tokenizer:
    if kind not in _cache:
        _cache[kind] = train_tokenizer(CORPUS, kind, size)  # type: ignore[arg-type]
    return _cache[kind]


@pytest.mark.parametrize("kind", ["word", "unigram", "bpe"])
def test_the_bytes_do_not_depend_on_the_order_of_the_corpus(kind: str) -> None:
    one = train_tokenizer(CORPUS, kind, 30)  # type: ignore[arg-type]
    two = train_tokenizer(CORPUS[::-1], kind, 30)  # type: ignore[arg-type]
    assert one.to_bytes() == two.to_bytes()
    assert Tokenizer.from_bytes(np.frombuffer(one.to_bytes(), dtype=np.uint8)).encode(
        CORPUS[0]
    ) == one.encode(CORPUS[0])


@pytest.mark.parametrize("kind", ["word", "unigram", "bpe"])
def test_a_small_corpus_gives_the_vocabulary_there_is(kind: str) -> None:
    assert train_tokenizer(CORPUS, kind, 5000).vocab_size < 100  # type: ignore[arg-type]


def test_control_tokens_typed_in_text_are_not_control_tokens() -> None:
    tokenizer = train_tokenizer(CORPUS, "word", 100)
    body = tokenizer.encode("the </s> <s> <pad> cat")[1:-1]
    assert not {0, 2, 3} & set(body)
    assert tokenizer.decode(body) == "the <unk> <unk> <unk> cat"  # one each, though neighbours


def _by_itself(tokenizer: Tokenizer, text: str) -> list[int]:
    """What :meth:`Tokenizer.encode_rows` has to give: calls of sentencepiece with one string."""
    encode = spm.SentencePieceProcessor(model_proto=tokenizer.to_bytes()).encode
    ids = [tokenizer.bos_id]
    for unknown, words in itertools.groupby(text.split(), lambda word: word == "<unk>"):
        run = list(words)
        whole = encode(" ".join(run), out_type=int)
        if unknown:
            ids += [tokenizer.unk_id] * len(run)
        elif tokenizer.unk_id in whole:
            ids += [token for word in run for token in encode(word, out_type=int)]
        else:
            ids += whole
    return [*ids, tokenizer.eos_id]


@pytest.mark.parametrize("kind", ["word", "unigram", "bpe"])
def test_many_rows_are_encoded_as_one_by_one(kind: str) -> None:
    tokenizer = _tokenizer(kind, 40)
    texts = [*CORPUS, "", "<unk>", "<unk> <unk> the", "zebra yak cat", "the<unk> mat", "a  zebra"]
    texts += ["the\u00a0cat", "zebra", "zebra <unk> zebra yak", "cat zebra yak <unk> the zebra"]
    alone = [_by_itself(tokenizer, text) for text in texts]
    assert tokenizer.encode_rows(texts) == alone
    assert [tokenizer.encode(text) for text in texts] == alone


def test_any_number_of_texts_is_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldebm.data.tokenizer.PART", 7)
    tokenizer = _tokenizer("word", 40)
    parts = list(tokenizer.encode_parts(text for text in CORPUS))
    assert [len(part) for part in parts] == [7] * 5 + [6]
    assert [row for part in parts for row in part] == tokenizer.encode_rows(CORPUS)


def test_of_many_texts_evenly_spaced_ones_train_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(sample(CORPUS, len(CORPUS))) == CORPUS
    monkeypatch.setattr("ldebm.data.tokenizer.SAMPLE", 4)
    assert list(sample("abcdefghij", 10)) == ["a", "d", "f", "i"]


def test_tokenizer_errors_name_the_cause() -> None:
    with pytest.raises(UsageError, match="no text"):
        train_tokenizer(["<unk>", " "], "word", 100)
    with pytest.raises(UsageError, match="change vocab_size"):
        train_tokenizer(CORPUS, "bpe", 9)
    with pytest.raises(UsageError, match="not a sentencepiece model"):
        Tokenizer(b"no model")
    with pytest.raises(UsageError, match="outside the vocabulary of 14"):
        train_tokenizer(CORPUS, "word", 100).decode([99])


def test_penn_treebank_has_the_vocabulary_of_the_paper() -> None:
    mirror = os.environ.get("LDEBM_DATA_MIRROR")
    if not mirror:
        pytest.skip("LDEBM_DATA_MIRROR is not set: the Penn Treebank is not here")
    lines = (Path(mirror) / "ptb" / "ptb.train.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = train_tokenizer(lines, "word", 10001)
    assert tokenizer.vocab_size == 10001
    encoded = tokenizer.encode_rows(lines)
    literal = sum(line.split().count("<unk>") for line in lines)
    assert sum(row.count(tokenizer.unk_id) for row in encoded) == literal + 1  # the dropped type


def _prepared(folder: Path) -> Path:
    texts = {"train": CORPUS, "valid": ["the cat", "a zebra sat"], "test": [" ".join(["cat"] * 50)]}
    first = 0
    for split, rows in texts.items():
        n = len(rows)
        columns = {
            "id": np.arange(first, first + n),
            "text": rows,
            "context": [["the mat", "on a mat", ""]] * n,
            "dialogue": np.arange(n),
            "turn": np.zeros(n, dtype=np.int32),
            "label.mood": [["bad", "good", None][i % 3] for i in range(n)],
        }
        write_parquet(folder / f"{split}.parquet", columns)
        first += n
    return folder


CONFIG = DataConfig(
    kind="dialogues", source="file", vocab_size=100, max_len=10, context_turns=2, labels=["mood"]
)


def test_packed_text_reads_back_with_labels_context_and_truncation(tmp_path: Path) -> None:
    meta = pack(CONFIG, _prepared(tmp_path / "prepared"), tmp_path / "packed")
    packed = open_packed(tmp_path / "packed")
    assert packed.meta == meta
    assert meta["labels"] == {"mood": ["bad", "good"]}
    assert meta["vocab_size"] == packed.tokenizer.vocab_size == 14
    train, valid, test = (packed.split(name) for name in ("train", "valid", "test"))
    assert train.n == len(CORPUS)
    assert train.ids.dtype == np.uint16
    assert packed.tokenizer.decode(train.row(40)) == CORPUS[40]
    assert packed.tokenizer.decode(valid.row(1)) == "a <unk> sat"
    assert train.labels("mood")[:3].tolist() == [0, 1, -1]
    assert test.lengths.tolist() == [10]
    assert test.row(0)[-1] == packed.tokenizer.eos_id
    assert valid.id.tolist() == [len(CORPUS), len(CORPUS) + 1]
    context = valid.context(0).tolist()  # the two last turns that are not empty, each BOS to EOS
    assert context == [*packed.tokenizer.encode("the mat"), *packed.tokenizer.encode("on a mat")]
    with pytest.raises(UsageError, match="no label column 'act'; label columns: mood"):
        valid.labels("act")
    with pytest.raises(UsageError, match="expected one of train, valid, test"):
        packed.split("dev")


def test_packing_again_and_in_parts_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(tmp_path / "prepared")
    for name in ("one", "two", "parts"):
        if name == "parts":
            monkeypatch.setattr("ldebm.files.PARQUET_PART", 3)
            monkeypatch.setattr("ldebm.data.tokenizer.PART", 2)
        pack(CONFIG, prepared, tmp_path / name)
    assert len({hash_path(tmp_path / name) for name in ("one", "two", "parts")}) == 1


def test_a_tokenizer_of_a_part_of_the_rows_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(tmp_path / "prepared")
    assert "tokenizer_rows" not in pack(CONFIG, prepared, tmp_path / "whole")
    for module in ("tokenizer", "kinds.sentences"):
        monkeypatch.setattr(f"ldebm.data.{module}.SAMPLE", 5)
    meta = pack(CONFIG, prepared, tmp_path / "part")
    assert meta["tokenizer_rows"] == 5
    chosen = [CORPUS[i] for i in (0, 9, 17, 25, 33)]
    assert meta["vocab_size"] == train_tokenizer(chosen, "word", 100).vocab_size


def test_points_are_packed_with_numeric_labels_in_order(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        x = np.arange(24, dtype=np.float32).reshape(12, 2)
        columns = {"id": np.arange(12), "x": x, "label.mode": np.arange(12)}
        write_parquet(tmp_path / "prepared" / f"{split}.parquet", columns)
    config = DataConfig(kind="points", source="gaussians16")
    pack(config, tmp_path / "prepared", tmp_path / "packed")
    packed = open_packed(tmp_path / "packed")
    assert packed.split("train").x.shape == (12, 2)
    assert packed.split("train").labels("mode").tolist() == list(range(12))
    assert label_names(np.array([10, 9, 1])) == ["1", "9", "10"]
    with pytest.raises(UsageError, match="no tokenizer"):
        packed.tokenizer  # noqa: B018


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        open_packed(tmp_path)
    pack(CONFIG, _prepared(tmp_path / "prepared"), tmp_path / "packed")
    (tmp_path / "packed" / "train.ids.npy").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(UsageError, match=r"train\.ids\.npy: damaged"):
        open_packed(tmp_path / "packed").split("train").row(0)
    write_json(tmp_path / "bound.json", {"data": "x"})
    with pytest.raises(UsageError, match="does not name a packed data set"):
        open_bound(tmp_path / "bound.json")


def test_failed_expectations_stop_a_consumer_and_are_listed(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    write_json(report, {"success": True, "results": []})
    require_valid(report)
    failed = {"expectation": "expect_x", "detail": "train.text", "success": False}
    passed = {"expectation": "expect_y", "detail": "train.id", "success": True}
    write_json(report, {"success": False, "results": [failed, passed]})
    with pytest.raises(UsageError, match=r"1 failed expectation\(s\): expect_x \(train\.text\)"):
        require_valid(report)
    with pytest.raises(UsageError, match="no such file"):
        require_valid(tmp_path / "absent.json")
