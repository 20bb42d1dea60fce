"""HotSwapPool: the one pool object that a service keeps, whatever pools come and go behind it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, TypeVarTuple, overload

from psycopg import Notify, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests
from psycopg_pool.abc import ACT

from vault_pg.errors import DatabaseError, NoCredential
from vault_pg.events import DrainOverdue, Event, GenerationClosed, GenerationRetired, Listener
from vault_pg.pool.checkout import Checkout
from vault_pg.pool.connector import Connector
from vault_pg.pool.drain import Replacement, drain
from vault_pg.pool.farewell import Shadow
from vault_pg.pool.generation import RETIRE_GRACE, Borrow, Drained, Generation, Place
from vault_pg.pool.handover import Handover
from vault_pg.pool.idle import idle_checkout
from vault_pg.pool.info import ConnectionInfo, count_return, info_of
from vault_pg.pool.notifications import Notifications, listen
from vault_pg.pool.queue import WaitingLine
from vault_pg.pool.retirement import Retirement
from vault_pg.pool.retry import DEFAULT, Retry, RetryPolicy
from vault_pg.pool.subscription import Gap
from vault_pg.pool.transaction import transaction

logger = logging.getLogger("vault_pg.pool")

ArgTs = TypeVarTuple("ArgTs")
ResultT = TypeVar("ResultT")


class CheckoutRefused(NoCredential, OperationalError):
    """NoCredential as a checkout raises it: psycopg's OperationalError too, which code written for psycopg_pool expects."""


class HotSwapPool(AsyncConnectionPool[ACT]):
    """An AsyncConnectionPool whose connections come from another pool, which `replace()` exchanges under load.

    It does what psycopg_pool's documentation says of a pool, and keeps doing it across replacements: a checkout that waits goes on
    waiting in the same line, one that holds a connection keeps it until it returns it, and none fails for the swap.

    `doubt` is called when a query fails in a way that makes the credential doubtful.
    `managed` means that somebody else ends it, by `finish()`: then `close()` and leaving `async with` do nothing but say so.
    `overlap` is how many server connections the process may hold beyond `max_size` while two pools are alive (default `min_size`, at
    least 1). `drain_timeout` is how many seconds the borrowers of a replaced pool may keep their connections.
    """

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
    ) -> None:
        if max_waiting is None:
            max_waiting = pool.max_waiting
        self._current = self._adopt(pool, 1)
        super().__init__(
            pool.conninfo,
            connection_class=_class_of(pool),
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
        self.overlap = max(1, pool.min_size if overlap is None else overlap)
        self.drain_timeout = drain_timeout
        self._listener = listener
        self._managed = managed
        self._doubted = doubt
        self._ending: asyncio.Task[None] | None = None
        self._outgoing: list[Generation[ACT]] = []
        self._borrowed: dict[ACT, tuple[Generation[ACT], float, asyncio.Task[object] | None, Place]] = {}
        self._line = WaitingLine[Generation[ACT]](self._give_back)
        self._refusal: str | None = None
        self._replacing = asyncio.Lock()
        self._past = Counter[str]()
        self._closed = pool.closed
        self._opened = not pool.closed

    def _check_size(self, min_size: int, max_size: int | None) -> tuple[int, int]:
        return self._current.pool._check_size(min_size, max_size)  # a null pool has rules of its own

    def _adopt(self, pool: AsyncConnectionPool[ACT], number: int) -> Generation[ACT]:
        if isinstance(pool, HotSwapPool):
            raise TypeError("a HotSwapPool can't stand behind another one")
        pool.max_waiting = 0  # the line stands in front of the holder, which keeps the limit
        tell: Callable[[Any], Any] | None = pool._reconnect_failed
        if tell is not None:
            pool._reconnect_failed = lambda _: tell(self)  # the hook is told of the pool that its user knows
        if number != 1:
            pool._open_implicit = False  # replace() opens it, so psycopg_pool need not warn
        return Generation(pool, number)

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

    def try_connection(self) -> AbstractAsyncContextManager[ACT | None]:
        """As `connection()`, or None if none is idle right now: it waits for no connection, neither opened nor returned.

        Raises PoolClosed, and NoCredential while no credential works.
        """
        frame = sys._getframe(1)
        return idle_checkout(self, (frame.f_code, frame.f_lineno))

    def transaction(
        self, timeout: float | None = None, *, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AbstractAsyncContextManager[ACT]:
        """Obtain a connection and BEGIN; on exit COMMIT, or roll back on an error, and return it. The options are psycopg's.

        Leaving the block without an error means that it is committed: where a failed statement or a lost connection makes that
        impossible psycopg.Error is raised, even if the block has caught what it was told.
        """
        frame = sys._getframe(1)
        return transaction(Checkout(self, timeout, (frame.f_code, frame.f_lineno)), savepoint_name, force_rollback)

    def run_transaction(
        self,
        fn: Callable[[ACT, *ArgTs], Awaitable[ResultT]],
        *args: *ArgTs,
        attempts: int | None = None,
        policy: RetryPolicy = DEFAULT,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, ResultT]:
        """Run `await fn(conn, *args)` in a transaction, commit it and return its result.

        It is run again, with a connection of its own, after a serialization failure, a deadlock or another of `policy.codes`, also
        where COMMIT is answered with it; on a connection that is lost before COMMIT is sent; on 42501 and 42704 where the generation
        has retired or its role is gone; and on a statement that the drain of its generation cancels. `fn` may so be called more than
        once: what it does beside the transaction has to bear that. `attempts` stands above the policy's. After the last attempt the
        error of `fn` is raised as it is; so are psycopg.Rollback, and the errors of a checkout.

        Once COMMIT is sent nothing is run again: if the connection is lost then, CommitOutcomeUnknown is raised. A cancellation is
        never held back; one that strikes during COMMIT leaves the outcome as unknown.
        """
        frame = sys._getframe(1)
        if attempts is not None:
            policy = replace(policy, attempts=attempts)
        return Retry(self, lambda conn: fn(conn, *args), policy, timeout, (frame.f_code, frame.f_lineno)).run()

    @overload
    def listen(
        self, channel: str, *channels: str, gaps: Literal[False] = ..., timeout: float | None = ..., heartbeat: float = ...
    ) -> Notifications[Notify]: ...
    @overload
    def listen(
        self, channel: str, *channels: str, gaps: Literal[True], timeout: float | None = ..., heartbeat: float = ...
    ) -> Notifications[Notify | Gap]: ...
    def listen(
        self, channel: str, *channels: str, gaps: bool = False, timeout: float | None = None, heartbeat: float = 30.0
    ) -> Notifications[Any]:
        """Notifications on these channels, over all replacements: an async iterator, and a context manager to begin and end it.

        It holds one connection, two for a moment while it moves to the next generation. What is committed after it has begun comes
        once and in the order of the commits, also over a replace, which it listens across on both sides. There are two exceptions. A
        lost connection is replaced, but what was sent meanwhile is missed: that is logged as NotificationsMissed, and with
        `gaps=True` told by a Gap in its place; some from around the loss may come twice. And a replace by a pool of another database
        has no common order: it brings what the old one sent until the new one listened, then what the new one sends.

        `timeout` is that of a checkout. A connection that is silent for `heartbeat` seconds is asked, and given up for lost if it
        does not answer for as long.
        """
        frame = sys._getframe(1)
        place = (frame.f_code, frame.f_lineno)
        return listen(self, (channel, *channels), gaps=gaps, timeout=timeout, heartbeat=heartbeat, place=place)

    async def _borrow(self, timeout: float | None, place: Place) -> ACT:
        if timeout is None:
            timeout = self.timeout
        self._stats[self._REQUESTS_NUM] += 1
        if self._closed or self._refusal is not None:
            self._check_serving()
        if self.max_waiting:
            self._check_waiting()
        deadline = monotonic() + timeout
        generation = self._current
        try:
            if generation.in_use < generation.cap and not self._line:
                generation.in_use += 1
                try:
                    conn = await generation.pool.getconn(timeout)
                except BaseException as error:
                    self._give_back(generation)
                    if not _moved(error, generation):
                        raise
                    conn, generation = await self._getconn_in_line(deadline, moved=True)
            else:
                conn, generation = await self._getconn_in_line(deadline)
        except BaseException as error:
            self._stats[self._REQUESTS_ERRORS] += 1
            if isinstance(error, PoolTimeout):
                raise PoolTimeout(f"couldn't get a connection after {timeout:.2f} sec") from None
            raise
        conn._pool = self
        self._borrowed[conn] = (generation, monotonic(), asyncio.current_task(), place)
        return conn

    def _doubt(self, conn: ACT) -> None:
        """A query failed as it does when the credential is dead."""
        if self._doubted is not None and self._borrowed[conn][0] is self._current:
            self._doubted()

    def _used(self, seconds: float) -> None:
        self._stats[self._USAGE_MS] += int(1000.0 * seconds)

    async def _getconn_in_line(self, deadline: float, *, moved: bool = False) -> tuple[ACT, Generation[ACT]]:
        """The slower way: wait for a place, then for its connection; once more, ahead of others, if its pool is retired in between."""
        while True:
            generation = await self._place(deadline, moved=moved)
            try:
                return await generation.pool.getconn(deadline - monotonic()), generation
            except BaseException as error:
                self._give_back(generation)
                if not _moved(error, generation):
                    raise
                moved = True

    async def _place(self, deadline: float, *, moved: bool) -> Generation[ACT]:
        """A generation with room for one more checkout, already counted for the caller."""
        self._check_serving()
        if (moved or not self._line) and (generation := self._vacancy()) is not None:
            generation.in_use += 1
            return generation
        start = monotonic()
        self._stats[self._REQUESTS_QUEUED] += 1
        try:
            return await self._line.wait(deadline - start, first=moved)
        except TimeoutError:
            raise PoolTimeout from None
        finally:
            self._stats[self._REQUESTS_WAIT_MS] += int(1000 * (monotonic() - start))

    def _check_serving(self) -> None:
        self._check_open_getconn()
        if self._refusal is not None:
            raise CheckoutRefused(self._refusal)

    def _check_waiting(self) -> None:
        """Keep `max_waiting` as psycopg_pool does, but send nobody away for the narrower limits of a swap."""
        current = self._current
        waiting = len(self._line) + current.waiting
        if waiting >= self.max_waiting and not current.available and current.cap >= current.full_max_size:
            self._stats[self._REQUESTS_ERRORS] += 1
            raise TooManyRequests(f"the pool {self.name!r} has already {waiting} requests waiting")

    async def putconn(self, conn: ACT) -> None:
        """Return a connection to the pool that it came from, even if that pool has been replaced since."""
        borrowed = self._borrowed.pop(conn, None)
        if borrowed is None:
            self._check_pool_putconn(conn)
            raise ValueError(f"can't return connection to pool {self.name!r}, it has been returned already: {conn}")
        generation = borrowed[0]
        count_return(conn)
        conn._pool = generation.pool
        if generation.retired:
            await self._part_with(conn, generation)
            return
        returning = generation.return_connection(conn)
        if returning is not None:  # a reset hook runs on, and the place is taken until it is done
            returning.add_done_callback(lambda _: self._returned(conn, generation))
            return
        try:
            await generation.pool.putconn(conn)
        finally:
            self._returned(conn, generation)

    def _returned(self, conn: ACT, generation: Generation[ACT]) -> None:
        if generation.retired and generation in self._outgoing:
            self._see_off(Shadow(conn), generation)  # retired meanwhile
        self._give_back(generation)

    async def _part_with(self, conn: ACT, generation: Generation[ACT]) -> None:
        """Close a connection of a retired pool, whatever hooks that pool has."""
        leaving = Shadow(conn) if generation in self._outgoing else None
        conn._pool = None
        try:
            await conn.close()
        finally:
            if leaving is not None:
                self._see_off(leaving, generation)
            self._give_back(generation)

    def _see_off(self, leaving: Shadow, generation: Generation[ACT]) -> None:
        """The slot of a connection that closed on its return is free when the server says so."""
        task = asyncio.create_task(leaving.gone(), name=f"{self.name}-farewell")
        generation.leaving.add(task)

        def left(task: asyncio.Task[None]) -> None:
            generation.leaving.discard(task)
            self._make_room()

        task.add_done_callback(left)

    def _give_back(self, generation: Generation[ACT]) -> None:
        generation.in_use -= 1
        if generation.outgoing:
            generation.came_down()
            self._make_room()
        elif self._line:
            self._serve_line()

    def _make_room(self) -> None:
        """Let the current pool grow by what the retired ones have given up: never more than `max_size + overlap` in all."""
        if all(generation.retired for generation in self._outgoing):  # else a handover says what may grow
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

    # -- replacing

    async def replace(
        self,
        pool: AsyncConnectionPool[ACT],
        *,
        timeout: float = 30.0,
        drain_timeout: float | None = None,
        deadline: float | None = None,
        prove: Callable[[AsyncConnectionPool[ACT]], Awaitable[object]] | None = None,
    ) -> Replacement:
        """Serve from `pool` from now on and retire the pool served so far.

        A `pool` that is not open yet is opened with as many connections as traffic needs now and the overlap allows, within `timeout`
        seconds; `prove`, if given, then has to return. The call returns when the new pool serves and the idle connections of the old
        one are closed; `Replacement.drained` ends when the last borrower has returned. After `drain_timeout` seconds (default: the
        holder's), and by `deadline` (loop time) at the latest, statements still running are cancelled and their connections cut.

        Concurrent calls queue up, each waits for the drain before it: no more than two pools are alive. If opening or the proof fails
        `pool` is closed, nothing else has changed, and the error is raised. Raises PoolClosed on a closed holder.
        """
        if pool is self._current.pool:
            raise ValueError(f"the pool {self.name!r} is served from that pool already")
        start = monotonic()
        new = self._adopt(pool, 0)
        try:
            await self._replacing.acquire()
        except BaseException:
            await pool.close(RETIRE_GRACE)
            raise
        try:
            return await self._replace(
                new, start=start, timeout=timeout, drain_timeout=drain_timeout, deadline=deadline, prove=prove
            )
        finally:
            self._replacing.release()

    async def _replace(
        self,
        new: Generation[ACT],
        *,
        start: float,
        timeout: float,
        drain_timeout: float | None,
        deadline: float | None,
        prove: Callable[[AsyncConnectionPool[ACT]], Awaitable[object]] | None,
    ) -> Replacement:
        patience = self.drain_timeout if drain_timeout is None else drain_timeout
        new.number = self._current.number + 1
        try:
            await self.drained()
            self._check_open()
            handover = self._handover(new, patience, deadline)
            await handover.warm(timeout)
            if prove is not None:
                await prove(new.pool)
            self._check_open()
        except BaseException:
            self._make_room()
            await new.pool.close(RETIRE_GRACE)
            raise
        if deadline is not None:
            patience = max(0.0, min(patience, deadline - asyncio.get_running_loop().time()))
        old, in_use, seconds = self._current, self._current.in_use, monotonic() - start
        self._swap(new)
        ending = old.drain or self._end_generation(old, patience, handover)  # or it was retired before there was another
        self._make_room()
        emptied = asyncio.ensure_future(old.emptied.wait())
        try:
            await asyncio.wait([emptied, ending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            emptied.cancel()
        return Replacement(new.number, old.number, in_use, seconds, ending)

    def _handover(self, new: Generation[ACT], patience: float, deadline: float | None) -> Handover[ACT]:
        if deadline is not None:
            patience = max(0.0, min(patience, deadline - asyncio.get_running_loop().time()))
        return Handover(
            self._current,
            new,
            budget=self._max_size + self.overlap,
            busy=lambda: sum(generation.in_use for generation in self._alive()) + len(self._line),
            seconds=patience / 4,
        )

    def _swap(self, new: Generation[ACT]) -> None:
        """From here on checkouts go to the new generation first. No await: nobody sees half a swap."""
        pool = new.pool
        self._current = new
        self._min_size, self._max_size = new.full_min_size, new.full_max_size
        self.max_lifetime, self.max_idle = pool.max_lifetime, pool.max_idle
        self.conninfo, self.kwargs, self.connection_class = pool.conninfo, pool.kwargs, _class_of(pool)
        self._closed, self._opened, self._refusal = False, True, None

    def _end_generation(
        self, generation: Generation[ACT], drain_timeout: float, handover: Handover[ACT] | None = None
    ) -> asyncio.Task[Drained]:
        """Hand over, if there is somebody to hand over to; retire; drain; close. In the background, whatever becomes of the caller."""
        generation.outgoing = True
        generation.retired = handover is None
        generation.set_deadline(asyncio.get_running_loop().time() + drain_timeout)
        if generation not in self._outgoing:
            self._outgoing.append(generation)
        name = f"{self.name}-drain-{generation.number}"
        generation.drain = asyncio.create_task(self._drain(generation, drain_timeout, handover), name=name)
        return generation.drain

    async def _drain(self, generation: Generation[ACT], timeout: float, handover: Handover[ACT] | None) -> Drained:
        number = generation.number

        def borrows() -> list[Borrow[ACT]]:
            return [borrow for borrow in self.borrowers if borrow.generation is generation]

        def overdue(holders: tuple[str, ...]) -> None:
            self._emit(DrainOverdue(database=self.name, generation=number, holders=holders))

        if handover is not None and not generation.retired:
            await handover.run(self._serve_line)
        generation.retired = True
        self._emit(GenerationRetired(database=self.name, generation=number, in_use=generation.in_use, deadline_seconds=timeout))
        self._make_room()
        try:
            drained = await drain(generation, borrows, overdue)
        finally:
            self._outgoing.remove(generation)
            self._past.update({key: generation.counters()[key] for key in self._inner_counters()})
        self._emit(GenerationClosed(database=self.name, generation=number, seconds=drained.seconds))
        if not self._closed:
            self._make_room()
            await self._current.widen()
        return drained

    def _emit(self, event: Event) -> None:
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                logger.exception("a listener of pool %r failed on %s", self.name, event.name)
        elif isinstance(event, DrainOverdue):
            logger.warning("connections of a replaced pool %r are cut off: %s", self.name, "; ".join(event.holders))

    async def drained(self) -> None:
        """Wait until no replaced pool is left."""
        if drains := [generation.drain for generation in self._outgoing if generation.drain is not None]:
            await asyncio.wait(drains)

    def refuse(self, reason: str) -> None:
        """From now on checkouts fail at once with NoCredential(`reason`), those that wait included, until the next replace."""
        self._refusal = reason
        self._line.fail(lambda: CheckoutRefused(reason))
        now = asyncio.get_running_loop().time()
        for generation in self._alive():
            generation.retired = True  # a handover under way ends by itself
            generation.hurry(now)
        if self._current.drain is None:
            self._end_generation(self._current, 0.0)

    # -- the rest of a pool's life

    async def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Open the pool; with `wait`, return when `min_size` connections are ready, or raise PoolTimeout after `timeout` seconds."""
        if self._closed:
            self._check_open()
            await self._current.pool.open()
            self._closed, self._opened = False, True
        if wait:
            await self.wait(timeout)

    async def __aenter__(self) -> Self:
        self._current.pool._open_implicit = False  # opened here and now, so psycopg_pool need not warn
        await self.open()
        return self

    async def wait(self, timeout: float = 30.0) -> None:
        """Wait for `min_size` connections; after `timeout` seconds close the pool and raise PoolTimeout."""
        self._check_open_getconn()
        deadline = monotonic() + timeout
        while True:
            generation = self._current
            try:
                await generation.pool.wait(max(0.0, deadline - monotonic()))
            except (OperationalError, NoCredential, DatabaseError):
                if generation is not self._current and not self._closed:
                    continue  # replaced while we waited
                if not self._managed:
                    await self.close()
                raise
            if not generation.retired:
                return
            self._check_serving()  # replaced while we waited, or refused

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, timeout: float = 5.0) -> None:
        """Close the pool as psycopg_pool does: who waits fails with PoolClosed, connections that are out close on their return."""
        if self._managed and not self._closed:
            logger.info("pool %r is not closed: the LeaseManager that keeps it will", self.name)
            return
        await self._end(timeout, drain_timeout=None)

    async def finish(self, drain_timeout: float) -> None:
        """Take no more checkouts, give borrowers `drain_timeout` seconds, cut off who is left, and close."""
        await self._end(RETIRE_GRACE, drain_timeout=drain_timeout)

    async def _end(self, timeout: float, *, drain_timeout: float | None) -> None:
        """Once begun it goes on to its end, even if the caller is cancelled; who calls again waits for the same end."""
        if self._ending is None:
            if self._closed:
                return
            self._closed = True
            self._line.fail(lambda: PoolClosed(f"the pool {self.name!r} is closed"))
            self._ending = asyncio.create_task(self._end_all(timeout, drain_timeout), name=f"{self.name}-end")
        await asyncio.shield(self._ending)

    async def _end_all(self, timeout: float, drain_timeout: float | None) -> None:
        now = asyncio.get_running_loop().time()
        for generation in self._alive():
            generation.outgoing = generation.retired = True
            if drain_timeout is not None:
                generation.hurry(now + drain_timeout)
        if self._current.drain is None and drain_timeout is not None:
            self._end_generation(self._current, drain_timeout)
        if drain_timeout is not None:
            await self.drained()
        else:
            await self._current.pool.close(timeout)
            for generation in self._outgoing:
                await generation.pool.close(timeout)

    async def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the pool; replacing pools keep their own."""
        self._min_size, self._max_size = self._check_size(min_size, max_size)
        await self._current.resize(self._min_size, self._max_size)
        self._make_room()

    async def check(self) -> None:
        """Verify the idle connections; replace the broken ones."""
        await self._current.pool.check()

    async def drain(self) -> None:
        """Replace every connection of the current pool by a new one with the same credential."""
        await self._current.pool.drain()

    # -- what it tells

    @property
    def generation(self) -> int:
        """The number of the pool that serves, from 1."""
        return self._current.number

    def serves(self, pool: AsyncConnectionPool[ACT]) -> bool:
        """Checkouts go to `pool` now. Tells how far a cancelled `replace` had come: it has done everything, or nothing."""
        return pool is self._current.pool

    @property
    def borrowers(self) -> list[Borrow[ACT]]:
        """Who holds which connection, since when."""
        return [
            Borrow(conn, generation, since, task.get_name() if task else "no task", f"{code.co_filename}:{line}")
            for conn, (generation, since, task, (code, line)) in self._borrowed.items()
        ]

    def connection_info(self, conn: ACT) -> ConnectionInfo:
        """What there is to know of a connection that is out: generation, lease, age, idle time, checkouts, who asked for it."""
        return info_of(self._borrow_of(conn))

    def retiring(self, conn: ACT) -> Retirement:
        """The signal that the generation of a connection that is out retires: a flag to test, and an awaitable."""
        return Retirement(self._borrow_of(conn).generation)

    def _borrow_of(self, conn: ACT) -> Borrow[ACT]:
        if conn not in self._borrowed:
            raise ValueError(f"the pool {self.name!r} has not given this connection out, or has it back: ask while you hold it")
        generation, since, task, (code, line) = self._borrowed[conn]
        return Borrow(conn, generation, since, task.get_name() if task else "no task", f"{code.co_filename}:{line}")

    @property
    def in_use(self) -> int:
        """Connections of the serving pool that are out."""
        return self._current.in_use

    @property
    def draining(self) -> list[tuple[int, int, float]]:
        """(generation, connections out, seconds to the deadline) of each pool that drains. May be asked from any thread."""
        return [(g.number, g.in_use, g.seconds_left) for g in list(self._outgoing)]

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


def _class_of(pool: AsyncConnectionPool[ACT]) -> type[ACT]:
    connector = pool.connection_class
    return connector.connection_class if isinstance(connector, Connector) else connector


def _moved(error: BaseException, generation: Generation[ACT]) -> bool:
    """The pool was closed because it was replaced, not because somebody closed it."""
    return isinstance(error, PoolClosed) and generation.retired
