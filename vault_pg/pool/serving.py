"""Serving clients: the checkout side of a HotSwapPool, whichever generations stand behind it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, deque
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeAlias
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
from vault_pg.pool.farewell import Shadow
from vault_pg.pool.generation import Borrow, Generation, Place
from vault_pg.pool.info import count_return
from vault_pg.pool.opening import closing_what_fails
from vault_pg.pool.queue import WaitingLine
from vault_pg.pool.stock import pool_logger

NOTHING: deque[Any] = deque(maxlen=0)

Loan: TypeAlias = tuple[Generation[ACT], float, asyncio.Task[object] | None, Place]
"""Whose connection it is, since when (monotonic) it is out, and who asked for it, where."""

_CUT_OFF = "_vault_pg_cut_off"


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


class Serving(AsyncConnectionPool[ACT]):
    """Checkouts, returns, the line in front, and the count of it all."""

    # CPython keeps up to 30 attributes of an object in place, and makes a dict of 1.5 KB for one with more. A pool has 31, so what a
    # holder has besides, and two of the pool's that it has no use for, are kept out of their number.
    __slots__ = (
        "_background", "_borrowed", "_current", "_doubted", "_ending", "_home", "_line", "_listener", "_managed", "_outgoing",
        "_parent", "_past", "_pool", "_pools", "_refusal", "_replacing", "_waiting", "drain_timeout", "overlap",
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
        self._past: Counter[str] = Counter()
        self.overlap = max(1, pool.min_size if overlap is None else overlap)
        self.drain_timeout = drain_timeout
        self._listener = listener
        self._managed = managed
        self._doubted = doubt
        self._expired = expired
        self._ending: asyncio.Task[None] | None = None
        self._outgoing: list[Generation[ACT]] = []
        self._borrowed: dict[ACT, Loan[ACT]] = {}
        self._line = WaitingLine[Generation[ACT]](self._give_back)
        self._refusal: str | None = None
        self._background: list[asyncio.Task[None]] = []
        self._replacing = asyncio.Lock()
        self._closed = pool.closed
        self._opened = not pool.closed
        self._parent: int | None = None
        """The process that it belongs to, where that is not this one."""
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

    # -- checkout and return

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
                return await generation.lend(deadline, queued=queued), generation
            except BaseException as error:
                self._give_back(generation)
                if not _moved(error, generation):
                    raise
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

    async def putconn(self, conn: ACT) -> None:
        """Return a connection to the pool that it came from, even if that pool has been replaced since."""
        borrowed = self._borrowed.pop(conn, None)
        if borrowed is None and (borrowed := self._cut_off(conn)) is not None:
            del conn.__dict__[_CUT_OFF]
        if borrowed is None:
            if self._parent is not None:
                conn.pgconn.finish()  # of the parent's, and severed
                return
            self._check_pool_putconn(conn)
            raise ValueError(f"can't return connection to pool {self.name!r}, it has been returned already: {conn}")
        generation = borrowed[0]
        pool_logger.info("returning connection to %r", self.name)
        count_return(conn)
        conn._pool = generation.pool
        if generation.outgoing and generation.retired:
            await self._part_with(conn, generation)
            return
        returning = generation.put(conn)
        if returning is not None:
            await asyncio.shield(returning)

    def _loan(self, conn: ACT) -> Loan[ACT]:
        """Who has this connection. Raises KeyError if it is not out."""
        return self._cut_off(conn) or self._borrowed[conn]

    def _cut_off(self, conn: ACT) -> Loan[ACT] | None:
        return conn.__dict__.get(_CUT_OFF) if getattr(conn, "_pool", None) is self else None

    def _let_go(self, generation: Generation[ACT]) -> None:
        """Whoever was cut off may never return what is left of the connection. From here on that keeps the note of its loan itself, so
        that it is gone once nobody holds it any more.
        """
        for conn, (lender, since, _, place) in [*self._borrowed.items()]:
            if lender is generation:
                del self._borrowed[conn]
                conn.__dict__[_CUT_OFF] = (generation, since, None, place)

    def _came_back(self, generation: Generation[ACT], conn: ACT | None) -> None:
        if conn is not None and generation.outgoing and generation.retired and generation in self._outgoing:
            self._see_off(Shadow(conn), generation)  # retired meanwhile
        self._give_back(generation)

    async def _part_with(self, conn: ACT, generation: Generation[ACT]) -> None:
        """Close a connection of a retired pool, whatever hooks that pool has."""
        leaving = Shadow(conn) if generation in self._outgoing else None
        conn._pool = None
        try:
            await conn.close()
        finally:
            conn.pgconn.finish()  # even where a close() of the user's own was cancelled
            generation.pool._nconns -= 1  # so that it counts as one that is leaving, and once
            if leaving is not None:
                self._see_off(leaving, generation)
            self._give_back(generation)

    def _see_off(self, leaving: Shadow, generation: Generation[ACT]) -> None:
        """The slot of a connection that closed on its return is free when the server says so."""
        task = asyncio.create_task(leaving.gone(), name=f"{self.name}-farewell")
        generation.leaving.append(task)

        def left(task: asyncio.Task[None]) -> None:
            generation.leaving.remove(task)
            self._make_room()

        task.add_done_callback(left)

    def _give_back(self, generation: Generation[ACT]) -> None:
        generation.in_use -= 1
        if generation.outgoing:
            generation.came_down()
            self._make_room()
        else:
            if generation._waiters:
                generation.came_down()
            if self._line:
                self._serve_line()

    def _make_room(self) -> None:
        """Let the current pool grow by what the retired ones have given up: never more than `max_size + overlap` in all."""
        if self._outgoing and all(generation.retired for generation in self._outgoing):  # else a handover says what may grow
            self._current.limit(self._max_size + self.overlap - sum(generation.size for generation in self._outgoing))
        self._serve_line()

    def _vacancy(self) -> Generation[ACT] | None:
        """A generation that may serve one more: the current one, or one that is handing over to it."""
        for generation in (self._current, *self._outgoing):
            if generation.in_use < generation.cap and not generation.retired:
                return generation
        return None

    def _serve_line(self) -> None:
        while self._line and (generation := self._vacancy()) is not None:
            generation.in_use += 1
            if not self._line.hand_over(generation):
                generation.in_use -= 1

    # -- what it tells

    @property
    def borrowers(self) -> list[Borrow[ACT]]:
        """Who holds which connection, since when."""
        return [
            Borrow(conn, generation, since, task.get_name() if task else "no task", f"{code.co_filename}:{line}")
            for conn, (generation, since, task, (code, line)) in self._borrowed.items()
        ]

    @property
    def in_use(self) -> int:
        """Connections of the serving pool that are out."""
        return self._current.in_use

    def _inner_counters(self) -> tuple[str, ...]:
        return (
            self._REQUESTS_QUEUED, self._REQUESTS_WAIT_MS,
            self._CONNECTIONS_NUM, self._CONNECTIONS_MS, self._CONNECTIONS_ERRORS, self._CONNECTIONS_LOST, self._RETURNS_BAD,
        )  # fmt: skip

    def _alive(self) -> list[Generation[ACT]]:
        return [self._current, *(g for g in self._outgoing if g is not self._current)]

    def get_stats(self) -> dict[str, int]:
        """psycopg_pool's statistics, counted on across generations, and `generation`, `generations_alive`, `pool_draining`."""
        stats = Counter(self._stats)
        stats.update(self._past)
        for generation in self._alive():
            stats.update({key: generation.counters()[key] for key in self._inner_counters()})
        return dict(stats) | self._get_measures()

    def pop_stats(self) -> dict[str, int]:
        """As `get_stats()`; the counters start anew."""
        stats = self.get_stats()
        self._stats, self._past = Counter(), Counter()
        for generation in self._alive():
            generation.pop_counters()
        return stats

    def _get_measures(self) -> dict[str, int]:
        return {
            self._POOL_MIN: self._min_size,
            self._POOL_MAX: self._max_size,
            self._POOL_SIZE: self._current.size,
            self._POOL_AVAILABLE: self._current.available,
            self._REQUESTS_WAITING: len(self._line) + self._current.waiting,
            "generation": self._current.number,
            "generations_alive": len(self._alive()),
            "pool_draining": sum(g.in_use for g in self._outgoing if g is not self._current),
        }


def class_of(pool: AsyncConnectionPool[ACT]) -> type[ACT]:
    connector = pool.connection_class
    return connector.connection_class if isinstance(connector, Connector) else connector


def _moved(error: BaseException, generation: Generation[ACT]) -> bool:
    """The pool was closed because it was replaced, not because somebody closed it."""
    return isinstance(error, PoolClosed) and generation.retired
