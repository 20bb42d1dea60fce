"""A dynamic role of Vault: a new PostgreSQL role for each lease, dropped when that ends."""

from __future__ import annotations

from vault_pg.lease import Grant, Lease
from vault_pg.source import CredentialSource
from vault_pg.vault import VaultSession


class DynamicRole(CredentialSource):
    """Leases of `role` at `mount`. The errors are the session's."""

    def __init__(self, session: VaultSession, mount: str, role: str) -> None:
        self._session = session
        self._mount = mount
        self._role = role

    async def issue(self, *, timeout: float) -> Grant:
        return _grant(await self._session.issue(self._mount, self._role, timeout=timeout))

    async def renew(self, lease: Lease, increment: float, *, timeout: float) -> Grant:
        return _grant(await self._session.renew(lease, increment, timeout=timeout))

    async def lookup(self, lease: Lease, *, timeout: float) -> float:
        return await self._session.lookup(lease, timeout=timeout)

    async def revoke(self, lease: Lease, *, timeout: float) -> None:
        await self._session.revoke(lease, timeout=timeout)


def _grant(lease: Lease) -> Grant:
    return Grant(lease.credential, lease.ttl, lease_id=lease.id, renewable=lease.renewable, token_serial=lease.token_serial)
