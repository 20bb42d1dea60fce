"""Between the session and Vault: while Vault is away nobody hammers it, and once it is back everybody knows at once."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vault_pg.clock import Clock, Instant
from vault_pg.errors import VaultError, VaultUnavailable
from vault_pg.events import Listener, VaultReachable, VaultUnreachable
from vault_pg.vault.answers import CUT_SHORT
from vault_pg.vault.outage import Outage, after_call, after_failed_call, after_failed_probe, after_probe, doubt, pause, refuses

T = TypeVar("T")

QUICK = 2.0
"""Seconds that a probe waits for: one that a hanging Vault swallowed must not stand in the way of the next."""

BREATH = 0.1
"""Seconds between the end of a probe and the next, at the least."""

OVERTAKEN = 1.0
"""Seconds that a call has left once a probe was answered that was made after it: whatever Vault was asked before it was away, it may
never answer. Then it is asked again."""

WAKES = 200
"""Waiters woken a second when Vault is back; the others come as their own pause ends."""


class Circuit:
    """Knows whether Vault answers, by the session's calls and, while it does not, by one probe at a time.

    `probe(timeout)` asks for something cheap, and raises VaultUnavailable; it returns False where its answer does not show that calls
    are served. `patience` (seconds) is what a call has where nothing
    presses. Without `watch` running nobody is refused, since nobody would find out that Vault is back.
    """

    def __init__(
        self,
        probe: Callable[[float], Awaitable[bool | None]],
        *,
        address: str,
        emit: Listener,
        clock: Clock,
        draw: Callable[[], float],
        patience: float,
    ) -> None:
        self._probe = probe
        self._address = address
        self._emit = emit
        self._clock = clock
        self._draw = draw
        self._patience = patience
        self._outage: Outage | None = None
        self._last: tuple[float, int] | None = None
        self.answered_at: Instant | None = None
        """When Vault last answered anything."""
        self._watched = False
        self._began = asyncio.Event()
        self._trying = False
        self._tried_at = self._probed_at = clock()
        self._under_way: dict[asyncio.Timeout, float] = {}
        self._waiters: dict[_Waiter, None] = {}

    @property
    def outage(self) -> Outage | None:
        """What is wrong with Vault as far as anybody knows now."""
        return None if self._outage is not None and self._outage.heard else self._outage

    @property
    def reachable(self) -> bool:
        """Vault has answered, and nothing says that it no longer does."""
        return self.answered_at is not None and self.outage is None

    @contextmanager
    def passage(self, timeout: float) -> Iterator[None]:
        """Around each call. Raises VaultUnavailable instead where Vault is away; now and then one call at a time may try all the same."""
        outage = self._outage
        if outage is None or not outage.confirmed or not self._watched:
            yield
            return
        pressed = timeout < self._patience * CUT_SHORT
        if self._trying or refuses(outage, tried=self._clock() - self._tried_at, pressed=pressed):
            raise _again(outage.error)
        self._trying = True
        try:
            yield
        finally:
            self._trying, self._tried_at = False, self._clock()

    async def carried(self, call: Callable[[float], Awaitable[T]], timeout: float, *, undone: bool) -> T:
        """`call(timeout)`, made again with what time is left where an outage that it began before is over and it still waits.

        `undone`: whoever makes calls undoes what comes of one that is cancelled.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout(None) as scope:
                self._under_way[scope] = deadline
                try:
                    return await call(timeout)
                finally:
                    del self._under_way[scope]
        except TimeoutError:
            if not scope.expired():
                raise
        try:
            return await call(deadline - asyncio.get_running_loop().time())
        except VaultError as error:
            error.in_doubt = error.in_doubt or not undone  # Vault may have done what it was asked first
            raise

    def failed(self, error: VaultUnavailable) -> None:
        """A call failed."""
        if self._outage is not None:
            self._outage = after_failed_call(self._outage, error)
            return
        self._outage = doubt(error, self._clock(), self._last)
        self._probed_at = self._clock()
        self._began.set()

    def answered(self) -> None:
        """A call was answered, whatever the answer says."""
        self.answered_at = self._clock()
        if self._outage is not None:
            self._become(after_call(self._outage) if self._watched else None)

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Around the wait of one whose call failed: `wake()` is called, once at most, when Vault is back."""
        waiter = _Waiter(wake)
        self._waiters[waiter] = None
        try:
            yield
        finally:
            del self._waiters[waiter]
            waiter.leave()

    async def watch(self) -> None:
        """Probe Vault while it does not answer, for ever. While all is well nothing is asked."""
        self._watched = True
        try:
            while True:
                while self._outage is not None:
                    await self._look(self._outage)
                self._began.clear()
                await self._began.wait()
        finally:
            self._watched = False

    async def _look(self, outage: Outage) -> None:
        wait = self._probed_at + pause(outage, self._draw()) - self._clock()
        await asyncio.sleep(max(BREATH, wait))
        if self._outage is None:
            return
        self._probed_at = self._clock()
        try:
            serves = await self._probe(min(QUICK, self._patience))
        except VaultUnavailable as error:
            self._probe_failed(error)
        else:
            self.answered_at = self._clock()
            if self._outage is not None:
                self._become(after_probe(self._outage, serves=serves is not False))

    def _probe_failed(self, error: VaultUnavailable) -> None:
        outage = self._outage
        if outage is None:
            return  # a call was answered meanwhile
        self._become(after_failed_probe(outage, error))

    def _become(self, outage: Outage | None) -> None:
        before, self._outage = self._outage, outage
        now = self._clock()
        if before is None:
            return
        if outage is not None:
            if outage.confirmed and not before.confirmed:
                self._tried_at = now
                self._emit(VaultUnreachable(address=self._address, error=str(outage.error)))
            return
        if before.confirmed:
            self._emit(VaultReachable(address=self._address, outage_seconds=round(now - before.since, 3)))
            self._overtake()
        if before.confirmed or before.unsteady:
            self._last = now if before.confirmed or self._last is None else self._last[0], before.level
            for place, waiter in enumerate(self._waiters):
                waiter.call(place / WAKES)

    def _overtake(self) -> None:
        at = asyncio.get_running_loop().time() + OVERTAKEN
        for scope, deadline in self._under_way.items():
            if deadline - at > OVERTAKEN and not scope.expired():
                scope.reschedule(at)


class _Waiter:
    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None

    def call(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    def leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _again(error: VaultUnavailable) -> VaultUnavailable:
    """The same for another caller, for whom nothing is asked. Its Retry-After is what probes wait for already."""
    told = copy.copy(error)
    told.retry_after, told.in_doubt = None, False
    return told
