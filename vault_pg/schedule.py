"""When to do what next: pure functions of (lease, token, now). No clock, no I/O, no randomness of their own.

Chance comes in as `draw`, a number in [0, 1) drawn once for each grant: asking twice gives the same answer, and tests choose it.

Sources. Renewing at a random point of a wide window spreads a fleet that was restarted at once over the whole window within one
TTL; Vault's LifetimeWatcher (70 to 73 %) and the Vault Secrets Operator (67 to 77 %) keep it bunched for a day. The backoff is
"full jitter" (M. Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from vault_pg.clock import Instant
from vault_pg.lease import Ending, Lease, Token

RENEW_WINDOW = (0.42, 0.75)
"""Fractions of the TTL. The upper end leaves a quarter of the TTL for an outage of Vault; the lower one keeps it to 1.75 requests a TTL."""

FIRST_WINDOW = (0.25, 0.75)
"""Those of a first renewal: wider, because all of a fleet that was restarted at once comes to it together."""

ROTATE_WINDOW = 0.75
"""A rotation forced by max TTL, max age or the token's end falls in the first part of what is left."""

HURRIED_WINDOW = 0.1
"""The same, where less is left than a rotation should have: then time to drain is worth more than spreading out."""

ODD_SECOND = 1.0
"""Vault counts a static role's `ttl` in whole seconds, and starts it over a moment before the password is another one. So it is read
that long after the end, and again while the password is still the old one."""

ODD_READS = 5
"""So often it is read again in growing intervals; then it is believed that the password stays."""

CHANGE_SPREAD = 0.01
"""Part of its ttl over which the processes that share a static role spread their reading, no less than a second and no more than ten."""

BACKOFF_FLOOR = 0.1
BACKOFF_BASE = 0.5
BACKOFF_CAP = 30.0
BACKOFF_PRESSED = 4.0
"""Seconds. The cap falls to a tenth of what is left before the horizon, down to the pressed cap. That holds past the horizon too:
whoever waits for Vault then is down."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user set, in seconds."""

    max_age: float | None = None
    lead: float = 60.0
    """Time wanted for issue, build, prove and drain before the horizon; leases too short for it get half of what is left."""
    increment: float | None = None


@dataclass(frozen=True, slots=True)
class Renew:
    at: Instant
    why: str


@dataclass(frozen=True, slots=True)
class Rotate:
    at: Instant
    why: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Neither a renewal nor a rotation would move the horizon: look again at `at`."""

    at: Instant
    why: str


Step: TypeAlias = Renew | Rotate | Hold


def horizon(lease: Lease, token: Token, max_age: float | None = None) -> Instant:
    """The instant past which the lease's credential can't be trusted.

    The earliest of: the lease's end as last granted, the end of the token that asked for it, issue + `max_age`.
    `token` is the token that asked for the lease, as last granted. Where only the password ends there is none: what is open serves on.
    """
    if lease.outlived:
        return math.inf
    ends = [lease.end, token.end]
    if max_age is not None:
        ends.append(lease.issued_at + max_age)
    return min(ends)


def renew_point(granted_at: Instant, ttl: float, draw: float, *, first: bool = False) -> Instant:
    """A point of RENEW_WINDOW, or FIRST_WINDOW where nothing was renewed before, of a grant of `ttl` seconds."""
    return granted_at + ttl * _share(draw, first=first)


def _share(draw: float, *, first: bool) -> float:
    low, high = FIRST_WINDOW if first else RENEW_WINDOW
    return low + (high - low) * draw


def rotate_point(start: Instant, end: Instant, lead: float, draw: float) -> Instant:
    """A random point between `start` and `end` that leaves `lead` seconds; where there is not that much time, almost at once."""
    left = max(0.0, end - start)
    latest = min(max(left - lead, left * HURRIED_WINDOW), left * ROTATE_WINDOW)
    return start + latest * draw


def next_step(lease: Lease, token: Token, current: Token, draw: float, limits: Limits) -> Step:
    """What the lease needs next, and when.

    `token` asked for the lease; `current` is the token that a new lease would be asked for with. The two differ after a new
    login: then the lease has to be rotated while the old token still lives.
    """
    if lease.outlived:
        return _next_reading(lease, draw, limits)
    aged_out = math.inf if limits.max_age is None else lease.issued_at + limits.max_age
    if min(lease.end, token.end, aged_out) == math.inf and current.serial == token.serial:
        return Hold(math.inf, "it has no end that anyone knows")
    if current.serial != token.serial:
        start, end = max(lease.issued_at, current.issued_at), min(lease.end, token.end, aged_out)
        return Rotate(rotate_point(start, end, limits.lead, draw), "the token that asked for it is replaced")
    token_out = math.inf if token.extendable else token.end
    if token_out <= min(lease.end, aged_out):
        # Only a new token could help, and getting one is the session's business: a new lease would die with this one.
        return Hold(token_out, "it ends with its token, which cannot be renewed, and moves to the next one if one comes")
    if aged_out <= lease.end:
        return Rotate(rotate_point(lease.granted_at, aged_out, limits.lead, draw), "max age is near")
    if lease.capped:
        return Rotate(rotate_point(lease.granted_at, lease.end, limits.lead, draw), "max TTL is near")
    if not lease.renewable:
        at = min(renew_point(lease.granted_at, lease.ttl, draw), lease.end - min(limits.lead, lease.ttl / 2))
        return Rotate(at, f"{_share(draw, first=False):.2f} of the TTL of a lease that cannot be renewed")
    first = lease.renewals == 0
    return Renew(renew_point(lease.granted_at, lease.ttl, draw, first=first), f"{_share(draw, first=first):.2f} of the TTL")


def _next_reading(lease: Lease, draw: float, limits: Limits) -> Step:
    """When to ask for the next password of a lease whose sessions live on: for one that expires before its end, else soon after it."""
    if lease.unchanged and (lease.unchanged <= ODD_READS or lease.ttl < ODD_SECOND):
        wait = ODD_SECOND * min(lease.unchanged, BACKOFF_CAP)
        return Rotate(lease.granted_at + wait, "its password should have changed by now")
    if lease.ending is Ending.CHANGE:
        spread = min(max(1.0, lease.ttl * CHANGE_SPREAD), 10.0) if lease.ttl < math.inf else 1.0
        at, why = lease.end + ODD_SECOND / 2 + spread * draw, "its password changes then"
    else:
        at, why = renew_point(lease.granted_at, lease.ttl, draw), "its password expires"
    if limits.max_age is not None and lease.granted_at + limits.max_age < at:
        return Rotate(lease.granted_at + limits.max_age, "max age is near")
    return Rotate(at, why)


def increment(lease: Lease, now: Instant, wanted: float | None = None) -> float:
    """Seconds to ask a renewal for: the user's wish or the default TTL, but never so few that the lease would end sooner.

    Vault *sets* the time left to the increment, it does not add to it.
    """
    return max(wanted if wanted is not None else lease.default_ttl, lease.end - now)


def backoff(attempt: int, draw: float, *, left: float = 0.0, retry_after: float | None = None) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 1) with `left` seconds before the horizon (0 or less: past it).

    Exponential with full jitter, never under BACKOFF_FLOOR. Retry-After is honoured as a minimum, as far as the time before the
    horizon (a quarter of it) and BACKOFF_CAP allow.
    """
    cap = min(BACKOFF_CAP, max(BACKOFF_PRESSED, left / 10))
    if 0 < left < 4 * cap:
        cap = max(BACKOFF_FLOOR, left / 4)  # leases of seconds: several tries fit into however little there is
    wait = max(BACKOFF_FLOOR, min(cap, BACKOFF_BASE * 2.0 ** min(attempt - 1, 16)) * draw)
    if retry_after is not None:
        most = max(BACKOFF_FLOOR, left / 4) if left > 0 else BACKOFF_CAP
        wait = max(wait, min(retry_after * (1 + 0.1 * draw), most))
    return wait


def call_timeout(left: float, *, most: float) -> float:
    """Seconds that one request to Vault may take: half of what is left before the horizon, but never under 0.2."""
    return max(0.2, min(most, left / 2)) if left > 0 else most


def drain_timeout(left: float, *, most: float) -> float:
    """Seconds that a replaced generation may drain: `most`, but over safely before its horizon is, the warming of the next included."""
    return max(0.0, min(most, left * 0.85))
