"""A client in a pool's own queue, for a connection that is being opened or returned."""

from __future__ import annotations

import asyncio
from collections import deque

from psycopg_pool import PoolClosed, PoolTimeout
from psycopg_pool.abc import ACT
from psycopg_pool.pool_async import WaitingClient


class Claim(WaitingClient[ACT]):
    """Stands in the queue where psycopg_pool has its WaitingClient, and is served in one step.

    Theirs takes several turns of the event loop to be served or to give up. One that is cancelled between two of them stays in the queue,
    is given a connection, and nobody has it; on Python 3.11 `asyncio.wait_for` may swallow the cancellation besides. A future is
    either served or cancelled, and whoever serves it knows at once.
    """

    __slots__ = ("served",)

    def __init__(self) -> None:
        super().__init__()
        self.served: asyncio.Future[ACT | None] = asyncio.get_running_loop().create_future()

    def serve(self, conn: ACT | None) -> bool:
        """Hand it a connection, or None: there is room, look again. False if it waits no more."""
        if self.served.done():
            return False
        self.served.set_result(conn)
        return True

    def refuse(self, error: BaseException) -> bool:
        if self.served.done():
            return False
        self.served.set_exception(error)
        return True

    def time_out(self) -> None:
        self.refuse(PoolTimeout())

    @property
    def handed(self) -> ACT | None:
        """What it was handed, if it was."""
        served = self.served
        return served.result() if served.done() and not served.cancelled() and served.exception() is None else None

    # what psycopg_pool calls

    async def set(self, conn: ACT) -> bool:
        return self.serve(conn)

    async def fail(self, error: Exception) -> bool:
        return self.refuse(error)


class TurnedAway(deque[WaitingClient[ACT]]):
    """The queue of a pool that serves nobody any more: who comes is sent away at once.

    A client whose connection failed its check comes back to a pool's queue after a pause, and psycopg_pool does not look whether the
    pool was closed meanwhile: it would wait there until its time-out.
    """

    def append(self, client: WaitingClient[ACT]) -> None:
        if isinstance(client, Claim):
            client.refuse(closed())
        else:
            client.error = closed()


def closed() -> PoolClosed:
    return PoolClosed("the pool is closed")
