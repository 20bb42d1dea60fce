"""Logins by user name and password."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vault_pg.errors import LoginFailed
from vault_pg.settings import LdapAuth, UserpassAuth
from vault_pg.vault.endpoints import Client, Grant
from vault_pg.vault.logins.login import Blocking, Supply, ask, either


@dataclass(frozen=True, slots=True)
class Userpass(Blocking):
    """A user of Vault's own."""

    auth: UserpassAuth
    method: ClassVar[str] = "userpass"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth, password = self.auth, _password(self.auth, "userpass")

        def log_in() -> object:
            return client.auth.userpass.login(auth.username, password, use_token=False, mount_point=auth.mount)

        return ask(client, "userpass", auth.mount, "user name and password", log_in)


@dataclass(frozen=True, slots=True)
class Ldap(Blocking):
    """A user of a directory."""

    auth: LdapAuth
    method: ClassVar[str] = "ldap"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        auth, password = self.auth, _password(self.auth, "LDAP")

        def log_in() -> object:
            return client.auth.ldap.login(auth.username, password, use_token=False, mount_point=auth.mount)

        return ask(client, "LDAP", auth.mount, "user name and password", log_in)


def _password(auth: UserpassAuth | LdapAuth, title: str) -> str:
    password = either(auth.password, auth.password_file, title, "password")
    if password is None:
        raise LoginFailed(f"the {title} login failed: there is no password: set VAULT_PG_{title.upper()}_PASSWORD")
    return password
