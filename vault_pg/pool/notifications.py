"""Notifications as an async iterator."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from psycopg_pool.abc import ACT

from vault_pg.pool.generation import Place
from vault_pg.pool.subscription import Subscription

if TYPE_CHECKING:
    from vault_pg.pool.holder import HotSwapPool

ItemT = TypeVar("ItemT")

MOST_BYTES = 63
"""PostgreSQL cuts a longer name in silence, and the notifications then come under another."""


class Notifications(Generic[ItemT]):
    """What `pool.listen()` returns: an async iterator of psycopg's Notify, and an async context manager around it.

    LISTEN is in force once `async with` has entered, or the first item was asked for. Notifications wait in memory until they are
    fetched. `aclose()`, leaving the block, or dropping the iterator gives the connection back; the iteration then ends. It raises
    PoolClosed once the pool is closed.
    """

    def __init__(self, subscription: Subscription[Any], name: str) -> None:
        self._subscription = subscription
        self._name = name
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            task = await self._start()
        except BaseException:
            await self.aclose()
            raise
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        task = await self._start()
        item = await self._subscription.items.get()
        if item is not None:
            return cast(ItemT, item)
        self._subscription.items.put_nowait(None)  # for whoever asks again
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        raise StopAsyncIteration

    @property
    def pending(self) -> int:
        """Items that wait to be fetched."""
        return self._subscription.pending

    async def aclose(self) -> None:
        """Stop listening and give the connection back. What was heard and not fetched can still be fetched."""
        if self._task is None:
            self._subscription.items.put_nowait(None)
            self._task = asyncio.create_task(_nothing(), name=self._name)
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.exception()  # told to whoever iterates, and no business of who leaves

    async def _start(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._subscription.run(), name=self._name)
        await self._subscription.ready.wait()
        return self._task

    def __del__(self) -> None:
        if self._task is not None and not self._task.done() and not self._task.get_loop().is_closed():
            self._task.cancel()


async def _nothing() -> None:
    """The life of a subscription that was closed before it began."""


def listen(
    holder: HotSwapPool[ACT], channels: tuple[str, ...], *, gaps: bool, timeout: float | None, heartbeat: float, place: Place
) -> Notifications[Any]:
    """Raises ValueError for a channel that PostgreSQL would not take as it is, TypeError for one that is no text."""
    for channel in channels:
        if not isinstance(channel, str):
            raise TypeError(f"listen({channel!r}): give the name of a channel, a str")
        if not 0 < len(channel.encode()) <= MOST_BYTES or "\0" in channel:
            raise ValueError(f"listen({channel!r}): give the name of a channel, 1 to {MOST_BYTES} bytes of it")
    if heartbeat <= 0:
        raise ValueError(f"listen(heartbeat={heartbeat}): give more than 0 seconds")
    subscription = Subscription(holder, channels, gaps=gaps, timeout=timeout, heartbeat=heartbeat, place=place)
    return Notifications(subscription, f"{holder.name}-listen-{channels[0]}")
