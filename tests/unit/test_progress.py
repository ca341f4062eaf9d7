"""Progress where nobody looks at a terminal: a line now and then, on stderr."""

import pytest

from ldebm.training import progress
from ldebm.training.progress import Progress


def test_a_training_says_a_tenth_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("backbone", 40) as bar:
        for step in range(1, 41):
            bar.show(step, {"loss": 1.0})
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split()[1] for line in printed.err.splitlines()] == [
        f"{n}/40" for n in range(4, 41, 4)
    ]


def test_a_training_whose_tenths_take_long_says_a_line_in_between(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("prior", 100) as bar:
        for step in range(1, 16):
            now[0] += 7.0
            bar.show(step, {"loss": 2.5})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["3/100", "6/100", "9/100", "10/100", "13/100"]
    assert lines[0] == "prior: 3/100  loss 2.5  0.14 updates/s  679 s left"


def test_commands_say_a_line_every_so_many_seconds_and_nothing_when_they_are_quick(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("score", 100, unit="texts", pause=10) as bar:
        for step in range(1, 101):
            now[0] += 0.25
            bar.show(step, {})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "score: 40/100  4.00 texts/s  15 s left",
        "score: 80/100  4.00 texts/s  5 s left",
    ]
