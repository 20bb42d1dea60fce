"""A static role of Vault: its PostgreSQL role stays, and Vault changes the password now and then."""

from __future__ import annotations

from vault_pg.lease import Ending, Grant
from vault_pg.source import CredentialSource
from vault_pg.vault import VaultSession


class StaticRole(CredentialSource):
    """The password of `role` at `mount` as it is now, for as long as Vault says that it stays. The errors are the session's."""

    def __init__(self, session: VaultSession, mount: str, role: str) -> None:
        self._session = session
        self._mount = mount
        self._role = role

    async def issue(self, *, timeout: float) -> Grant:
        credential, ttl = await self._session.read_static(self._mount, self._role, timeout=timeout)
        return Grant(credential, ttl, Ending.CHANGE)
