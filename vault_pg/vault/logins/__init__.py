"""Ways to a token: each is a small class with one blocking function."""

from __future__ import annotations

from vault_pg.errors import LoginFailed
from vault_pg.settings import (
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
from vault_pg.vault.logins.approle import AppRole
from vault_pg.vault.logins.certificate import Cert
from vault_pg.vault.logins.clouds import Aws, Azure, Gcp
from vault_pg.vault.logins.custom import Custom
from vault_pg.vault.logins.jwt import Jwt, Kubernetes
from vault_pg.vault.logins.login import Login, Supply
from vault_pg.vault.logins.passwords import Ldap, Userpass
from vault_pg.vault.logins.tokens import AgentToken, GivenToken, TokenFile

__all__ = ["Login", "Supply", "TokenFile", "login_for"]


def login_for(auth: AuthSettings) -> Login:  # noqa: C901, PLR0911 - a table, which mypy holds against AuthSettings
    """The login that the settings ask for."""
    match auth:
        case TokenAuth():
            return _token(auth)
        case AgentAuth():
            return AgentToken()
        case AppRoleAuth():
            return AppRole(auth)
        case KubernetesAuth():
            return Kubernetes(auth)
        case JwtAuth():
            return Jwt(auth)
        case UserpassAuth():
            return Userpass(auth)
        case LdapAuth():
            return Ldap(auth)
        case CertAuth():
            return Cert(auth)
        case AwsAuth():
            return Aws(auth)
        case AzureAuth():
            return Azure(auth)
        case GcpAuth():
            return Gcp(auth)
        case CustomAuth():
            return Custom(auth.login)


def _token(auth: TokenAuth) -> Login:
    if auth.token is not None:
        return GivenToken(auth.token)
    if auth.token_file is not None:
        return TokenFile(auth.token_file)
    raise LoginFailed("no Vault token: set VAULT_TOKEN, log in with `vault login`, or choose another method with VAULT_PG_AUTH")
