"""One connection that listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic

import psycopg
from psycopg import Notify, sql
from psycopg_pool.abc import ACT

from vault_pg.pool.retirement import Retirement

if TYPE_CHECKING:
    from vault_pg.pool.holder import HotSwapPool

LEAVE_TIMEOUT = 2.0
"""Seconds for UNLISTEN; a server that takes longer gets the connection closed instead."""


class Ear(Generic[ACT]):
    """A borrowed connection with LISTEN in force, which hands on what it hears.

    All listeners of a database hear its notifications in one order, that of the commits. So a mark, a notification on a channel of our
    own, splits what two ears hear at the same point: the one that leaves hands on what comes before the mark, the one that follows what
    comes after it. Nothing is lost between them and nothing comes twice.
    """

    def __init__(self, holder: HotSwapPool[ACT], conn: ACT, channels: Sequence[str], marks: str, heartbeat: float) -> None:
        self.conn = conn
        self.retirement = Retirement(holder._loan(conn)[0])
        self.passed = asyncio.Event()
        """It has heard the mark of its successor: whatever comes after that is the successor's."""
        self.lost_at: float | None = None
        """Loop time at which its connection was found lost."""
        self.reader: asyncio.Task[None]
        self._holder = holder
        self._channels = (*channels, marks)
        self._marks = marks
        self._heartbeat = heartbeat
        self._autocommit = conn.autocommit
        self._mark = ""
        self._last_mark = ""
        self._deliver: Callable[[Notify], object] | None = None
        self._held: list[Notify] = []
        self._before_mark: int | None = None

    async def listen(self, mark: str) -> None:
        """Begin to listen, then set `mark`. What is heard is held until `deliver()`."""
        self._mark = mark
        await self.conn.set_autocommit(True)
        await self.conn.execute(self._each("LISTEN {}"), prepare=False)
        await self.conn.execute(sql.SQL("NOTIFY {}, {}").format(sql.Identifier(self._marks), sql.Literal(mark)), prepare=False)
        self.reader = asyncio.create_task(self._read(), name=f"{self._holder.name}-listen")
        self.reader.add_done_callback(self._note_loss)

    def leave_at(self, mark: str) -> None:
        """Hand on no more from this mark on."""
        self._last_mark = mark

    def deliver(self, deliver: Callable[[Notify], object], *, from_mark: bool) -> None:
        """Hand on what has been held, all of it or from its own mark on, and everything that comes."""
        held, self._held = self._held, []
        if not from_mark:
            self._before_mark = 0
        self._deliver = deliver
        if self._before_mark is not None:
            for notify in held[self._before_mark :]:
                deliver(notify)

    async def close(self) -> None:
        """Stop listening and give the connection back."""
        conn = self.conn
        try:
            self.reader.cancel()
            await asyncio.wait({self.reader})
            if not conn.closed and not self.retirement:  # a retired pool closes it anyway
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await self._quieten()
        except (psycopg.Error, TimeoutError):
            conn.pgconn.finish()
        except BaseException:
            conn.pgconn.finish()
            raise
        finally:
            await self._holder.putconn(conn)

    async def _quieten(self) -> None:
        """Leave nothing to the next borrower."""
        await self.conn.execute(self._each("UNLISTEN {}"), prepare=False)
        async for _ in self.conn.notifies(timeout=0):
            pass
        await self.conn.set_autocommit(self._autocommit)

    def _each(self, statement: str) -> sql.Composed:
        return sql.SQL("; ").join(sql.SQL(statement).format(sql.Identifier(channel)) for channel in self._channels)

    async def _read(self) -> None:
        """Hear, and see to it that a connection that died in silence is found out."""
        while True:
            async for notify in self.conn.notifies(timeout=self._heartbeat):
                self._hear(notify)
            async with asyncio.timeout(self._heartbeat):
                await self.conn.execute("")

    def _hear(self, notify: Notify) -> None:
        if notify.channel == self._marks:
            if notify.payload == self._last_mark:
                self.passed.set()
            elif notify.payload == self._mark and self._before_mark is None:
                self._before_mark = len(self._held)
        elif self._deliver is None:
            self._held.append(notify)
        elif self._before_mark is not None and not self.passed.is_set():
            self._deliver(notify)

    def _note_loss(self, reader: asyncio.Task[None]) -> None:
        if not reader.cancelled() and reader.exception() is not None:
            self.lost_at = asyncio.get_running_loop().time()

    @property
    def error(self) -> BaseException | None:
        """What its connection was lost by."""
        return self.reader.exception() if self.lost_at is not None else None
