"""A whole life, cancelled at every moment there is, on virtual time: nothing of it is left, at Vault, at PostgreSQL or in the process."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pytest
from pydantic import SecretStr

import vault_pg
from tests.moments import Moments, moments
from tests.unit.memory_postgres import MemoryPostgres
from tests.unit.memory_vault import MemoryCalls, MemoryVault
from tests.unit.test_keeper import Leases
from vault_pg import LeaseManager, NotRunning, Settings
from vault_pg.events import Event, LeaseRenewed
from vault_pg.settings import AppRoleAuth, DatabaseSettings, VaultSettings
from vault_pg.vault import VaultSession

pytestmark = pytest.mark.looptime


@dataclass
class World:
    vault: MemoryVault
    leases: Leases
    postgres: MemoryPostgres
    settings: Settings
    events: list[Event]

    def manager(self) -> LeaseManager:
        loop = asyncio.get_running_loop()
        manager = LeaseManager(self.settings, clock=loop.time, draw=random.Random(1).random)  # noqa: S311 - a seed for a test
        manager.add_listener(self.events.append)
        return manager

    def assert_nothing_left(self, when: object) -> None:
        assert not self.leases.alive, when
        revoked = {asked.token for asked in self.vault.asked if asked.path == "auth/token/revoke-self"}
        assert revoked == {f"hvs.{number}" for number in range(1, self.vault.logins + 1)}, when
        assert not self.postgres.open, when
        assert asyncio.all_tasks() == {asyncio.current_task()}, when
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, when
        with pytest.raises(NotRunning):
            vault_pg.get_pool()


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> World:
    vault = MemoryVault(asyncio.get_running_loop().time)
    vault.token_ttl = 86_400
    postgres = MemoryPostgres()
    monkeypatch.setattr("vault_pg.manager.manager.VaultSession", partial(VaultSession, calls=MemoryCalls(vault)))
    auth = AppRoleAuth(role_id="r", secret_id=SecretStr("s"))
    database = DatabaseSettings(role="app", min_size=2, max_size=3, connection_class=postgres.connection_class)
    settings = Settings(
        vault=VaultSettings(address="https://vault.test:8200", auth=auth), databases={"default": database}, status_socket=False
    )
    return World(vault, Leases(vault, ttl=10, max_ttl=86_400), postgres, settings, [])


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Moments]:
    with moments(monkeypatch.setattr) as counted:
        yield counted


async def life(world: World) -> None:
    async with world.manager() as manager:
        async with manager.get_pool().connection() as conn:
            await conn.execute("select 1")
        await asyncio.sleep(7.6)  # past the renewal, which is due at three quarters of the TTL at the latest
        assert any(isinstance(event, LeaseRenewed) for event in world.events)
        await manager.rotate()
        async with manager.get_pool().connection() as conn:
            await conn.execute("select 1")


async def script(world: World) -> None:
    async with vault_pg.connect(world.settings) as conn:
        await conn.execute("select 1")
        await asyncio.sleep(1)


async def script_that_fails(world: World) -> None:
    with suppress(ZeroDivisionError):
        async with vault_pg.connect(world.settings) as conn:
            await conn.execute("select 1")
            raise ZeroDivisionError


Victim = Callable[[World], Coroutine[Any, Any, None]]
victims = pytest.mark.parametrize("victim", [life, script, script_that_fails], ids=lambda victim: victim.__name__)


@victims
async def test_cancelled_at_any_moment_it_leaves_nothing(victim: Victim, world: World, at: Moments) -> None:
    for moment in count(1):
        world.events.clear()
        struck = await at.cancel(victim(world), moment)
        world.assert_nothing_left(moment)
        if not struck:
            break


@victims
async def test_cancelled_again_while_it_ends_it_leaves_nothing(victim: Victim, world: World, at: Moments) -> None:
    draw = random.Random(2)  # noqa: S311 - a seed for a test
    for moment in count(1, 7):
        world.events.clear()
        struck = await at.cancel(victim(world), moment, draw.randint(1, 40), draw.randint(1, 40))
        world.assert_nothing_left(moment)
        if not struck:
            break
