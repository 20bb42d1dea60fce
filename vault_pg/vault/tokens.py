"""The tokens of one session, from its first login on, and who wants to know of their changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from vault_pg.clock import Clock, Instant
from vault_pg.errors import NotRunning
from vault_pg.lease import Token
from vault_pg.vault.endpoints import Extension, Grant

ROUNDING = 1.0
"""Seconds: a look-up tells whole ones."""

TokenListener: TypeAlias = Callable[[], object]


class Tokens:
    """Tokens by serial; the newest is the current one. Serials start at 1 and are never used again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[int, Token] = {}
        self._increments: dict[int, float | None] = {}
        self._identities: dict[int, str] = {}
        self._dead: set[int] = set()
        self._sighted: set[int] = set()
        self._serial = 0
        self._listeners: list[TokenListener] = []
        self._changed = asyncio.Event()
        self.doubted = False
        """The current token may end sooner than we believe: it has to be looked up."""
        self.version = 0
        """Moves with every change."""

    @property
    def current(self) -> Token:
        if not self._serial:
            raise NotRunning("the Vault session has no token yet: open it first")
        return self._known[self._serial]

    @property
    def lasting(self) -> Token | None:
        """The current one, where there is one that lives and that a request more or less is nothing to."""
        if not self._serial or self.dead(self._serial) or self.current.uses is not None:
            return None
        return self.current

    def of(self, serial: int) -> Token:
        return self._known[serial]

    @property
    def old(self) -> frozenset[int]:
        """The serials that are known still, without the current one."""
        return frozenset(self._known) - {self._serial}

    def dead(self, serial: int) -> bool:
        return serial in self._dead

    def sees_itself(self, serial: int) -> bool:
        """It has looked itself up once: where it no longer may, it is dead."""
        return serial in self._sighted

    def sight(self, serial: int) -> None:
        """The token has looked itself up."""
        if serial in self._known:
            self._sighted.add(serial)

    def increment(self, token: Token) -> float | None:
        """Seconds to ask a renewal of the token for, never so few that it would end sooner. None leaves it to Vault."""
        wanted = self._increments.get(token.serial)
        return None if wanted is None else max(wanted, token.end - self._clock())

    def adopt(self, grant: Grant, granted_at: Instant) -> Token:
        """A new current token."""
        self._serial += 1
        token = Token(
            secret=grant.secret,
            serial=self._serial,
            issued_at=granted_at,
            granted_at=granted_at,
            ttl=grant.ttl,
            renewable=grant.renewable,
            owned=grant.revocable,
            accessor=grant.accessor,
            display_name=grant.display_name,
            uses=grant.uses,
        )
        self._identities[token.serial] = grant.identity
        self._increments[token.serial] = grant.increment
        self._keep(token)
        if grant.seen:
            self.sight(token.serial)
        return token

    def extend(self, serial: int, extension: Extension, *, granted_at: Instant, asked: float | None) -> Token:
        """A renewal was granted."""
        token = replace(
            self._known[serial],
            granted_at=granted_at,
            ttl=extension.ttl,
            asked=asked,
            renewable=extension.renewable,
        )
        self._keep(token)
        return token

    def see(self, serial: int, grant: Grant, granted_at: Instant) -> Token:
        """The token was looked up: somebody else may have renewed it. What was granted since it was asked stands above that."""
        known = self._known[serial]
        self.doubted = False
        if granted_at < known.granted_at:
            return known
        token = replace(known, granted_at=granted_at, ttl=grant.ttl)
        # Vault counts in whole seconds: a look alone changes nothing, and must not wake those who look when they wake.
        if token.end == known.end or abs(token.end - known.end) <= ROUNDING:
            return known
        self._keep(token)
        return token

    def doubt(self) -> None:
        """Let the current token be looked up before anything else is done with it."""
        self.doubted = True
        self._move()

    def believe(self) -> None:
        """Nobody can tell more of it."""
        self.doubted = False

    def same(self, grant: Grant) -> bool:
        """The grant is one of the current token, and no new one."""
        if not self._serial or self.dead(self._serial):
            return False
        current = self._known[self._serial]
        return grant.secret == current.secret and grant.identity in {"", self._identities[self._serial]}

    def prolong(self, serial: int, grant: Grant, granted_at: Instant) -> Token:
        """The token was looked up, and its end is somebody else's business."""
        known = self._known[serial]
        if granted_at < known.granted_at:
            return known
        token = replace(known, granted_at=granted_at, ttl=grant.ttl, renewable=grant.renewable)
        self._keep(token)
        return token

    def spend(self, serial: int, uses: int) -> None:
        """Requests were made with the token. Wakes only who has to replace it."""
        known = self._known.get(serial)
        if known is None or known.uses is None:
            return
        token = replace(known, used=known.used + uses)
        if token.worn and not known.worn:
            self._keep(token)
        else:
            self._known[serial] = token

    def pin(self, serial: int) -> Token:
        """The token turned out not to be renewable."""
        token = replace(self._known[serial], renewable=False)
        self._keep(token)
        return token

    def replace_from(self, serial: int, at: Instant) -> None:
        """Another should take its place from then on."""
        self._keep(replace(self._known[serial], replace_at=at))

    def spare(self, serial: int) -> None:
        """It stays although it was to be replaced: no other can be had."""
        if (token := self._known.get(serial)) is not None and token.replace_at is not None:
            self._keep(replace(token, replace_at=None))

    def bury(self, serial: int) -> bool:
        """The token is dead: it ends now, and with it the horizon of every lease it asked for. False where that was known."""
        if serial in self._dead or serial not in self._known:
            return False
        self._dead.add(serial)
        token = self._known[serial]
        now = self._clock()
        self._keep(replace(token, granted_at=min(now, token.end), ttl=0.0, renewable=False))
        return True

    def forget(self, serial: int) -> None:
        """No lease names an old token any more."""
        if serial != self._serial:
            self._known.pop(serial, None)
            self._increments.pop(serial, None)
            self._identities.pop(serial, None)
            self._dead.discard(serial)
            self._sighted.discard(serial)

    def revocable(self) -> list[Token]:
        """Those that we logged in for and that still live."""
        now = self._clock()
        return [token for token in self._known.values() if token.owned and token.serial not in self._dead and token.end > now]

    def add_listener(self, listener: TokenListener) -> Callable[[], None]:
        """Call `listener()` on the loop after every change; returns what stops that. It must neither block nor raise."""
        self._listeners.append(listener)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return remove

    def wake(self) -> None:
        """End the waits for a change, though nothing has changed."""
        # Set and replaced: those who wait now wake, those who come next wait for the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed_within(self, seconds: float | None) -> bool:
        """Wait for the next change, `seconds` at most. None waits as long as it takes."""
        version = self.version
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        # Both may happen at once, and then the change is what counts.
        return self.version != version

    def _keep(self, token: Token) -> None:
        self._known[token.serial] = token
        self.doubted = False
        self._move()
        for listener in tuple(self._listeners):
            listener()

    def _move(self) -> None:
        self.version += 1
        self.wake()
