"""From settings to the source that they ask for."""

from __future__ import annotations

from vault_pg.errors import NotRunning
from vault_pg.settings import DatabaseSettings
from vault_pg.source import CredentialSource
from vault_pg.sources.dynamic import DynamicRole
from vault_pg.vault import VaultSession


def source_for(settings: DatabaseSettings, session: VaultSession | None) -> CredentialSource:
    """The source of a database. Raises NotRunning where it is Vault's and there is no session."""
    if session is None:
        raise NotRunning(f"role {settings.role!r} comes from Vault, and there is no session with it")
    return DynamicRole(session, settings.mount, settings.role)
