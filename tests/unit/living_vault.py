"""A Vault in memory that keeps its tokens, leases and roles as a real one does, and is ill on demand, on virtual time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.unit.memory_vault import DENIED, MemoryVault, Refusal, Reply, auth
from vault_pg.clock import Clock

NO_DATABASE = "dial tcp 10.0.0.1:5432: connect: connection refused"
OWNS_OBJECTS = 'failed to revoke entry: role "{}" cannot be dropped because some objects depend on it (SQLSTATE 2BP01)'


@dataclass(frozen=True)
class Weather:
    """What is wrong now. Parts are probabilities of a request to meet it."""

    refuses: bool = False
    """Connections to Vault are refused."""
    sealed: bool = False
    hangs: bool = False
    """Vault takes requests and answers none."""
    errors: float = 0.0
    """Part that gets a 5xx."""
    quota: float = 0.0
    """Part that gets 429."""
    retry_after: int = 0
    cut: float = 0.0
    """Part whose answers are lost after Vault has done what was asked."""
    behind: float = 0.0
    """Part that meets a node that has not caught up: 412."""
    slow: float = 0.0
    """Seconds that an answer takes at most."""
    truncated: bool = False
    """Renewals are granted a quarter of what was asked."""
    owns_objects: bool = False
    """Roles cannot be dropped: they own something."""
    postgres_down: bool = False


CALM = Weather()


@dataclass
class Held:
    """A lease as Vault keeps it."""

    token: str
    role: str
    username: str
    issued_at: float
    end: float
    last: float
    """Where its max TTL ends."""


@dataclass
class HeldToken:
    end: float
    last: float
    uses: int
    """Requests that it is good for still; 0 is without limit."""


@dataclass(frozen=True)
class TokenKind:
    ttl: int
    max_ttl: float
    renewable: bool = True
    batch: bool = False
    uses: int = 0
    """0 is without limit."""


@dataclass(frozen=True)
class Exchange:
    """One request as Vault saw it, and its answer."""

    path: str
    token: str
    body: dict[str, Any] = field(repr=False)
    reply: Reply = field(repr=False)

    @property
    def refused(self) -> bool:
        return isinstance(self.reply, Refusal)

    def says(self, text: str) -> bool:
        return isinstance(self.reply, Refusal) and text in self.reply.error


class LivingVault(MemoryVault):
    """Any database role: each lease dies with its token, at its end, or when revoked, and takes its PostgreSQL role along."""

    def __init__(self, clock: Clock, luck: random.Random, kind: TokenKind, *, ttl: float, max_ttl: float) -> None:
        super().__init__(clock)
        self.luck, self.kind, self.ttl, self.max_ttl = luck, kind, ttl, max_ttl
        self.weather = CALM
        self.tokens: dict[str, HeldToken] = {}
        self.leases: dict[str, Held] = {}
        self.numbers = itertools.count(1)
        self.dropped: set[str] = set()
        """Roles that somebody has dropped by hand."""
        self.exchanges: list[Exchange] = []
        """Those of the call that is being made."""

    # -- what is alive

    def token_lives(self, token: str) -> bool:
        return token in self.tokens and self.tokens[token].end > self.clock()

    def lives(self, key: str) -> bool:
        held = self.leases.get(key)
        return held is not None and held.end > self.clock() and self.token_lives(held.token)

    def alive(self) -> dict[str, Held]:
        for key in [key for key in self.leases if not self.lives(key)]:
            del self.leases[key]
        return self.leases

    def of(self, username: str) -> Held | None:
        return next((held for held in self.alive().values() if held.username == username), None)

    def has_role(self, username: str) -> bool:
        return username not in self.dropped and self.of(username) is not None

    # -- answers

    def answer(self, method: str, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = self._reply(path, token, body)
        self.exchanges.append(Exchange(path, token, body, reply))
        self.paths = {path: reply}
        self.asked.clear()
        return super().answer(method, path, token, body)

    def _reply(self, path: str, token: str, body: dict[str, Any]) -> Reply:
        if (ill := next(self._ills(path), None)) is not None:
            return ill
        if path == "sys/health":
            return {"initialized": True, "sealed": False, "standby": False}
        if path == "auth/approle/login":
            return self._log_in()
        if not self.token_lives(token):
            return DENIED
        reply = self._serve(path, token, body)
        if (held := self.tokens.get(token)) is not None and held.uses:
            held.uses -= 1
            if not held.uses:
                del self.tokens[token]  # that was its last request, and the end of its leases
        return reply

    def _serve(self, path: str, token: str, body: dict[str, Any]) -> Reply:
        if path.startswith("auth/token/"):
            return self._token(path.rpartition("/")[2], token, body)
        if "/creds/" in path:
            return self._issue(path, token)
        return self._lease(path.rpartition("/")[2], body["lease_id"], body)

    def _ills(self, path: str) -> Iterator[Refusal]:
        sky, luck = self.weather, self.luck
        if sky.sealed:
            yield Refusal(503, "Vault is sealed")
        if luck.random() < sky.errors:
            yield Refusal(luck.choice([500, 502, 503, 504]))
        if luck.random() < sky.quota:
            yield Refusal(429, "request path is rate limited", retry_after=str(sky.retry_after or ""))
        if path not in {"auth/approle/login", "sys/health"} and luck.random() < sky.behind:
            yield Refusal(412, "required index state not present")

    def _log_in(self) -> Reply:
        self.logins += 1
        token, kind, now = f"hvs.{self.logins}", self.kind, self.clock()
        self.tokens[token] = HeldToken(now + kind.ttl, now + kind.max_ttl, kind.uses)
        return auth(token, kind.ttl, renewable=kind.renewable, kind="batch" if kind.batch else "service", uses=kind.uses)

    def _token(self, what: str, token: str, body: dict[str, Any]) -> Reply:
        now, held = self.clock(), self.tokens[token]
        if what == "revoke-self":
            if self.kind.batch:
                return Refusal(400, "batch tokens cannot be revoked")
            del self.tokens[token]
            return {}
        if what == "lookup-self":
            known = {"creation_ttl": self.kind.ttl, "expire_time": "later", "renewable": self.kind.renewable}
            return {"data": known | {"ttl": int(held.end - now), "num_uses": max(0, held.uses - 1)}}
        if self.kind.batch:
            return Refusal(400, "batch tokens cannot be renewed")
        if not self.kind.renewable:
            return Refusal(400, "lease is not renewable")
        held.end = now + int(min(body.get("increment", self.kind.ttl), held.last - now))
        return auth("", held.end - now, renewable=True)

    def _issue(self, path: str, token: str) -> Reply:
        if self.weather.postgres_down:
            return Refusal(500, f"failed to connect: {NO_DATABASE}")
        now, role, number = self.clock(), path.rpartition("/")[2], next(self.numbers)
        key, username = f"{path}/{number}", f"v-{role}-{number}"
        ttl = int(min(self.ttl, self.tokens[token].end - now)) if self.kind.batch else int(self.ttl)
        self.leases[key] = Held(token, role, username, now, now + ttl, now + self.max_ttl)
        data = {"username": username, "password": f"pw-{username}"}
        return {"lease_id": key, "lease_duration": ttl, "renewable": True, "data": data}

    def _lease(self, what: str, key: str, body: dict[str, Any]) -> Reply:
        if what == "revoke":
            return self._revoke(key) if self.lives(key) else {}
        if not self.lives(key):
            return Refusal(400, "lease not found" if what == "renew" else "invalid lease")
        now, held = self.clock(), self.leases[key]
        if what == "lookup":
            return {"data": {"ttl": int(held.end - now)}}
        if self.weather.postgres_down:
            return Refusal(400, f"failed to renew entry: {NO_DATABASE}")
        if held.username in self.dropped:
            return Refusal(400, f'failed to renew entry: role "{held.username}" does not exist (SQLSTATE 42704)')
        last = min(held.last, self.tokens[held.token].end) if self.kind.batch else held.last
        granted = int(min(body["increment"], last - now) / (4 if self.weather.truncated else 1))
        if granted <= 0:
            return Refusal(400, "failed to renew entry: past the max TTL, cannot renew")
        held.end = now + granted
        return {"lease_id": key, "lease_duration": granted, "renewable": True}

    def _revoke(self, key: str) -> Reply:
        if self.weather.postgres_down:
            return Refusal(400, f"failed to revoke entry: {NO_DATABASE}")
        if self.weather.owns_objects:
            return Refusal(400, OWNS_OBJECTS.format(self.leases[key].username))
        del self.leases[key]
        return {}
