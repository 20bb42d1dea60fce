"""How a retired generation ends: its borrowers finish, or are made to at the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from psycopg.pq import TransactionStatus
from psycopg_pool.abc import ACT

from vault_pg.pool.farewell import sever
from vault_pg.pool.generation import Borrow, Drained, Generation

CUT_GRACE = 1.0
"""Seconds from the cancelling of statements to the cutting of connections."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a replace did."""

    generation: int
    previous: int
    in_use: int
    """Connections that were out when the old pool was retired."""
    seconds: float
    """From the call to the swap."""
    draining: asyncio.Task[Drained] = field(repr=False)

    @property
    def drained(self) -> asyncio.Future[Drained]:
        """Ends when the last connection of the replaced pool is closed. Whoever gives up waiting for it stops nothing."""
        return asyncio.shield(self.draining)


async def drain(
    generation: Generation[ACT],
    borrows: Callable[[], Sequence[Borrow[ACT]]],
    overdue: Callable[[tuple[str, ...]], object],
    emptied: Callable[[], object],
) -> Drained:
    """Retire the generation, wait for its borrowers until its deadline, then cancel what runs and cut what is left."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    await generation.retire()
    emptied()
    cut_off: tuple[str, ...] = ()
    if not await generation.idle_by_deadline():
        cut_off = tuple(str(borrow) for borrow in borrows())
        cut_off += tuple(f"the return (rollback, reset hook) of {conn}" for conn in generation.returning)
        cut_off += tuple(f"the check of {conn}" for conn in generation.asked)
        if cut_off:  # else it is a login, which ends by itself
            overdue(cut_off)
        await _cut_off(generation, borrows)
    if generation.leaving:
        await asyncio.wait(generation.leaving)
    return Drained(generation.number, loop.time() - start, cut_off)


async def _cut_off(generation: Generation[ACT], borrows: Callable[[], Sequence[Borrow[ACT]]]) -> None:
    out = (*(borrow.conn for borrow in borrows()), *generation.returning, *generation.asked)
    running = [conn for conn in out if conn.pgconn.transaction_status == TransactionStatus.ACTIVE]
    if running:
        left = generation.in_use - len(running)
        await asyncio.gather(*(conn.cancel_safe(timeout=CUT_GRACE) for conn in running), return_exceptions=True)
        with suppress(TimeoutError):  # who was woken by that may still return the connection in order
            async with asyncio.timeout(CUT_GRACE):
                await generation.until(left)
    for conn in (*(borrow.conn for borrow in borrows()), *generation.returning, *generation.asked):
        sever(conn)
