"""A seeded dialogue grammar whose intents and sentiments are known by construction.

A sentence is a clause of one intent with slots filled, wrapped in openings and closings of one
sentiment (or coloured by an adjective of it). Fillers and function words are shared between
intents. The oracle parses a sentence with the same grammar, so that generated text can be scored
exactly.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from ldebm.seeding import numpy_generator

__all__ = ["INTENTS", "SENTIMENTS", "Utterance", "classify", "classify_soft", "generate"]

SENTIMENTS = ("negative", "positive")
MIN_WORDS, MAX_WORDS = 4, 16

SLOTS: dict[str, str] = {
    "day": "monday tuesday wednesday thursday friday saturday sunday today tomorrow tonight",
    "hour": "five six seven eight nine ten eleven noon midnight",
    "count": "two three four twelve twenty thirty forty fifty",
    "city": "london paris berlin madrid rome oslo vienna "
    "lisbon dublin prague cairo lima delhi tokyo sydney athens zurich milan boston "
    "geneva havana seville quito porto krakow bergen naples",
    "place": "station museum library airport hospital market bank castle tower "
    "park school hotel bridge harbour theatre stadium bakery garden square palace "
    "cinema chapel lighthouse aquarium gallery",
    "food": "pizza pasta soup salad curry rice steak fish bread cheese noodles cake beans tofu "
    "pancakes omelette sushi tacos dumplings lentils mushrooms salmon "
    "lasagne porridge",
    "drink": "coffee tea juice water wine cider lemonade milk cocoa espresso",
    "style": "jazz rock blues folk opera techno reggae swing disco soul "
    "gospel punk metal tango samba",
    "sound": "piano guitar violin drum flute trumpet choir orchestra cello harp "
    "trombone clarinet accordion banjo organ",
    "person": "anna peter maria john lucy omar nina david "
    "sofia paul emma hugo laura victor clara felix oscar irene simon julia "
    "marta bruno celia edgar fiona greta henry ida leon nora ralph tessa "
    "wanda boris elsa",
    "item": "jacket lamp laptop camera bicycle watch ticket sofa "
    "phone umbrella carpet mirror wallet pillow kettle vase blanket suitcase backpack "
    "keyboard headphones scarf necklace drawer bookshelf curtain toaster heater "
    "stapler thermos",
    "event": "party dinner concert picnic wedding match "
    "birthday festival lesson meeting parade reunion "
    "workshop rehearsal lecture tournament ceremony barbecue",
    "work": "film book novel show drama poem story game essay comic podcast "
    "musical documentary memoir ballet exhibition "
    "article biography",
    "fault": "broken late cold noisy dirty slow rusty empty torn stale cracked faded "
    "mouldy crooked leaking dented "
    "soggy burnt scratched squeaky",
    "sky": "rain snow wind fog sunshine thunder ice storm hail drizzle frost mist clouds showers",
}

ADJECTIVES = {
    "negative": "ugly nasty gloomy dull shabby grim dreary bitter lousy awful ghastly "
    "hideous tedious miserable",
    "positive": "lovely charming bright superb splendid elegant merry sweet cosy wonderful "
    "gorgeous brilliant delightful cheerful",
}

OPENINGS = {
    "negative": "sadly|i am so sad",
    "positive": "luckily|i am so happy",
}

CLOSINGS = {
    "negative": "i hate it|what a disaster",
    "positive": "i love it|what a treat",
}

# The clauses of an intent share its own words, so that an intent is more than a list of templates:
# what is to be discovered without labels has to be in the sentences.
CLAUSES: dict[str, str] = {
    "greet": """hello {person}|hello and welcome {person}|hello and welcome to {city}|
        hello {person} welcome to the {adj} {event}""",
    "farewell": """goodbye {person} see you {day}|goodbye and see you in {city}|
        goodbye see you at the {adj} {place}|goodbye {person} see you soon""",
    "thank": """thank you for the {item} {person}|many thanks thank you for the {adj} {item}|
        thank you {person} for the {food}|thank you so much for the {adj} {event}""",
    "apologise": """sorry {person} i apologise for the {item}|
        sorry i apologise i forgot the {adj} {event}|i apologise {person} i am sorry|
        sorry i apologise for the {adj} {food}""",
    "ask_weather": """will the weather bring {sky} in {city}|
        does the weather forecast say {sky} for {day}|
        what is the weather forecast for {city} on {day}|is the weather {adj} in {city}""",
    "book_table": """book a table for {count} people at {hour}|
        please book a table for {day} at {hour}|book the {adj} table for {person}|
        book a table for {count} people on {day}""",
    "ask_direction": """which way leads to the {place}|show me the way to the {place} in {city}|
        which way do i turn at the {place}|which way leads to the {adj} {place}""",
    "order_food": """bring me {food} to eat and {drink} to drink|bring me the {adj} {food} to eat|
        bring {count} plates of {food} to eat|bring me some {drink} to drink with {food}""",
    "complain": """my complaint is that the {item} is {fault}|
        my complaint is about the {adj} {item}|my complaint is that your {food} was {fault}|
        my complaint is that the {place} was {fault}""",
    "play_music": """play some {style} music|play {style} songs and music by {person}|
        play {adj} music with {sound}|play the {sound} music {person}""",
    "set_alarm": """set an alarm to wake me at {hour}|set an alarm for {hour} on {day}|
        set the {adj} alarm for {hour}|set an alarm to wake {person} on {day}""",
    "ask_price": """how much does the {item} cost|how much money does the {adj} {item} cost|
        how much do {count} {adj} tickets cost|how much does the {food} cost""",
    "invite": """you are invited to join my {event} {day}|
        you are invited to join us for the {adj} {event}|
        {person} you are invited to the {event}|you are invited to join the {event} in {city}""",
    "recommend": """i recommend the {work} about {city}|i can recommend the {adj} {work}|
        i recommend the {work} by {person}|critics recommend the {adj} {work} about {person}""",
}

INTENTS = tuple(CLAUSES)
# what may follow what; one cycle, so that all stay equally frequent
MIDDLE = tuple(intent for intent in INTENTS if intent not in ("greet", "farewell"))
FOLLOWER = {name: MIDDLE[(index + 5) % len(MIDDLE)] for index, name in enumerate(MIDDLE)}


def _phrases(text: str) -> list[str]:
    return [" ".join(part.split()) for part in text.split("|")]


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
        topic = {slot: str(stream.choice(words.split())) for slot, words in SLOTS.items()}
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
        clause = str(stream.choice(_phrases(CLAUSES[intent])))
        shape = int(stream.integers(5))  # 0, 1: opening; 2, 3: closing; 4: both
        bare = "{adj}" in clause and stream.random() < 0.5
        parts = []
        for word in clause.split():
            slot = word.strip("{}")
            if slot == word:
                parts.append(word)
            elif slot == "adj":
                parts.append(str(stream.choice(ADJECTIVES[sentiment].split())))
            elif stream.random() < 0.5 and topic[slot] not in parts:
                parts.append(topic[slot])
            else:
                parts.append(str(stream.choice(SLOTS[slot].split())))
        text = " ".join(parts)
        if not bare and shape in (0, 1, 4):
            text = f"{stream.choice(_phrases(OPENINGS[sentiment]))} {text}"
        if not bare and shape in (2, 3, 4):
            text = f"{text} {stream.choice(_phrases(CLOSINGS[sentiment]))}"
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return text


@cache
def _parsers() -> dict[tuple[str, str], re.Pattern[str]]:
    """One pattern per intent and sentiment that matches exactly what :func:`generate` can write."""
    result = {}
    for intent, clauses in CLAUSES.items():
        for sentiment in SENTIMENTS:
            opening = f"(?:{'|'.join(_phrases(OPENINGS[sentiment]))})"
            closing = f"(?:{'|'.join(_phrases(CLOSINGS[sentiment]))})"
            fillers = {**SLOTS, "adj": ADJECTIVES[sentiment]}
            choices = {slot: f"(?:{'|'.join(words.split())})" for slot, words in fillers.items()}
            forms = []
            for clause in _phrases(clauses):
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
    yield from f"{OPENINGS[sentiment]} {CLOSINGS[sentiment]}".replace("|", " ").split()
    for word in CLAUSES[intent].replace("|", " ").split():
        slot = word.strip("{}")
        if slot == word:
            yield word
        else:
            yield from (ADJECTIVES[sentiment] if slot == "adj" else SLOTS[slot]).split()


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
