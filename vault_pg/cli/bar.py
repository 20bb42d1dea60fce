"""Bars: what is left of a lease and how bad that is; figures over time."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

FULL, EMPTY = "█", "░"
PARTS = " ▏▎▍▌▋▊▉"

HEIGHTS = " ▁▂▃▄▅▆▇█"

WARNING_BELOW = 0.25
"""A renewal is due at the latest with a quarter of the TTL left."""

ALARM_BELOW = 0.1


def share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def colour(left: float) -> str:
    """Of a lease with this share of its TTL left."""
    if left < ALARM_BELOW:
        return "red"
    return "yellow" if left < WARNING_BELOW else "green"


def bar(left: float, width: int, *, style: str | None = None) -> Text:
    """`left`, a share between 0 and 1, as a bar of `width` cells."""
    eighths = round(left * width * 8)
    whole, rest = divmod(eighths, 8)
    filled = FULL * whole + (PARTS[rest] if rest else "")
    return Text.assemble((filled, style or colour(left)), (EMPTY * (width - len(filled)), "bright_black"))


def spark(figures: Sequence[float]) -> str:
    """One cell for each figure, as high as its share of the highest."""
    highest = max(figures, default=0.0)
    return "".join(HEIGHTS[round(share(figure, highest) * (len(HEIGHTS) - 1))] for figure in figures)
