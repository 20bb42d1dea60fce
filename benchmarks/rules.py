"""When whose client asks Vault for what: the schedule shipped here, and its peers' as their own sources and manuals state them.

A chain is all that one service asks for from its start on, for ever, as (instant in seconds, kind of request).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from random import Random
from typing import TypeAlias

from pydantic import SecretStr

from vault_pg.lease import Credential, Lease, Token
from vault_pg.schedule import Limits, Renew, increment, next_step
from vault_pg.vault.keepalive import token_step

TTL = 3600.0
MAX_TTL = 24 * 3600.0
TOKEN_MAX_TTL = 768 * 3600.0
"""Vault's default. The token's TTL is the role's."""

HANDOVER = 3.0
"""Seconds from the issue of a new lease to the revocation of the old one: build, prove, replace, drain."""


class Kind(StrEnum):
    ISSUE = "issue"
    RENEW = "renew"
    REVOKE = "revoke"
    TOKEN = "token renewal"  # noqa: S105 - a name, not a secret


Chain: TypeAlias = Callable[[Random, float], Iterator[tuple[float, Kind]]]


def granted(issued_at: float, now: float, asked: float) -> float:
    """The TTL that a renewal gets: what it asks for, cut at max TTL. Vault counts in whole seconds."""
    return float(int(min(asked, issued_at + MAX_TTL - now)))


# -- ours: nothing but the shipped functions, asked as the keeper asks them

_LIMITS = Limits()
_TOKEN = Token(SecretStr("-"), serial=1, issued_at=0.0, granted_at=0.0, ttl=TTL, renewable=True)
_LEASE = Lease(
    id="database/creds/app/-",
    credential=Credential("-", SecretStr("-")),
    mount="database",
    role="app",
    token_serial=1,
    issued_at=0.0,
    granted_at=0.0,
    ttl=TTL,
    default_ttl=TTL,
    renewable=True,
)


def ours(dice: Random, start: float) -> Iterator[tuple[float, Kind]]:
    lease = replace(_LEASE, issued_at=start, granted_at=start)
    yield start, Kind.ISSUE
    while True:
        step = next_step(lease, _TOKEN, _TOKEN, dice.random(), _LIMITS)
        at = step.at
        if isinstance(step, Renew):
            asked = math.ceil(increment(lease, at, _LIMITS.increment))
            lease = lease.renewed(granted_at=at, ttl=granted(lease.issued_at, at, asked), asked=asked, renewable=True)
            yield at, Kind.RENEW
        else:
            lease = replace(_LEASE, issued_at=at, granted_at=at)
            yield at, Kind.ISSUE
            yield at + HANDOVER, Kind.REVOKE


def our_token(dice: Random, start: float) -> Iterator[tuple[float, Kind]]:
    """The renewals of the token that one service logs in for at its start."""
    token = replace(_TOKEN, issued_at=start, granted_at=start)
    while True:
        at = token_step(token, dead=False, supply="repeatable", now=token.granted_at, draw=dice.random(), lead=_LIMITS.lead).at
        token = token.renewed(granted_at=at, ttl=min(TTL, start + TOKEN_MAX_TTL - at), asked=TTL, renewable=True)
        yield at, Kind.TOKEN


# -- peers


def lifetime_watcher(dice: Random, start: float) -> Iterator[tuple[float, Kind]]:
    """Vault's own Go client: a grace of 10 to 20 % is drawn once a lease; it renews at once, then each time after two thirds of the grant
    and a third of the grace; when that would end within the grace, a new lease is asked for.
    """
    at = start
    while True:
        yield at, Kind.ISSUE
        issued_at, grace = at, TTL * (0.1 + 0.1 * dice.random())
        while True:
            yield at, Kind.RENEW
            ttl = granted(issued_at, at, TTL)
            wait = ttl * 2 / 3 + grace / 3
            if ttl - wait <= grace:
                break
            at += wait


def secrets_operator(dice: Random, start: float) -> Iterator[tuple[float, Kind]]:
    """Vault Secrets Operator, `renewalPercent` 67: 67 % and up to 10 more of the grant; a grant cut short means a new lease at once."""
    at = issued_at = start
    yield at, Kind.ISSUE
    while True:
        at += TTL * (0.67 + 0.1 * dice.random())
        yield at, Kind.RENEW
        if granted(issued_at, at, TTL) < TTL:
            issued_at = at
            yield at, Kind.ISSUE


def fixed_share(_: Random, start: float) -> Iterator[tuple[float, Kind]]:
    """A new credential at 80 % of each TTL, never a renewal."""
    at = start
    while True:
        yield at, Kind.ISSUE
        at += 0.8 * TTL


def spring_vault(_: Random, start: float) -> Iterator[tuple[float, Kind]]:
    """Spring Vault's container: a minute (`expiryThreshold`) before the end of each grant, but not sooner than after 10 s
    (`minRenewal`); a grant of less than that means a new lease.
    """
    at = issued_at = start
    ttl = TTL
    yield at, Kind.ISSUE
    while True:
        at += max(10.0, ttl - 60)
        yield at, Kind.RENEW
        ttl = granted(issued_at, at, TTL)
        if ttl < 10:  # noqa: PLR2004 - minRenewal again
            issued_at, ttl = at, TTL
            yield at, Kind.ISSUE


RULES: dict[str, tuple[Chain, ...]] = {
    "ours": (ours, our_token),
    "Vault's LifetimeWatcher (70 to 73 %)": (lifetime_watcher,),
    "Vault Secrets Operator (67 to 77 %)": (secrets_operator,),
    "fixed 80 %, always a new credential": (fixed_share,),
    "Spring Vault (TTL - 60 s)": (spring_vault,),
}
