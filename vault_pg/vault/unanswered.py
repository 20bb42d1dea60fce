"""Issues whose answer was lost: Vault may have made a lease that nobody knows of, and its role would live on to its TTL.

Nothing but its token leads to such a lease. So that is replaced, where another can be had; once the leases that are known have moved
it is revoked, and Vault revokes with it whatever it asked for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from vault_pg.clock import Clock, Instant
from vault_pg.errors import VaultError
from vault_pg.events import IssueUnanswered, Listener
from vault_pg.vault.tokens import Tokens

ONCE_IN, SELDOM = 600.0, 86_400.0
"""Seconds between two logins for this reason, at first, and at most: twice as many after each that soon follows another. With each of
them all leases move, so of many one answer is lost again, and that may not be what makes them move for ever."""

MOMENT = 2.0
"""Seconds that a new token is waited for, after an answer was lost, before the next lease is asked for with the old one."""


class Unanswered:
    """Those of one session."""

    def __init__(self, tokens: Tokens, *, method: str, repeatable: bool, emit: Listener, clock: Clock) -> None:
        self._tokens = tokens
        self._method = method
        self._repeatable = repeatable
        self._emit = emit
        self._clock = clock
        self._issues: Counter[int] = Counter()
        self._next: Instant = float("-inf")
        self._pause = ONCE_IN

    @contextmanager
    def issuing(self, serial: int) -> Iterator[None]:
        """Around each issue that is asked for with this token."""
        self._issues[serial] += 1
        try:
            yield
        except VaultError as error:
            if error.in_doubt:
                self.note(serial, error)
            raise
        finally:
            self._issues[serial] -= 1
            if not self._issues[serial]:
                del self._issues[serial]

    def under_way(self, serial: int) -> bool:
        """A lease of this token may be on its way."""
        return serial in self._issues

    async def replaced(self, timeout: float) -> None:
        """Return once the current token is not one that is to be replaced now, or after a moment: Vault may not be able to."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(timeout, MOMENT)
        while (at := self._tokens.current.replace_at) is not None and at <= self._clock() < at + MOMENT:
            left = deadline - loop.time()
            if left <= 0:
                return
            await self._tokens.changed_within(left)

    def note_of(self, secret: SecretStr, error: VaultError) -> None:
        """The same, of the token with this secret."""
        current = self._tokens.current
        for token in (current, *map(self._tokens.of, self._tokens.old)):
            if token.secret == secret:
                self.note(token.serial, error)

    def note(self, serial: int, error: VaultError) -> None:
        """A lease of this token may be alive that nobody knows of."""
        known = serial in self._tokens.old or serial == self._tokens.current.serial
        if not known or self._tokens.dead(serial):
            return  # its leases have died with it
        owned = self._repeatable and self._tokens.of(serial).owned
        self._emit(IssueUnanswered(method=self._method, serial=serial, error=str(error), replaced=owned))
        if owned and serial == self._tokens.current.serial and self._tokens.current.replace_at is None:
            now = self._clock()
            if now > self._next + self._pause:
                self._pause = ONCE_IN
            at = max(now, self._next)
            self._next, self._pause = at + self._pause, min(2 * self._pause, SELDOM)
            self._tokens.replace_from(serial, at)
