"""Leases: issued, renewed, revoked, and ended on time or with their token."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from vault_pg.dev.vault.durations import SYSTEM_TTL, grant, rfc3339
from vault_pg.dev.vault.messages import Body, Refused, framed
from vault_pg.dev.vault.timers import Timers
from vault_pg.dev.vault.tokens import Token, letters

log = logging.getLogger(__name__)

MOST_REVOCATIONS = 6
"""After so many failed tries Vault calls a lease irrevocable and leaves it."""


class Backend(Protocol):
    """What a lease needs of the engine that issued it. Both raise BackendError with the engine's own words."""

    def renew(self, lease: Lease, end: float) -> None: ...
    def revoke(self, lease: Lease) -> None: ...
    def limits(self, lease: Lease) -> tuple[float, float]: ...


class BackendError(Exception):
    """What the database said; `text` holds no secret."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


@dataclass(slots=True, eq=False)
class Lease:
    id: str
    backend: Backend
    role: str
    username: str
    issued: float
    end: float
    token: str = field(repr=False)
    """The token that it dies with; empty for an orphaned batch token, whose end the lease never passes."""
    ceiling: float = float("inf")
    """The end of the batch token that asked for it."""
    last_renewal: float | None = None
    failures: int = 0
    revoked: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    """Held while PostgreSQL is asked about this lease, so that a renewal and a revocation take turns."""

    @property
    def irrevocable(self) -> bool:
        return self.failures >= MOST_REVOCATIONS


class Leases:
    """The leases of a server; thread-safe."""

    def __init__(self, lock: threading.RLock, now: Callable[[], float], timers: Timers, *, retry_base: float) -> None:
        self._lock = lock
        self._now = now
        self._timers = timers
        self._retry_base = retry_base
        self._leases: dict[str, Lease] = {}
        self.longest_grant: float | None = None
        """Seconds; no grant is longer, whatever the role allows."""
        self.refused_revocation = ""
        """What the database says to every revocation; nothing where it obeys."""

    def add(self, path: str, token: Token, *, backend: Backend, role: str, username: str, ttl: int) -> tuple[Lease, int]:
        """A new lease of `ttl` seconds below `path`, and the seconds granted: no more than a batch token has left."""
        now = self._now()
        lease = Lease(f"{path}/{letters(24)}", backend, role, username, now, now + ttl, token.parent if token.batch else token.id)
        if token.batch and token.end is not None:
            lease.ceiling = token.end
        lease.end = min(lease.end, lease.ceiling, self._latest(now))
        with self._lock:
            self._leases[lease.id] = lease
            self._arrange_end(lease)
        return lease, int(lease.end - now)

    def _latest(self, now: float) -> float:
        return float("inf") if self.longest_grant is None else now + self.longest_grant

    def _arrange_end(self, lease: Lease) -> None:
        self._timers.set(f"lease {lease.id}", lease.end, lambda: self._expire(lease))

    def _expire(self, lease: Lease) -> None:
        with self._lock:
            # A renewal may have moved the end while this job waited for a worker.
            if lease.end > self._now() or lease.irrevocable:
                return
        try:
            self._revoke(lease)
        except BackendError as error:
            self._try_again(lease, error)

    def _try_again(self, lease: Lease, error: BackendError) -> None:
        with self._lock:
            lease.failures += 1
            wait = self._retry_base * 2 ** (lease.failures - 1)
            if not lease.irrevocable:
                self._timers.set(f"lease {lease.id}", self._now() + wait, lambda: self._expire(lease))
        log.warning("revoking lease %s failed (%d of %d): %s", lease.id, lease.failures, MOST_REVOCATIONS, error.text)

    def _revoke(self, lease: Lease) -> None:
        with lease.lock:
            if not lease.revoked:
                if self.refused_revocation:
                    raise BackendError(self.refused_revocation)
                lease.backend.revoke(lease)
                self._forget(lease)

    def _forget(self, lease: Lease) -> None:
        with self._lock:
            lease.revoked = True
            self._leases.pop(lease.id, None)
            self._timers.cancel(f"lease {lease.id}")

    def find(self, lease_id: str) -> Lease | None:
        with self._lock:
            return self._leases.get(lease_id)

    def ids(self, prefix: str = "") -> list[str]:
        with self._lock:
            return [lease_id for lease_id in self._leases if lease_id.startswith(prefix)]

    def shown(self, lease_id: str) -> Body:
        lease = self.find(lease_id)
        if lease is None:
            raise Refused(400, "invalid lease")
        return {
            "expire_time": rfc3339(lease.end),
            "id": lease.id,
            "issue_time": rfc3339(lease.issued),
            "last_renewal": None if lease.last_renewal is None else rfc3339(lease.last_renewal),
            "renewable": not lease.irrevocable,
            "ttl": int(lease.end - round(self._now())),
        }

    def renew(self, lease_id: str, increment: int) -> tuple[int, list[str]]:
        """Set the lease's end to `increment` (or the role's default) from now; seconds granted, and the warnings of a cut."""
        lease = self._renewable(lease_id)
        with lease.lock:
            # The lease may have ended while its last renewal or revocation was under way.
            self._renewable(lease_id)
            default, most = lease.backend.limits(lease)
            now = self._now()
            try:
                most = min(most or SYSTEM_TTL, self._latest(now) - lease.issued)
                granted, warnings = grant(now=now, start=lease.issued, wanted=increment, default=default, most=most)
                lease.backend.renew(lease, now + granted)
            except Refused as refused:
                raise self._not_renewed(refused.errors[0]) from None
            except BackendError as error:
                raise self._not_renewed(framed(error.text)) from None
            with self._lock:
                if lease.end <= self._now():
                    # Its token ended while PostgreSQL was asked: the end that was set then stands.
                    raise Refused(400, "lease expired")
                lease.end = min(now + granted, lease.ceiling)
                lease.last_renewal = now
                self._arrange_end(lease)
            return int(lease.end - now), warnings

    def _renewable(self, lease_id: str) -> Lease:
        lease = self.find(lease_id)
        if lease is None:
            raise Refused(400, "lease not found")
        if lease.irrevocable:
            raise Refused(400, "lease is expired and has failed previous revocation attempts")
        if lease.end <= self._now():
            raise Refused(400, "lease expired")
        return lease

    def _not_renewed(self, error: str) -> Refused:
        return Refused(400, f"failed to renew entry: resp: (*logical.Response)(nil) err: {error}")

    def revoke(self, lease_id: str, *, sync: bool) -> None:
        """Revoke a lease; one that is not there is revoked already. Only `sync` waits for the database and tells of a failure."""
        lease = self.find(lease_id)
        if lease is None:
            return
        if not sync:
            self._end(lease)
            return
        try:
            self._revoke(lease)
        except BackendError as error:
            raise Refused(400, f"failed to revoke entry: resp: (*logical.Response)(nil) err: {framed(error.text)}") from None

    def revoke_prefix(self, prefix: str, *, sync: bool) -> None:
        for lease_id in self.ids(prefix.rstrip("/") + "/"):
            self.revoke(lease_id, sync=sync)

    def force(self, prefix: str) -> None:
        """Revoke all below `prefix` and forget even those whose role cannot be dropped."""
        for lease_id in self.ids(prefix.rstrip("/") + "/"):
            lease = self.find(lease_id)
            if lease is None:
                continue
            try:
                self._revoke(lease)
            except BackendError as error:
                log.warning("lease %s is forgotten, its role may live on: %s", lease.id, error.text)
                self._forget(lease)

    def end_of_token(self, token: str) -> None:
        with self._lock:
            ending = [lease for lease in self._leases.values() if lease.token == token]
        for lease in ending:
            self._end(lease)

    def _end(self, lease: Lease) -> None:
        with self._lock:
            lease.end = min(lease.end, self._now())
            lease.failures = 0
            self._arrange_end(lease)
