"""Events in a few words, for the demo."""

from __future__ import annotations

import dataclasses
from functools import singledispatch

from vault_pg.cli.wording import duration
from vault_pg.events import (
    CredentialExpired,
    Event,
    GenerationClosed,
    GenerationRetired,
    LeaseCorrected,
    LeaseIssued,
    LeaseLost,
    LeaseRenewed,
    LeaseRevoked,
    LeaseRotated,
    ManagerStarted,
    ManagerStopped,
    PasswordExchanged,
    RenewalFailed,
    RotationFailed,
    SourceUnreadable,
    TokenIssued,
    TokenRenewed,
    TokenRevoked,
    VaultReachable,
    VaultUnreachable,
)


@singledispatch
def describe(event: Event) -> str:
    """What an event says beyond its name."""
    facts = ((field.name, getattr(event, field.name)) for field in dataclasses.fields(event) if field.name != "at")
    return ", ".join(f"{name.replace('_', ' ')} {_words(value)}" for name, value in facts)


def _words(value: object) -> str:
    match value:
        case None | ():
            return "none"
        case tuple():
            return " and ".join(map(str, value))
        case _:
            return str(value)


@describe.register
def _(event: ManagerStarted) -> str:
    return f"keeps {_words(event.databases)}"


@describe.register
def _(event: ManagerStopped) -> str:
    return f"in {duration(event.seconds)}, leases left behind: {_words(event.left_behind)}"


@describe.register
def _(event: TokenRevoked) -> str:
    return f"{event.method} token {event.serial}"


@describe.register
def _(event: LeaseIssued) -> str:
    return f"{event.username}{_life(event.ttl_seconds)}"


def _life(ttl: float | None) -> str:
    return "" if ttl is None else f", for {duration(ttl)}"


@describe.register
def _(event: PasswordExchanged) -> str:
    return f"{event.username} has another password{_life(event.ttl_seconds)}: {event.why}"


@describe.register
def _(event: LeaseRenewed) -> str:
    capped = "; less than asked for, max TTL is near" if event.capped else ""
    return f"with {duration(event.remaining_seconds)} left, now {duration(event.ttl_seconds)}{capped}"


@describe.register
def _(event: LeaseCorrected) -> str:
    return f"{duration(event.remaining_seconds)} left, {duration(event.sooner_seconds)} less than believed"


@describe.register
def _(event: LeaseRotated) -> str:
    return f"generation {event.generation} serves after {duration(event.seconds)}: {event.why}"


@describe.register
def _(event: LeaseRevoked) -> str:
    return event.username


@describe.register
def _(event: LeaseLost) -> str:
    return f"{event.username}: {event.why}"


@describe.register
def _(event: RenewalFailed | RotationFailed | SourceUnreadable) -> str:
    again = "" if event.retry_in_seconds is None else f"; again in {duration(event.retry_in_seconds)}"
    return f"{event.error}{again}"


@describe.register
def _(event: CredentialExpired | VaultUnreachable) -> str:
    return event.error


@describe.register
def _(event: VaultReachable) -> str:
    return f"after {duration(event.outage_seconds)}"


@describe.register
def _(event: GenerationRetired) -> str:
    return f"generation {event.generation}, {event.in_use} in use, {duration(event.deadline_seconds)} to finish"


@describe.register
def _(event: GenerationClosed) -> str:
    return f"generation {event.generation}, {duration(event.seconds)} after it was retired"


@describe.register
def _(event: TokenIssued | TokenRenewed) -> str:
    life = "never ends" if event.ttl_seconds is None else f"for {duration(event.ttl_seconds)}"
    return f"{event.method} token {event.serial}, {life}"
