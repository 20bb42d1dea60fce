"""The state of a dev Vault: what all its parts share."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable

from pydantic import SecretStr

from vault_pg.dev.vault.connections import Connections, Network
from vault_pg.dev.vault.leases import Leases
from vault_pg.dev.vault.messages import DENIED, Refused
from vault_pg.dev.vault.policies import ROOT, Policies
from vault_pg.dev.vault.timers import Timers
from vault_pg.dev.vault.tokens import Token, Tokens, letters

SHORTEST_SECRET = 8
"""A shorter one would be found in any text."""


class Clock:
    """Wall-clock seconds that never leap."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        return self._offset + time.monotonic()


class Core:
    """Tokens, policies, leases and timers of one server, and the lock over them.

    The lock is held for looking and deciding only, never while PostgreSQL is asked.
    """

    def __init__(self, root_token: SecretStr, *, revoke_retry_base: float) -> None:
        self.lock = threading.RLock()
        self.now = Clock()
        self.timers = Timers(self.now)
        self.policies = Policies()
        self.tokens = Tokens()
        self.leases = Leases(self.lock, self.now, self.timers, retry_base=revoke_retry_base)
        self.connections: set[Connections] = set()
        self.network = Network()
        self.started = self.now()
        self.sealed = False
        self.unseal_key = SecretStr(letters(44))
        self.cluster_id = str(uuid.uuid4())
        self._secrets: set[str] = set()
        root = Token(id=root_token.get_secret_value(), policies=[ROOT], created=self.now(), orphan=True)
        self.add_token(root)
        self.remember(self.unseal_key.get_secret_value())

    def start(self) -> None:
        """From now on leases and tokens end on time; what came due meanwhile ends at once."""
        for connections in list(self.connections):
            connections.keep()
        self.timers.start()

    def stop(self) -> None:
        self.timers.stop()
        for connections in list(self.connections):
            connections.close()

    def remember(self, *secrets: str) -> None:
        """Note what was handed out or taken in, so that tests can look for it in logs."""
        with self.lock:
            self._secrets.update(secret for secret in secrets if len(secret) >= SHORTEST_SECRET)

    def secrets(self) -> frozenset[str]:
        with self.lock:
            return frozenset(self._secrets)

    def add_token(self, token: Token, *, wanted: int = 0) -> Token:
        """Make `token` valid, for `wanted` seconds or as long as Vault's default, and arrange its end."""
        with self.lock:
            self.tokens.add(token, wanted=wanted)
            self.remember(token.id)
            self._arrange_end(token)
        return token

    def renew_token(self, token: Token, increment: int) -> tuple[int, list[str]]:
        with self.lock:
            granted, warnings = self.tokens.renew(token, self.now(), increment)
            self._arrange_end(token)
        return granted, warnings

    def _arrange_end(self, token: Token) -> None:
        if token.end is not None:
            self.timers.set(f"token {token.id}", token.end, lambda: self.expire_token(token))

    def expire_token(self, token: Token) -> None:
        with self.lock:
            # A renewal may have moved the end while this job waited for a worker.
            if token.end is not None and token.end <= self.now():
                self.end_token(token.id)

    def end_token(self, secret: str, *, children: bool = True) -> None:
        """End a token, its children, and all their leases: the database roles follow at once, on a worker."""
        with self.lock:
            for token in self.tokens.remove(secret) if children else self.tokens.orphan(secret):
                self.timers.cancel(f"token {token.id}")
                self.leases.end_of_token(token.id)

    def end_logins(self) -> int:
        """End every token that a login yielded; how many."""
        with self.lock:
            logins = self.tokens.logins()
            for secret in logins:
                self.end_token(secret)
        return len(logins)

    def token(self, secret: str) -> Token:
        """The living token `secret`. Refused as Vault does without one (400) or with a dead one (403)."""
        if not secret:
            raise Refused(400, "missing client token")
        with self.lock:
            token = self.tokens.alive(secret, self.now())
        if token is None or token.num_uses < 0:
            raise Refused(403, DENIED)
        return token

    def use(self, token: Token) -> bool:
        """Count one use of a token that has few; True when that was the last."""
        with self.lock:
            if token.num_uses <= 0:
                return False
            token.num_uses -= 1
            if token.num_uses:
                return False
            # While its last request is being served it is dead for all others.
            token.num_uses = -1
            return True

    def capabilities(self, token: Token, path: str) -> frozenset[str]:
        with self.lock:
            return self.policies.allowed(token.policies, path)

    def check_policies(self, names: Iterable[str]) -> None:
        """Vault takes names of policies that do not exist, but never hands out root by a login."""
        if ROOT in names:
            raise Refused(400, "auth methods cannot create root tokens")

    def seal(self) -> None:
        with self.lock:
            self.sealed = True
        self.timers.pause()

    def unseal(self) -> None:
        with self.lock:
            self.sealed = False
        self.timers.pause(paused=False)
