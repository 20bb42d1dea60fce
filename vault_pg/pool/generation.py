"""One pool bound to one credential, and how it ends."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import CodeType
from typing import Any, Generic, TypeAlias

from psycopg_pool import AsyncConnectionPool, PoolTimeout
from psycopg_pool.abc import ACT

from vault_pg.pool.claim import TurnedAway, closed
from vault_pg.pool.doubt import Doubt
from vault_pg.pool.farewell import Shadow
from vault_pg.pool.leased import LeasedPool
from vault_pg.pool.opening import told_why
from vault_pg.pool.signal import Signal
from vault_pg.pool.stock import shielded
from vault_pg.pool.upkeep import Upkeep

RETIRE_GRACE = 0.25
"""Seconds that a retiring pool waits for its workers. Only one that is connecting at that moment needs any; it ends by itself."""


@dataclass(frozen=True, slots=True)
class Drained:
    """How a generation ended: seconds from retire to closed, and who was cut off, if anybody."""

    generation: int
    seconds: float
    cut_off: tuple[str, ...] = ()


Place: TypeAlias = tuple[CodeType, int]
"""Code and line that asked for a connection. Its words are made only if somebody wants to read them."""


@dataclass(frozen=True, slots=True)
class Borrow(Generic[ACT]):
    """A connection that is out, and who has it: "task at file:line for 1.5 s"."""

    conn: ACT
    generation: Generation[ACT]
    since: float
    task: str
    where: str

    def __str__(self) -> str:
        return f"{self.task} at {self.where} for {monotonic() - self.since:.1f} s"


class Generation(Upkeep[ACT]):
    """A pool, its number, and the count of its connections that are out.

    The count is ours: raised before the first await of a checkout and lowered after the return, so that zero means idle.
    """

    def __init__(
        self, pool: AsyncConnectionPool[ACT], number: int, came_back: Callable[[Generation[ACT], ACT | None], object]
    ) -> None:
        super().__init__(pool)
        self.number = number
        self._tell_came_back = came_back
        self.retirement = Signal()
        self.deadline: float | None = None
        """Loop time at which its drain ends by force."""
        self.full_min_size, self.full_max_size = pool.min_size, pool.max_size
        self.cap = sys.maxsize if self.queues_itself else pool.max_size
        """Checkouts that it may serve at once; its pool grows no further."""
        self._doubt: Doubt[ACT] | None = None
        self.outgoing = False
        """Replaced: it still serves while it hands over, until it is `retired`."""
        self._now: Callable[[], float] = monotonic
        self._waiters: tuple[asyncio.Future[None], ...] = ()
        self._patience: asyncio.Timeout | None = None
        self.drain: asyncio.Task[Drained] | None = None
        """What ends it, once it is retired."""
        self.emptied = Signal()
        """Retired, and no connection left but those that are out."""
        self.leaving: list[asyncio.Task[None]] = []
        """Connections that were closed on their return and that the server has not let go of yet."""

    @property
    def retired(self) -> bool:
        """It serves nobody any more. Once set it stays so, and wakes those who await `retirement`."""
        return self.retirement.is_set()

    @retired.setter
    def retired(self, value: bool) -> None:
        if value:
            self.retirement.set()

    @property
    def done(self) -> bool:
        """Retired, drained and closed."""
        return self.drain is not None and self.drain.done() and not self.drain.cancelled()

    def came_back(self, conn: ACT | None) -> None:
        self._tell_came_back(self, conn)

    def came_down(self) -> None:
        """`in_use` has come down by one."""
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def idle_by_deadline(self) -> bool:
        """Wait for the borrowers, no longer than the deadline as it stands or comes to stand; True if all have returned."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self.deadline or loop.time()) as self._patience:
                await self.until(0)
        self._patience = None
        return self.in_use == 0

    async def patiently(self, seconds: float, work: Coroutine[Any, Any, None]) -> None:
        """Do this, no longer than `seconds`, and no longer than whoever is in a hurry allows."""
        try:
            async with asyncio.timeout(seconds) as self._patience:
                await work
        finally:
            self._patience = None

    def set_deadline(self, deadline: float) -> None:
        self._now = asyncio.get_running_loop().time
        self.deadline = deadline

    @property
    def seconds_left(self) -> float:
        """Until the deadline; 0 where it is over, or there is none."""
        return 0.0 if self.deadline is None else max(0.0, self.deadline - self._now())

    @property
    def overdue(self) -> bool:
        """The deadline of its drain is over: who has no connection of it by now gets none, for nobody would cut that off."""
        return self.retired and self.deadline is not None and self.seconds_left <= 0.0

    def hurry(self, deadline: float) -> None:
        """Let the drain end by `deadline` (loop time), if that is sooner."""
        if self.deadline is None or deadline < self.deadline:
            self.set_deadline(deadline)
            if (patience := self._patience) is not None and not patience.expired():
                patience.reschedule(min(deadline, patience.when() or deadline))

    async def until(self, in_use: int) -> None:
        """Return when no more than `in_use` connections are out."""
        while self.in_use > in_use:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            await waiter

    @property
    def size(self) -> int:
        """Server connections: idle, out, being opened, or not gone yet."""
        return (self.in_use if self.emptied.is_set() else self.pool._nconns) + len(self.leaving)

    @property
    def available(self) -> int:
        return len(self.pool._pool)

    @property
    def waiting(self) -> int:
        """Clients in the pool's own queue, for a connection that is being opened or returned."""
        return len(self.pool._waiting)

    def doubt(self, *, role: bool, lost: bool) -> None:
        """Its role may be gone, or a connection is lost and others may be with it: ask before one is handed out again."""
        if self._doubt is None:
            self._doubt = Doubt(self.pool._check)
            self.pool._check, self._doubtful = self._doubt.check, self._doubt.about
        self._doubt.raise_(role=role, lost=lost)

    def limit(self, cap: int) -> None:
        narrowed = max(1, min(cap, self.full_max_size))
        if not self.queues_itself:
            self.cap = self.pool._max_size = narrowed
        elif self.full_max_size:
            self.pool._max_size = narrowed
            self.offer_room()

    async def open(self, size: int, timeout: float, *, no_slot: Callable[[], object]) -> None:
        """Open the pool with `size` connections, whatever its min_size; return when it has them. `no_slot` is told if the server has none.

        Raises PoolTimeout, or what a login is refused with; for the pool of a lease, which a replica may not know yet, DatabaseError.
        """
        pool = self.pool
        if pool.closed and not pool._opened and not self.queues_itself:
            pool._min_size = pool._nconns = pool._nconns_min = size
        async with told_why(pool, no_slot=no_slot, patient=isinstance(pool, LeasedPool)):
            await pool.open()
            await self.fill(timeout)
        if isinstance(pool, LeasedPool):
            await pool.connector.close()
        pool._min_size = min(self.full_min_size, pool._nconns)

    async def fill(self, timeout: float) -> None:
        """As a pool's; where it is known why it can't be filled DatabaseError is raised."""
        try:
            await super().fill(timeout)
        except PoolTimeout as error:
            raise (self.pool.reason(error) if isinstance(self.pool, LeasedPool) else error) from None

    async def grow(self) -> None:
        """Open one connection more, and serve that many. Raises what the login raises. Cancelled, it still ends in the background."""
        await shielded(self._run(self._grow(), "grow"))

    async def _grow(self) -> None:
        pool = self.pool
        pool._nconns += 1
        try:
            conn = await pool._connect()
        except BaseException:
            pool._nconns -= 1
            raise
        await pool._add_to_pool(conn)
        if self.cap < pool._nconns:  # else it has been widened meanwhile: a handover that is over waits for no login
            self.limit(pool._nconns)

    async def give_up_one(self) -> bool:
        """Close one connection for good, an idle one or the next that comes back; False if it is the last."""
        pool = self.pool
        if self.cap <= 1 or pool.closed:
            return False
        self.limit(min(self.cap, pool._nconns) - 1)
        pool._min_size = min(pool._min_size, self.cap)  # else a pool that is growing would open it again
        await self.until(self.cap)
        if not pool._pool:
            return False
        await self._close_one()
        return True

    async def shed(self) -> None:
        """Close what the pool has beyond `max_size`, idle ones and those that come back: a narrower `resize()` leaves it to `max_idle`."""
        pool = self.pool
        while pool._nconns > self.full_max_size and not (pool.closed or self.queues_itself):
            if pool._pool:
                await self._close_one()
            elif self.in_use > self.full_max_size:
                await self.until(self.in_use - 1)
            else:
                return  # the others are being opened

    async def _close_one(self) -> None:
        """Close an idle connection for good; return when the server has let go of it."""
        conn = self.pool._pool.popleft()
        self.pool._nconns -= 1
        shadow = Shadow(conn)
        await self.pool._close_connection(conn)
        await shadow.gone()

    def widen(self) -> None:
        """Give the pool its own sizes back, once there is room for them."""
        if not self.pool.closed:
            self.set_sizes(self.full_min_size, self.full_max_size)
            self.limit(self.full_max_size)

    def resize(self, min_size: int, max_size: int, *, at_once: bool) -> None:
        """Take other sizes: at once, or, while another pool has a part of the budget, as far as they are narrower."""
        self.full_min_size, self.full_max_size = min_size, max_size
        if at_once:
            self.set_sizes(min_size, max_size)
            self.limit(max_size)
        elif max_size < self.cap:
            self.limit(max_size)

    async def retire(self) -> None:
        """Close what is idle; what is out closes when it comes back; who waits in its queue is told PoolClosed."""
        self.pool._min_size = 0  # else one that is closed now would be opened again
        await self._turn_away()
        # A connection that is being opened would be closed unseen by its worker: let it arrive first, and let none follow it.
        self.cap = self.pool._max_size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(RETIRE_GRACE):
                while self.pool._growing:  # noqa: ASYNC110 - psycopg_pool tells nobody when it is done
                    await asyncio.sleep(0.002)
        shadows = await self._close_idle()
        workers = [*self.pool._workers]
        await self.pool.close(timeout=RETIRE_GRACE)
        late = [worker for worker in workers if not worker.done()]
        for worker in late:
            worker.cancel()  # in a slow login or hook: nobody would count its session
        if late:
            await asyncio.wait(late, timeout=RETIRE_GRACE)
        if (filled := self.pool._pool_full_event) is not None:
            filled.set()  # whoever waits for it to be filled has another pool to look at
        await asyncio.gather(*(shadow.gone() for shadow in shadows), return_exceptions=True)
        self.emptied.set()

    async def _turn_away(self) -> None:
        """Who waits in the pool's own queue, and who comes to it yet, has another pool to go to."""
        waiting, self.pool._waiting = self.pool._waiting, TurnedAway[ACT]()
        for client in waiting:
            await client.fail(closed())

    async def _close_idle(self) -> list[Shadow]:
        """Here and now: psycopg_pool waits for its workers first, and if it is cancelled in that closes none."""
        idle = [*self.pool._pool]
        self.pool._pool.clear()
        shadows = [Shadow(conn) for conn in idle]
        for conn in idle:
            await self.pool._close_connection(conn)
        return shadows

    def counters(self) -> Counter[str]:
        """psycopg_pool's counters of this pool since it was opened or popped."""
        return self.pool._stats

    def pop_counters(self) -> Counter[str]:
        counters, self.pool._stats = self.pool._stats, Counter()
        return counters
