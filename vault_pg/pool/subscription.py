"""A subscription to channels, which moves from generation to generation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic
from uuid import uuid4

import psycopg
from psycopg import Notify
from psycopg_pool import PoolClosed
from psycopg_pool.abc import ACT
from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

from vault_pg.events import NotificationsMissed
from vault_pg.pool.check import DEAD
from vault_pg.pool.ear import Ear
from vault_pg.pool.generation import Place

if TYPE_CHECKING:
    from vault_pg.pool.holder import HotSwapPool

logger = logging.getLogger("vault_pg.pool")

MARK_TIMEOUT = 5.0
"""Seconds to wait for the mark on the connection that is left. It takes milliseconds, unless the new pool is of another database."""

BACKOFF = 0.1
BACKOFF_CAP = 5.0
"""Seconds; full jitter between the attempts to listen again."""

_LOSSES = (psycopg.Error, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Gap:
    """Nobody listened for `seconds`: notifications sent in that time are missed."""

    channels: tuple[str, ...]
    seconds: float


class Subscription(Generic[ACT]):
    """Listens by one borrowed connection after the other and puts what it hears into `items`; None follows the last one."""

    def __init__(
        self,
        holder: HotSwapPool[ACT],
        channels: Sequence[str],
        *,
        gaps: bool,
        timeout: float | None,
        heartbeat: float,
        place: Place,
    ) -> None:
        self.items: asyncio.Queue[Notify | Gap | None] = asyncio.Queue()
        self.ready = asyncio.Event()
        self._holder = holder
        self._channels = tuple(channels)
        self._gaps = gaps
        self._timeout = timeout
        self._heartbeat = heartbeat
        self._place = place
        self._marks = f"vault_pg_{uuid4().hex}"
        self._ears: list[Ear[ACT]] = []

    @property
    def pending(self) -> int:
        return self.items.qsize()

    async def run(self) -> None:
        """Listen until cancelled, or until the pool is closed. Raises what the first checkout raises."""
        try:
            ear = await self._listen(uuid4().hex)
            ear.deliver(self.items.put_nowait, from_mark=False)
            self.ready.set()
            while True:
                await _first(asyncio.ensure_future(ear.retirement), ear.reader)
                ear = await self._move(ear)
        finally:
            try:
                await asyncio.gather(*(self._leave(ear) for ear in [*self._ears]))
            finally:
                self.items.put_nowait(None)
                self.ready.set()

    async def _move(self, old: Ear[ACT]) -> Ear[ACT]:
        """Listen by a new connection before the old one is left, which goes on being heard meanwhile if it lives."""
        _insist_on_loss(old)
        mark = uuid4().hex
        old.leave_at(mark)
        new = await self._follow(old, mark)
        await _first(asyncio.ensure_future(old.passed.wait()), old.reader, timeout=MARK_TIMEOUT)
        _insist_on_loss(old)
        if old.lost_at is not None and not old.passed.is_set():
            self._missed(old, asyncio.get_running_loop().time() - old.lost_at)
        new.deliver(self.items.put_nowait, from_mark=old.passed.is_set())
        await self._leave(old)
        return new

    async def _follow(self, old: Ear[ACT], mark: str) -> Ear[ACT]:
        """The ear that follows `old`, tried for until there is one. If `old` is lost meanwhile it gives its place back at once."""
        name = f"{self._holder.name}-listen-{self._channels[0]}"
        listening = asyncio.create_task(self._listen_at_last(mark), name=name)
        try:
            await asyncio.wait({listening, old.reader}, return_when=asyncio.FIRST_COMPLETED)
            if old.reader.done():
                await self._leave(old)
            return await listening
        finally:
            listening.cancel()
            await asyncio.wait({listening})

    async def _listen_at_last(self, mark: str) -> Ear[ACT]:
        attempts = AsyncRetrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(multiplier=BACKOFF, max=BACKOFF_CAP),
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await attempts(self._listen, mark)

    async def _listen(self, mark: str) -> Ear[ACT]:
        conn = await self._holder._borrow(self._timeout, self._place)
        ear = Ear(self._holder, conn, self._channels, self._marks, self._heartbeat)
        try:
            await ear.listen(mark)
        except BaseException:
            conn.pgconn.finish()
            await self._holder.putconn(conn)
            raise
        self._ears.append(ear)
        return ear

    async def _leave(self, ear: Ear[ACT]) -> None:
        if ear in self._ears:
            self._ears.remove(ear)
            await ear.close()

    def _missed(self, old: Ear[ACT], seconds: float) -> None:
        cause = type(old.error).__name__
        event = NotificationsMissed(database=self._holder.name, channels=self._channels, error=cause, seconds=round(seconds, 3))
        self._holder._emit(event)
        if self._holder._listener is None:
            logger.warning(
                "pool %r did not listen on %s for %.3f s (%s): notifications sent in that time are missed",
                self._holder.name, ", ".join(self._channels), seconds, cause,
            )  # fmt: skip
        if self._gaps:
            self.items.put_nowait(Gap(self._channels, seconds))


def _insist_on_loss(ear: Ear[ACT]) -> None:
    """What ended the reading is a lost connection, which is made good, or a mistake of ours, which must not be hidden."""
    if (error := ear.error) is not None and not isinstance(error, _LOSSES):
        raise error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, (psycopg.OperationalError, *DEAD)) and not isinstance(error, PoolClosed)


async def _first(waiting: asyncio.Future[Any], reader: asyncio.Task[None], *, timeout: float | None = None) -> None:
    """Return when either is done, or after `timeout` seconds."""
    try:
        await asyncio.wait({waiting, reader}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
