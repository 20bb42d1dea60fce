"""A token that was given by hand, which nothing can replace, on virtual time: what is seen of its end before and when it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.memory_postgres import MemoryPostgres
from tests.unit.memory_vault import ADDRESS, DENIED, DOWN, MemoryCalls, MemoryVault, Reply
from tests.unit.test_keeper import ISSUE, Leases
from vault_pg import DatabaseSettings, LeaseManager, Settings
from vault_pg.events import CredentialExpired, Event, LeaseRotated, TokenEnding, TokenLost
from vault_pg.settings import TokenAuth, VaultSettings

pytestmark = pytest.mark.looptime


class World:
    """A manager with a token of `life` seconds, and the Vault that knows it. A lease dies with its token."""

    def __init__(self, life: float, ttl: float, monkeypatch: pytest.MonkeyPatch, *, renewable: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.vault = MemoryVault(loop.time)
        self.leases = Leases(self.vault, ttl, 864_000)
        self.events: list[Event] = []
        end = loop.time() + life

        def look(_: dict[str, Any]) -> Reply:
            left = int(end - loop.time())
            known = {"ttl": left, "creation_ttl": int(life), "expire_time": "later", "renewable": renewable}
            return {"data": known} if left >= 0 else DENIED

        self.vault.paths["auth/token/lookup-self"] = look
        loop.call_later(life, self.leases.ends.clear)
        loop.call_later(life, self.vault.dead.add, "hvs.given")
        calls = MemoryCalls(self.vault)
        monkeypatch.setattr("vault_pg.vault.session.ThreadCalls", lambda *_args, **_options: calls)
        database = DatabaseSettings(role="app", min_size=1, max_size=2, connection_class=MemoryPostgres().connection_class)
        settings = Settings(
            vault=VaultSettings(address=ADDRESS, auth=TokenAuth(token=SecretStr("hvs.given"))),
            databases={"default": database},
            status_socket=False,
            handle_sigterm=False,
        )
        self.manager = LeaseManager(settings, clock=loop.time, wall_clock=loop.time, shared=False)
        self.manager.add_listener(self.events.append)

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        async with self.manager:
            yield

    def seen(self) -> tuple[str, str | None]:
        status = self.manager.status()
        assert status.vault is not None
        return status.health, status.vault.token_trouble

    def of(self, *kinds: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kinds)]


async def test_a_given_token_that_ends_soon_makes_the_status_degraded_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(600, 3600, monkeypatch)
    async with world.entered():
        await asyncio.sleep(440)
        assert world.seen() == ("healthy", None)
        assert not world.of(TokenEnding)
        await asyncio.sleep(20)
        (warning,) = world.of(TokenEnding)
        assert isinstance(warning, TokenEnding)
        assert warning.remaining_seconds == pytest.approx(150, abs=2)
        assert warning.level == "warning"
        health, trouble = world.seen()
        assert health == "degraded"
        assert "ends soon, and nothing brings another: start anew with another VAULT_TOKEN" in str(trouble)
        await asyncio.sleep(200)
        health, trouble = world.seen()
        assert health == "critical"
        assert "has ended" in str(trouble)
        assert len(world.of(TokenEnding)) == 1


async def test_a_given_token_that_can_be_renewed_is_nobodys_business_though_its_renewals_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(600, 3600, monkeypatch, renewable=True)
    world.vault.paths["auth/token/renew-self"] = DOWN
    async with world.entered():
        await asyncio.sleep(500)
        assert world.seen()[1] is None


async def test_a_given_token_that_ends_is_told_in_one_and_asks_for_no_lease_that_it_could_not_keep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(15.4, 20, monkeypatch)
    async with world.entered():
        await asyncio.sleep(25)
        assert len(world.of(CredentialExpired)) == 1
        assert len(world.of(TokenLost)) == 1
        assert not world.of(LeaseRotated)
        assert len(world.vault.times(ISSUE)) == 1
        assert "has ended, and no other has come" in str(world.manager.status().databases[0].last_error)
