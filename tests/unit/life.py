"""A life of a LeaseManager on virtual time, from entering to leaving, with clients and all that may go wrong."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import looptime
import psycopg
import pytest
import structlog
from pydantic import SecretStr

from tests.unit.life_observer import Observer
from tests.unit.life_plan import Blow, Chapter, Plan
from tests.unit.living_calls import LivingCalls
from tests.unit.living_postgres import FORBIDDEN, ORDERS, LivingConnection, LivingPostgres
from tests.unit.living_vault import CALM, LivingVault
from vault_pg import LeaseManager, Settings
from vault_pg.errors import NoCredential, VaultPgError
from vault_pg.settings import AppRoleAuth, DatabaseSettings, VaultSettings

NAMES = ("default", "reports", "jobs", *(f"job-{number}" for number in range(1, 98)))


class Loop(looptime.LoopTimeEventLoop, asyncio.SelectorEventLoop):
    """Time leaps to whatever comes next, and each turn of the loop takes some: else who waits for a billionth waits for ever."""

    _turns = 0

    def _run_once(self) -> None:
        self._turns += 1
        super()._run_once()  # type: ignore[misc] # what asyncio's own loops are made of

    @property
    def turned(self) -> float:
        return self._turns * 1e-6

    def time(self) -> float:
        return super().time() + self.turned


class Life:
    def __init__(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
        climate = plan.climate
        self.plan = plan
        self.loop = asyncio.get_running_loop()
        self.suspended = self.set_by = 0.0
        self.luck = random.Random(plan.seed)  # noqa: S311 - a seed for a test
        self.vault = LivingVault(self.clock, self._another(), climate.token, ttl=climate.ttl, max_ttl=climate.max_ttl)
        self.postgres = LivingPostgres(self.vault)
        self.observer = Observer(plan, self.clock, self.vault, self.postgres)
        self.calls = LivingCalls(self.vault, self.observer)
        self.manager = LeaseManager(
            self._settings(), clock=self.clock, wall_clock=self.wall_clock, draw=self._another().random, shared=False
        )
        self.manager.add_listener(self.observer.told)
        self.clients: list[asyncio.Task[None]] = []
        self._patch(monkeypatch)

    def clock(self) -> float:
        """The lease clock, which runs on through a suspend."""
        return self.loop.time() + self.suspended

    def wall_clock(self) -> float:
        """Which somebody may set."""
        return 1.7e9 + self.clock() + self.set_by

    def _another(self) -> random.Random:
        return random.Random(self.luck.random())  # noqa: S311 - a seed for a test

    def _settings(self) -> Settings:
        climate = self.plan.climate
        patience = max(2.0, min(5.0, climate.ttl / 6))
        databases = {
            name: DatabaseSettings(
                role=name,
                min_size=1,
                max_size=climate.max_size,
                max_age=climate.max_age,
                connection_class=self.postgres.connection_class,
                drain_timeout=patience,
                build_timeout=patience,
            )
            for name in NAMES[: climate.databases]
        }
        return Settings(
            vault=VaultSettings(address="https://vault.test:8200", auth=AppRoleAuth(role_id="r", secret_id=SecretStr("s"))),
            databases=databases,
            handle_sigterm=False,
            status_socket=False,
        )

    def _patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert structlog  # to import it takes from the dice of the whole program
        random.seed(self.luck.random())  # psycopg_pool's and tenacity's jitter
        monkeypatch.setattr("vault_pg.vault.session.ThreadCalls", self.calls.take)
        monkeypatch.setattr("vault_pg.manager.manager.LOOK", self.plan.climate.pace)
        monkeypatch.setattr("vault_pg.vault.keepalive.NAP", 10 * self.plan.climate.pace)
        for name, module in list(sys.modules.items()):
            if not name.startswith(("psycopg_pool.", "vault_pg.pool.")):
                continue
            if getattr(module, "monotonic", None) is time.monotonic:
                monkeypatch.setattr(module, "monotonic", self.loop.time)  # pools count on the clock of their loop
            if hasattr(module, "sever"):
                monkeypatch.setattr(module, "sever", LivingConnection.sever)  # there is no socket to shut down

    # -- clients

    async def query(self, name: str, text: str = ORDERS, hold: float = 0.0) -> bool:
        """Whether it worked. Nobody may notice anything while all is calm."""
        calm = self.observer.calm_since
        try:
            async with self.manager.get_pool(name).connection(timeout=5) as conn:
                assert isinstance(conn, LivingConnection)
                self.observer.lent(name, conn.user)
                await conn.execute(text)
                if hold:
                    await asyncio.sleep(hold)
                    await conn.execute(text)
        except (NoCredential, psycopg.Error) as error:
            if isinstance(error, NoCredential):
                self.observer.refused(name)
                if self.manager.status().health != "critical":
                    self.observer.blame(f"{name} is refused, and the status does not say critical")
            elif text == FORBIDDEN and "forbidden" in str(error):
                return True
            if calm is not None and calm == self.observer.calm_since:
                self.observer.blame(f"{type(error).__name__} for nothing: {error}")
            return False
        return True

    async def _client(self, name: str, luck: random.Random) -> None:
        ttl = self.plan.climate.ttl
        while True:
            await asyncio.sleep(luck.expovariate(20 / ttl))
            hold = luck.choice([0.0, 0.0, min(0.5, ttl / 20)])
            await self.query(name, FORBIDDEN if luck.random() < 0.1 else ORDERS, hold)

    # -- what happens

    async def live(self) -> None:
        names = list(self.manager.settings.databases)
        self.clients = [asyncio.create_task(self._client(name, self._another()), name=f"client-{name}") for name in names]
        await self.recovers()
        for number, chapter in enumerate(self.plan.chapters, 1):
            await self._quiet(chapter)
            self.observer.trouble()
            last = number == len(self.plan.chapters)
            await self._trouble(chapter)
            if last and self.plan.abrupt:
                break
            self.vault.weather = CALM
            await self.recovers()

    async def recovers(self) -> None:
        """All is well again: soon everything serves and is healthy."""
        start = self.clock()
        soon = self.plan.soon + 2 * (self.plan.climate.pace - 1)
        late = set(self.calls.under_way)  # what Vault has swallowed before may fail yet
        while not await self._well() or not all(call.done() for call in late):
            if (waited := self.clock() - start) > soon:
                self.observer.blame(f"not well after {waited:.0f} s: {self.manager.status()!r}")
                break
            await self._pass(0.5)
        self.observer.calm()

    async def _well(self) -> bool:
        serves = [await self.query(name) for name in self.manager.settings.databases]
        return all(serves) and self._healthy()

    def _healthy(self) -> bool:
        return self.manager.status().health == "healthy"

    async def _pass(self, seconds: float) -> None:
        """Let time pass, and look all the while."""
        end = self.clock() + seconds
        step = max(0.5, self.plan.climate.ttl / 20)
        while (left := end - self.clock()) > 0.001:
            await asyncio.sleep(min(left, step))
            self.observer.look()
            if self.observer.calm_since is not None and not self._healthy():
                self.observer.blame(f"not healthy for nothing: {self.manager.status()!r}")
            for client in self.clients:
                if client.done():
                    await client
            assert not self.observer.violations, "\n".join(self.observer.violations[:5])

    async def _quiet(self, chapter: Chapter) -> None:
        if chapter.asked:
            name = self.luck.choice(list(self.manager.settings.databases))
            await self._pass(chapter.quiet / 2)
            self.observer.asked_for += 1
            async with asyncio.timeout(self.plan.soon):
                await self.manager.rotate(name)
            await self._pass(chapter.quiet / 2)
        else:
            await self._pass(chapter.quiet)

    async def _trouble(self, chapter: Chapter) -> None:
        self.vault.weather = chapter.weather
        if chapter.weather.postgres_down:
            self.postgres.restart()
        await self._pass(chapter.after)
        if chapter.blow is not None:
            await self._blow(chapter.blow)
        await self._pass(chapter.lasting - chapter.after)

    async def _blow(self, blow: Blow) -> None:
        luck, ttl, alive = self.luck, self.plan.climate.ttl, list(self.vault.alive())
        name = luck.choice(list(self.manager.settings.databases))
        if blow == "lease" and alive:
            del self.vault.leases[luck.choice(alive)]
        elif blow == "role" and alive:
            self.vault.dropped.add(self.vault.leases[luck.choice(alive)].username)
        elif blow == "token":
            self.vault.tokens[luck.choice(list(self.vault.tokens))].end = 0.0
        elif blow == "restart":
            self.postgres.restart()
        elif blow == "resize":
            await self.manager.get_pool(name).resize(1, luck.randint(1, self.plan.climate.max_size))
        elif blow == "rotate":
            self.observer.asked_for += 1
            try:
                async with asyncio.timeout(self.plan.soon):
                    await self.manager.rotate(name)
            except (VaultPgError, TimeoutError):
                pass  # said to who asked
        elif blow == "set":
            self.set_by += luck.choice([-2, -0.1, 0.1, 2]) * ttl
        elif blow in {"suspend", "block"}:
            seconds = ttl * luck.choice([0.1, 0.5, 0.9, 2])
            self._blink(blow, seconds)
            await self._pass(2 * self.plan.climate.pace)

    def _blink(self, blow: Blow, seconds: float) -> None:
        if blow == "suspend":
            self.suspended += seconds
        else:
            assert isinstance(self.loop, Loop)
            self.loop.setup_looptime(start=self.loop.time() - self.loop.turned + seconds, noop_cycles=0)
        self.observer.leapt_at = self.clock()


@asynccontextmanager
async def _lived(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Life]:
    life = Life(plan, monkeypatch)
    observer = life.observer
    async with life.manager:
        try:
            yield life
        finally:
            for client in life.clients:
                client.cancel()
            await asyncio.gather(*life.clients, return_exceptions=True)
            observer.trouble()
            left_at = life.loop.time()
    if life.loop.time() - left_at > life.manager.settings.shutdown_timeout + 1:
        observer.blame(f"leaving took {life.loop.time() - left_at:.1f} s")
    observer.ended(in_trouble=life.vault.weather != CALM)
    await life.calls.end()
    observer.violations += [f"task left: {task!r}" for task in asyncio.all_tasks() - {asyncio.current_task()}]
    timers: Any = getattr(life.loop, "_scheduled", [])
    observer.violations += [f"timer left: {timer!r}" for timer in timers if not timer.cancelled()]
    assert not observer.violations, "\n".join(observer.violations[:5])


async def _live(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Life:
    async with _lived(plan, monkeypatch) as life:
        await life.live()
    return life


def live(plan: Plan) -> Life:
    """Raises AssertionError for what must never be."""
    dice, silenced = random.getstate(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # to put months into words takes longer than to live them
    with pytest.MonkeyPatch.context() as monkeypatch, asyncio.Runner(loop_factory=lambda: Loop(noop_cycles=0)) as runner:
        try:
            return runner.run(_live(plan, monkeypatch))
        finally:
            random.setstate(dice)
            logging.disable(silenced)
