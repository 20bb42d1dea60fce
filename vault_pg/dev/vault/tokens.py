"""Tokens: made, renewed, used up, and ended together with their children."""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from vault_pg.dev.vault.durations import SYSTEM_TTL, grant, rfc3339
from vault_pg.dev.vault.messages import Body, Refused
from vault_pg.dev.vault.policies import ROOT

ALPHABET = string.ascii_letters + string.digits


def letters(count: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(count))


@dataclass(slots=True)
class Token:
    """A token. Times are wall-clock seconds, durations seconds; `end` None never comes."""

    id: str = field(repr=False)
    policies: list[str]
    created: float
    kind: str = "service"
    accessor: str = ""
    display_name: str = "token"
    path: str = "auth/token/create"
    ttl: int = 0
    end: float | None = None
    explicit_max_ttl: int = 0
    max_ttl: int = 0
    period: int = 0
    renewable: bool = True
    num_uses: int = 0
    parent: str = field(default="", repr=False)
    orphan: bool = False
    meta: dict[str, str] | None = None
    entity_id: str = ""
    last_renewal: float | None = None

    @property
    def batch(self) -> bool:
        return self.kind == "batch"

    @property
    def root(self) -> bool:
        return ROOT in self.policies

    def left(self, now: float) -> int:
        return 0 if self.end is None else max(0, int(self.end - round(now)))

    def auth(self) -> Body:
        """The `auth` part of the answer that hands the token out."""
        return {
            "client_token": self.id,
            "accessor": self.accessor,
            "policies": self.policies,
            "token_policies": self.policies,
            "metadata": self.meta,
            "lease_duration": self.ttl,
            "renewable": self.renewable,
            "entity_id": self.entity_id,
            "token_type": self.kind,
            "orphan": self.orphan,
        }

    def shown(self, now: float) -> Body:
        """The answer to a lookup."""
        data: Body = {
            "accessor": self.accessor,
            "creation_time": int(self.created),
            "creation_ttl": self.ttl,
            "display_name": self.display_name,
            "entity_id": self.entity_id,
            "expire_time": None if self.end is None else rfc3339(self.end),
            "explicit_max_ttl": self.explicit_max_ttl,
            "id": self.id,
            "issue_time": rfc3339(self.created),
            "meta": self.meta,
            "num_uses": max(0, self.num_uses),
            "orphan": self.orphan,
            "path": self.path,
            "policies": self.policies,
            "renewable": self.renewable,
            "ttl": self.left(now),
            "type": self.kind,
        }
        if self.period:
            data["period"] = self.period
        if self.last_renewal is not None:
            data |= {"last_renewal": rfc3339(self.last_renewal), "last_renewal_time": int(self.last_renewal)}
        return data


def limits(token: Token) -> int:
    """The longest that `token` may live from its creation."""
    return min(limit for limit in (token.explicit_max_ttl, token.max_ttl, SYSTEM_TTL) if limit)


class Tokens:
    """The tokens of a server. The caller holds the server's lock."""

    def __init__(self) -> None:
        self._tokens: dict[str, Token] = {}

    def add(self, token: Token, *, wanted: int = 0) -> Token:
        """Take `token` in; without a period or `wanted` seconds it lives as long as Vault's default. Fills id, accessor and times."""
        if token.batch:
            token.renewable, token.num_uses = False, 0
        if not token.id:
            token.id = f"hvb.{letters(120)}" if token.batch else f"hvs.{letters(24)}"
        if not token.accessor and not token.batch:
            token.accessor = letters(24)
        if token.root and not wanted:
            token.end, token.renewable = None, False
        else:
            token.ttl = self._granted(token, token.created, wanted)[0]
            token.end = token.created + token.ttl
        self._tokens[token.id] = token
        return token

    def _granted(self, token: Token, now: float, wanted: int) -> tuple[int, list[str]]:
        if token.period:
            most = token.explicit_max_ttl or SYSTEM_TTL
            start = token.created if token.explicit_max_ttl else now
            return grant(now=now, start=start, wanted=token.period, default=token.period, most=most)
        return grant(now=now, start=token.created, wanted=wanted, default=token.ttl, most=limits(token))

    def alive(self, secret: str, now: float) -> Token | None:
        token = self._tokens.get(secret)
        if token is None or (token.end is not None and token.end <= now):
            return None
        return token

    def by_accessor(self, accessor: str, now: float) -> Token:
        for token in self._tokens.values():
            if accessor and token.accessor == accessor and self.alive(token.id, now):
                return token
        raise Refused(403, "invalid accessor")

    def accessors(self) -> list[str]:
        return [token.accessor for token in self._tokens.values() if token.accessor]

    def logins(self) -> list[str]:
        """The ids of the tokens that came of a login."""
        return [token.id for token in self._tokens.values() if not token.path.startswith("auth/token/")]

    def renew(self, token: Token, now: float, increment: int) -> tuple[int, list[str]]:
        """Set the token's end to `increment` (or its first TTL) from now, within its limits. Refused where it cannot be renewed."""
        if token.batch:
            raise Refused(400, "batch tokens cannot be renewed")
        if not token.renewable or token.end is None:
            raise Refused(400, "lease is not renewable")
        granted, warnings = self._granted(token, now, increment)
        token.end, token.last_renewal = now + granted, now
        return granted, warnings

    def remove(self, secret: str) -> list[Token]:
        """End the token and its descendants; all that ended."""
        token = self._tokens.pop(secret, None)
        if token is None:
            return []
        children = [child.id for child in self._tokens.values() if child.parent == secret]
        return [token, *(ended for child in children for ended in self.remove(child))]

    def orphan(self, secret: str) -> list[Token]:
        """End the token alone; its children live on without a parent."""
        for child in self._tokens.values():
            if child.parent == secret:
                child.parent, child.orphan = "", True
        token = self._tokens.pop(secret, None)
        return [token] if token else []


def policy_names(wanted: Iterable[str], *, default: bool = True) -> list[str]:
    """Sorted, in lower case, with `default` unless it is not wanted; root stands alone."""
    names = {name.lower() for name in wanted}
    if ROOT in names:
        return [ROOT]
    return sorted(names | {"default"} if default else names)


def entity_id() -> str:
    return str(uuid.uuid4())
