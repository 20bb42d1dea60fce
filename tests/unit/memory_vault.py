"""A Vault in memory, under a real hvac client: no thread, no socket, so that time may be virtual.

Paths answer with what the test put there: a dict, a refusal, or a function of the request's body that returns either.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

import hvac
from hvac.adapters import RawAdapter
from pydantic import SecretStr

from vault_pg.clock import Clock
from vault_pg.errors import VaultUnavailable
from vault_pg.vault.answers import Question, late, refusal

T = TypeVar("T")
ADDRESS = "https://vault.test:8200"


@dataclass(frozen=True)
class Refusal:
    status: int
    error: str = ""
    retry_after: str = ""


DENIED = Refusal(403, "permission denied")
DOWN = Refusal(503)


class Silence(Exception):
    """The request is swallowed."""


Reply: TypeAlias = dict[str, Any] | Refusal | Silence
Answer: TypeAlias = Reply | Callable[[dict[str, Any]], Reply]


@dataclass(frozen=True)
class Asked:
    at: float
    path: str
    token: str
    body: dict[str, Any]


class MemoryVault:
    """Tokens are "hvs.1", "hvs.2", … by login; those in `dead` get 403 on everything."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.asked: list[Asked] = []
        self.dead: set[str] = set()
        self.away: Refusal | Silence | None = None
        """What everything is answered with, or every second request."""
        self.every = 1
        self.count = 0
        self.logins = 0
        self.unheard: Counter[str] = Counter()
        """Requests of each path that are still to be served, and their answers lost on the way."""
        self.token_ttl = 20
        self.token_left: float | None = None
        self.renewable = True
        self.latency = 0.0
        """Seconds that an answer is on its way. A request that has less than that is not served."""
        self.paths: dict[str, Answer] = {
            "auth/approle/login": lambda _: self.log_in(),
            "auth/token/renew-self": lambda body: auth("", body.get("increment", self.token_ttl), renewable=True),
            "auth/token/lookup-self": lambda _: self.look_up(),
            "auth/token/revoke-self": {},
            "sys/leases/revoke": {},
            "sys/health": {"initialized": True, "sealed": False},
        }

    def log_in(self) -> Reply:
        self.logins += 1
        return auth(f"hvs.{self.logins}", self.token_ttl, renewable=self.renewable)

    def look_up(self) -> Reply:
        ttl = self.token_ttl if self.token_left is None else self.token_left
        known = {"ttl": ttl, "creation_ttl": self.token_ttl, "expire_time": "later", "renewable": self.renewable}
        return {"data": known}

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(Asked(self.clock(), path, token, body))
        found = self.paths[path]
        reply: Reply = DENIED
        self.count += 1
        if self.away is not None and self.count % self.every == 0:
            reply = self.away
        elif token not in self.dead:
            reply = found(body) if callable(found) else found
        if isinstance(reply, Silence):
            raise reply
        if isinstance(reply, Refusal):
            headers = {"Retry-After": reply.retry_after}
            raise refusal(Question(ADDRESS, method, path), reply.status, tuple(filter(None, [reply.error])), headers)
        if self.unheard[path] > 0:
            self.unheard[path] -= 1
            raise VaultUnavailable(f"Vault broke off the connection before it had answered {path}", in_doubt=True)
        return reply

    def times(self, path: str) -> list[float]:
        return [asked.at for asked in self.asked if asked.path == path]


def auth(token: str, ttl: float, *, renewable: bool, kind: str = "service", uses: int = 0) -> dict[str, Any]:
    return {
        "auth": {
            "client_token": token or "same",
            "lease_duration": ttl,
            "renewable": renewable,
            "token_type": kind,
            "accessor": "acc",
            "num_uses": uses,
        }
    }


class _Adapter(RawAdapter):  # type: ignore[misc]  # hvac has no type hints
    def __init__(self, vault: MemoryVault, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._vault = vault

    def get_login_token(self, response: dict[str, Any]) -> str:
        return str(response["auth"]["client_token"])

    def request(self, method: str, url: str, **kwargs: Any) -> dict[str, Any]:
        return self._vault.answer(method, url.removeprefix("/v1/"), self.token, kwargs.get("json") or {})


class MemoryCalls:
    """The session's calls, answered at once by a MemoryVault."""

    def __init__(self, vault: MemoryVault) -> None:
        self._vault = vault
        self.closed = False

    async def call(
        self,
        work: Callable[[hvac.Client], T],
        *,
        token: SecretStr | None,
        timeout: float,
        undo: Callable[[hvac.Client, T], object] | None = None,
    ) -> T:
        assert timeout > 0
        assert undo is None or callable(undo)
        latency, question = self._vault.latency, Question(ADDRESS, "", "what it was asked")
        if latency > timeout:
            await asyncio.sleep(timeout)
            raise late(question, timeout)
        client = hvac.Client(url=ADDRESS, token="", adapter=partial(_Adapter, self._vault))
        client.token = token.get_secret_value() if token is not None else ""
        try:
            result = work(client)
            try:
                await asyncio.sleep(latency)
            except asyncio.CancelledError:
                if undo is not None:
                    undo(client, result)
                raise
        except Silence:
            await asyncio.sleep(timeout)
            raise late(question, timeout) from None
        else:
            return result
        finally:
            client.adapter.close()

    async def settled(self, *, timeout: float) -> None:
        assert timeout > 0

    async def close(self, *, timeout: float) -> None:
        self.closed = timeout >= 0
