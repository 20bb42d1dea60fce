"""The sweep: leases that nobody uses any more and that could not be revoked, tried again until Vault agrees that they are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_result

from vault_pg import schedule
from vault_pg.events import TaskDied
from vault_pg.manager.ledger import Ledger
from vault_pg.manager.tenure import Tenure


class Sweep:
    """Runs while one database has such leases, and never otherwise. `ended` is called once the last of them is gone.

    A task of its own: with a Vault that hangs it takes as long as that hangs, and renewals and rotations must not wait for it.
    """

    def __init__(self, tenure: Tenure, ledger: Ledger, *, ended: Callable[[], Awaitable[object]]) -> None:
        self._tenure = tenure
        self._ledger = ledger
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        ledger.on_left = self.begin

    def begin(self) -> None:
        if not self._loop.is_running():
            return  # it was stopped or closed under a revocation, which the garbage collector ends
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), name=f"vault-pg-sweep-{self._tenure.name}")
            self._task.add_done_callback(self._told)

    async def stop(self) -> None:
        """The leases stay in the ledger."""
        self._ledger.on_left = lambda: None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        async def once() -> bool:
            await self._ledger.revoke_orphans()
            return self._ledger.has_orphans

        def wait(state: RetryCallState) -> float:
            return schedule.backoff(state.attempt_number, self._tenure.draw(), left=float("inf"))

        await asyncio.sleep(schedule.backoff(1, self._tenure.draw()))
        while True:
            await AsyncRetrying(retry=retry_if_result(bool), wait=wait, sleep=asyncio.sleep)(once)
            await self._ended()
            if not self._ledger.has_orphans:  # another may have been left meanwhile
                return

    def _told(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._tenure.emit(TaskDied(task=task.get_name(), error=f"{type(error).__name__}: {error}"))
