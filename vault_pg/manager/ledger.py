"""The leases of one database that their source may still hold alive, so that none is forgotten and none is minted for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from vault_pg.clock import Instant
from vault_pg.errors import SourceBroken, TokenInvalid, TooSlow, VaultPgError, VaultUnavailable
from vault_pg.events import LeaseIssued, LeaseRevoked, RevocationFailed
from vault_pg.lease import NO_TOKEN, Grant, Lease
from vault_pg.manager.reason import gist
from vault_pg.manager.tenure import Tenure, seconds
from vault_pg.schedule import call_timeout

MOST_LIVE = 3
"""Leases of one database alive at once: one that serves, one that drains, one that is being proven."""

BURST, REFILL = 3, 1.0
"""New leases may be asked for in a burst of three, then one a second: a token bucket against minting in a hot loop."""

SLOWEST = 90.0
"""Seconds after which Vault has done what it will ever do of a request whose answer was lost: its own default for the longest one."""


@dataclass(frozen=True, slots=True)
class _Held:
    lease: Lease
    until: Instant
    """By then its source has ended it. Its horizon may be long over: a renewal whose answer was lost may have been granted."""


class Ledger:
    """Issues and revokes, and knows what is alive."""

    def __init__(self, tenure: Tenure) -> None:
        self._tenure = tenure
        self._held: dict[str, _Held] = {}
        self._orphans: dict[str, Lease] = {}
        self._revoking: list[str] = []
        self._told: dict[str, str] = {}
        """Why a lease could not be revoked, as last told."""
        self.on_left: Callable[[], object] = lambda: None
        """Told when a lease is left that nobody uses and that is not revoked."""
        self._bucket, self._filled_at = float(BURST), tenure.clock()

    @property
    def live(self) -> list[Lease]:
        """Every lease that its source may still hold; those that were lost or must have ended are not."""
        now = self._tenure.clock()
        self._held = {key: held for key, held in self._held.items() if held.until > now}
        self._told = {key: why for key, why in self._told.items() if key in self._held}
        return [held.lease for held in self._held.values()]

    @property
    def full(self) -> bool:
        """So many are alive that no other is asked for."""
        return len(self.live) >= MOST_LIVE

    def bucket_wait(self) -> float:
        """Seconds until another lease may be asked for; no more than a quarter of what is left before the horizon."""
        now = self._tenure.clock()
        self._bucket = min(float(BURST), self._bucket + (now - self._filled_at) / REFILL)
        self._filled_at = now
        wait = max(0.0, (1.0 - self._bucket) * REFILL)
        return min(wait, self._tenure.left / 4) if self._tenure.left > 0 else wait

    async def issue(self) -> Lease:
        """A new lease. Raises VaultError, also when too many are alive that can't be revoked."""
        tenure = self._tenure
        if tenure.session is not None:
            await tenure.session.settled(timeout=tenure.vault_timeout)
            if tenure.settings.from_vault and tenure.session.token_ended:
                # Vault may still grant one in the token's last second. It would end with it.
                raise TokenInvalid(
                    "the token has ended, and no other has come: give another in its place, and start anew if it is no file"
                )
        if self.full:
            with suppress(TimeoutError):
                async with asyncio.timeout(call_timeout(tenure.left, most=tenure.vault_timeout)):
                    await self.revoke_orphans()  # else that is the sweep's business, which nobody waits for
        if self.full:
            raise VaultUnavailable(
                f"{MOST_LIVE} leases of {tenure.whose} are alive and cannot be revoked now: no further one is asked for"
            )
        self._bucket = max(0.0, self._bucket - 1.0)
        timeout = call_timeout(tenure.left, most=tenure.vault_timeout)
        asked_at, before = tenure.clock(), tenure.lease
        async with tenure.asking(timeout):
            grant = await tenure.source.issue(timeout=timeout)
            if not isinstance(grant, Grant):
                raise SourceBroken(f"the source of {tenure.whose} gave a {type(grant).__name__}: issue() has to return a Grant")
        lease = Lease.of(grant, asked_at, mount=tenure.mount, role=tenure.role).after(before)
        if lease.id:
            self._held[lease.id] = _Held(lease, tenure.clock() + lease.ttl)
        if lease.end <= tenure.clock():
            self.orphan(lease)
        self.check_alive(lease, "the answer came")
        if before is None or before.credential.username != lease.credential.username:
            tenure.tell(LeaseIssued, lease, ttl_seconds=seconds(lease.ttl), renewable=lease.renewable)
        return lease

    @property
    def token_serials(self) -> set[int]:
        """The tokens that leases still depend on."""
        return {lease.token_serial for lease in (*self.live, *self._orphans.values())} - {NO_TOKEN.serial}

    def known(self, lease: Lease) -> Lease:
        """The same lease as last renewed."""
        held = self._held.get(lease.id)
        return lease if held is None else held.lease

    def check_alive(self, lease: Lease, when: str) -> None:
        """Raise TooSlow where it has ended, by our count, before `when`."""
        lease, now = self.known(lease), self._tenure.clock()
        if not lease.outlived and lease.end <= now:
            raise TooSlow(
                f"the new credential of {self._tenure.whose} lives for {lease.ttl:g} s, and {when} only {now - lease.granted_at:.1f} s "
                "after it was asked for: give it a longer TTL, or Vault and PostgreSQL less to do"
            )

    @contextmanager
    def renewing(self, lease: Lease, increment: float) -> Iterator[None]:
        """Around a renewal: where its answer is lost, the lease may end as late as `increment` seconds after Vault got the request."""
        held = self._held.get(lease.id)
        if held is None:
            yield  # lost, or revoked, or without an id
            return
        doubtful = max(held.until, self._tenure.clock() + increment + SLOWEST)
        self._held[lease.id] = _Held(lease, doubtful)
        try:
            yield
        except VaultPgError as error:
            if not error.in_doubt and lease.id in self._held:
                self._held[lease.id] = held
            raise

    def renewed(self, lease: Lease) -> None:
        if lease.id in self._held:  # else it was lost or revoked meanwhile
            self._held[lease.id] = _Held(lease, self._tenure.clock() + lease.ttl)

    def lost(self, lease: Lease) -> None:
        """Vault does not know it any more: nothing to revoke."""
        self._held.pop(lease.id, None)
        self._orphans.pop(lease.id, None)

    def orphan(self, lease: Lease) -> None:
        """Nobody uses it any more; it is revoked at the next opportunity."""
        if lease.id in self._held:
            self._orphans[lease.id] = lease
            self.on_left()

    @property
    def has_orphans(self) -> bool:
        return any(lease.id in self._orphans for lease in self.live)

    async def revoke_orphans(self) -> None:
        for lease in list(self._orphans.values()):
            await self.revoke(lease)
            if all(lease.id != held.id for held in self.live):
                self._orphans.pop(lease.id, None)  # asked for the last time: Vault has ended it

    async def revoke(self, lease: Lease, timeout: float | None = None) -> None:
        """Revoke a lease. What fails is told, tried again later if that makes sense, and never raised."""
        if not lease.id or lease.id in self._revoking:
            return
        if lease.id in self._held:
            self._orphans[lease.id] = lease
        self._revoking.append(lease.id)
        try:
            await self._revoke(lease, self._tenure.vault_timeout if timeout is None else timeout)
        finally:
            self._revoking.remove(lease.id)
            if lease.id in self._orphans:
                self.on_left()

    async def _revoke(self, lease: Lease, timeout: float) -> None:
        tenure = self._tenure
        try:
            async with tenure.asking(timeout):
                await tenure.source.revoke(lease, timeout=timeout)
        except TokenInvalid:
            if tenure.session is None or tenure.session.is_dead(lease.token_serial):
                self.lost(lease)  # it died with its token
        except VaultPgError as error:
            self._tell_failed(lease, error)
            if not error.transient:
                self.lost(lease)  # Vault goes on trying by itself, and ends the lease at its TTL
        else:
            self.lost(lease)
            tenure.tell(LeaseRevoked, lease)

    def _tell_failed(self, lease: Lease, error: VaultPgError) -> None:
        """Once for each reason, however often it is tried: the sweep and the leaving do so again and again."""
        why = gist(str(error))
        if self._told.get(lease.id) != why:
            self._told[lease.id] = why
            self._tenure.tell(RevocationFailed, lease, error=str(error))
