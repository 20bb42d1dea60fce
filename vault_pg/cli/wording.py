"""Durations and foreign text as a person reads them in a terminal."""

from __future__ import annotations

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
TENTHS_BELOW = 10


def duration(seconds: float) -> str:
    """`2.4 s`, `48 s`, `12 min`, `3 h 5 min`, `9 d 4 h`: as exact as matters to the reader."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < TENTHS_BELOW:
        return f"{seconds:.1f} s"
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    minutes = round(seconds / MINUTE)
    if minutes < HOUR // MINUTE:
        return f"{minutes} min"
    if minutes < 2 * DAY // MINUTE:
        return _two(minutes // 60, "h", minutes % 60, "min")
    hours = minutes // 60
    return _two(hours // 24, "d", hours % 24, "h")


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large} {unit} {small} {small_unit}" if small else f"{large} {unit}"


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 rotation`, `2 rotations`, `3 queries`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Text of another process with nothing in it that a terminal would obey."""
    return "".join(character if character.isprintable() else " " for character in text)
