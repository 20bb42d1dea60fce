"""The connections of one pool: taken out, waited for and put back, with no moment at which a cancellation could lose one.

psycopg_pool takes several turns of the event loop for each of these. A client cancelled between two of them leaves a connection that is
neither in the pool nor out of it, and its place is gone for good. Here each is one step with no await in it; and what takes longer, a
login, a rollback, a hook, runs in a task of its own that ends in order whatever becomes of the caller.

This module, `upkeep` and `generation` reach below psycopg_pool's public face: tests pin what is used.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.errors import ConnectionTimeout
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, PoolTimeout
from psycopg_pool.abc import ACT
from psycopg_pool.base import AttemptWithBackoff

from vault_pg.pool.claim import Claim
from vault_pg.pool.farewell import sever

pool_logger = logging.getLogger("psycopg.pool")
"""psycopg_pool's own, for what it says too and in its words: a log of its pools reads the same with a holder in front of them."""

T = TypeVar("T")
IDLE, UNKNOWN = TransactionStatus.IDLE, TransactionStatus.UNKNOWN


class Stock(ABC, Generic[ACT]):
    """What one pool has, and how many of its connections are out.

    A connection that is out takes a place: `in_use` counts them. Whoever takes a connection has counted its place before; `put()` gives
    back both.
    """

    def __init__(self, pool: AsyncConnectionPool[ACT]) -> None:
        self.pool = pool
        self.in_use = 0
        self.queues_itself = isinstance(pool, AsyncNullConnectionPool)
        """A null pool keeps a connection only for who waits in its own queue, so that is where clients have to wait."""
        kind = type(pool)
        self._own_ways = kind.getconn is not AsyncConnectionPool.getconn or kind.putconn is not AsyncConnectionPool.putconn
        self._plain = not (self._own_ways or self.queues_itself or pool._check is not None)
        self._simple_return = not (self._own_ways or self.queues_itself or pool._reset is not None)
        self._doubtful: Callable[[ACT], bool] | None = None
        """Tells which connections have to be asked first."""
        self.returning: tuple[ACT, ...] = ()
        """Connections that a rollback, a hook or a close still works on."""
        self.asked: tuple[ACT, ...] = ()
        """Connections that a check works on, before anybody has them."""
        self._under_way: list[asyncio.Task[Any]] = []

    @abstractmethod
    def came_back(self, conn: ACT | None) -> None:
        """A place is free again; its connection is in the pool, with another client, or closed."""

    # -- taking

    def take(self) -> ACT | None:
        """An idle connection, if it needs neither check nor waiting."""
        pool = self.pool
        if self._plain and pool._pool and not pool._closed and not pool._open_implicit:
            if self._doubtful is not None and self._doubtful(pool._pool[0]):
                return None
            return self.take_idle()
        return None

    def take_idle(self) -> ACT:
        """Take an idle connection out of the pool, which must have one."""
        pool = self.pool
        conn = pool._pool.popleft()
        pool._nconns_min = min(pool._nconns_min, len(pool._pool))
        return conn

    async def lend(self, deadline: float, *, queued: bool) -> ACT:
        """A connection as the pool's own `getconn()` gives it, by `deadline` (monotonic). Raises PoolTimeout and PoolClosed.

        One who has `queued` already is not counted as queued again.
        """
        pool = self.pool
        if self._own_ways:
            return await self._undisturbed(pool.getconn(deadline - monotonic()), "getconn")
        attempt: AttemptWithBackoff | None = None
        begun = monotonic()
        while True:
            pool._check_open_getconn()
            conn = await self._obtain(deadline, queued=queued)
            if pool._check is None:
                return conn
            loop = asyncio.get_running_loop()
            alarm = loop.call_later(max(0.0, deadline - monotonic()), sever, conn)
            try:
                if await self.passes_check(conn):
                    if loop.time() < alarm.when():
                        return conn
                    conn.pgconn.finish()  # severed: the check took longer than the client would wait, and did not see it
                    self._put_aside(conn)
                    raise PoolTimeout
            finally:
                alarm.cancel()
            if not conn.closed or conn._created_at >= begun:  # else it is one less of those that were dead before: no busy loop
                attempt = await _pause(attempt, deadline)

    async def passes_check(self, conn: ACT) -> bool:
        """Ask the pool's check about a connection that is out; one that fails is put back, which leaves the caller its place."""
        conn._pool = self.pool
        try:
            with self._asking(conn):
                await self.pool._check_connection(conn)
        except BaseException as error:
            if not isinstance(error, Exception):
                conn.pgconn.finish()  # cut off in the middle: who knows what the check has left behind
            self._put_aside(conn)
            if not isinstance(error, Exception):
                raise
            return False
        return True

    @contextmanager
    def _asking(self, conn: ACT) -> Iterator[None]:
        self.asked += (conn,)
        try:
            yield
        finally:
            self.asked = tuple(known for known in self.asked if known is not conn)

    async def _obtain(self, deadline: float, *, queued: bool) -> ACT:
        pool = self.pool
        while True:
            if monotonic() >= deadline:
                raise PoolTimeout
            if pool._pool:
                return self.take_idle()
            if self.queues_itself and self._has_room:
                pool._nconns += 1
                return await self._undisturbed(self._login(deadline - monotonic()), "login")
            start = monotonic()
            pool._stats[pool._REQUESTS_QUEUED] += not queued
            queued = True
            try:
                conn = await self._wait(deadline)
            finally:
                pool._stats[pool._REQUESTS_WAIT_MS] += int(1000 * (monotonic() - start))
            if conn is not None:
                return conn
            pool._check_open_getconn()

    @property
    def _has_room(self) -> bool:
        return not self.pool._max_size or self.pool._nconns < self.pool._max_size

    async def _wait(self, deadline: float) -> ACT | None:
        """Wait in the pool's own queue, and let the pool grow if it may."""
        pool = self.pool
        claim = Claim[ACT]()
        pool._waiting.append(claim)
        pool._maybe_grow_pool()
        alarm = asyncio.get_running_loop().call_later(max(0.0, deadline - monotonic()), claim.time_out)
        try:
            return await claim.served
        except BaseException:
            if (conn := claim.handed) is not None:  # handed over and cancelled in the same tick
                self._put_aside(conn)
            else:
                with suppress(ValueError):
                    pool._waiting.remove(claim)
                self.offer_room()  # it may have been offered some, and cancelled in the same tick
            raise
        finally:
            alarm.cancel()

    async def _login(self, timeout: float) -> ACT:
        """A connection that a null pool opens for one client, counted already."""
        pool = self.pool
        try:
            return await pool._connect(timeout=timeout)
        except BaseException as error:
            pool._nconns -= 1
            self.offer_room()
            if isinstance(error, ConnectionTimeout):
                raise PoolTimeout(str(error)) from None
            raise

    def offer_room(self) -> None:
        """Let those who wait in a null pool's queue open connections of their own, as many as may."""
        pool = self.pool
        room = (pool._max_size or sys.maxsize) - pool._nconns
        while self.queues_itself and room > 0 and pool._waiting and isinstance(client := pool._waiting[0], Claim):
            pool._waiting.popleft()
            room -= client.serve(None)

    async def _undisturbed(self, obtaining: Coroutine[Any, Any, ACT], name: str) -> ACT:
        """Obtain a connection in a task of its own. If the caller is cancelled it ends by itself, and what it brings is put back."""
        task = self._run(obtaining, name)
        try:
            return await shielded(task)
        except asyncio.CancelledError:
            self.in_use += 1
            task.add_done_callback(self._put_unwanted)
            raise

    def _put_unwanted(self, task: asyncio.Task[ACT]) -> None:
        if task.cancelled() or task.exception() is not None:
            self.came_back(None)
        else:
            self.put(task.result(), from_getconn=True)

    # -- putting back

    def put(self, conn: ACT, *, from_getconn: bool = False) -> asyncio.Task[None] | None:
        """Give a connection and its place back. Where the pool's own `putconn()` would wait, the task to wait for."""
        pool = self.pool
        if self._simple_return and self._put_at_once(conn):
            self.came_back(conn)
            return None
        conn._pool = pool
        over = pool._closed or (self.queues_itself and not pool._waiting)
        putting = (
            pool.putconn(conn)
            if self._own_ways
            else self._discard(conn, self.pool._CONNECTIONS_LOST if from_getconn else self.pool._RETURNS_BAD)
            if over
            else pool._return_connection(conn, from_getconn=from_getconn)
        )
        self.returning += (conn,)
        task = self._run(putting, "return")
        task.add_done_callback(lambda task: self._put(conn, task))
        return task if over or pool._reset is None else None  # the hook runs on in the background

    def _put_at_once(self, conn: ACT) -> bool:
        pool = self.pool
        if (
            pool._closed
            or conn.pgconn.transaction_status != IDLE
            or conn._created_at <= pool._drained_at
            or conn._expire_at <= monotonic()
        ):
            return False
        waiting = pool._waiting
        while waiting:
            client = waiting[0]
            if not isinstance(client, Claim):
                return False  # somebody who uses the pool behind our back
            waiting.popleft()
            conn._pool = None
            if client.serve(conn):
                return True
        conn._pool = None
        pool._pool.append(conn)
        if pool._pool_full_event is not None and len(pool._pool) >= pool._min_size:
            pool._pool_full_event.set()
        return True

    async def _discard(self, conn: ACT, counter: str) -> None:
        """Close a connection that the pool does not want back; one that is broken counts as `counter` says."""
        pool = self.pool
        if self.queues_itself:
            pool._stats[counter] += conn.pgconn.transaction_status == UNKNOWN
            pool._nconns -= 1
            self.offer_room()
        await pool._close_connection(conn)

    def _put(self, conn: ACT, task: asyncio.Task[None]) -> None:
        self.returning = tuple(known for known in self.returning if known is not conn)
        if task.cancelled():  # by whoever cancels all tasks there are
            conn.pgconn.finish()
        self.came_back(conn)

    def _put_aside(self, conn: ACT) -> asyncio.Task[None] | None:
        """Put a connection back, and keep its place, which is the caller's to give back or to use again."""
        self.in_use += 1
        return self.put(conn, from_getconn=True)

    def _run(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=f"{self.pool.name}-{name}")
        self._under_way.append(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.remove(task)
        if not task.cancelled():
            task.exception()  # told to whoever waits for it, if anybody still does


async def shielded(task: asyncio.Task[T]) -> T:
    """What the task returns or raises; it goes on if the caller is cancelled. One that somebody else has cancelled is a failed login."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if task.cancelled() and not (current and current.cancelling()):
            raise psycopg.OperationalError("the login was cancelled by somebody else, try it again") from None
        raise


async def _pause(attempt: AttemptWithBackoff | None, deadline: float) -> AttemptWithBackoff:
    """Between a connection that failed its check and the next, as psycopg_pool does it."""
    now = monotonic()
    if attempt is None:
        attempt = AttemptWithBackoff(timeout=deadline - now)
    else:
        attempt.update_delay(now)
    if attempt.time_to_give_up(now):
        raise PoolTimeout
    await asyncio.sleep(attempt.delay)
    return attempt
