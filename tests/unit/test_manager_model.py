"""Whole lives of a LeaseManager on virtual time: everything goes wrong at random, and what must hold always holds always."""

from __future__ import annotations

import random

import pytest

from tests.unit.life import live
from tests.unit.life_plan import HOUR, Chapter, Climate, Plan
from tests.unit.living_vault import TokenKind, Weather

MINUTES = (10.0, 30.0, 60.0, 300.0)
"""TTLs of lives that are short for us, too."""


@pytest.mark.parametrize("seed", range(32))
def test_a_life_of_troubles(seed: int) -> None:
    live(Plan.of(random.Random(seed), chapters=5, ttls=MINUTES))  # noqa: S311 - a seed for a test


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1500))
def test_five_hundred_lives_of_troubles(seed: int) -> None:
    """Each another one, so that none that is red hides the next, and each can be lived again by itself."""
    live(Plan.of(random.Random(seed), chapters=12, ttls=(*MINUTES, HOUR, 4 * HOUR)))  # noqa: S311 - a seed for a test


def test_a_postgresql_that_was_away_for_minutes_serves_seconds_after_its_return() -> None:
    climate = Climate(1, 3500, 86_400, None, 3, TokenKind(86_400, 1e9))
    away = Chapter(quiet=100, asked=False, weather=Weather(postgres_down=True), lasting=240, blow=None, after=0)
    live(Plan(1, climate, (away, away), abrupt=False, soon=5))
