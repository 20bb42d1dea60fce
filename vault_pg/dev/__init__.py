"""The embedded default: a throw-away PostgreSQL and a dev Vault, so that anyone can try and test with neither installed."""

from vault_pg.dev.errors import DevError
from vault_pg.dev.fault import Fault, Trouble
from vault_pg.dev.faults import Faults
from vault_pg.dev.log import RequestLog
from vault_pg.dev.logins import LoginMethod, provision_login
from vault_pg.dev.postgres import EmbeddedPostgres
from vault_pg.dev.provision import AppRoleLogin, RoleSpec, StaticRoleSpec, Target, provision, provision_approle, service_policy
from vault_pg.dev.vault import DevVault

__all__ = [
    "AppRoleLogin",
    "DevError",
    "DevVault",
    "EmbeddedPostgres",
    "Fault",
    "Faults",
    "LoginMethod",
    "RequestLog",
    "RoleSpec",
    "StaticRoleSpec",
    "Target",
    "Trouble",
    "provision",
    "provision_approle",
    "provision_login",
    "service_policy",
]
