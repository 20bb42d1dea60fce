"""AppRole, with its secret id plain or response-wrapped."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import SecretStr

from vault_pg.errors import LoginFailed, PermissionDenied, TokenInvalid, VaultRefused
from vault_pg.settings import AppRoleAuth
from vault_pg.vault.endpoints import Client, Grant, creation_path, unwrap_secret_id
from vault_pg.vault.logins.login import Blocking, Supply, ask, either

TITLE = "AppRole"


@dataclass(frozen=True, slots=True)
class AppRole(Blocking):
    """Role id and secret id; a file with the secret id is read again at each login, as somebody may have put a new one there."""

    auth: AppRoleAuth
    method: ClassVar[str] = "approle"
    supply: ClassVar[Supply] = "repeatable"
    _unwrapped: dict[str, SecretStr] = field(default_factory=dict, repr=False)
    """Secret id by its wrapping token, which works only once: the next login needs the secret id again."""

    @property
    def repeats(self) -> bool:
        return not self.auth.wrapped  # unwrapped by the first, it would look to the second as if somebody else had

    def login(self, client: Client) -> Grant:
        auth = self.auth
        secret_id = either(auth.secret_id, auth.secret_id_file, TITLE, "secret id")
        if secret_id is not None and auth.wrapped:
            secret_id = self._secret_id_in(client, secret_id)

        def log_in() -> object:
            return client.auth.approle.login(auth.role_id, secret_id, use_token=False, mount_point=auth.mount)

        return ask(client, TITLE, auth.mount, "role id and secret id", log_in)

    def _secret_id_in(self, client: Client, wrapping: str) -> str:
        """The secret id that the wrapping token holds. Raises LoginFailed where it is not ours alone."""
        known = self._unwrapped.get(wrapping)
        if known is None:
            known = self._unwrap(client, wrapping)
            self._unwrapped.clear()
            self._unwrapped[wrapping] = known
        return known.get_secret_value()

    def _unwrap(self, client: Client, wrapping: str) -> SecretStr:
        client.token = ""
        try:
            made_at = creation_path(client, wrapping)
            if re.fullmatch(self._expected, made_at) is not None:
                return unwrap_secret_id(client, wrapping)
        except (VaultRefused, TokenInvalid, PermissionDenied):
            made_at = ""
        if made_at:
            raise LoginFailed(
                f"the {TITLE} login failed: the wrapping token given as secret id was made at {made_at} and not at "
                f"{self._shown}: somebody may have put it there, so it is not unwrapped; get a new one"
            )
        raise LoginFailed(
            f"the {TITLE} login failed: the wrapping token given as secret id is used up or has ended: if nobody of yours has unwrapped "
            "it, somebody else holds the secret id; destroy that, look at Vault's audit log, and get a new one"
        )

    @property
    def _shown(self) -> str:
        return f"auth/{self.auth.mount}/role/{self.auth.role or '…'}/secret-id"

    @property
    def _expected(self) -> str:
        role = "[^/]+" if self.auth.role is None else re.escape(self.auth.role)
        return rf"auth/{re.escape(self.auth.mount)}/role/{role}/secret-id"
