"""The values that everything else speaks of: credential, lease, token. All frozen, none shows a secret."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import SecretStr

from vault_pg.clock import Instant

GRANT_SLACK = 1.0
"""Seconds that rounding may account for: Vault counts in whole seconds."""


COUNT_SLACK = 1.5
"""Seconds that a look-up may tell too few: Vault rounds its own now to a whole second, and what is left down to one."""

SPARE_USES = 3
"""Uses that a token of few is left with: to be revoked, and for requests that failed in between."""


def _cut_short(granted: float, asked: float) -> bool:
    """Less than asked for, by more than rounding, which for leases of seconds is nothing."""
    return granted < asked - min(GRANT_SLACK, asked / 20)


@dataclass(frozen=True, slots=True)
class Credential:
    """User name and password, which only ever travel together."""

    username: str
    password: SecretStr


class Ending(StrEnum):
    """What is over when a lease ends."""

    ROLE = "role"
    """The role is dropped, and with it the rights of sessions that are open."""
    PASSWORD = "password"  # noqa: S105 - a kind of ending
    """Logins by this password are refused from then on; open sessions live on. The next password can be had before."""
    CHANGE = "change"
    """The same, and the next password is not there before: the source changes it then, or soon after."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a source gives: a credential, and for how long. Seconds count from the moment that the source was asked."""

    credential: Credential
    ttl: float = math.inf
    """Without one nobody knows of an end."""
    ending: Ending = Ending.ROLE
    lease_id: str = ""
    """What a source needs to renew and revoke it; without one it is not revoked."""
    renewable: bool = False
    token_serial: int = 0
    """Of the Vault token that it dies with; 0: of none."""


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
    uses: int | None = None
    """Requests that it was good for when it was new; None is without limit. With the last one it dies, and its leases with it."""
    used: int = 0
    """Requests made with it, as far as we know."""
    replace_at: Instant | None = None
    """From then on another should take its place: it may have asked for a lease that nobody knows of."""

    @property
    def worn(self) -> bool:
        """So few uses are left that it should be replaced."""
        return self.uses is not None and self.uses - self.used <= min(SPARE_USES, self.uses // 2)

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


NO_TOKEN = Token(SecretStr(""), serial=0, issued_at=-math.inf, granted_at=0.0, ttl=None, renewable=False)
"""Stands for the token of a lease that depends on none."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A leased credential as last granted. Instants are on the lease clock, durations in seconds.

    `granted_at` is the instant *before* the request was sent, so `end` is never later than Vault's own.
    """

    id: str
    """Empty where there is nothing to renew or revoke."""
    credential: Credential
    mount: str | None
    role: str | None
    """Vault's; None where it comes from elsewhere."""
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
    ending: Ending = Ending.ROLE
    unchanged: int = 0
    """How often it was read with the same password since that should have changed."""

    @classmethod
    def of(cls, grant: Grant, asked_at: Instant, *, mount: str | None = None, role: str | None = None) -> Lease:
        """What was granted to a request that was sent at `asked_at`."""
        return cls(
            id=grant.lease_id,
            credential=grant.credential,
            mount=mount,
            role=role,
            token_serial=grant.token_serial,
            issued_at=asked_at,
            granted_at=asked_at,
            ttl=grant.ttl,
            default_ttl=grant.ttl,
            renewable=grant.renewable,
            ending=grant.ending,
        )

    @property
    def end(self) -> Instant:
        return self.granted_at + self.ttl

    @property
    def outlived(self) -> bool:
        """Open sessions live on past its end."""
        return self.ending is not Ending.ROLE

    def after(self, before: Lease | None) -> Lease:
        """The same, in view of what was read before: a password that was to change by now and has not makes it doubtful."""
        same = before is not None and before.credential == self.credential
        if not same or before is None or self.ending is not Ending.CHANGE:
            return self
        overdue = bool(before.unchanged) or self.granted_at >= before.end
        return replace(self, issued_at=before.issued_at, unchanged=before.unchanged + 1 if overdue else 0)

    @property
    def capped(self) -> bool:
        """The last renewal got less than it asked for: max TTL is near, and the only sign of it."""
        return self.asked is not None and _cut_short(self.ttl, self.asked)

    def renewed(self, *, granted_at: Instant, ttl: float, asked: float, renewable: bool) -> Lease:
        return replace(self, granted_at=granted_at, ttl=ttl, asked=asked, renewable=renewable, renewals=self.renewals + 1)

    def ending_at(self, end: Instant) -> Lease:
        """The same grant, seen to end then: it was made that much earlier than the lease clock says."""
        return replace(self, issued_at=self.issued_at + end - self.end, granted_at=self.granted_at + end - self.end)

    def unrenewable(self) -> Lease:
        """The same lease, known not to be renewable any more (no right to, or Vault said so)."""
        return replace(self, renewable=False)
