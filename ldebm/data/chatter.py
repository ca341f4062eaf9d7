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
    "day": "monday tuesday wednesday thursday friday saturday sunday today tomorrow",
    "hour": "five six seven eight nine ten eleven noon midnight",
    "count": "two three four twelve twenty",
    "city": "london paris berlin madrid rome oslo vienna "
    "lisbon dublin prague cairo lima delhi tokyo sydney",
    "place": "station museum library airport hospital market bank "
    "park school hotel bridge harbour theatre stadium bakery",
    "food": "pizza pasta soup salad curry rice steak fish bread cheese noodles cake beans tofu",
    "drink": "coffee tea juice water wine cider lemonade milk",
    "style": "jazz rock blues folk opera techno reggae swing disco",
    "sound": "piano guitar violin drum flute trumpet choir orchestra cello harp",
    "person": "anna peter maria john lucy omar nina david "
    "sofia paul emma hugo laura victor clara felix",
    "item": "jacket lamp laptop camera bicycle watch ticket sofa "
    "phone umbrella carpet mirror wallet pillow kettle vase",
    "event": "party dinner concert picnic wedding match "
    "birthday festival lesson meeting parade reunion",
    "work": "film book novel show play poem story game essay comic",
    "fault": "broken late cold noisy dirty slow rusty empty torn stale",
    "sky": "rain snow wind fog sunshine thunder ice storm hail drizzle",
}

ADJECTIVES = {
    "negative": "ugly nasty gloomy dull shabby grim dreary bitter lousy",
    "positive": "lovely charming bright superb splendid elegant merry sweet cosy",
}

OPENINGS = {
    "negative": """bad news|i am so sad|i feel awful|what a pity|oh how annoying|this is horrible|
        life is miserable|alas|i am furious|sigh|my mood is low|no joke i am angry""",
    "positive": """good news|i am so happy|i feel wonderful|what a joy|oh how exciting|
        this is fantastic|life is beautiful|hooray|i am delighted|wow|my mood is high|
        no joke i am thrilled""",
}

CLOSINGS = {
    "negative": """and i am upset about it|that makes me cry|which is dreadful|i hate it|
        and everything is wrong|with a heavy heart|it will be boring|i cannot stand it|
        what a disaster|and nobody cares""",
    "positive": """and i am glad about it|that makes me smile|which is perfect|i love it|
        and everything is fine|with a cheerful heart|it will be fun|i cannot wait|
        what a treat|and everybody cheers""",
}

CLAUSES: dict[str, str] = {
    "greet": """hello {person}|hi {person} from {city}|welcome to the {adj} {event} {person}|
        hey {person} it is {day}|hello and welcome to {city}|hi there {person} at the {place}|
        greetings from {adj} {city}""",
    "farewell": """goodbye {person}|bye {person} until {day}|see you {day} {person}|
        farewell my {adj} {city}|goodbye i leave for {city} on {day}|
        bye the {event} is over {person}|see you later at the {place}""",
    "thank": """thanks for the {item} {person}|thank you for the {adj} {item}|
        many thanks for the {event} {person}|i am grateful for your {adj} {item}|
        thank you {person} for the {event} on {day}|thanks {person} for the {food}""",
    "apologise": """sorry {person} i missed the {event}|i apologise for the {adj} {item}|
        please forgive me {person} for the {item}|sorry that i forgot the {event} on {day}|
        i apologise {person} about the {food}|my excuses for the {adj} {event}""",
    "ask_weather": """will there be {sky} in {city} on {day}|is the weather {adj} in {city}|
        what is the forecast for {city} on {day}|how much {sky} does the forecast say for {day}|
        does the weather in {city} bring {sky}|is {sky} expected in {city} {day}""",
    "book_table": """book a table for {count} at {hour}|reserve a table for {day} at {hour}|
        we need a booking for {count} people on {day}|reserve seats for {count} in the {adj} corner|
        book the {adj} table for {person}|a reservation for {count} at {hour} on {day}""",
    "ask_direction": """how do i get to the {place}|where is the {adj} {place} in {city}|
        which road leads to the {place}|show me the way to the {place} in {city}|
        do i turn left or right at the {place}|which street goes to the {adj} {place}""",
    "order_food": """i would like {food} and {drink}|bring me the {adj} {food}|
        we order {count} plates of {food}|a glass of {drink} and some {food}|
        can i have {food} with {drink}|one bowl of {adj} {food} to eat""",
    "complain": """the {item} i got is {fault}|your {food} was {fault} again|
        i want to complain about the {adj} {item}|my complaint is that the {item} is {fault}|
        the staff at the {place} were {adj}|the {drink} was {fault} and the {food} was {fault}""",
    "play_music": """play some {style} music|put on {adj} {style} with {sound}|
        turn up the {sound} music|i want to hear {style} songs by {person}|
        start the {style} playlist for the {event}|let us listen to the {adj} {sound}""",
    "set_alarm": """set an alarm for {hour} on {day}|wake me at {hour}|
        remind me of the {event} at {hour}|set a reminder for the {adj} {event}|
        ring the alarm at {hour} {day}|a timer for {count} minutes""",
    "ask_price": """how much does the {item} cost|what is the price of the {adj} {item}|
        is the {item} cheap or expensive|how many euros for {count} {adj} tickets|
        tell me the cost of the {food}|do you sell the {item} for {count} coins""",
    "invite": """would you come to my {event} {day}|join us for the {adj} {event}|
        you are invited to the {event} in {city}|please come to the {event} {person}|
        let {person} join the {event} at {hour}|we invite you and {person} for {drink}""",
    "recommend": """you should read the {work} about {city}|i recommend the {adj} {work}|
        try the {work} by {person}|my advice is the {work} about {person}|
        can you suggest the {adj} {work}|which {work} do critics recommend|
        you should visit the {place} in {city}""",
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
        >>> classify("hooray reserve a table for friday at noon")
        ('book_table', 'positive')
        >>> classify("reserve a table for friday at noon") is None
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
        >>> classify_soft("reserve table friday hooray hooray")
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
