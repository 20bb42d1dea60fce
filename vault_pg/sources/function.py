"""A function of the user's that gives short-lived passwords: a token of AWS RDS, Azure, Google Cloud."""

from __future__ import annotations

import asyncio
import inspect

from pydantic import SecretStr

from vault_pg.errors import SourceBroken, SourceError
from vault_pg.lease import Credential, Ending, Grant
from vault_pg.settings import CallableSource
from vault_pg.settings.source import name_of
from vault_pg.source import CredentialSource


class PasswordFunction(CredentialSource):
    """What the function returns now. Sessions that logged in by it outlive it."""

    def __init__(self, settings: CallableSource) -> None:
        self._settings = settings

    async def issue(self, *, timeout: float) -> Grant:  # noqa: ARG002 - whoever asks stops waiting
        """Raises SourceError where it returns anything else than it should; its own errors pass through."""
        call = self._settings.call
        found = call() if inspect.iscoroutinefunction(call) else await asyncio.to_thread(call)
        if inspect.isawaitable(found):
            found = await found
        return self._granted(found)

    def _granted(self, found: object) -> Grant:
        match found:
            case Grant():
                return found
            case (str() | SecretStr() as password, int() | float() as ttl) if not isinstance(ttl, bool):
                if not ttl > 0:
                    raise SourceError(
                        f"{name_of(self._settings.call)} returned a password with {ttl} seconds to live: return more"
                    )
                return self._password(password, ttl)
            case str() | SecretStr():
                return self._password(found, self._settings.seconds)
        raise SourceBroken(
            f"{name_of(self._settings.call)} returned a {type(found).__name__}: return the password, (password, seconds), or a Grant"
        )

    def _password(self, password: str | SecretStr, ttl: float) -> Grant:
        if self._settings.username is None:
            raise SourceBroken(
                f"{name_of(self._settings.call)} returned a password, and nobody says whose: give username beside it, or return a Grant"
            )
        secret = password if isinstance(password, SecretStr) else SecretStr(password)
        if not secret.get_secret_value():
            raise SourceError(f"{name_of(self._settings.call)} returned an empty password")
        return Grant(Credential(self._settings.username, secret), ttl, Ending.PASSWORD)
