"""The session's calls to a living Vault: each goes on when its caller has gone, as the threads of the real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

import hvac
from pydantic import SecretStr

from tests.unit.living_vault import Exchange, LivingVault
from tests.unit.memory_vault import ADDRESS
from tests.unit.memory_vault import _Adapter as MemoryAdapter
from vault_pg.errors import NotRunning, VaultError, VaultUnavailable
from vault_pg.settings import VaultSettings
from vault_pg.vault.calls import GRACE

T = TypeVar("T")


class Witness(Protocol):
    """Sees what goes over the wire."""

    def sent(self, path: str) -> None:
        """A request has come to Vault, or to where it should be."""

    def heard(self, sent_at: float, exchanges: list[Exchange]) -> None:
        """The answers to what was sent then are with the manager now."""


class LivingCalls:
    def __init__(self, vault: LivingVault, witness: Witness) -> None:
        self.vault, self.witness = vault, witness
        self.closed = False
        self.lost: Callable[[SecretStr, VaultError], object] = lambda _token, _error: None
        self.under_way: set[asyncio.Task[Any]] = set()
        self._client = hvac.Client(url=ADDRESS, token="", adapter=partial(MemoryAdapter, vault))

    def take(self, _: VaultSettings, lost: Callable[[SecretStr, VaultError], object]) -> LivingCalls:
        """In the place of ThreadCalls's constructor."""
        self.lost = lost
        return self

    async def call(
        self,
        work: Callable[[hvac.Client], T],
        *,
        token: SecretStr | None,
        timeout: float,
        undo: Callable[[hvac.Client, T], object] | None = None,
    ) -> T:
        if self.closed:
            raise NotRunning("the Vault session is closed")
        given = token.get_secret_value() if token is not None else ""
        deadline, sent_at = self._now + timeout, self.vault.clock()
        exchanges: list[Exchange] = []
        task = self._start(self._work(work, given, deadline + (GRACE if undo else 0.0), exchanges))
        try:
            done, _ = await asyncio.wait([task], timeout=timeout)
        except BaseException:
            self._start(self._undo(task, undo, given))
            raise
        if not done:
            self._start(self._undo(task, undo, given))
            raise VaultUnavailable(f"Vault did not answer within {timeout:.1f} s", in_doubt=undo is None)
        if not isinstance(task.exception(), VaultUnavailable):
            self.witness.heard(sent_at, exchanges)
        return task.result()

    async def settled(self, *, timeout: float) -> None:
        await asyncio.sleep(0)
        if self.under_way:
            await asyncio.wait(self.under_way, timeout=timeout)

    async def close(self, *, timeout: float) -> None:
        self.closed = True
        await self.settled(timeout=timeout)

    async def end(self) -> None:
        """What a program that has ended leaves of its threads: nothing."""
        for task in self.under_way:
            task.cancel()
        await asyncio.gather(*self.under_way, return_exceptions=True)
        self._client.adapter.close()

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self.under_way.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.under_way.discard(task)
        if not task.cancelled():
            task.exception()  # seen, whoever waits for it

    async def _work(self, work: Callable[[hvac.Client], T], token: str, deadline: float, exchanges: list[Exchange]) -> T:
        vault = self.vault
        latency = vault.luck.random() * (vault.weather.slow or 0.01)
        await asyncio.sleep(min(latency / 2, max(0.0, deadline - self._now)))
        sky = vault.weather
        if sky.refuses or sky.hangs:
            self.witness.sent(_path_of(work))
        if sky.refuses:
            raise VaultUnavailable("Vault refuses the connection: is it running?")
        if sky.hangs:
            await asyncio.sleep(max(0.0, deadline - self._now))
            raise VaultUnavailable("Vault did not answer in time", in_doubt=True)
        try:
            result = self._ask(work, token, exchanges)
        finally:
            for exchange in exchanges:
                self.witness.sent(exchange.path)
        if vault.luck.random() < sky.cut:
            raise VaultUnavailable("Vault broke off the connection before it had answered", in_doubt=True)
        await asyncio.sleep(latency / 2)
        if self._now > deadline:
            raise VaultUnavailable("Vault did not answer in time", in_doubt=True)
        return result

    def _ask(self, work: Callable[[hvac.Client], T], token: str, exchanges: list[Exchange]) -> T:
        self._client.token = token
        self.vault.exchanges = exchanges
        return work(self._client)

    async def _undo(self, task: asyncio.Task[T], undo: Callable[[hvac.Client, T], object] | None, token: str) -> None:
        await asyncio.wait([task])
        if undo is None or task.cancelled():
            return
        error = task.exception()
        if error is None:
            try:
                await self._work(lambda client: undo(client, task.result()), token, self._now + GRACE, [])
            except VaultError as failed:
                error = failed
        elif not (isinstance(error, VaultError) and error.in_doubt):
            return
        if token and isinstance(error, VaultError):
            self.lost(SecretStr(token), error)


def _path_of(work: Any) -> str:
    """What the call is for, where no request tells."""
    while isinstance(work, partial):
        work = work.args[0] if work.args and callable(work.args[0]) else work.func
    return str(getattr(work, "__name__", work))
