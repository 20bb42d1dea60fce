"""The values that everything else speaks of: credential, lease, token. All frozen, none shows a secret."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import SecretStr

from vault_pg.clock import Instant

GRANT_SLACK = 1.0
"""Seconds that rounding may account for: Vault counts in whole seconds."""


def _cut_short(granted: float, asked: float) -> bool:
    """Less than asked for, by more than rounding, which for leases of seconds is nothing."""
    return granted < asked - min(GRANT_SLACK, asked / 20)


@dataclass(frozen=True, slots=True)
class Credential:
    """User name and password, which only ever travel together."""

    username: str
    password: SecretStr


@dataclass(frozen=True, slots=True)
class Token:
    """A Vault token as last granted.

    `serial` counts the tokens of one session from 1; a lease names the serial of the token that asked for it, because it dies
    with that token whatever its own TTL says (a 1 h lease asked for with a token of 6 s is gone after 6 s).
    """

    secret: SecretStr
    serial: int
    issued_at: Instant
    granted_at: Instant
    ttl: float | None
    """Seconds from `granted_at`; None never ends (root)."""
    renewable: bool
    asked: float | None = None
    """Seconds that the last renewal asked for."""
    owned: bool = False
    """We logged in for it, so we revoke it at the end."""
    accessor: str = ""
    display_name: str = ""

    @property
    def end(self) -> Instant:
        return float("inf") if self.ttl is None else self.granted_at + self.ttl

    @property
    def capped(self) -> bool:
        """The last renewal got less than it asked for: the token's max TTL is near."""
        return self.asked is not None and self.ttl is not None and _cut_short(self.ttl, self.asked)

    @property
    def extendable(self) -> bool:
        """Another renewal can move the end."""
        return self.ttl is not None and self.renewable and not self.capped

    def renewed(self, *, granted_at: Instant, ttl: float | None, asked: float, renewable: bool) -> Token:
        return replace(self, granted_at=granted_at, ttl=ttl, asked=asked, renewable=renewable)


@dataclass(frozen=True, slots=True)
class Lease:
    """A leased credential as last granted. Instants are on the lease clock, durations in seconds.

    `granted_at` is the instant *before* the request was sent, so `end` is never later than Vault's own.
    """

    id: str
    credential: Credential
    mount: str
    role: str
    token_serial: int
    issued_at: Instant
    granted_at: Instant
    ttl: float
    """As last granted, from `granted_at`."""
    default_ttl: float
    """As first granted."""
    renewable: bool
    renewals: int = 0
    asked: float | None = None
    """Seconds that the last renewal asked for."""

    @property
    def end(self) -> Instant:
        return self.granted_at + self.ttl

    @property
    def capped(self) -> bool:
        """The last renewal got less than it asked for: max TTL is near, and the only sign of it."""
        return self.asked is not None and _cut_short(self.ttl, self.asked)

    def renewed(self, *, granted_at: Instant, ttl: float, asked: float, renewable: bool) -> Lease:
        return replace(self, granted_at=granted_at, ttl=ttl, asked=asked, renewable=renewable, renewals=self.renewals + 1)

    def unrenewable(self) -> Lease:
        """The same lease, known not to be renewable any more (no right to, or Vault said so)."""
        return replace(self, renewable=False)
