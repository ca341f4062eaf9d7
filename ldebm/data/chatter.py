"""A seeded dialogue grammar whose intents and sentiments are known by construction.

A sentence is a clause of one intent with slots filled, wrapped in openings and closings of one
sentiment (or coloured by an adjective of it). Fillers and function words are shared between
intents. The oracle parses a sentence with the same grammar, so that generated text can be scored
exactly. The grammar is ``chatter.toml``.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ldebm.seeding import numpy_generator

__all__ = ["INTENTS", "SENTIMENTS", "Utterance", "classify", "classify_soft", "generate"]

SENTIMENTS = ("negative", "positive")
MIN_WORDS, MAX_WORDS = 4, 16

GRAMMAR = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SLOTS: dict[str, list[str]] = {name: words.split() for name, words in GRAMMAR["slots"].items()}
ADJECTIVES = {name: words.split() for name, words in GRAMMAR["adjectives"].items()}
OPENINGS: dict[str, list[str]] = GRAMMAR["openings"]
CLOSINGS: dict[str, list[str]] = GRAMMAR["closings"]
CLAUSES: dict[str, list[str]] = GRAMMAR["clauses"]

INTENTS = tuple(CLAUSES)
# what may follow what; one cycle, so that all stay equally frequent
MIDDLE = tuple(intent for intent in INTENTS if intent not in ("greet", "farewell"))
FOLLOWER = {name: MIDDLE[(index + 5) % len(MIDDLE)] for index, name in enumerate(MIDDLE)}


@dataclass(frozen=True)
class Utterance:
    """One turn of a dialogue, with the turns before it, oldest first."""

    dialogue: int
    turn: int
    text: str
    context: tuple[str, ...]
    intent: str
    sentiment: str


def generate(n: int = 12000, seed: int = 0) -> list[Utterance]:
    """Writes n utterances in dialogues of five to nine turns (the last may be cut).

    A dialogue keeps its mood in four turns of five, and comes back to the same fillers half of the
    time. Half of the dialogues open with a greeting and half close with a farewell, so that every
    intent has about the same share.
    """
    result: list[Utterance] = []
    dialogue = 0
    while len(result) < n:
        stream = numpy_generator(seed, "chatter", dialogue)
        turns: list[str] = []
        topic = {slot: str(stream.choice(words)) for slot, words in SLOTS.items()}
        mood = int(stream.integers(2))
        for turn, intent in enumerate(_plan(stream)):
            side = mood if stream.random() < 0.8 else 1 - mood
            text = _sentence(intent, SENTIMENTS[side], topic, stream)
            result.append(Utterance(dialogue, turn, text, tuple(turns), intent, SENTIMENTS[side]))
            turns.append(text)
        dialogue += 1
    return result[:n]


def _plan(stream: np.random.Generator) -> list[str]:
    """The intents of one dialogue."""
    length = int(stream.integers(5, 10))
    first = stream.random() < 0.5
    last = stream.random() < 0.5
    middle = [MIDDLE[stream.integers(len(MIDDLE))]]
    while len(middle) < length - first - last:
        follows = stream.random() < 0.5
        middle.append(FOLLOWER[middle[-1]] if follows else str(stream.choice(MIDDLE)))
    return ["greet"] * first + middle + ["farewell"] * last


def _sentence(
    intent: str, sentiment: str, topic: dict[str, str], stream: np.random.Generator
) -> str:
    """One sentence of 4 to 16 words."""
    while True:
        clause = str(stream.choice(CLAUSES[intent]))
        shape = int(stream.integers(5))  # 0, 1: opening; 2, 3: closing; 4: both
        bare = "{adj}" in clause and stream.random() < 0.5
        parts = []
        for word in clause.split():
            slot = word.strip("{}")
            if slot == word:
                parts.append(word)
            elif slot == "adj":
                parts.append(str(stream.choice(ADJECTIVES[sentiment])))
            elif stream.random() < 0.5 and topic[slot] not in parts:
                parts.append(topic[slot])
            else:
                parts.append(str(stream.choice(SLOTS[slot])))
        text = " ".join(parts)
        if not bare and shape in (0, 1, 4):
            text = f"{stream.choice(OPENINGS[sentiment])} {text}"
        if not bare and shape in (2, 3, 4):
            text = f"{text} {stream.choice(CLOSINGS[sentiment])}"
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


@cache
def _parsers() -> dict[tuple[str, str], re.Pattern[str]]:
    """One pattern per intent and sentiment that matches exactly what :func:`generate` can write."""
    result = {}
    for intent, clauses in CLAUSES.items():
        for sentiment in SENTIMENTS:
            opening = f"(?:{'|'.join(OPENINGS[sentiment])})"
            closing = f"(?:{'|'.join(CLOSINGS[sentiment])})"
            fillers = {**SLOTS, "adj": ADJECTIVES[sentiment]}
            choices = {slot: f"(?:{'|'.join(words)})" for slot, words in fillers.items()}
            forms = []
            for clause in clauses:
                body = clause.format(**choices)
                forms += [f"{opening} {body}(?: {closing})?", f"{body} {closing}"]
                forms += [body] if "{adj}" in clause else []
            result[intent, sentiment] = re.compile("|".join(forms))
    return result


def classify(text: str) -> tuple[str, str] | None:
    """The intent and sentiment of a sentence of the grammar, None for any other text.

    Example:
        >>> classify("luckily please book a table for friday at noon")
        ('book_table', 'positive')
        >>> classify("please book a table for friday at noon") is None
        True
    """
    if not MIN_WORDS <= len(text.split(" ")) <= MAX_WORDS:
        return None
    for cell, pattern in _parsers().items():
        if pattern.fullmatch(text):
            return cell
    return None


def _reachable(intent: str, sentiment: str) -> Iterator[str]:
    """The words that sentences of this intent and sentiment can hold."""
    for text in (*OPENINGS[sentiment], *CLOSINGS[sentiment], *CLAUSES[intent]):
        for word in text.split():
            slot = word.strip("{}")
            if slot == word:
                yield word
            else:
                yield from ADJECTIVES[sentiment] if slot == "adj" else SLOTS[slot]


@cache
def _cues() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """For every word, the intents and the sentiments that can use it."""
    intents: dict[str, set[str]] = defaultdict(set)
    sentiments: dict[str, set[str]] = defaultdict(set)
    for intent in INTENTS:
        for sentiment in SENTIMENTS:
            for word in _reachable(intent, sentiment):
                intents[word].add(intent)
                sentiments[word].add(sentiment)
    return dict(intents), dict(sentiments)


def classify_soft(text: str) -> tuple[str | None, str | None]:
    """Intent and sentiment by cue words, for text that only nearly follows the grammar.

    A word that k intents can use votes 1/k^2 for each; sentiment goes by words that only one
    sentiment can use. Each answer is None where nothing tells, or two answers have equal votes.
    It agrees with :func:`classify` on the grammar's sentences.

    Example:
        >>> classify_soft("book table friday luckily luckily")
        ('book_table', 'positive')
    """
    by_intent, by_sentiment = _cues()
    intents: dict[str, float] = defaultdict(float)
    sentiments: dict[str, float] = defaultdict(float)
    for word in text.split():
        users = by_intent.get(word, set())
        if len(users) < len(INTENTS):
            for intent in users:
                intents[intent] += len(users) ** -2.0
        moods = by_sentiment.get(word, set())
        if len(moods) == 1:
            sentiments[next(iter(moods))] += 1
    return _winner(intents), _winner(sentiments)


def _winner(votes: dict[str, float]) -> str | None:
    ranked = sorted(votes.items(), key=lambda item: (-item[1], item[0]))
    if not ranked or (len(ranked) > 1 and ranked[1][1] > ranked[0][1] - 1e-9):
        return None
    return ranked[0][0]
