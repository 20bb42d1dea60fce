"""A hundred databases of one manager whose credentials have all ended in an outage, and that wake at once when it is over."""

from __future__ import annotations

import pytest

from tests.unit.life import live
from tests.unit.life_plan import Chapter, Climate, Plan
from tests.unit.living_vault import CALM, TokenKind, Weather
from vault_pg.events import CredentialExpired
from vault_pg.manager.ledger import BURST, REFILL
from vault_pg.vault.session import BURST as CALLS
from vault_pg.vault.session import RATE

DATABASES = 100
TTL = 300.0
LASTS = 500.0
"""Longer than any lease of theirs."""

TOKENS = {
    "service": TokenKind(864_000, 1e9),
    "batch": TokenKind(864_000, 864_000, renewable=False, batch=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("token", list(TOKENS))
def test_a_hundred_databases_that_wake_at_once_are_well_again_in_seconds_and_ask_in_turns(token: str) -> None:
    climate = Climate(DATABASES, TTL, 86_400, None, 2, TOKENS[token])
    outage = Chapter(quiet=30, asked=False, weather=Weather(refuses=True), lasting=LASTS, blow=None, after=0)
    calm = Chapter(quiet=TTL, asked=False, weather=CALM, lasting=0, blow=None, after=0)
    life = live(Plan(1, climate, (outage, calm), abrupt=False, soon=15))
    ended = {event.database for event in life.observer.events if isinstance(event, CredentialExpired)}
    assert len(ended) == DATABASES
    assert max(life.observer.seconds.values()) <= RATE + CALLS
    for name in life.manager.settings.databases:
        mints = [at for at, path in life.observer.mints if path.endswith(f"/{name}")]
        assert len(mints) <= 4, "the first, one after the outage, and what calm asks for"
        crowds = [sum(at <= other < at + BURST * REFILL for other in mints) for at in mints]
        assert max(crowds) <= BURST
