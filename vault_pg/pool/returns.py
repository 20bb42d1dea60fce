"""Returns to a HotSwapPool: each to the generation that it came from, and the room that it makes to whoever waits."""

from __future__ import annotations

import asyncio

from psycopg_pool.abc import ACT

from vault_pg.pool.farewell import Shadow
from vault_pg.pool.generation import Generation
from vault_pg.pool.info import count_return
from vault_pg.pool.ledger import CUT_OFF, Ledger
from vault_pg.pool.stock import pool_logger


class Returns(Ledger[ACT]):
    """Connections that come back, and places that are handed on."""

    __slots__ = ("_parent", "overlap")
    overlap: int
    _parent: int | None
    """The process that it belongs to, where that is not this one."""

    async def putconn(self, conn: ACT) -> None:
        """Return a connection to the pool that it came from, even if that pool has been replaced since."""
        borrowed = self._borrowed.pop(conn, None)
        if borrowed is None and (borrowed := self._cut_off(conn)) is not None:
            del conn.__dict__[CUT_OFF]
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
