"""One checkout as a context manager: what `pool.connection()` returns."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Generic

from psycopg_pool.abc import ACT

from vault_pg.pool.generation import Place

if TYPE_CHECKING:
    from vault_pg.pool.serving import Serving


class Checkout(AbstractAsyncContextManager[ACT, None], Generic[ACT]):
    """As psycopg_pool's: on exit commit, or roll back on an error, and return the connection.

    A class, where psycopg_pool has a generator, because it costs half: the time saved pays for what a holder does more than a pool.
    """

    __slots__ = ("_conn", "_holder", "_place", "_start", "_timeout")

    def __init__(self, holder: Serving[ACT], timeout: float | None, place: Place) -> None:
        self._holder = holder
        self._timeout = timeout
        self._place = place

    async def __aenter__(self) -> ACT:
        self._conn = conn = await self._holder._borrow(self._timeout, self._place)
        try:
            await conn.__aenter__()
        except BaseException:
            await self._holder.putconn(conn)
            raise
        self._start = monotonic()
        return conn

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        conn = self._conn
        if exc is not None:
            self._holder._doubt(conn, exc)
        try:
            await conn.__aexit__(exc_type, exc, traceback)
        finally:
            await self._holder.putconn(conn)
            self._holder._used(monotonic() - self._start)
