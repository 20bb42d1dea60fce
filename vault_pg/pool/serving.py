"""Serving clients: the checkout side of a HotSwapPool, whichever generations stand behind it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import ref

from psycopg import OperationalError
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from psycopg_pool.abc import ACT

from vault_pg import fork
from vault_pg.errors import NoCredential, NotRunning, astray
from vault_pg.events import Listener
from vault_pg.pool.check import DEAD
from vault_pg.pool.checkout import Checkout
from vault_pg.pool.connector import Connector
from vault_pg.pool.generation import Generation, Place
from vault_pg.pool.opening import closing_what_fails
from vault_pg.pool.queue import WaitingLine
from vault_pg.pool.returns import Returns
from vault_pg.pool.stock import pool_logger

NOTHING: deque[Any] = deque(maxlen=0)


class CheckoutRefused(NoCredential, OperationalError):
    """NoCredential as a checkout raises it: psycopg's OperationalError too, which code written for psycopg_pool expects."""


def check_kind(pool: object, taker: str) -> None:
    """Raises TypeError for what is no pool that can stand behind a holder."""
    if not isinstance(pool, AsyncConnectionPool):
        raise TypeError(
            f"{taker} takes a psycopg_pool.AsyncConnectionPool, not a {type(pool).__name__}: make one with open=False"
        )


def check_numbers(taker: str, **given: object) -> None:
    """Raises TypeError for True and False, which are numbers to Python and here a mistake."""
    for name, value in given.items():
        if isinstance(value, bool):
            raise TypeError(f"{taker} was given {name}={value}: give a number")


class Serving(Returns[ACT]):
    """Checkouts, and the line in front."""

    # CPython keeps up to 30 attributes of an object in place, and makes a dict of 1.5 KB for one with more. A pool has 31, so what a
    # holder has besides, and two of the pool's that it has no use for, are kept out of their number.
    __slots__ = (
        "_background", "_doubted", "_ending", "_home", "_listener", "_managed",
        "_pool", "_pools", "_refusal", "_replacing", "_waiting", "drain_timeout",
    )  # fmt: skip

    def __init__(
        self,
        pool: AsyncConnectionPool[ACT],
        *,
        name: str | None = None,
        overlap: int | None = None,
        drain_timeout: float = 60.0,
        max_waiting: int | None = None,
        listener: Listener | None = None,
        managed: bool = False,
        doubt: Callable[[], object] | None = None,
        expired: Callable[[], bool] | None = None,
    ) -> None:
        check_kind(pool, "HotSwapPool()")
        check_numbers("HotSwapPool()", overlap=overlap, drain_timeout=drain_timeout, max_waiting=max_waiting)
        if max_waiting is None:
            max_waiting = pool.max_waiting
        self._pools: list[ref[AsyncConnectionPool[ACT]]] = []
        self._current = self._adopt(pool, 1)
        super().__init__(
            pool.conninfo,
            connection_class=class_of(pool),
            kwargs=pool.kwargs,
            min_size=pool.min_size,
            max_size=pool.max_size,
            open=False,
            name=name or pool.name,
            close_returns=pool.close_returns,
            timeout=pool.timeout,
            max_waiting=max_waiting,
            max_lifetime=pool.max_lifetime,
            max_idle=pool.max_idle,
            reconnect_timeout=pool.reconnect_timeout,
            num_workers=pool.num_workers,
        )
        self._pool = self._waiting = NOTHING  # connections and clients are the generations'
        # Not Counter[str](), which notes its type on the object in half a KB.
        self._stats = Counter()
        self._past = Counter()
        self.overlap = max(1, pool.min_size if overlap is None else overlap)
        self.drain_timeout = drain_timeout
        self._listener = listener
        self._managed = managed
        self._doubted = doubt
        self._expired = expired
        self._ending: asyncio.Task[None] | None = None
        self._outgoing = []
        self._borrowed = {}
        self._line = WaitingLine[Generation[ACT]](self._give_back)
        self._refusal: str | None = None
        self._background: list[asyncio.Task[None]] = []
        self._replacing = asyncio.Lock()
        self._closed = pool.closed
        self._opened = not pool.closed
        self._parent = None
        self._home = asyncio.get_running_loop() if managed else None
        fork.watch(self)

    def _check_size(self, min_size: int, max_size: int | None) -> tuple[int, int]:
        return self._current.pool._check_size(min_size, max_size)  # a null pool has rules of its own

    def _adopt(self, pool: AsyncConnectionPool[ACT], number: int) -> Generation[ACT]:
        if isinstance(pool, Serving):
            raise TypeError("a HotSwapPool can't stand behind another one")
        self._pools = [ref(known) for known in (*self._all_pools(), pool)]
        pool.max_waiting = 0  # the line stands in front of the holder, which keeps the limit
        tell: Callable[[Any], Any] | None = pool._reconnect_failed
        if tell is not None:
            pool._reconnect_failed = lambda _: tell(self)  # the hook is told of the pool that its user knows
        if pool._configure is not None:
            pool._configure = closing_what_fails(pool._configure)
        if number != 1:
            pool._open_implicit = False  # replace() opens it, so psycopg_pool need not warn
        return Generation(pool, number, self._came_back)

    def _all_pools(self) -> list[AsyncConnectionPool[ACT]]:
        """Every pool there was, as far as it still exists."""
        return [pool for known in self._pools if (pool := known()) is not None]

    # -- checkout

    async def getconn(self, timeout: float | None = None) -> ACT:
        """Obtain a connection; pair it with `putconn()`, or use `connection()`, which does.

        Raises PoolTimeout after `timeout` seconds (default: the pool's), TooManyRequests, PoolClosed, and NoCredential at once while
        no credential works.
        """
        frame = sys._getframe(1)
        return await self._borrow(timeout, (frame.f_code, frame.f_lineno))

    def connection(self, timeout: float | None = None) -> Checkout[ACT]:  # type: ignore[override] # no generator behind it
        """Obtain a connection for a block: on exit commit, or roll back on an error, and return it. Raises as `getconn()` does."""
        frame = sys._getframe(1)
        return Checkout(self, timeout, (frame.f_code, frame.f_lineno))

    async def _borrow(self, timeout: float | None, place: Place) -> ACT:
        if timeout is None:
            timeout = self.timeout
        pool_logger.info("connection requested from %r", self.name)
        self._stats[self._REQUESTS_NUM] += 1
        home = self._home
        if self._closed or self._refusal is not None or (home is not None and asyncio.get_running_loop() is not home):
            self._check_serving()
        if self.max_waiting:
            self._check_waiting()
        deadline = monotonic() + timeout
        generation = self._current
        try:
            if generation.in_use < generation.cap and not self._line:
                generation.in_use += 1
                if timeout <= 0 or (conn := generation.take()) is None:
                    conn, generation = await self._getconn_in_line(deadline, generation)
            else:
                conn, generation = await self._getconn_in_line(deadline)
        except BaseException as error:
            self._stats[self._REQUESTS_ERRORS] += 1
            if isinstance(error, PoolTimeout):
                raise PoolTimeout(f"couldn't get a connection after {timeout:.2f} sec") from None
            raise
        conn._pool = self
        self._borrowed[conn] = (generation, monotonic(), asyncio.current_task(), place)
        if self._expired is not None and self._expired():
            return await self._turn_back(conn, deadline, place)
        pool_logger.info("connection given by %r", self.name)
        return conn

    async def _turn_back(self, conn: ACT, deadline: float, place: Place) -> ACT:
        """Its credential has ended, and no timer has said so before it was taken."""
        await self.putconn(conn)
        self._check_serving()
        return await self._borrow(max(0.0, deadline - monotonic()), place)  # replaced meanwhile

    def _doubt(self, conn: ACT, error: BaseException) -> None:
        """A query failed: perhaps as it does when the credential is dead, or the connection is lost and others may be with it."""
        if self._parent is not None:
            return
        if (borrowed := self._borrowed.get(conn)) is None:
            return  # the block has returned it itself
        generation, dead, lost = borrowed[0], isinstance(error, DEAD), conn.broken
        if dead or lost:
            generation.doubt(role=dead, lost=lost)
        if dead and self._doubted is not None and generation is self._current:
            self._doubted()

    def _used(self, seconds: float) -> None:
        self._stats[self._USAGE_MS] += int(1000.0 * seconds)

    async def _getconn_in_line(self, deadline: float, generation: Generation[ACT] | None = None) -> tuple[ACT, Generation[ACT]]:
        """The slower way: wait for a place, if there is none yet, then for its connection; once more, ahead of others, if its pool is
        retired in between. However often it waits, it counts as queued once.
        """
        moved = queued = False
        while True:
            if generation is None:
                self._check_serving()
                generation = self._vacancy() if moved or not self._line else None
                if generation is not None:
                    generation.in_use += 1
                else:
                    generation = await self._place(deadline, moved=moved, queued=queued)
                    queued = True
            try:
                conn = await generation.lend(deadline, queued=queued)
            except BaseException as error:
                self._give_back(generation)
                if not _moved(error, generation):
                    raise
            else:
                if not generation.overdue:
                    return conn, generation
                await self._part_with(conn, generation)  # a check, or a login, that took longer than the drain
            moved = queued = True
            generation = None

    async def _place(self, deadline: float, *, moved: bool, queued: bool) -> Generation[ACT]:
        """Wait in the line for a generation with room for one more checkout, already counted for the caller."""
        start = monotonic()
        self._stats[self._REQUESTS_QUEUED] += not queued
        try:
            return await self._line.wait(deadline - start, first=moved)
        except TimeoutError:
            raise PoolTimeout from None
        finally:
            self._stats[self._REQUESTS_WAIT_MS] += int(1000 * (monotonic() - start))

    def disown(self) -> None:
        """In a forked child: an open pool is the parent's, and one that is not open yet may be opened here."""
        if not self._closed:
            self._parent, self._closed = os.getppid(), True
            fork.sever(
                conn.fileno()
                for conn in [*self._borrowed, *(c for pool in self._all_pools() for c in pool._pool)]
                if not conn.closed
            )
            for conn in self._borrowed:
                conn._pool = None  # there is none to return it to: whoever holds its copy closes it
            self._borrowed.clear()

    def _check_serving(self) -> None:
        if self._parent is not None:
            raise NotRunning(fork.sentence(f"the pool {self.name!r}", self._parent))
        self._check_open_getconn()
        if self._home is not None and asyncio.get_running_loop() is not self._home:
            raise NotRunning(astray(f"the pool {self.name!r}"))
        if self._expired is not None:
            self._expired()
        if self._refusal is not None:
            raise CheckoutRefused(self._refusal)

    def _check_waiting(self) -> None:
        """Keep `max_waiting` as psycopg_pool does, but send nobody away for the narrower limits of a swap."""
        current = self._current
        waiting = len(self._line) + current.waiting
        narrowed = max(0, current.full_max_size - current.cap)  # so many more would have a connection
        if waiting >= self.max_waiting + narrowed and not current.available:
            self._stats[self._REQUESTS_ERRORS] += 1
            raise TooManyRequests(f"the pool {self.name!r} has already {waiting} requests waiting")


def class_of(pool: AsyncConnectionPool[ACT]) -> type[ACT]:
    connector = pool.connection_class
    return connector.connection_class if isinstance(connector, Connector) else connector


def _moved(error: BaseException, generation: Generation[ACT]) -> bool:
    """The pool was closed because it was replaced, not because somebody closed it."""
    return isinstance(error, PoolClosed) and generation.retired
