"""The dialogue grammar and its oracle."""

from collections import Counter

import pytest

from ldebm.data.chatter import (
    INTENTS,
    SENTIMENTS,
    Utterance,
    _parsers,
    classify,
    classify_soft,
    generate,
)


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return generate(12000, 0)


def test_the_oracle_finds_intent_and_sentiment_of_every_sentence(
    utterances: list[Utterance],
) -> None:
    wrong = [u for u in utterances if classify(u.text) != (u.intent, u.sentiment)]
    assert len(utterances) == 12000
    assert not wrong


def test_no_sentence_has_two_readings(utterances: list[Utterance]) -> None:
    for utterance in utterances[:3000]:
        assert sum(bool(p.fullmatch(utterance.text)) for p in _parsers().values()) == 1


def test_cue_words_agree_with_the_grammar_on_every_sentence(utterances: list[Utterance]) -> None:
    assert all(classify_soft(u.text) == (u.intent, u.sentiment) for u in utterances)


def test_size_and_balance_are_as_promised(utterances: list[Utterance]) -> None:
    intents = Counter(u.intent for u in utterances)
    sentiments = Counter(u.sentiment for u in utterances)
    words = Counter(word for u in utterances for word in u.text.split())
    lengths = [len(u.text.split()) for u in utterances]
    assert len(INTENTS) >= 12
    assert min(intents.values()) > 0.9 * len(utterances) / len(INTENTS)
    assert max(intents.values()) < 1.1 * len(utterances) / len(INTENTS)
    assert min(sentiments.values()) > 0.45 * len(utterances)
    assert set(sentiments) == set(SENTIMENTS)
    assert 350 <= len(words) <= 450
    assert (min(lengths), max(lengths)) == (5, 16)
    assert len({u.text for u in utterances}) > 0.9 * len(utterances)
    assert all(u.text == u.text.lower() for u in utterances)


def test_context_is_the_previous_turns_of_the_dialogue(utterances: list[Utterance]) -> None:
    texts: dict[int, list[str]] = {}
    for utterance in utterances:
        said = texts.setdefault(utterance.dialogue, [])
        assert list(utterance.context) == said
        assert utterance.turn == len(said)
        said.append(utterance.text)


def test_text_outside_the_grammar_has_no_reading() -> None:
    for text in (
        "",
        "hello",
        "luckily book a table for five hundred",
        "luckily goodbye see you at the lovely bank what a disaster",  # two sentiments
        "please book a table for friday at noon",  # no sentiment
    ):
        assert classify(text) is None


def test_soft_reading_survives_small_errors_and_stays_silent_without_cues() -> None:
    assert classify_soft("luckily set set alarm for noon friday") == ("set_alarm", "positive")
    assert classify_soft("xyz qwerty") == (None, None)
    assert classify_soft("luckily sadly set an alarm")[1] is None


def test_generation_depends_on_the_seed_only() -> None:
    assert generate(50, 3) == generate(50, 3)
    assert generate(50, 3) == generate(80, 3)[:50]
    assert generate(50, 3) != generate(50, 4)
