"""Leaving: tasks, pools, leases, token, endpoint, in this order, within a time, whatever strikes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from vault_pg.events import LeasesLeftBehind, Listener, ManagerStopped, TaskDied
from vault_pg.manager.endpoint import StatusEndpoint
from vault_pg.manager.keeper import Keeper
from vault_pg.vault import VaultSession

POOL_SHARE = 0.5
"""Part of the shutdown time that borrowers may use to finish."""

LEAST = 0.5
"""Seconds that revoking has even if no time is left, and the token after it."""

STARTS = 3
"""Times that a stage is begun if it is cancelled: once by whoever cancels us, once by the end of `asyncio.run`, which cancels all."""


class Departure:
    """The leaving of one manager, within `timeout` seconds.

    Each stage runs whatever the one before it came to. To cancel one only makes it begin again: half a clean-up is a leak, and the
    end of `asyncio.run` cancels everything there is, this included.
    """

    def __init__(
        self,
        tasks: list[asyncio.Task[None]],
        keepers: Sequence[Keeper],
        session: VaultSession | None,
        endpoint: StatusEndpoint | None,
        *,
        timeout: float,
        emit: Listener,
    ) -> None:
        self._tasks = tasks
        self._keepers = keepers
        self._session = session
        self._endpoint = endpoint
        self._emit = emit
        self._start = asyncio.get_running_loop().time()
        self._deadline = self._start + timeout
        self._patience: asyncio.Timeout | None = None
        self.over = False

    async def run(self) -> None:
        await self._stage(self._stop_tasks, POOL_SHARE)
        await self._stage(self._stop_pools, POOL_SHARE)
        for keeper in self._keepers:
            if keeper.holder is not None:
                keeper.holder.cut()
        await self._revoke_in_time()
        if self._endpoint is not None:
            await self._stage(self._endpoint.close, 1.0)
        self._tell()

    async def revoke_all(self) -> None:
        """All that is left to do where the event loop of tasks, pools and endpoint is closed. Runs on any other."""
        await self._revoke_in_time()
        self._tell()

    async def _revoke_in_time(self) -> None:
        await self._stage(self._revoke, 0.7)  # the rest is for the token
        await self._stage(self._end_session, 1.0)

    def _tell(self) -> None:
        left_behind = tuple(self._alive())
        if left_behind:
            self._emit(LeasesLeftBehind(lease_ids=left_behind))
        names = tuple(keeper.name for keeper in self._keepers)
        seconds = round(asyncio.get_running_loop().time() - self._start, 3)
        self._emit(ManagerStopped(databases=names, seconds=seconds, left_behind=left_behind))
        self.over = True

    def hurry(self) -> None:
        """Somebody is impatient: give the stage that runs up now, and those that follow the least time that they need."""
        now = asyncio.get_running_loop().time()
        self._deadline = min(self._deadline, now)
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(now)

    @property
    def _left(self) -> float:
        return self._deadline - asyncio.get_running_loop().time()

    async def _stage(self, work: Callable[[], Awaitable[object]], share: float) -> None:
        end = asyncio.get_running_loop().time() + max(LEAST, self._left * share)
        for _ in range(STARTS):
            try:
                async with asyncio.timeout_at(end) as self._patience:
                    await work()
            except asyncio.CancelledError:
                continue
            except TimeoutError:
                pass
            except Exception as error:  # noqa: BLE001 - whatever it was, the stages after it have to run
                self._emit(TaskDied(task="leave", error=f"{type(error).__name__}: {error}"))
            finally:
                self._patience = None
            return

    async def _stop_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _stop_pools(self) -> None:
        share = max(0.0, self._left) * POOL_SHARE * 0.8  # the rest is for cutting off who stays
        stops = (keeper.stop(min(share, keeper.tenure.settings.drain_timeout)) for keeper in self._keepers)
        await asyncio.gather(*stops, return_exceptions=True)

    async def _revoke(self) -> None:
        """Revoke every live lease.

        Tried again: PostgreSQL, for one, refuses to drop two roles of one group at the same instant (`tuple concurrently updated`).
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + max(LEAST, self._left * 0.7)

        async def once() -> list[str]:
            left = max(0.1, end - loop.time())
            await asyncio.gather(*(keeper.ledger.revoke(lease, left) for keeper in self._keepers for lease in keeper.ledger.live))
            return self._alive()

        def give_up(_: RetryCallState) -> list[str]:
            return []

        await AsyncRetrying(
            retry=retry_if_result(bool),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            stop=lambda _: loop.time() >= end,
            sleep=asyncio.sleep,
            retry_error_callback=give_up,
        )(once)

    def _alive(self) -> list[str]:
        return [lease.id for keeper in self._keepers for lease in keeper.ledger.live]

    async def _end_session(self) -> None:
        if self._session is not None:
            await self._session.close(timeout=max(LEAST, self._left))
