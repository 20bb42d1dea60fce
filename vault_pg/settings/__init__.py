"""Settings: what they are, where they come from, and one sentence for each mistake in them."""

from vault_pg.settings.auth import AppRoleAuth, AuthSettings, TokenAuth
from vault_pg.settings.database import DatabaseSettings
from vault_pg.settings.settings import Settings
from vault_pg.settings.source import CallableSource, DynamicSource, FileSource, StaticSource
from vault_pg.settings.vault import VaultSettings

__all__ = [
    "AppRoleAuth",
    "AuthSettings",
    "CallableSource",
    "DatabaseSettings",
    "DynamicSource",
    "FileSource",
    "Settings",
    "StaticSource",
    "TokenAuth",
    "VaultSettings",
]
