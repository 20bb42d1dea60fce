"""What is made of each sign that Vault is away: pure functions, so every order of signs can be tried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault_pg.errors import VaultSealed, VaultUnavailable
from vault_pg.vault.outage import (
    LONGEST,
    MANY,
    TRIAL,
    UNSTEADY,
    Outage,
    after_call,
    after_failed_call,
    after_failed_probe,
    after_probe,
    doubt,
    pause,
    refuses,
)

SEALED = VaultSealed("Vault at https://vault:8200 is sealed")
SILENT = VaultUnavailable("Vault at https://vault:8200 did not answer")
draws = st.floats(0, 1, exclude_max=True)


def confirmed(level: int = 0) -> Outage:
    return after_failed_probe(Outage(0.0, SEALED, level=level), SEALED)


def test_one_failed_call_refuses_nobody() -> None:
    assert not refuses(doubt(SEALED, 5.0, None), tried=0.0, pressed=False)
    assert not refuses(None, tried=0.0, pressed=False)


def test_a_probe_that_fails_too_makes_it_an_outage_since_the_first_call() -> None:
    outage = after_failed_probe(after_failed_call(doubt(SEALED, 5.0, None), SILENT), SEALED)
    assert (outage.since, outage.error, outage.confirmed) == (5.0, SEALED, True)
    assert refuses(outage, tried=0.0, pressed=False)


def test_a_doubt_takes_two_probes_and_an_outage_one() -> None:
    first = after_probe(doubt(SILENT, 0.0, None))
    assert first is not None
    assert first.heard
    assert after_probe(first) is None
    assert after_probe(confirmed()) is None


def test_an_answer_of_health_alone_dispels_no_doubt_in_which_many_calls_have_failed() -> None:
    outage: Outage | None = doubt(SEALED, 0.0, None)
    assert outage is not None
    few = after_probe(outage, serves=False)
    assert few is not None
    assert not few.confirmed
    for _ in range(MANY - 1):
        outage = after_failed_call(outage, SEALED)
    deaf = after_probe(outage, serves=False)
    assert deaf is not None
    assert refuses(deaf, tried=0.0, pressed=False)
    again = after_probe(after_failed_call(deaf, SEALED), serves=False)
    assert again is not None
    assert pause(again, 0.0) > pause(outage, 0.0)
    assert after_call(deaf) is None
    assert after_probe(deaf) is None
    heard = after_call(outage)
    assert heard is not None
    assert after_probe(heard, serves=False) != deaf


def test_an_answer_of_health_ends_an_outage_in_which_health_had_failed_too() -> None:
    outage = doubt(SEALED, 0.0, None)
    for _ in range(MANY):
        outage = after_failed_call(outage, SEALED)
    assert after_probe(after_failed_probe(outage, SEALED), serves=False) is None


def test_another_calls_answer_ends_an_outage_but_no_doubt() -> None:
    """Which may be of the one path that fails."""
    heard = after_call(doubt(SILENT, 0.0, None))
    assert heard is not None
    assert heard.heard
    assert not after_failed_call(heard, SILENT).heard
    assert after_call(confirmed()) is None


def test_soon_after_an_outage_the_pauses_go_on_where_they_were() -> None:
    again = doubt(SEALED, 100.0 + UNSTEADY, (100.0, 3))
    assert (again.level, again.unsteady) == (4, True)
    assert after_probe(again) is None
    fresh = doubt(SEALED, 100.1 + UNSTEADY, (100.0, 3))
    assert (fresh.level, fresh.unsteady) == (0, False)


@given(level=st.integers(0, 10_000), draw=draws)
def test_pauses_grow_and_never_beyond_what_the_return_may_take(level: int, draw: float) -> None:
    wait = pause(confirmed(level), draw)
    assert 0.15 <= wait <= LONGEST
    assert wait <= pause(confirmed(level + 1), draw)


@pytest.mark.parametrize(("wish", "least", "most"), [(0.0, 0.3, 0.6), (7.0, 7.0, 7.71), (3600.0, 30.0, 30.0)])
@given(draw=draws)
def test_vaults_own_wish_is_the_least_pause_within_a_bound(wish: float, least: float, most: float, draw: float) -> None:
    assert least <= pause(after_failed_probe(Outage(0.0, SEALED), VaultUnavailable("429", retry_after=wish)), draw) <= most


def test_one_call_in_a_while_is_let_through_and_more_where_a_lease_is_about_to_end() -> None:
    outage = confirmed()
    assert refuses(outage, tried=TRIAL - 0.1, pressed=False)
    assert not refuses(outage, tried=TRIAL, pressed=False)
    assert not refuses(outage, tried=0.5, pressed=True)
    assert refuses(outage, tried=0.1, pressed=True)
