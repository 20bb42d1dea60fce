"""From settings to the source that they ask for."""

from __future__ import annotations

from vault_pg.errors import NotRunning
from vault_pg.settings import CallableSource, DatabaseSettings, FileSource, StaticSource
from vault_pg.source import CredentialSource
from vault_pg.sources.dynamic import DynamicRole
from vault_pg.sources.file import CredentialFile
from vault_pg.sources.function import PasswordFunction
from vault_pg.sources.static import StaticRole
from vault_pg.vault import VaultSession


def source_for(settings: DatabaseSettings, session: VaultSession | None) -> CredentialSource:
    """The source of a database. Raises NotRunning where it is Vault's and there is no session."""
    match settings.source:
        case FileSource() as file:
            return CredentialFile(file)
        case CallableSource() as function:
            return PasswordFunction(function)
        case CredentialSource() as own:
            return own
    if session is None or settings.role is None:
        raise NotRunning(f"role {settings.role!r} comes from Vault, and there is no session with it")
    kind = StaticRole if isinstance(settings.source, StaticSource) else DynamicRole
    return kind(session, settings.mount, settings.role)
