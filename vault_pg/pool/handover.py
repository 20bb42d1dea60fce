"""How traffic moves from one generation to the next: connection by connection, so that nobody notices.

Opening a SCRAM connection costs client and server 5 to 10 ms of CPU each. A new pool that had to open its connections while everybody
waits for it would be what the clients feel of a rotation. So the new generation is opened one connection at a time, with a breath after
each; and where the budget allows no more, the old one gives up a connection for each that the new one gets. Both serve meanwhile, and
together they never have fewer than `max_size` connections where traffic needs them, nor ever more than `max_size + overlap`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Generic

import psycopg
from psycopg_pool import AsyncNullConnectionPool, PoolTimeout
from psycopg_pool.abc import ACT

from vault_pg.pool.faults import is_too_many_clients
from vault_pg.pool.generation import Generation

BREATH = 30.0
"""Pause after each connection, as a multiple of the time that opening it took: a login holds up the event loop for most of that time,
so the pauses decide how many of the queries around a rotation are among those held up."""

MOST = 1.5
"""Seconds that a handover may take at most, and the warming before it as much; with less time the breaths are shorter."""


class Handover(Generic[ACT]):
    """Moves traffic from `old` to `new`, within `seconds`. `busy` tells how many connections traffic needs now."""

    def __init__(
        self, old: Generation[ACT], new: Generation[ACT], *, budget: int, busy: Callable[[], int], seconds: float
    ) -> None:
        self._old = old
        self._new = new
        self._budget = budget
        self._busy = busy
        self._seconds = min(MOST, seconds)

    @property
    def _wanted(self) -> int:
        return min(self._new.full_max_size, max(self._new.full_min_size, self._busy()))

    @property
    def _by_pieces(self) -> bool:
        """A pool that keeps no connections has none to hand over."""
        pools = (self._old.pool, self._new.pool)
        return not any(isinstance(pool, AsyncNullConnectionPool) for pool in pools) and not self._old.pool.closed

    async def warm(self, timeout: float) -> None:
        """Open the new pool, before it serves, with what traffic needs and the budget allows, all within `timeout` seconds.

        Raises what its opening raises. A server that has no slot left means fewer connections, not a failure: for the first one the old
        pool makes room.
        """
        with suppress(TimeoutError):  # no borrower holds up a replace
            await self._old.patiently(self._seconds, self._old.shed())
        end = asyncio.get_running_loop().time() + timeout
        self._old.limit(self._budget - 1)  # what the new one does not have yet is the old one's to grow into
        await self._open(timeout)
        if not self._by_pieces:
            return
        self._new.limit(self._new.size)  # it grows by the handover alone, until the old one is retired
        try:
            async with asyncio.timeout_at(end):
                await self._grow(lambda: min(self._wanted, self._budget - self._old.size), give_way=False)
        except TimeoutError:
            raise PoolTimeout(f"pool initialization incomplete after {timeout} sec") from None
        finally:
            self._old.limit(self._budget - self._new.size)

    async def _open(self, timeout: float) -> None:
        giving: asyncio.Task[bool] | None = None

        def no_slot() -> None:
            nonlocal giving
            if giving is None:  # one is what this pool owes: others may take what it gives
                giving = asyncio.create_task(self._old.give_up_one(), name=f"{self._old.pool.name}-give-way")

        try:
            await self._new.open(min(1, self._wanted), timeout, no_slot=no_slot)
        finally:
            if giving is not None:
                giving.cancel()
                await asyncio.gather(giving, return_exceptions=True)

    async def run(self, served: Callable[[], object]) -> None:
        """Both serve: let the old pool shrink as the new one grows. Ends early, and in order, if there is no time or a login fails."""
        if self._by_pieces:
            with suppress(Exception):  # a hook's too: the new pool is proven, and grows by itself as it is needed
                await self._old.patiently(self._seconds, self._grow(lambda: self._wanted, give_way=True, served=served))

    async def _grow(self, size: Callable[[], int], *, give_way: bool, served: Callable[[], object] = lambda: None) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        while not self._old.retired and self._new.size < size():
            while give_way and self._old.size + self._new.size >= self._budget:
                if not await self._old.give_up_one():
                    return
            start = loop.time()
            # What is about to be opened here is no longer the old one's to grow into; what that has given up it does not get back.
            room = self._budget - self._new.size - 1
            self._old.limit(min(self._old.cap, room) if give_way else room)
            try:
                await self._new.grow()
            except psycopg.OperationalError as error:
                if is_too_many_clients(error):
                    return
                raise
            served()
            if not self._busy():
                continue  # nobody is there to notice
            took, left = loop.time() - start, max(0, size() - self._new.size)  # clients may have gone away
            await asyncio.sleep(max(0.0, min(BREATH * took, (end - loop.time()) / (left + 1) - took)))
