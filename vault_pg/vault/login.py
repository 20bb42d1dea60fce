"""Ways to a token. Each is a small class with one blocking function; more methods of Vault are more of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from pydantic import SecretStr

from vault_pg.errors import LoginFailed, MountNotFound, PermissionDenied, TokenInvalid, VaultRefused
from vault_pg.settings import AppRoleAuth, TokenAuth
from vault_pg.vault.endpoints import Client, Grant, granted, look_up_self


class Login(Protocol):
    """One way to get a token."""

    method: ClassVar[str]
    repeatable: ClassVar[bool]
    """Another login yields another token."""

    def login(self, client: Client) -> Grant:
        """Blocks for two requests at most. Raises LoginFailed, TokenInvalid, VaultUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class GivenToken:
    """A token that somebody else got. It is looked up, renewed, and never revoked."""

    token: SecretStr
    method: ClassVar[str] = "token"
    repeatable: ClassVar[bool] = False

    def login(self, client: Client) -> Grant:
        client.token = self.token.get_secret_value()
        return look_up_self(client)


@dataclass(frozen=True, slots=True)
class AppRole:
    """Role id and secret id; a file with the secret id is read again at each login, as somebody may have put a new one there."""

    role_id: str
    secret_id: SecretStr | None
    secret_id_file: Path | None
    mount: str
    method: ClassVar[str] = "approle"
    repeatable: ClassVar[bool] = True

    def login(self, client: Client) -> Grant:
        path = f"auth/{self.mount}/login"
        secret_id = self._secret_id()
        client.token = ""
        refused: str
        try:
            answer = client.auth.approle.login(self.role_id, secret_id, use_token=False, mount_point=self.mount)
        except (PermissionDenied, TokenInvalid, MountNotFound):
            refused = f"no AppRole method answers at auth/{self.mount}, or it does not allow this host: look at `vault auth list`"
        except VaultRefused as error:
            refused = f"{error}; look at role id and secret id (expired? used up?)"
        else:
            return granted(client, answer, path)
        raise LoginFailed(f"the AppRole login failed: {refused}")

    def _secret_id(self) -> str | None:
        if self.secret_id_file is None:
            return None if self.secret_id is None else self.secret_id.get_secret_value()
        try:
            text = self.secret_id_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
        else:
            if text:
                return text
            why = "it is empty"
        raise LoginFailed(f"the AppRole login failed: cannot use the secret id file {self.secret_id_file}: {why}")


def login_for(auth: TokenAuth | AppRoleAuth) -> Login:
    """The login that the settings ask for."""
    if isinstance(auth, AppRoleAuth):
        return AppRole(auth.role_id, auth.secret_id, auth.secret_id_file, auth.mount)
    if auth.token is None:
        raise LoginFailed(
            "no Vault token: set VAULT_TOKEN, log in with `vault login`, or choose another method with VAULT_PG_AUTH"
        )
    return GivenToken(auth.token)
