"""The published corpora: read from their own files, split and counted as documented."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldebm.config import DataConfig
from ldebm.data.fetch import fetch
from ldebm.data.packing import pack
from ldebm.data.prepare import prepare
from ldebm.data.registry import SOURCES
from ldebm.errors import UsageError
from ldebm.files import hash_path
from pipelines.library import Library
from tests.unit import published_texts as published
from tests.unit.data_worlds import World, sizes

ROOT = Path(__file__).parents[2]
DD: dict[str, Any] = {
    "kind": "dialogues", "source": "daily_dialog", "lowercase": True, "split_punctuation": True,
    "labels": ["action", "emotion"],
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def change(path: Path, number: int, line: str) -> list[str]:
    """Replaces one line of a file, from 1, and returns all."""
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")
    return lines


def test_daily_dialogue_has_a_row_an_utterance_with_names_of_labels(world: World) -> None:
    published.write_daily_dialog(world.raw)
    profile = world.prepared(DataConfig(**DD, context_turns=5))
    assert sizes(profile) == [36, 9, 9]
    assert profile["splits"]["train"]["dialogues"] == 12
    assert all(facts["shared_dialogues"] == 0 for facts in profile["splits"].values())
    train = world.rows("train")
    assert train["text"][:3] == [
        "shall we meet at 0 o ' clock ?", "no , i can ' t ... train !", "then at 1 .",
    ]  # fmt: skip
    assert train["context"][:3] == [[], train["text"][:1], train["text"][:2]]
    assert train["label.action"][:6] == [
        "inform", "question", "inform", "question", "question", "inform",
    ]  # fmt: skip
    assert train["label.emotion"][3:6] == ["no emotion", "anger", "happiness"]
    assert train["turn"][:6].tolist() == [0, 1, 2, 0, 1, 2]


def test_contexts_are_packed_turn_by_turn_and_empty_at_the_start(world: World) -> None:
    published.write_daily_dialog(world.raw)
    config = DataConfig(**DD, context_turns=1)
    world.prepared(config)
    packed = world.packed(config)
    train, tokenizer = packed.split("train"), packed.tokenizer
    assert len(train.context(0)) == 0
    assert train.context(2).tolist() == tokenizer.encode("no , i can ' t ... train !")
    assert packed.meta["context_turns"] == 1
    assert packed.meta["labels"]["action"] == ["directive", "inform", "question", "commissive"] or (
        sorted(packed.meta["labels"]["action"]) == packed.meta["labels"]["action"]
    )


def test_unequal_numbers_of_labels_are_named_or_left_out(world: World) -> None:
    published.write_daily_dialog(world.raw)
    change(world.raw / "train" / "dialogues_act.txt", 5, "1 2 1 1")
    expected = r"train/dialogues\.txt: line 5: 3 turns and 4 labels of 'action'; .*strict: false"
    world.refuses(expected, DataConfig(**DD))
    profile = world.prepared(DataConfig(**DD, strict=False))
    assert profile["splits"]["train"]["rows"] == 33
    assert profile["rejects"]["reasons"] == {"unequal numbers of turns and labels": 1}
    rejects = world.rows("rejects")
    assert rejects["line"].tolist() == [5]
    assert rejects["row"][0].startswith("shall we meet at 4")


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("dialogues_act.txt", "1 9 1", r"line 2: label '9'; expected 1 inform, 2 question"),
        ("dialogues_emotion.txt", "0 x 1", r"line 2: label 'x'; expected 0 no emotion"),
    ],
)
def test_unknown_labels_are_named_with_their_line(world: World, name, line, message) -> None:
    published.write_daily_dialog(world.raw)
    path = world.raw / "train" / name
    lines = change(path, 2, line)
    world.refuses(message, DataConfig(**DD))
    path.write_text("\n".join(lines[:-1]) + "\n")
    world.refuses("11 lines of labels for 12 dialogues", DataConfig(**DD))


def test_kvret_has_both_speakers_their_mark_first_and_case_kept(world: World) -> None:
    published.write_kvret(world.raw)
    config = DataConfig(
        kind="dialogues", source="kvret", split_punctuation=True, labels=["task"], context_turns=5
    )
    profile = world.prepared(config)
    assert sizes(profile) == [36, 9, 9]
    train = world.rows("train")
    assert train["text"][:2] == [
        "<usr> Where is the nearest Gas station 0 ?", "<sys> It ' s 2 miles away .",
    ]  # fmt: skip
    assert set(train["label.task"]) == {"navigate", "weather", "schedule"}
    tokenizer = world.packed(config).tokenizer
    assert tokenizer.unk_id not in tokenizer.encode(train["text"][0])


def test_jericho_keeps_each_place_once_and_games_in_one_split(world: World) -> None:
    published.write_jericho(world.raw)
    config = DataConfig(
        kind="sentences", source="jericho", lowercase=True, split_punctuation=True, valid=6
    )
    profile = world.prepared(config)
    assert sizes(profile) == [30, 6, 6]
    texts = {split: world.rows(split)["text"] for split in ("train", "valid", "test")}
    games = {split: {text.split()[0] for text in rows} for split, rows in texts.items()}
    assert games["test"] == {"x"}
    assert len(games["valid"]) == 1
    assert not games["valid"] & games["train"]
    assert texts["test"][0] == "x room 0 a door leads on ."
    (world.raw / "test.json").write_text('[{"rom": "x", "state": {}}]')
    with pytest.raises(UsageError, match=r"test\.json: entry 1: no 'loc_desc' as published"):
        world.prepared(config)


def _agree(rows: dict[str, Any], word: str, sentiment: str) -> None:
    """Asserts that exactly the sentences with ``word`` have this sentiment."""
    agrees = [name == sentiment for name in rows["label.sentiment"]]
    assert agrees == [word in text for text in rows["text"]]


def _yelp(**changes: Any) -> DataConfig:
    return DataConfig(**{"kind": "sentences", "source": "yelp", "labels": ["sentiment"], **changes})


def test_yelp_trains_on_no_sentence_of_the_other_splits(world: World) -> None:
    published.write_yelp(world.raw)
    profile = world.prepared(_yelp())
    assert sizes(profile) == [18, 20, 20]
    assert profile["rejects"]["reasons"] == {"also in the validation or test split": 2}
    assert profile["splits"]["valid"]["in_train"] == 0
    train = world.rows("train")
    assert {text.split()[1] for text in train["text"]} == {"sentiment.test"}
    _agree(train, "bad", "negative")
    other = world.prepared(_yelp(source="yelp_judge"))
    assert other["splits"]["train"]["rows"] == 20
    others = world.rows("train")["text"]
    assert not set(others) & set(train["text"]), "no sentence of the generator's data"
    world.prepared(_yelp(full=True))
    assert world.rows("train")["text"][0] == "yelp_li sentiment.train 0 was bad ."


def test_rewrites_have_the_sentiment_that_was_asked_for(world: World) -> None:
    published.write_yelp(world.folder)
    profile = prepare(_yelp(source="yelp_li"), world.folder / "yelp_li", world.folder / "prepared")
    assert sizes(profile) == [20, 20, 20]
    valid = world.rows("valid")
    _agree(valid, "good", "positive")


def test_polarity_is_split_by_the_seed_and_treebank_as_published(world: World) -> None:
    raw = world.raw
    raw.mkdir()
    for suffix, word in (("neg", "dull"), ("pos", "fine")):
        (raw / f"rt-polarity.{suffix}").write_text(
            "".join(f"a {word} film {i} \n" for i in range(40))
        )
    config = _yelp(source="rt_polarity", valid=8, test=8)
    profile = world.prepared(config)
    assert sizes(profile) == [64, 8, 8]
    first = world.rows("test")
    _agree(first, "fine", "positive")
    world.prepared(config.model_copy(update={"seed": 1}))
    assert world.rows("test")["text"] != first["text"]
    for name in ("train", "dev", "test"):
        text = "\n".join(f"{name} film {i}\t{i % 2}" for i in range(12))
        (raw / f"{name}.tsv").write_text(text)  # without a line end, as published
    profile = world.prepared(_yelp(source="sst2"))
    assert sizes(profile) == [12, 12, 12]
    assert world.rows("valid")["label.sentiment"][:2] == ["negative", "positive"]
    (raw / "dev.tsv").write_text("a film\t1\nanother film\t7\n")
    with pytest.raises(UsageError, match=r"dev\.tsv: line 2: .* got label '7'"):
        world.prepared(_yelp(source="sst2"))


NEWS = DataConfig(
    kind="documents", source="agnews", labels=["topic"], valid=4, vocab_size=30, seed=0
)


def test_documents_are_bags_of_known_words(world: World) -> None:
    published.write_agnews(world.raw)
    profile = world.prepared(NEWS)
    assert sizes(profile) == [36, 4, 19]
    assert profile["rejects"]["reasons"] == {"no known word": 1}
    packed = world.packed(NEWS)
    train, tokenizer = packed.split("train"), packed.tokenizer
    row = train.row(0)
    assert row.tolist() == sorted(row.tolist())
    counts = train.counts[train.offsets[0] : train.offsets[1]]
    count_of = {tokenizer.piece(i)[1:]: int(n) for i, n in zip(row, counts, strict=True)}
    first = world.rows("train")["text"][0]
    assert count_of.pop("dev") == 2
    assert set(count_of.values()) == {1}
    assert all(word in first for word in count_of)
    assert len(packed.background) == packed.meta["vocab_size"] == tokenizer.vocab_size
    assert np.exp(packed.background.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    assert packed.background[:4].tolist() == pytest.approx([np.log(1e-12)] * 4)
    assert packed.meta["labels"]["topic"] == ["business", "sports", "technology", "world"]


def test_the_full_protocol_trains_on_the_published_training_file(world: World) -> None:
    published.write_agnews(world.raw, train=True)
    full = NEWS.model_copy(update={"full": True, "valid": None})
    profile = world.prepared(full)
    assert sizes(profile) == [60, 40, 19]


def test_documents_of_stop_words_and_numbers_are_one_clear_error(world: World) -> None:
    published.write_agnews(world.raw)
    for name in ("dev", "test"):
        rows = "".join(f'{{"label": {1 + i % 4}, "text": "it was {i}"}}\n' for i in range(40))
        (world.raw / f"{name}.jsonl").write_text(rows)
    world.refuses("no training document has a known word", NEWS)
    (world.raw / "dev.jsonl").write_text('{"label": 9, "text": "a text"}\n')
    world.refuses(r"dev\.jsonl: line 1: label '9'; expected 1 to 4", NEWS)


def test_packing_documents_twice_gives_the_same_bytes(world: World) -> None:
    published.write_agnews(world.raw)
    world.prepared(NEWS)
    for name in ("one", "two"):
        pack(NEWS, world.folder / "prepared", world.folder / name)
    assert hash_path(world.folder / "one") == hash_path(world.folder / "two")


def test_optional_files_are_fetched_only_where_asked_for_and_checked(world: World) -> None:
    mirror = world.folder / "mirror"
    published.write_yelp(mirror)
    names = [f"yelp_{part}/sentiment.{split}.{i}" for part, split in (
        ("shen", "test"), ("li", "dev"), ("li", "test")) for i in (0, 1)]  # fmt: skip
    known = {name: hash_path(mirror / name) for name in names}
    config = _yelp(checksums=known)
    fetch(SOURCES["yelp"], config, world.raw, mirror)
    fetched = {path.relative_to(world.raw).as_posix() for path in (world.raw).rglob("*.*")}
    assert fetched == set(names)
    full = config.model_copy(update={"full": True})
    with pytest.raises(UsageError, match=r"sentiment\.train\.0: no sha256 is known"):
        fetch(SOURCES["yelp"], full, world.folder / "other", mirror)
    assert not [path for path in (world.folder / "other").rglob("*") if path.is_file()]
    more = {name: hash_path(mirror / name) for name in
            ("yelp_li/sentiment.train.0", "yelp_li/sentiment.train.1")}  # fmt: skip
    fetch(
        SOURCES["yelp"],
        full.model_copy(update={"checksums": known | more}),
        world.folder / "all",
        mirror,
    )
    assert (world.folder / "all" / "yelp_li" / "sentiment.train.1").is_file()


def test_a_source_has_its_own_kind(world: World) -> None:
    other = NEWS.model_copy(update={"kind": "sentences"})
    world.refuses("kind 'sentences'; its kind is 'documents'", other)


COUNTS = {  # of the mirror, as its READMEs say
    "dd": ([87170, 8069, 7740], [11118, 1000, 1000]),
    "smd": ([12732, 1567, 1629], [2425, 302, 304]),
    "sst2": ([6920, 872, 1821], None),
    "agnews": ([4500, 500, 7600], None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_the_mirror_holds_what_the_papers_count(name: str, world: World) -> None:
    mirror = os.environ.get("LDEBM_DATA_MIRROR")
    if not mirror:
        pytest.skip("LDEBM_DATA_MIRROR is not set: the published corpora are not here")
    config = Library(ROOT).dataset(name)
    fetch(None, config, world.raw, mirror)
    profile = world.prepared(config)
    rows, dialogues = COUNTS[name]
    rejected = profile["rejects"]["rows"]
    assert (
        abs(sum(facts["rows"] for facts in profile["splits"].values()) + rejected - sum(rows)) == 0
    )
    assert json.dumps(profile["rejects"]["reasons"]).count("unequal") == 0
    if dialogues:
        assert [facts["dialogues"] for facts in profile["splits"].values()] == dialogues
        assert sizes(profile) == rows
