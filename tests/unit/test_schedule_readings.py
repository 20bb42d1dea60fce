"""When the next password of a lease is asked for whose sessions outlive it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from vault_pg import schedule
from vault_pg.lease import NO_TOKEN, Credential, Ending, Grant, Lease
from vault_pg.schedule import Hold, Limits, Rotate, Step

DRAWS = st.floats(0, 1, exclude_max=True)
TTLS = st.floats(1, 86_400 * 30)


def reading(ttl: float = 100.0, ending: Ending = Ending.CHANGE, at: float = 0.0, word: str = "pw") -> Lease:
    return Lease.of(Grant(Credential("app", SecretStr(word)), ttl, ending), at)


def step(lease: Lease, draw: float = 0.5, max_age: float | None = None) -> Step:
    return schedule.next_step(lease, NO_TOKEN, NO_TOKEN, draw, Limits(max_age=max_age))


def at_of(found: Step) -> float:
    assert isinstance(found, Rotate)
    return found.at


@given(TTLS, DRAWS, st.sampled_from([Ending.PASSWORD, Ending.CHANGE]))
def test_what_is_open_serves_past_the_end_of_its_password(ttl: float, draw: float, ending: Ending) -> None:
    assert schedule.horizon(reading(ttl, ending), NO_TOKEN, max_age=1.0) == math.inf


@given(TTLS, DRAWS)
def test_a_password_that_expires_is_replaced_with_a_quarter_of_its_life_left(ttl: float, draw: float) -> None:
    assert 0.4 * ttl <= at_of(step(reading(ttl, Ending.PASSWORD), draw)) <= 0.75 * ttl


@given(TTLS, DRAWS)
def test_a_password_that_changes_is_read_half_a_second_to_eleven_seconds_later(ttl: float, draw: float) -> None:
    assert ttl + 0.5 <= at_of(step(reading(ttl), draw)) <= ttl + 10.5


def test_a_password_that_should_have_changed_is_read_again_in_growing_intervals_then_believed() -> None:
    lease, waits = reading(at=0.0), []
    for _ in range(schedule.ODD_READS + 1):
        read_at = at_of(step(lease))
        waits.append(read_at - lease.granted_at)
        lease = reading(at=read_at).after(lease)
    assert waits[0] > 100
    assert waits[1:] == [1, 2, 3, 4, 5]
    assert at_of(step(lease)) > lease.granted_at + 100  # ttl runs anew, and is believed


def test_while_the_ttl_stays_at_nothing_it_is_read_again_and_again_but_not_in_a_hot_loop() -> None:
    lease = reading(ttl=0.0, at=0.0)
    for _ in range(100):
        read_at = at_of(step(lease, draw=0.0))
        assert 0.5 <= read_at - lease.granted_at <= 30
        lease = reading(ttl=0.0, at=read_at).after(lease)


def test_another_password_ends_the_doubt() -> None:
    doubtful = replace(reading(), unchanged=3)
    assert reading(word="other").after(doubtful).unchanged == 0
    assert reading(at=50.0).after(reading()).unchanged == 0  # read before its end: nothing was to change yet


@pytest.mark.parametrize("ending", [Ending.PASSWORD, Ending.CHANGE])
def test_max_age_makes_it_be_read_earlier(ending: Ending) -> None:
    assert at_of(step(reading(3600.0, ending), max_age=60.0)) == 60
    assert at_of(step(reading(30.0, ending), max_age=60.0)) < 60


def test_what_has_no_end_is_left_alone() -> None:
    assert at_of(step(reading(math.inf, Ending.PASSWORD))) == math.inf
    held = step(reading(math.inf, Ending.ROLE))
    assert isinstance(held, Hold)
    assert held.at == math.inf
    aged = step(reading(math.inf, Ending.ROLE), max_age=60.0)
    assert isinstance(aged, Rotate)
