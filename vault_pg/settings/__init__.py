"""Settings: what they are, where they come from, and one sentence for each mistake in them."""

from vault_pg.settings.auth import (
    AgentAuth,
    AppRoleAuth,
    AuthSettings,
    AwsAuth,
    AzureAuth,
    CertAuth,
    CustomAuth,
    GcpAuth,
    JwtAuth,
    KubernetesAuth,
    LdapAuth,
    TokenAuth,
    UserpassAuth,
)
from vault_pg.settings.database import DatabaseSettings
from vault_pg.settings.settings import Settings
from vault_pg.settings.source import CallableSource, DynamicSource, FileSource, StaticSource
from vault_pg.settings.vault import VaultSettings

__all__ = [
    "AgentAuth",
    "AppRoleAuth",
    "AuthSettings",
    "AwsAuth",
    "AzureAuth",
    "CallableSource",
    "CertAuth",
    "CustomAuth",
    "DatabaseSettings",
    "DynamicSource",
    "FileSource",
    "GcpAuth",
    "JwtAuth",
    "KubernetesAuth",
    "LdapAuth",
    "Settings",
    "StaticSource",
    "TokenAuth",
    "UserpassAuth",
    "VaultSettings",
]
