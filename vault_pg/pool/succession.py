"""Succession: how one generation follows another behind a HotSwapPool, and how the last one ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

from psycopg_pool import AsyncConnectionPool
from psycopg_pool.abc import ACT

from vault_pg.errors import DatabaseError
from vault_pg.events import DrainOverdue, Event, GenerationClosed, GenerationRetired
from vault_pg.pool.drain import Replacement, drain
from vault_pg.pool.farewell import Shadow
from vault_pg.pool.generation import RETIRE_GRACE, Borrow, Drained, Generation
from vault_pg.pool.handover import Handover
from vault_pg.pool.leased import LeasedPool
from vault_pg.pool.serving import CheckoutRefused, Serving, check_kind, class_of

logger = logging.getLogger("vault_pg.pool")


async def close_for_good(pool: AsyncConnectionPool[ACT]) -> None:
    """Close a pool that nobody has used; return when the server has closed its ends of the connections."""
    shadows = [Shadow(conn) for conn in pool._pool]
    await pool.close(RETIRE_GRACE)
    await asyncio.gather(*(shadow.gone() for shadow in shadows))


class Succession(Serving[ACT]):
    """Replacing, draining, refusing and closing."""

    __slots__ = ()

    async def replace(
        self,
        pool: AsyncConnectionPool[ACT],
        *,
        timeout: float = 30.0,
        drain_timeout: float | None = None,
        deadline: float | None = None,
        prove: Callable[[AsyncConnectionPool[ACT]], Awaitable[object]] | None = None,
        swapped: Callable[[], object] | None = None,
    ) -> Replacement:
        """Serve from `pool` from now on and retire the pool served so far.

        A `pool` that is not open yet is opened with as many connections as traffic needs now and the overlap allows, within `timeout`
        seconds; `prove`, if given, then has to return. The call returns when the new pool serves and the idle connections of the old
        one are closed; `Replacement.drained` ends when the last borrower has returned. After `drain_timeout` seconds (default: the
        holder's), and by `deadline` (loop time) at the latest, statements still running are cancelled and their connections cut.

        `swapped` is called in the very moment in which the new pool begins to serve, while the old one may still hand over.

        Concurrent calls queue up, each waits for the drain before it: no more than two pools are alive. If opening or the proof fails
        `pool` is closed, nothing else has changed, and the error is raised: of a login that PostgreSQL refuses at once, and with a
        PoolTimeout what the last login failed with. Raises PoolClosed on a closed holder.
        """
        self._check_other(pool)
        start = monotonic()
        new = self._adopt(pool, 0)
        try:
            await self._replacing.acquire()
        except BaseException:
            await self._discard(pool)
            raise
        try:
            return await self._replace(
                new,
                start=start,
                timeout=timeout,
                drain_timeout=drain_timeout,
                deadline=deadline,
                prove=prove,
                swapped=swapped,
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
        swapped: Callable[[], object] | None,
    ) -> Replacement:
        patience = self.drain_timeout if drain_timeout is None else drain_timeout
        new.number = self._current.number + 1
        try:
            await self.drained()
            self._check_open()
            self._check_other(new.pool)  # another replace may have brought it while this one waited
            handover = self._handover(new, patience, deadline)
            await handover.warm(timeout)
            if prove is not None:
                await prove(new.pool)
            self._check_open()
        except BaseException:
            try:
                await self._discard(new.pool)
            finally:
                self.widen()  # not before: what is closing has a part of the budget still
            raise
        if deadline is not None:
            patience = max(0.0, min(patience, deadline - asyncio.get_running_loop().time()))
        old, in_use, seconds = self._current, self._current.in_use, monotonic() - start
        self._swap(new)
        ending = old.drain or self._end_generation(old, patience, handover)  # or it was retired before there was another
        self.widen()
        if swapped is not None:
            swapped()
        emptied = asyncio.ensure_future(old.emptied.wait())
        try:
            await asyncio.wait([emptied, ending], return_when=asyncio.FIRST_COMPLETED)
        finally:
            emptied.cancel()
        return Replacement(new.number, old.number, in_use, seconds, ending)

    async def give_way(self) -> bool:
        """Close a connection of the serving pool, an idle one or the next that comes back, and open none in its place until the next
        replace or `widen()`: for a server that has no slot left for the login that proves another pool. False if it is the last.
        """
        return await self._current.give_up_one()

    def widen(self) -> None:
        """Let the serving pool have its own size again, as far as no other pool is alive."""
        if not self._outgoing:
            self._current.widen()
        self._make_room()

    async def _discard(self, pool: AsyncConnectionPool[ACT]) -> None:
        """Close a pool that is not wanted. In the background, so that a second cancellation does not leave it half closed."""
        if pool is not self._current.pool:
            await asyncio.shield(self._in_background(close_for_good(pool), "discard"))

    def _check_other(self, pool: AsyncConnectionPool[ACT]) -> None:
        check_kind(pool, "replace()")
        if pool is self._current.pool:
            raise ValueError(f"the pool {self.name!r} is served from that pool already")

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
        self.conninfo, self.kwargs, self.connection_class = pool.conninfo, pool.kwargs, class_of(pool)
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

        try:
            if handover is not None and not generation.retired:
                await handover.run(self._serve_line)
            generation.retired = True
            self._emit(
                GenerationRetired(database=self.name, generation=number, in_use=generation.in_use, deadline_seconds=timeout)
            )
            self._make_room()
            drained = await drain(generation, borrows, overdue, self._make_room)
            self._let_go(generation)
        finally:
            generation.retired = True
            self._outgoing.remove(generation)
            counters = generation.pop_counters()  # one that was refused is still the current one, and counted as such
            self._past.update({key: counters[key] for key in self._inner_counters()})
            if not generation.pool.closed:  # cut short by whoever cancels all tasks there are
                self._in_background(generation.retire(), "retire")
        self._emit(GenerationClosed(database=self.name, generation=number, seconds=drained.seconds))
        if not self._closed:
            self.widen()
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

    def hurry(self) -> None:
        """Let every replaced pool drain no longer: who still holds a connection of it is told, and cut off."""
        now = asyncio.get_running_loop().time()
        for generation in self._outgoing:
            generation.hurry(now)

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

    def _in_background(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"{self.name}-{name}")
        self._background.append(task)
        task.add_done_callback(self._background.remove)
        return task

    # -- what it tells

    @property
    def generation(self) -> int:
        """The number of the pool that serves, from 1."""
        return self._current.number

    @property
    def login_failure(self) -> DatabaseError | None:
        """Why the pool that serves has fewer connections than it should, where that is known."""
        pool = self._current.pool
        return pool.login_failure if isinstance(pool, LeasedPool) else None

    def serves(self, pool: AsyncConnectionPool[ACT]) -> bool:
        """Checkouts go to `pool` now. Tells how far a cancelled `replace` had come: it has done everything, or nothing."""
        return pool is self._current.pool

    @property
    def draining(self) -> list[tuple[int, int, float]]:
        """(generation, connections out, seconds to the deadline) of each pool that drains. May be asked from any thread."""
        return [(g.number, g.in_use, g.seconds_left) for g in list(self._outgoing)]
