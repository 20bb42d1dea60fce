"""How a new credential takes over: issue, build, prove, replace; then, behind the clients' backs, drain, close, revoke."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import psycopg
from psycopg import AsyncConnection
from tenacity import RetryCallState

from vault_pg import schedule
from vault_pg.clock import Instant, wall
from vault_pg.errors import ProofFailed, VaultPgError
from vault_pg.events import DatabaseRecovered, LeaseRotated, PasswordExchanged, RotationFailed, SourceUnreadable, TaskDied
from vault_pg.lease import Lease
from vault_pg.manager.ledger import Ledger
from vault_pg.manager.renewal import Renewal
from vault_pg.manager.tenure import ASKED, UNRENEWED, Tenure, failure, seconds
from vault_pg.pool import HotSwapPool, LeasedPool, build, prove_login
from vault_pg.settings import DatabaseSettings

LOST_DRAIN = 3.0
"""Seconds that borrowers of a lost credential are given: its role is gone, they can finish nothing that needs it."""

LEAST_WAIT = 1.0
"""Seconds that a rotation waits for the one before, however little time is left."""

READ_AGAIN = 5.0
"""Seconds that a login is tried with a credential that its source may since have replaced; then that is read again."""


def patience(lease: Lease, settings: DatabaseSettings) -> float:
    """Seconds that a new credential may take to be known to the server."""
    return min(settings.build_timeout, READ_AGAIN) if lease.outlived else settings.build_timeout


class Rotation:
    """Rotates the lease of a tenure behind a holder. Only the keeper's own task runs it, so that no two ever cross."""

    def __init__(
        self,
        tenure: Tenure,
        ledger: Ledger,
        renewal: Renewal,
        holder: HotSwapPool[AsyncConnection[Any]],
        pool: LeasedPool[AsyncConnection[Any]],
        *,
        given_up: Callable[[str], object],
        ended: Callable[[], Awaitable[object]],
        watch: Callable[[LeasedPool[AsyncConnection[Any]]], object],
    ) -> None:
        self.count = 0
        self.under_way = False
        self.building = False
        """A pool is being built beside the one that serves, and the two have all the connections that there may be."""
        self._tenure = tenure
        self._ledger = ledger
        self._renewal = renewal
        self._holder = holder
        self._pool = pool
        self._unread: BaseException | None = None
        self._news = 0
        """Those of the tenure as the source was asked last."""
        self._given_up = given_up
        self._ended = ended
        self._watch = watch
        self._endings: list[asyncio.Task[None]] = []

    async def run(self, why: str) -> None:
        """Rotate, trying again for ever; one that was asked for is tried once. Until it works the old credential is kept alive."""
        tenure = self._tenure
        before = tenure.last_error, tenure.failed_since, tenure.retry
        self.under_way, asked_at = True, tenure.clock()

        def needless() -> bool:
            """Its lease was renewed after all, beside the rotation."""
            return why == UNRENEWED and tenure.due is None and tenure.patience > 0

        keeping = asyncio.create_task(self._renewal.keep_alive(), name=f"vault-pg-keep-{tenure.name}")
        try:
            async for attempt in tenure.retrying(self._failed, give_up=lambda: why == ASKED or needless()):
                with attempt:
                    await self._once(why)
        except VaultPgError as error:
            self._tell_failed(error, attempt=1, wait=None)
            if needless():
                tenure.last_error = tenure.failed_since = tenure.retry = None
            elif tenure.patience > 0:  # whoever asked is told; the lease goes on as it was
                tenure.last_error, tenure.failed_since, tenure.retry = before
                tenure.in_vain = f"the rotation asked for at {wall(asked_at, tenure.clock()):%H:%M:%S} UTC failed: {error}"
        except BaseException as error:
            tenure.answer(VaultPgError(f"the rotation was ended by {type(error).__name__}"))
            raise
        finally:
            self.under_way = False
            keeping.cancel()
            await asyncio.wait([keeping])

    async def stop(self) -> None:
        for ending in self._endings:
            ending.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)

    async def _once(self, why: str) -> None:
        """One attempt. A failure before the swap closes the new pool, leaves the new lease to be revoked, and changes nothing else."""
        tenure = self._tenure
        start = tenure.clock()
        await self._make_way()
        if not tenure.asked:
            await asyncio.sleep(self._ledger.bucket_wait())
        lease = await self._issue()
        if tenure.keeps_role(lease.credential):
            await self._exchange(lease, why)
            return
        keeping = asyncio.create_task(self._renewal.keep_new(lease), name=f"vault-pg-keep-new-{tenure.name}")
        self.building = True
        try:
            await self._succeed(lease, why, start)
        finally:
            self.building = False
            keeping.cancel()
            await asyncio.wait([keeping])

    async def _make_way(self) -> None:
        """Wait for what is left of the rotation before, but not past the time that this one needs: then it is cut short."""
        await self._in_time(self._holder.drained)
        self._holder.hurry()
        if self._ledger.full and self._endings:  # else they may go on revoking beside it
            await self._in_time(partial(asyncio.wait, list(self._endings)))

    async def _in_time(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Wait for half of what is left before the horizon at most; a moment, where the lease is lost or comes to be so meanwhile."""
        tenure, waiting = self._tenure, asyncio.ensure_future(wait())
        start = tenure.clock()
        try:
            while (left := start + max(LEAST_WAIT, tenure.patience / 2) - tenure.clock()) > 0:
                done, _ = await asyncio.wait([waiting], timeout=min(left, LEAST_WAIT))
                if done:
                    return
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])

    async def _succeed(self, lease: Lease, why: str, start: Instant) -> None:
        """Build the pool of a new lease, prove it, and let it replace the one that serves."""
        tenure, holder = self._tenure, self._holder
        pool: LeasedPool[AsyncConnection[Any]] | None = None
        try:
            # A program may have resized its pool: the next one has that size too.
            settings = tenure.settings.model_copy(
                update={
                    "min_size": holder.min_size,
                    "max_size": holder.max_size,
                    "build_timeout": patience(lease, tenure.settings),
                }
            )
            name = f"{tenure.name}-{holder.generation + 1}"
            pool = await build(lease.credential, settings, name=name, lease_id=lease.id or None, no_slot=holder.give_way)

            def swapped() -> None:
                # In the moment of the swap, so that nothing that befalls the old lease from now on is taken for the new one's.
                self._pool = proven
                self._watch(proven)
                self._replaced(self._ledger.known(lease), why, start)

            proven = pool
            await self._replace(pool, lease, swapped)
        except BaseException as error:
            if pool is None or not holder.serves(pool):  # else it was cancelled while the old pool was handing over: all is done
                holder.widen()  # it may have made room for a pool that does not come
                self._ledger.orphan(lease)
                if isinstance(error, Exception) and not isinstance(error, VaultPgError):
                    raise ProofFailed(f"a new pool could not be built: {type(error).__name__}: {error}") from error
            raise

    async def _issue(self) -> Lease:
        self._unread, self._news = None, self._tenure.news
        try:
            return await self._ledger.issue()
        except VaultPgError as error:
            if self._tenure.lease is not None and self._tenure.lease.outlived:
                self._unread = error
            raise

    async def _exchange(self, lease: Lease, why: str) -> None:
        """Another password of the same role goes beneath the open pool once a login has proven it."""
        tenure, before = self._tenure, self._tenure.lease
        news = before is None or before.credential != lease.credential
        if news or tenure.rejected:
            await prove_login(lease.credential, tenure.settings, patience=patience(lease, tenure.settings))
        if news:
            self._pool.exchange(lease.credential)
        tenure.adopt(lease, news=self._news)
        if news:
            tenure.in_vain = None
            tenure.tell(PasswordExchanged, lease, ttl_seconds=seconds(lease.ttl), why=why)

    async def _replace(self, pool: LeasedPool[AsyncConnection[Any]], lease: Lease, swapped: Callable[[], object]) -> None:
        tenure = self._tenure

        async def in_time(_: object) -> None:
            self._ledger.check_alive(lease, "its pool was ready")

        left = tenure.left if tenure.lost is None else min(tenure.left, LOST_DRAIN)
        try:
            await self._holder.replace(
                pool,
                timeout=tenure.settings.build_timeout,
                drain_timeout=tenure.settings.drain_timeout,
                deadline=asyncio.get_running_loop().time() + schedule.drain_timeout(left, most=float("inf")),
                prove=in_time,
                swapped=swapped,
            )
        except psycopg.Error as error:
            raise pool.reason(error) from None

    def _replaced(self, lease: Lease, why: str, start: Instant) -> None:
        tenure = self._tenure
        before, down, now = tenure.lease, tenure.refused_since, tenure.clock()
        tenure.refused_since = tenure.in_vain = None
        tenure.adopt(lease, news=self._news)
        self.count += 1
        tenure.tell(
            LeaseRotated,
            lease,
            generation=self._holder.generation,
            previous_lease_id=(before.id or None) if before else None,
            previous_username=before.credential.username if before else None,
            why=why,
            seconds=round(now - start, 3),
        )
        if down is not None:
            tenure.emit(DatabaseRecovered(database=tenure.name, role=tenure.role, outage_seconds=round(now - down, 3)))
        if before is not None:
            ending = asyncio.create_task(self._end(before), name=f"vault-pg-end-{tenure.name}-{self.count}")
            self._endings.append(ending)
            ending.add_done_callback(self._done_with)
        tenure.answer(None)

    async def _end(self, lease: Lease) -> None:
        """Only once nothing of the old generation is left, its lease is revoked."""
        await self._holder.drained()
        await self._ledger.revoke(lease)
        await self._ended()

    def _done_with(self, ending: asyncio.Task[None]) -> None:
        self._endings.remove(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            self._tenure.emit(TaskDied(task=ending.get_name(), error=f"{type(error).__name__}: {error}"))

    def _failed(self, state: RetryCallState) -> None:
        wait = state.upcoming_sleep
        what = "the source could not be read" if failure(state) is self._unread else "the rotation failed"
        self._tenure.retry = (self._tenure.clock() + wait, what)
        self._tell_failed(failure(state), attempt=state.attempt_number, wait=wait)

    def _tell_failed(self, error: BaseException, *, attempt: int, wait: float | None) -> None:
        tenure = self._tenure
        tenure.note(error)
        left = None if tenure.refused_since is not None else seconds(tenure.left)
        what = SourceUnreadable if error is self._unread else partial(RotationFailed, remaining_seconds=left)
        tenure.emit(
            what(
                database=tenure.name,
                role=tenure.role,
                error=str(error),
                attempt=attempt,
                retry_in_seconds=None if wait is None else round(wait, 3),
            )
        )
        tenure.answer(error)
        if tenure.lost is not None or tenure.left <= 0:
            self._given_up(str(error))
