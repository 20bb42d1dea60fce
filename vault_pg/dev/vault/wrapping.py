"""Response wrapping: an answer kept behind a token that works once."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from vault_pg.dev.vault.core import Core
from vault_pg.dev.vault.durations import rfc3339
from vault_pg.dev.vault.messages import Answer, Body, Refused
from vault_pg.dev.vault.tokens import letters

GONE = "wrapping token is not valid or does not exist"


@dataclass(frozen=True, slots=True)
class Wrapped:
    body: Body = field(repr=False)
    path: str
    created: float
    ttl: int


class Wrappings:
    """The wrapped answers of a server."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._wrapped: dict[str, Wrapped] = {}

    def wrap(self, answer: Answer, path: str, ttl: int) -> Answer:
        """An answer that says where `answer` is to be had."""
        body, now = answer.body(), self._core.now()
        if body is None:
            return answer
        token, accessor = f"hvs.{letters(90)}", letters(24)
        self._core.remember(token)
        with self._core.lock:
            self._wrapped[token] = Wrapped(body, path, now, ttl)
        self._core.timers.set(f"wrapping {accessor}", now + ttl, lambda: self._wrapped.pop(token, None))
        info = {"token": token, "accessor": accessor, "ttl": ttl, "creation_time": rfc3339(now), "creation_path": path}
        if answer.auth is not None:
            info["wrapped_accessor"] = answer.auth["accessor"]
        envelope = Answer().body() or {}
        return Answer(raw={**envelope, "request_id": "", "wrap_info": info})

    def _find(self, token: str) -> Wrapped:
        wrapped = self._wrapped.get(token)
        if wrapped is None or wrapped.created + wrapped.ttl <= self._core.now():
            raise Refused(400, GONE)
        return wrapped

    def lookup(self, token: str) -> Answer:
        with self._core.lock:
            wrapped = self._find(token)
        times = {"creation_time": rfc3339(wrapped.created), "creation_ttl": wrapped.ttl}
        return Answer(data={"creation_path": wrapped.path, **times})

    def unwrap(self, token: str) -> Answer:
        """The wrapped answer; from then on the token is dead."""
        with self._core.lock:
            wrapped = self._find(token)
            del self._wrapped[token]
        return Answer(raw={**wrapped.body, "request_id": str(uuid.uuid4())})
