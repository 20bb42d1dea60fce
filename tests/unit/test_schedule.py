"""The timing functions: pure, so that every instant can be asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from vault_pg import schedule
from vault_pg.lease import Credential, Lease, Token
from vault_pg.schedule import Hold, Limits, Renew, Rotate

DRAWS = st.floats(0, 1, exclude_max=True)
TTLS = st.floats(1, 86_400 * 30)


def a_lease(
    *,
    ttl: float = 3600.0,
    issued_at: float = 0.0,
    granted_at: float | None = None,
    asked: float | None = None,
    renewable: bool = True,
    token_serial: int = 1,
) -> Lease:
    return Lease(
        id="database/creds/app/x",
        credential=Credential("v-app", SecretStr("s")),
        mount="database",
        role="app",
        token_serial=token_serial,
        issued_at=issued_at,
        granted_at=issued_at if granted_at is None else granted_at,
        ttl=ttl,
        default_ttl=3600.0,
        renewable=renewable,
        asked=asked,
    )


def a_token(
    *, ttl: float | None = None, serial: int = 1, granted_at: float = 0.0, renewable: bool = True, asked: float | None = None
) -> Token:
    return Token(SecretStr("t"), serial, issued_at=granted_at, granted_at=granted_at, ttl=ttl, renewable=renewable, asked=asked)


def step(
    lease: Lease, token: Token | None = None, current: Token | None = None, draw: float = 0.5, **limits: float
) -> schedule.Step:
    token = token or a_token()
    return schedule.next_step(lease, token, current or token, draw, Limits(**limits))


def test_horizon_is_the_earliest_of_lease_token_and_max_age() -> None:
    lease = a_lease(ttl=3600)
    assert schedule.horizon(lease, a_token()) == 3600
    assert schedule.horizon(lease, a_token(ttl=6)) == 6  # a lease of an hour dies with its token of six seconds
    assert schedule.horizon(lease, a_token(ttl=600), max_age=60) == 60


@given(draw=DRAWS, ttl=TTLS)
def test_a_healthy_lease_is_renewed_in_the_wide_window_and_first_in_a_wider_one(draw: float, ttl: float) -> None:
    for renewals, low in [(0, 0.25), (1, 0.42), (7, 0.42)]:
        due = step(replace(a_lease(ttl=ttl), renewals=renewals), draw=draw)
        assert isinstance(due, Renew)
        assert low * ttl <= due.at <= 0.75 * ttl
        assert due.at == pytest.approx(ttl * (low + (0.75 - low) * draw))


@given(draw=DRAWS, ttl=st.floats(0.1, 3590), lead=st.floats(0, 600))
def test_a_grant_cut_short_means_rotate_with_time_left_to_drain(draw: float, ttl: float, lead: float) -> None:
    due = step(a_lease(ttl=ttl, granted_at=100.0, asked=3600), draw=draw, lead=lead)
    assert isinstance(due, Rotate)
    assert 100.0 <= due.at <= 100.0 + max(ttl - lead, 0.1 * ttl) + 1e-6
    assert "max TTL" in due.why


@pytest.mark.parametrize(
    ("asked", "granted", "cut"), [(3600, 3599, False), (3600, 3598, True), (10, 9, True), (4, 3, True), (4, 4, False)]
)
def test_rounding_is_not_max_ttl(asked: float, granted: float, *, cut: bool) -> None:
    assert isinstance(step(a_lease(ttl=granted, asked=asked)), Rotate if cut else Renew)


@given(draw=DRAWS, ttl=TTLS, lead=st.floats(0, 600))
def test_a_lease_that_cannot_be_renewed_is_rotated_before_its_end(draw: float, ttl: float, lead: float) -> None:
    due = step(a_lease(ttl=ttl, renewable=False), draw=draw, lead=lead)
    assert isinstance(due, Rotate)
    assert due.at <= ttl - min(lead, ttl / 2) + 1e-6


def test_max_age_forces_a_rotation_although_the_lease_could_go_on() -> None:
    due = step(a_lease(ttl=3600), max_age=1800)
    assert isinstance(due, Rotate)
    assert due.at < 1800
    assert isinstance(step(a_lease(ttl=3600), max_age=86_400), Renew)


def test_a_live_renewable_token_does_not_hurry_the_lease() -> None:
    assert isinstance(step(a_lease(ttl=3600), a_token(ttl=20)), Renew)


@pytest.mark.parametrize("token", [a_token(ttl=600, renewable=False), a_token(ttl=600, asked=3600)])
def test_a_token_at_its_end_leaves_nothing_to_do_but_hold(token: Token) -> None:
    """A new lease would die with the same token: minting would be for nothing."""
    assert step(a_lease(ttl=3600), token) == Hold(
        600, "it ends with its token, which cannot be renewed, and moves to the next one if one comes"
    )
    assert isinstance(step(a_lease(ttl=300), token), Renew)


@given(draw=DRAWS, ttl=st.floats(1, 3600), age=st.floats(0, 1800))
def test_after_a_new_login_the_lease_moves_before_the_old_token_ends(draw: float, ttl: float, age: float) -> None:
    old = a_token(ttl=age + ttl, asked=7200)
    due = step(a_lease(ttl=36_000), old, a_token(serial=2, granted_at=age, ttl=3600), draw)
    assert isinstance(due, Rotate)
    assert age <= due.at <= age + ttl


@given(left=st.floats(0, 3600), wanted=st.none() | st.floats(1, 7200))
def test_a_renewal_never_asks_for_less_than_is_left(left: float, wanted: float | None) -> None:
    """Vault sets the time left to the increment; a small one would make the lease end sooner."""
    lease = a_lease(ttl=3600)
    asked = schedule.increment(lease, 3600 - left, wanted)
    assert asked >= left - 1e-6
    assert asked >= (wanted or 3600)


@given(attempt=st.integers(1, 10_000), draw=DRAWS, left=st.floats(-1e6, 1e7))
def test_backoff_stays_between_floor_and_cap(attempt: int, draw: float, left: float) -> None:
    wait = schedule.backoff(attempt, draw, left=left)
    assert schedule.BACKOFF_FLOOR <= wait <= schedule.BACKOFF_CAP
    if left <= 0:
        assert wait <= schedule.BACKOFF_PRESSED
    elif left > 4 * schedule.BACKOFF_FLOOR:
        assert wait <= left / 4 or wait <= schedule.BACKOFF_PRESSED


@given(attempt=st.integers(1, 50), draw=DRAWS, retry_after=st.floats(0, 600))
def test_backoff_honours_retry_after(attempt: int, draw: float, retry_after: float) -> None:
    assert schedule.backoff(attempt, draw, left=3600, retry_after=retry_after) >= retry_after


@given(left=st.floats(0.5, 3600), draw=DRAWS)
def test_retry_after_does_not_outlast_the_horizon(left: float, draw: float) -> None:
    assert schedule.backoff(1, draw, left=left, retry_after=86_400) <= max(left / 4, schedule.BACKOFF_FLOOR)
    assert schedule.backoff(1, draw, left=0, retry_after=86_400) <= schedule.BACKOFF_CAP


def test_backoff_grows() -> None:
    waits = [schedule.backoff(attempt, 1.0, left=math.inf) for attempt in range(1, 10)]
    assert waits == sorted(waits)
    assert waits[0] == 0.5
    assert waits[-1] == schedule.BACKOFF_CAP


@given(left=st.floats(0.5, 1e6), most=st.floats(0.5, 60))
def test_a_request_takes_less_than_is_left(left: float, most: float) -> None:
    assert schedule.call_timeout(left, most=most) < left


@given(left=st.floats(0, 1e6), most=st.floats(0, 600))
def test_a_drain_is_over_before_the_horizon(left: float, most: float) -> None:
    assert schedule.drain_timeout(left, most=most) <= min(left * 0.85, most)
