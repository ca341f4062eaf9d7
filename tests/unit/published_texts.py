"""Small files in the formats in which the papers' corpora are published, for tests."""

import gzip
import json
from pathlib import Path

SPLITS = {"train": 12, "validation": 3, "test": 3}


def write_daily_dialog(folder: Path, per_split: dict[str, int] | None = None) -> None:
    """Dialogues of three turns; acts 1 to 4 and emotions 0 to 6 in turn."""
    for split, number in (per_split or SPLITS).items():
        lines, acts, emotions = [], [], []
        for i in range(number):
            lines.append(
                f"Shall we meet at {i} o'clock ? __eou__ No , I can't ... {split} ! __eou__ "
                f"Then at {i + 1} . __eou__"
            )
            acts.append(f"{1 + i % 4} 2 1 ")
            emotions.append(f"0 {i % 7} 4 ")
        target = folder / split
        target.mkdir(parents=True, exist_ok=True)
        (target / "dialogues.txt").write_text("\n".join(lines) + "\n")
        (target / "dialogues_act.txt").write_text("\n".join(acts) + "\n")
        (target / "dialogues_emotion.txt").write_text("\n".join(emotions) + "\n")


def write_kvret(folder: Path) -> None:
    """Dialogues of a driver and an assistant; training is gzipped, as in the mirror."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, number in (("train", 12), ("dev", 3), ("test", 3)):
        content = []
        for i in range(number):
            said = [
                ("driver", f"Where is the nearest Gas station {i}?"),
                ("assistant", "It's 2 miles away."),
                ("driver", "Thanks!"),
            ]
            turns = [{"turn": who, "data": {"utterance": text}} for who, text in said]
            intent = ("navigate", "weather", "schedule")[i % 3]
            content.append({"dialogue": turns, "scenario": {"task": {"intent": intent}}})
        data = json.dumps(content).encode()
        if split == "train":
            (folder / "kvret_train_public.json.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            (folder / f"kvret_{split}_public.json").write_bytes(data)


def write_jericho(folder: Path) -> None:
    """States of games: six to train on, one held out; places are visited again."""

    def state(game: str, room: int) -> dict[str, object]:
        return {"loc_desc": f"{game} Room {room}\nA door leads on. \n\n", "obs": "You walk."}

    folder.mkdir(parents=True, exist_ok=True)
    for split, games in (("train", "abcdef"), ("test", "x")):
        entries = [
            {"rom": game, "state": state(game, room), "next_state": state(game, room + 1)}
            for game in games
            for room in range(5)
        ]
        (folder / f"{split}.json").write_text(json.dumps(entries))


def write_yelp(folder: Path) -> None:
    """Files of both preparations; two training sentences are in Li's splits as well."""
    words = {0: "bad", 1: "good"}
    for part, names in (
        ("yelp_shen", ("sentiment.dev", "sentiment.test")),
        ("yelp_li", ("sentiment.dev", "sentiment.test", "sentiment.train")),
    ):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for name in names:
            for number, word in words.items():
                rows = [f"{part} {name} {i} was {word} ." for i in range(10)]
                if name == "sentiment.test" and part == "yelp_shen":
                    rows[3] = f"yelp_li sentiment.dev 3 was {word} . "
                (folder / part / f"{name}.{number}").write_text("\n".join(rows) + "\n")
    rewrites = [f"rewrite {i} was good ." for i in range(10)]
    rewrites += [f"rewrite {i} was bad ." for i in range(10)]
    (folder / "yelp_li" / "human.txt").write_text("\n".join(rewrites) + "\n")


def write_agnews(folder: Path, train: bool = False) -> None:
    """Texts of four topics; one has no word that counts."""
    words = {1: "minister election", 2: "match goal", 3: "market shares", 4: "software internet"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in (("dev", 40), ("test", 20), *((("train", 60),) if train else ())):
        rows = [
            {"label": 1 + i % 4, "text": f"The {words[1 + i % 4]} of {name}, and of {name}.",
             "headline": "no"}
            for i in range(number)
        ]  # fmt: skip
        if name == "test":
            rows[5]["text"] = "It was 12 of the 7."
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
