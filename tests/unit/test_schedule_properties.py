"""What holds of the timing functions for every lease, token, instant and draw."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.test_schedule import a_lease, a_token
from vault_pg import schedule
from vault_pg.lease import Lease, Token
from vault_pg.schedule import Hold, Limits, Renew, Rotate, Step

DRAWS = st.floats(0, 1, exclude_max=True)
SECONDS = st.floats(0.5, 40 * 86_400)
NOWS = st.floats(0, 1e6)
LIMITS = st.builds(Limits, max_age=st.none() | SECONDS, lead=st.floats(0, 900), increment=st.none() | SECONDS)

CLOSE = 1e-3
"""Seconds that sums of instants up to a few years may be off by."""


@st.composite
def leases(draw: st.DrawFn, serial: int = 1) -> Lease:
    """As issued, or as renewed any time later; granted in full, cut short, or not renewable."""
    issued_at = draw(NOWS)
    asked = draw(st.none() | SECONDS)
    ttl = draw(SECONDS)
    return a_lease(
        issued_at=issued_at,
        granted_at=issued_at if asked is None else issued_at + draw(st.floats(0, 86_400)),
        ttl=ttl if asked is None else min(ttl, asked),
        asked=asked,
        renewable=draw(st.booleans()),
        token_serial=serial,
    )


@st.composite
def tokens(draw: st.DrawFn, serial: int = 1) -> Token:
    return a_token(
        serial=serial,
        granted_at=draw(NOWS),
        ttl=draw(st.none() | SECONDS),
        renewable=draw(st.booleans()),
        asked=draw(st.none() | SECONDS),
    )


def shifted(step: Step, seconds: float) -> Step:
    return replace(step, at=step.at + seconds)


def later(lease: Lease, seconds: float) -> Lease:
    return replace(lease, issued_at=lease.issued_at + seconds, granted_at=lease.granted_at + seconds)


# -- what comes next


@given(lease=leases(), token=tokens(), draw=DRAWS, limits=LIMITS)
def test_no_step_is_planned_past_the_horizon_or_before_the_grant(lease: Lease, token: Token, draw: float, limits: Limits) -> None:
    end = schedule.horizon(lease, token, limits.max_age)
    assume(lease.granted_at < end)  # a lease that was granted past its horizon is beyond planning
    step = schedule.next_step(lease, token, token, draw, limits)
    if token.extendable:  # its end moves before it comes
        end = schedule.horizon(lease, a_token(ttl=None), limits.max_age)
    assert step.at <= end + CLOSE
    if not isinstance(step, Hold):
        assert step.at >= lease.granted_at - CLOSE


@given(lease=leases(), old=tokens(), new=tokens(serial=2), draw=DRAWS, limits=LIMITS)
def test_a_new_login_moves_every_lease_of_the_old_token_before_that_ends(
    lease: Lease, old: Token, new: Token, draw: float, limits: Limits
) -> None:
    step = schedule.next_step(lease, old, new, draw, limits)
    assert isinstance(step, Rotate)
    # Where the new token came too late, at once.
    assert step.at <= max(schedule.horizon(lease, old, limits.max_age), lease.issued_at, new.issued_at) + CLOSE


@given(lease=leases(), token=tokens(), draw=DRAWS, limits=LIMITS)
def test_a_renewal_is_planned_only_where_it_moves_the_horizon(lease: Lease, token: Token, draw: float, limits: Limits) -> None:
    step = schedule.next_step(lease, token, token, draw, limits)
    if isinstance(step, Renew):
        assert lease.renewable
        assert not lease.capped
        assert limits.max_age is None or lease.end < lease.issued_at + limits.max_age
        assert token.extendable or token.end > lease.end


@given(lease=leases(), token=tokens(), draws=st.tuples(DRAWS, DRAWS), limits=LIMITS)
def test_a_luckier_draw_is_never_earlier_and_changes_no_deed(
    lease: Lease, token: Token, draws: tuple[float, float], limits: Limits
) -> None:
    early, late = (schedule.next_step(lease, token, token, draw, limits) for draw in sorted(draws))
    assert type(early) is type(late)
    assert early.at <= late.at + CLOSE


@given(lease=leases(), token=tokens(), draw=DRAWS, limits=LIMITS, seconds=st.integers(0, 10**6))
def test_only_differences_of_instants_count(lease: Lease, token: Token, draw: float, limits: Limits, seconds: int) -> None:
    step = schedule.next_step(lease, token, token, draw, limits)
    moved = replace(token, issued_at=token.issued_at + seconds, granted_at=token.granted_at + seconds)
    later_step = schedule.next_step(later(lease, seconds), moved, moved, draw, limits)
    assert type(later_step) is type(step)
    assert math.isclose(later_step.at, shifted(step, seconds).at, abs_tol=CLOSE)


@given(ttl=st.floats(2, 86_400), draw=DRAWS, lead=st.floats(0, 900), factor=st.sampled_from([2.0, 8.0, 64.0]))
def test_leases_of_seconds_are_as_leases_of_hours_scaled(ttl: float, draw: float, lead: float, factor: float) -> None:
    for renewable in (True, False):
        small = a_lease(ttl=ttl, renewable=renewable)
        large = a_lease(ttl=ttl * factor, renewable=renewable)
        forever = a_token(ttl=None)
        step = schedule.next_step(small, forever, forever, draw, Limits(lead=lead))
        scaled = schedule.next_step(large, forever, forever, draw, Limits(lead=lead * factor))
        assert math.isclose(scaled.at, step.at * factor, rel_tol=1e-9, abs_tol=CLOSE)


@given(start=NOWS, lengths=st.tuples(SECONDS, SECONDS), lead=st.floats(0, 900), draw=DRAWS)
def test_more_time_never_makes_a_rotation_earlier(start: float, lengths: tuple[float, float], lead: float, draw: float) -> None:
    short, long = sorted(lengths)
    assert (
        schedule.rotate_point(start, start + short, lead, draw) <= schedule.rotate_point(start, start + long, lead, draw) + CLOSE
    )


@given(start=NOWS, length=SECONDS, lead=st.floats(0, 900), draw=DRAWS)
def test_a_rotation_keeps_its_lead_or_comes_almost_at_once(start: float, length: float, lead: float, draw: float) -> None:
    after = schedule.rotate_point(start, start + length, lead, draw) - start
    assert -CLOSE <= after <= max(length - lead, schedule.HURRIED_WINDOW * length) + CLOSE
    assert after <= schedule.ROTATE_WINDOW * length + CLOSE


@given(granted_at=NOWS, ttl=SECONDS, draw=DRAWS)
def test_a_renewal_point_lies_in_the_window(granted_at: float, ttl: float, draw: float) -> None:
    low, high = schedule.RENEW_WINDOW
    point = schedule.renew_point(granted_at, ttl, draw) - granted_at
    assert low * ttl - CLOSE <= point <= high * ttl + CLOSE


@given(lease=leases(), token=tokens(), draw=DRAWS, limits=LIMITS)
def test_a_renewal_leaves_a_quarter_of_the_ttl_on_either_side(lease: Lease, token: Token, draw: float, limits: Limits) -> None:
    """After it, for an outage of Vault; before it, so that grants of no time at all are no hot loop."""
    step = schedule.next_step(lease, token, token, draw, limits)
    if isinstance(step, Renew):
        assert step.at - lease.granted_at >= 0.25 * lease.ttl - CLOSE
        assert lease.end - step.at >= 0.25 * lease.ttl - CLOSE


@given(lease=leases(), token=tokens(), draw=DRAWS, limits=LIMITS, sooner=st.floats(0, 86_400))
def test_a_lease_that_is_seen_to_end_sooner_gets_the_same_step_by_as_much_sooner(
    lease: Lease, token: Token, draw: float, limits: Limits, sooner: float
) -> None:
    assume(token.extendable or token.ttl is None)
    step = schedule.next_step(lease, token, token, draw, limits)
    seen = lease.ending_at(lease.end - sooner)
    assert math.isclose(seen.end, lease.end - sooner, abs_tol=CLOSE)
    step_then = schedule.next_step(seen, token, token, draw, limits)
    assert type(step_then) is type(step)
    assert math.isclose(step_then.at, step.at - sooner, abs_tol=CLOSE)


# -- the horizon and renewals


@given(lease=leases(), token=tokens(), max_age=st.none() | SECONDS)
def test_the_horizon_is_no_later_than_anything_that_ends_the_credential(
    lease: Lease, token: Token, max_age: float | None
) -> None:
    end = schedule.horizon(lease, token, max_age)
    ends = {lease.end, token.end} | (set() if max_age is None else {lease.issued_at + max_age})
    assert end in ends
    assert all(end <= other for other in ends)
    if max_age is not None:
        assert end <= schedule.horizon(lease, token)


@given(lease=leases(), share=st.floats(0, 1.5), wanted=st.none() | st.floats(1, 7200), travel=st.floats(0, 5))
def test_a_renewal_that_is_granted_in_full_never_shortens_a_lease(
    lease: Lease, share: float, wanted: float | None, travel: float
) -> None:
    """Vault sets the end to its own now plus the increment, in whole seconds; we count from before the request was sent."""
    now = lease.granted_at + share * lease.ttl
    asked = math.ceil(schedule.increment(lease, now, wanted))
    ours = lease.renewed(granted_at=now, ttl=float(asked), asked=asked, renewable=True)
    assert ours.end >= lease.end - CLOSE
    assert ours.end <= now + travel + asked  # and never later than Vault's
    assert not ours.capped


@given(lease=leases(), token=tokens(), share=st.floats(0, 1), wanted=st.none() | st.floats(1, 7200), max_age=st.none() | SECONDS)
def test_a_renewal_that_is_granted_in_full_never_brings_the_horizon_nearer(
    lease: Lease, token: Token, share: float, wanted: float | None, max_age: float | None
) -> None:
    now = lease.granted_at + share * lease.ttl
    asked = math.ceil(schedule.increment(lease, now, wanted))
    renewed = lease.renewed(granted_at=now, ttl=float(asked), asked=asked, renewable=True)
    assert schedule.horizon(renewed, token, max_age) >= schedule.horizon(lease, token, max_age) - CLOSE


@given(lease=leases(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)), wanted=st.none() | st.floats(1, 7200))
def test_an_increment_never_grows_with_time(lease: Lease, shares: tuple[float, float], wanted: float | None) -> None:
    sooner, later_on = (schedule.increment(lease, lease.granted_at + share * lease.ttl, wanted) for share in sorted(shares))
    assert later_on <= sooner + CLOSE


# -- failures


@given(
    attempt=st.integers(1, 10_000), draws=st.tuples(DRAWS, DRAWS), left=st.floats(-1e6, 1e7), wish=st.none() | st.floats(0, 1e5)
)
def test_backoff_grows_with_the_draw_and_with_the_attempts(
    attempt: int, draws: tuple[float, float], left: float, wish: float | None
) -> None:
    low, high = sorted(draws)
    wait = schedule.backoff(attempt, low, left=left, retry_after=wish)
    assert wait <= schedule.backoff(attempt, high, left=left, retry_after=wish)
    assert wait <= schedule.backoff(attempt + 1, low, left=left, retry_after=wish)


@given(
    attempt=st.integers(1, 10_000),
    draw=DRAWS,
    lefts=st.tuples(st.floats(0.001, 400), st.floats(0.001, 400) | st.floats(400, 1e7)),
)
def test_the_nearer_the_horizon_the_sooner_it_is_tried_again(attempt: int, draw: float, lefts: tuple[float, float]) -> None:
    near, far = sorted(lefts)
    assert schedule.backoff(attempt, draw, left=near) <= schedule.backoff(attempt, draw, left=far) + CLOSE


@given(attempt=st.integers(1, 10_000), left=st.floats(-1e6, 1e7))
def test_backoff_has_full_jitter(attempt: int, left: float) -> None:
    assert schedule.backoff(attempt, 0.0, left=left) == schedule.BACKOFF_FLOOR
    half, full = (schedule.backoff(attempt, draw, left=left) for draw in (0.5, math.nextafter(1.0, 0.0)))
    assert math.isclose(half, max(schedule.BACKOFF_FLOOR, full / 2), rel_tol=1e-9)


@given(left=st.floats(4, 1e5), draws=st.lists(DRAWS, min_size=3, max_size=3), wish=st.none() | st.floats(0, 1e5))
def test_three_more_attempts_fit_before_any_horizon(left: float, draws: list[float], wish: float | None) -> None:
    """Whatever Retry-After asks for."""
    over = 0.0
    for attempt, draw in enumerate(draws, start=1):
        over += schedule.backoff(attempt, draw, left=left - over, retry_after=wish)
    assert over < left


@given(attempt=st.integers(1, 100), draw=DRAWS, left=st.floats(-1e6, 1e7), wish=st.floats(0, 1e6))
def test_retry_after_is_honoured_as_far_as_there_is_time(attempt: int, draw: float, left: float, wish: float) -> None:
    room = max(schedule.BACKOFF_FLOOR, left / 4) if left > 0 else schedule.BACKOFF_CAP
    wait = schedule.backoff(attempt, draw, left=left, retry_after=wish)
    assert wait >= min(wish, room)
    assert wait <= max(1.1 * wish, schedule.backoff(attempt, draw, left=left))


@given(left=st.floats(-1e6, 1e7), most=st.floats(0.2, 120))
def test_a_request_has_its_time_and_no_more(left: float, most: float) -> None:
    timeout = schedule.call_timeout(left, most=most)
    assert 0 < timeout <= most
    if left > 0.4:
        assert timeout <= left / 2


@given(lefts=st.tuples(st.floats(0.001, 1e6), st.floats(0.001, 1e6)), most=st.floats(0.2, 120))
def test_a_request_never_gets_less_time_for_more_that_is_left(lefts: tuple[float, float], most: float) -> None:
    short, long = sorted(lefts)
    assert schedule.call_timeout(short, most=most) <= schedule.call_timeout(long, most=most)


@given(lefts=st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), most=st.floats(0, 600))
def test_a_drain_is_over_before_the_horizon_and_never_shrinks_with_more_time(lefts: tuple[float, float], most: float) -> None:
    short, long = sorted(lefts)
    over = schedule.drain_timeout(short, most=most)
    assert 0 <= over <= most
    assert over <= 0.9 * short or short < CLOSE
    assert over <= schedule.drain_timeout(long, most=most)
    assert schedule.drain_timeout(-short, most=most) == 0
