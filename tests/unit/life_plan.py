"""What a life is lived under and what befalls it: plain values that a random number generator gives."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from tests.unit.living_vault import CALM, TokenKind, Weather

Blow: TypeAlias = Literal["lease", "token", "role", "restart", "rotate", "resize", "suspend", "block", "set"]
BLOWS: list[Blow] = ["lease", "token", "role", "restart", "rotate", "resize", "suspend", "block", "set"]

HOUR = 3600.0
LONGEST_STORM = 900.0
"""Seconds past the TTL that an ill may last: what comes after that is more of the same."""

FEW_USES = (20, 50, 200)
"""Requests that a token may be good for. Each new one costs each database an issue and a revocation: of fewer it would be too many."""


@dataclass(frozen=True)
class Climate:
    databases: int
    ttl: float
    max_ttl: float
    max_age: float | None
    max_size: int
    token: TokenKind

    @property
    def pace(self) -> float:
        """Seconds between two looks at the clocks. A look a second is most of what a quiet week costs."""
        return 1.0 if self.ttl < HOUR else 10.0


@dataclass(frozen=True)
class Chapter:
    """Some time in which nothing may be noticed, then trouble. Durations in seconds."""

    quiet: float
    asked: bool
    """A rotation is asked for in the quiet."""
    weather: Weather
    lasting: float
    blow: Blow | None
    after: float
    """From the beginning of the weather to the blow."""


@dataclass(frozen=True)
class Plan:
    seed: int
    """Of all that is drawn while it is lived."""
    climate: Climate
    chapters: tuple[Chapter, ...]
    abrupt: bool
    """It ends in the middle of the last trouble."""
    soon: float = 60.0
    """Seconds from the end of a trouble within which everything has to be well again."""

    @classmethod
    def of(cls, luck: random.Random, *, chapters: int, ttls: tuple[float, ...]) -> Plan:
        climate = _climate(luck, luck.choice(ttls))
        happens = tuple(_chapter(luck, climate) for _ in range(chapters))
        return cls(luck.randrange(2**32), climate, happens, luck.random() < 0.2)


def _climate(luck: random.Random, ttl: float) -> Climate:
    return Climate(
        databases=luck.choice([1, 1, 2, 3]),
        ttl=ttl,
        max_ttl=ttl * luck.choice([1, 2, 5, 24, 1000]),
        max_age=luck.choice([None, None, None, ttl * 1.5, ttl * 7]),
        max_size=luck.choice([2, 3, 4]),
        token=_token(luck, int(max(60, ttl * luck.choice([1, 3, 1000])))),
    )


def _token(luck: random.Random, ttl: int) -> TokenKind:
    if luck.random() < 0.2:
        return TokenKind(ttl, ttl, renewable=False, batch=True)
    uses = luck.choice([0, 0, 0, *FEW_USES])
    return TokenKind(ttl, ttl * luck.choice([2, 5, 1000]), renewable=luck.random() < 0.8, uses=uses)


def _chapter(luck: random.Random, climate: Climate) -> Chapter:
    ttl = climate.ttl
    weather = CALM
    for _ in range(luck.choice([0, 1, 1, 1, 2])):
        weather = luck.choice(ILLS)(weather, luck)
    lasting = min(ttl * luck.choice([0.05, 0.25, 0.5, 1.2, 3]), ttl + LONGEST_STORM) if weather != CALM else 0.0
    blow = luck.choice(BLOWS) if weather == CALM or luck.random() < 0.3 else None
    return Chapter(
        quiet=ttl * luck.choice([0.1, 0.5, 1, 3, 6]),
        asked=luck.random() < 0.2,
        weather=weather,
        lasting=lasting,
        blow=blow,
        after=lasting * luck.choice([0.0, 0.1, 0.9]),
    )


ILLS: list[Callable[[Weather, random.Random], Weather]] = [
    lambda sky, _: replace(sky, refuses=True),
    lambda sky, _: replace(sky, sealed=True),
    lambda sky, _: replace(sky, hangs=True),
    lambda sky, luck: replace(sky, errors=luck.choice([0.5, 1.0])),
    lambda sky, luck: replace(sky, quota=luck.choice([0.5, 1.0]), retry_after=luck.choice([0, 1, 20])),
    lambda sky, luck: replace(sky, cut=luck.choice([0.5, 1.0])),
    lambda sky, luck: replace(sky, behind=luck.choice([0.5, 1.0])),
    lambda sky, luck: replace(sky, slow=luck.choice([1.0, 10.0, 20.0])),
    lambda sky, _: replace(sky, truncated=True),
    lambda sky, _: replace(sky, owns_objects=True),
    lambda sky, _: replace(sky, postgres_down=True),
]
