"""Login by a function of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import SecretStr

from vault_pg.errors import LoginFailed, VaultError
from vault_pg.place import told
from vault_pg.vault.endpoints import Client, Grant, granted, look_up_self
from vault_pg.vault.logins.login import Supply, Work


@dataclass(frozen=True, slots=True)
class Custom:
    """A plain function is called with a client in a thread, a coroutine function with nothing on the event loop."""

    function: Callable[..., Any]
    method: ClassVar[str] = "custom"
    supply: ClassVar[Supply] = "repeatable"

    def login(self, client: Client) -> Grant:
        try:
            answer = self.function(client)
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001 - anything may be raised by a user's function
            failure = error
        else:
            return _grant(client, answer)
        raise _failed(failure)

    @property
    def repeats(self) -> bool:
        return not inspect.iscoroutinefunction(self.function)  # which has its token before the rest begins

    async def prepare(self) -> Work:
        if not inspect.iscoroutinefunction(self.function):
            return self.login
        try:
            answer = await self.function()
        except VaultError:
            raise
        except Exception as error:  # noqa: BLE001
            failure = error
        else:
            return lambda client: _grant(client, answer)
        raise _failed(failure)


def _grant(client: Client, answer: Any) -> Grant:
    if isinstance(answer, SecretStr):
        answer = answer.get_secret_value()
    if isinstance(answer, str) and answer.strip():
        client.token = answer.strip()
        return look_up_self(client)
    if isinstance(answer, dict):
        return granted(client, answer, "the custom login")
    raise LoginFailed(
        f"the custom login failed: it returned {type(answer).__name__} and not a token (text) or the answer of one of hvac's logins"
    )


def _failed(error: Exception) -> LoginFailed:
    """Without the error's text, which may hold secrets, but with the place where it was raised."""
    return LoginFailed(f"the custom login failed: it raised {told(error)}")
