"""The embedded default: a throw-away PostgreSQL and a dev Vault, so that anyone can try and test with neither installed."""

from vault_pg.dev.errors import DevError
from vault_pg.dev.faults import Faults, RequestLog
from vault_pg.dev.postgres import EmbeddedPostgres
from vault_pg.dev.provision import AppRoleLogin, RoleSpec, StaticRoleSpec, Target, provision, provision_approle, service_policy
from vault_pg.dev.vault import DevVault

__all__ = [
    "AppRoleLogin",
    "DevError",
    "DevVault",
    "EmbeddedPostgres",
    "Faults",
    "RequestLog",
    "RoleSpec",
    "StaticRoleSpec",
    "Target",
    "provision",
    "provision_approle",
    "service_policy",
]
