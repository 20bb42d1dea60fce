"""How to log in to Vault: one class for each method, chosen by `method`."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from vault_pg.settings.auth.approle import AppRoleAuth
from vault_pg.settings.auth.base import AuthMethod
from vault_pg.settings.auth.certificate import CertAuth
from vault_pg.settings.auth.clouds import AwsAuth, AzureAuth, GcpAuth
from vault_pg.settings.auth.custom import CustomAuth
from vault_pg.settings.auth.jwt import JwtAuth, KubernetesAuth
from vault_pg.settings.auth.passwords import LdapAuth, UserpassAuth
from vault_pg.settings.auth.tokens import AgentAuth, TokenAuth
from vault_pg.settings.tree import method_of, models_in

AuthSettings: TypeAlias = Annotated[
    TokenAuth
    | AgentAuth
    | AppRoleAuth
    | KubernetesAuth
    | JwtAuth
    | UserpassAuth
    | LdapAuth
    | CertAuth
    | AwsAuth
    | AzureAuth
    | GcpAuth
    | CustomAuth,
    Field(discriminator="method"),
]
METHODS: dict[str, type[AuthMethod]] = {
    method_of(model): model for model in models_in(AuthSettings) if issubclass(model, AuthMethod)
}

__all__ = [
    "METHODS",
    "AgentAuth",
    "AppRoleAuth",
    "AuthMethod",
    "AuthSettings",
    "AwsAuth",
    "AzureAuth",
    "CertAuth",
    "CustomAuth",
    "GcpAuth",
    "JwtAuth",
    "KubernetesAuth",
    "LdapAuth",
    "TokenAuth",
    "UserpassAuth",
]
