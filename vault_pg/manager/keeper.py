"""The keeper of one database: it renews the lease, and rotates it in time."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from psycopg import AsyncConnection

from vault_pg.clock import Instant, wall
from vault_pg.errors import NotRunning, VaultPgError
from vault_pg.events import CredentialExpired, TaskDied
from vault_pg.lease import NO_TOKEN
from vault_pg.manager.ledger import Ledger
from vault_pg.manager.renewal import Renewal
from vault_pg.manager.rotation import Rotation, patience
from vault_pg.manager.suspicion import Suspicion
from vault_pg.manager.sweep import Sweep
from vault_pg.manager.tenure import Tenure
from vault_pg.place import told
from vault_pg.pool import HotSwapPool, LeasedPool, build
from vault_pg.schedule import Hold, Renew, Rotate, Step, backoff
from vault_pg.source import Watches

MOMENT = 0.001
"""Seconds that no clock of ours tells apart: a timer that rang this much early has rung."""

LONGEST_NAP = 3600.0
"""Seconds; where there is no end in sight, it is looked at again this often."""

LOST_GRACE = 1.5
"""Seconds that a lost credential may still be handed out while its replacement is under way."""


class Keeper:
    """Keeps a credential alive behind one HotSwapPool.

    `ended` is called after each lease that it has done with; `woken` whenever it wakes, before it does anything: that is to `recheck()`
    it if the clocks have parted.
    """

    def __init__(
        self, tenure: Tenure, *, ended: Callable[[], Awaitable[object]], woken: Callable[[], object] = lambda: None
    ) -> None:
        self.name = tenure.name
        self.tenure = tenure
        self.ledger = Ledger(tenure)
        self.renewal = Renewal(tenure, self.ledger)
        self.suspicion = Suspicion(tenure, self.renewal)
        self.sweep = Sweep(tenure, self.ledger, ended=ended)
        self.rotation: Rotation | None = None
        self.holder: HotSwapPool[AsyncConnection[Any]] | None = None
        self._ended = ended
        self._woken = woken
        self._alarm: asyncio.TimerHandle | None = None
        self._until: Instant = math.inf
        """When the alarm is due, on the lease clock: timers come late after a suspend, or in a loop that was blocked."""
        self._deaf: Callable[[], None] | None = None
        self._stopping = False

    async def start(self, timeout: float) -> None:
        """One attempt, over within `timeout` seconds, at a first lease and a first pool, proven and full.

        Raises VaultPgError; a lease that it made is then orphaned.
        """
        tenure = self.tenure
        lease = await self.ledger.issue()
        wait = min(patience(lease, tenure.settings), 0.8 * timeout)  # the rest is for Vault, and for telling what went wrong
        settings = tenure.settings.model_copy(update={"build_timeout": wait})
        try:
            pool = await build(lease.credential, settings, name=f"{self.name}-1", lease_id=lease.id or None)
            try:
                await pool.open(wait=True, timeout=settings.build_timeout)
            except BaseException:
                await pool.close()
                raise
        except BaseException:
            self.ledger.orphan(lease)
            raise
        self.holder = HotSwapPool(
            pool,
            name=self.name,
            overlap=settings.overlap,
            drain_timeout=settings.drain_timeout,
            max_waiting=settings.max_waiting,
            listener=tenure.emit,
            managed=True,
            doubt=self.suspicion.raise_,
            expired=self._expired,
        )
        self._watch(pool)
        self.rotation = rotation = Rotation(
            tenure, self.ledger, self.renewal, self.holder, pool, given_up=self._expire, ended=self._ended, watch=self._watch
        )
        tenure.adopt(lease)
        self.suspicion.crowded = lambda: rotation.building
        tenure.on_moved, tenure.on_lost = self._arm, self._lost
        if tenure.session is not None:
            self._deaf = tenure.session.add_token_listener(self._token_changed)
        self._arm()

    async def run(self) -> None:
        """Do what is due, for ever."""
        if self.rotation is None:
            raise NotRunning(f"the keeper of {self.name!r} has not been started")
        source = self.tenure.source
        async with self._watching(source) if isinstance(source, Watches) else nullcontext():
            self._arm()
            while True:
                self._woken()
                self._expired()
                if self.suspicion.pending and self.suspicion.due_in <= MOMENT:
                    await self.suspicion.investigate()
                step = self.tenure.next_step()
                if (wait := step.at - self.tenure.clock()) > MOMENT:
                    due_in = self.suspicion.due_in if self.suspicion.pending else LONGEST_NAP
                    await self.tenure.nap(min(wait, due_in))
                    continue
                async with self.suspicion.beside():
                    await self._take(step, self.rotation)
                self._arm()

    async def _take(self, step: Step, rotation: Rotation) -> None:
        match step:
            case Renew():
                await self.renewal.run()
            case Rotate(why=why):
                await rotation.run(why)
            case Hold(why=why):
                self._expire(why)

    async def rotate(self) -> None:
        """Ask for a rotation now; returns when the new generation serves. Raises VaultPgError if the attempt fails."""
        if self._stopping:
            raise self._stopped()  # nobody would ever answer
        done = asyncio.get_running_loop().create_future()
        self.tenure.asked.append(done)
        self.tenure.wake()
        await done

    async def stop(self, drain_timeout: float) -> None:
        """Drain and close the pool, cutting off who is left after `drain_timeout` seconds. The leases are left to be revoked."""
        if self._deaf is not None:
            self._deaf()
        if self._alarm is not None:
            self._alarm.cancel()
        self._stopping = True
        self.tenure.answer(self._stopped())
        await self.sweep.stop()
        if self.rotation is not None:
            await self.rotation.stop()
        if self.holder is not None:
            await self.holder.finish(drain_timeout)

    def _stopped(self) -> VaultPgError:
        return NotRunning(f"the manager of database {self.name!r} is stopping")

    @property
    def token_serials(self) -> set[int]:
        """The tokens that this database still depends on."""
        lease = self.tenure.lease
        return self.ledger.token_serials | (set() if lease is None else {lease.token_serial} - {NO_TOKEN.serial})

    def recheck(self, after: float = 0.0) -> None:
        """The clocks have parted, so timers may be late and the lease may have ended: ask Vault (in `after` seconds), assume nothing."""
        self._arm()
        self.suspicion.distrust_clocks(after)
        self.tenure.wake()

    def _watch(self, pool: LeasedPool[AsyncConnection[Any]]) -> None:
        """A login that PostgreSQL refuses makes the credential that serves doubtful."""
        holder = self.holder

        def rejected() -> None:
            if holder is not None and holder.serves(pool):
                self.suspicion.raise_(rejected=True)

        pool.connector.on_rejected = rejected

    @asynccontextmanager
    async def _watching(self, source: Watches) -> AsyncIterator[None]:
        """Beside what is done meanwhile: a source that may change at any time is watched."""
        watching = asyncio.create_task(self._watch_source(source), name=f"vault-pg-watch-{self.name}")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def _watch_source(self, source: Watches) -> None:
        for failures in itertools.count(1):
            try:
                while True:
                    await source.watch()
                    self.tenure.ask_again("its source has changed")
            except Exception as error:  # noqa: BLE001 - a source may be foreign code, and has to be watched all the same
                self.tenure.emit(TaskDied(task=f"watch of {self.name}", error=told(error)))
            await asyncio.sleep(backoff(failures, 1.0))

    # -- the horizon

    def _lost(self) -> None:
        """A rotation is under way at once; if it is not done soon, checkouts are told instead of getting a dead credential."""
        self._set_alarm(min(self._until, self.tenure.clock() + LOST_GRACE))
        self.tenure.wake()

    def _arm(self) -> None:
        """Set the alarm for the horizon as it stands now."""
        self._set_alarm(self.tenure.horizon if self.tenure.lost is None else self._until)

    def _set_alarm(self, until: Instant) -> None:
        """Let it ring by then. One that rings sooner looks again, so it is not called off: it would lie about in the loop, for hours."""
        self._until = until
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, until - self.tenure.clock())
        if at < math.inf and (self._alarm is None or at < self._alarm.when()):
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._until - self.tenure.clock() > MOMENT:
            self._arm()  # the horizon has moved on meanwhile, or the loop's clock runs faster
        else:
            self._pass_horizon()

    def _expired(self) -> bool:
        """Asked at each checkout, so that none is served a dead credential where the alarm is late."""
        if self.tenure.clock() < self._until:
            return False
        self._pass_horizon()
        return self.tenure.refused_since is not None

    def _pass_horizon(self) -> None:
        tenure, lease, token = self.tenure, self.tenure.lease, self.tenure.token
        by_token = lease is not None and token is not None and token.end < lease.end
        ended = "its token ended, and no other has come" if by_token else "its lease ended before it could be renewed or rotated"
        self._expire(tenure.lost or tenure.last_error or ended)

    def _token_changed(self) -> None:
        token = self.tenure.token
        if self.tenure.lease is not None and (token is None or token.ttl == 0.0):
            self.tenure.lose("the token that asked for it is dead")
        self._arm()
        self.tenure.wake()

    def _expire(self, why: str) -> None:
        """Never serve knowingly past the horizon: refuse checkouts, with the reason, until a rotation brings a new credential."""
        tenure = self.tenure
        if tenure.refused_since is not None or self.holder is None:
            return
        tenure.refused_since = now = tenure.clock()
        tenure.last_error = tenure.last_error or why
        since = wall(now, now)
        source = "Vault" if tenure.role is not None else "its source"
        self.holder.refuse(
            f"no credential for {tenure.whose} since {since:%H:%M:%S} UTC: {why}; "
            f"checkouts fail until {source} gives a new one, which is being tried all the time"
        )
        tenure.emit(CredentialExpired(database=self.name, role=tenure.role, error=why))
        tenure.wake()
