"""What comes of several things at once: found in review, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.memory_postgres import MemoryPostgres
from tests.unit.memory_vault import ADDRESS, MemoryCalls, MemoryVault, Refusal
from tests.unit.test_keeper import ISSUE, RENEW, Leases
from tests.unit.test_keeper import world as one
from tests.unit.test_outages import LOGIN, SEALED, hang
from tests.unit.test_outages import world as many
from vault_pg import LeaseManager
from vault_pg.errors import VaultPgError, VaultUnavailable
from vault_pg.events import CredentialExpired, Event, LeaseRenewed, LeaseRotated, TokenLost, TokenRenewed
from vault_pg.settings import AppRoleAuth, DatabaseSettings, Settings, VaultSettings

pytestmark = pytest.mark.looptime

REVOKE_SELF = "auth/token/revoke-self"


class Managed:
    def __init__(self, databases: int, ttl: float, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self.asleep = 0.0
        self.vault = MemoryVault(lambda: loop.time() + self.asleep)
        self.vault.token_ttl = 864_000
        self.leases = Leases(self.vault, ttl, 864_000)
        self.events: list[Event] = []
        self.most = 0
        calls = MemoryCalls(self.vault)
        under_way = 0
        call = calls.call

        async def counted(*args: Any, **options: Any) -> Any:
            nonlocal under_way
            under_way += 1
            self.most = max(self.most, under_way)
            try:
                return await call(*args, **options)
            finally:
                under_way -= 1

        monkeypatch.setattr(calls, "call", counted)
        monkeypatch.setattr("vault_pg.vault.session.ThreadCalls", lambda *_args, **_options: calls)
        database = DatabaseSettings(role="app", min_size=1, max_size=2, connection_class=MemoryPostgres().connection_class)
        settings = Settings(
            vault=VaultSettings(address=ADDRESS, auth=AppRoleAuth(role_id="r", secret_id=SecretStr("s"))),
            databases={f"db{number}": database for number in range(databases)},
            status_socket=False,
            handle_sigterm=False,
        )
        self.manager = LeaseManager(settings, clock=self.vault.clock, wall_clock=self.vault.clock, shared=False)
        self.manager.add_listener(self.events.append)


async def test_a_token_whose_revocation_hangs_holds_up_neither_the_start_nor_the_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    m = Managed(32, 6, monkeypatch)
    m.vault.latency = 0.1
    m.vault.unheard[ISSUE] = 1
    m.vault.paths[REVOKE_SELF] = hang(REVOKE_SELF)
    began = loop.time()
    async with m.manager:
        assert loop.time() - began < 2
        await asyncio.sleep(8)
        assert not [event for event in m.events if isinstance(event, CredentialExpired)]
        assert len(m.vault.times(REVOKE_SELF)) == 1
        m.vault.paths[REVOKE_SELF] = m.leases.revoke_with_token


async def test_a_token_that_could_not_be_revoked_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Managed(1, 86_400, monkeypatch)
    async with m.manager:
        m.vault.unheard[ISSUE] = 1
        with pytest.raises(VaultPgError):
            await m.manager.rotate("db0")
        await asyncio.sleep(1)
        m.vault.paths[REVOKE_SELF] = Refusal(503)
        await m.manager.rotate("db0")
        await asyncio.sleep(60)
        assert len(m.leases.alive) == 2
        m.vault.paths[REVOKE_SELF] = m.leases.revoke_with_token
        await asyncio.sleep(31)
        assert len(m.leases.alive) == 1, "the lease whose issue was not answered is gone with its token"


async def test_after_a_suspend_they_do_not_all_ask_in_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Managed(500, 3600, monkeypatch)
    async with m.manager:
        await asyncio.sleep(100)
        m.vault.latency, m.most = 0.2, 0
        m.asleep = 2700.0
        await asyncio.sleep(20)
        assert len(m.vault.times(RENEW)) >= 500
        assert m.most < 100
        m.vault.latency = 0.0


async def test_a_lease_that_only_an_outage_kept_from_being_renewed_is_renewed_beside_a_rotation_that_fails() -> None:
    async with one(ttl=3600, max_ttl=86_400) as w:
        w.vault.away = SEALED
        await asyncio.sleep(3530)
        w.vault.away = None
        mend = w.down(ISSUE, reply=Refusal(429, "lease count quota exceeded"))
        await asyncio.sleep(600)
        assert w.of(LeaseRenewed)
        assert w.keeper.tenure.last_error is None
        mend()
        await asyncio.sleep(3600)
        assert not w.of(CredentialExpired)


async def test_look_ups_that_fail_do_not_keep_a_token_from_being_renewed() -> None:
    loop, step = asyncio.get_running_loop(), 0.0
    async with one(ttl=3600, max_ttl=864_000, token_ttl=3600, wall_clock=lambda: loop.time() + step) as w:
        w.vault.paths["auth/token/lookup-self"] = Refusal(429, "rate limit quota exceeded")
        await asyncio.sleep(10)
        step = 5.0
        await asyncio.sleep(3700)
        assert w.of(TokenRenewed)
        assert not w.of(TokenLost, CredentialExpired)


async def test_answers_that_go_on_being_lost_do_not_make_all_leases_move_for_ever() -> None:
    async with many(100, ttl=3600) as w:
        answer: Callable[..., dict[str, Any]] = w.vault.answer
        issues = 0

        def lossy(method: str, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
            nonlocal issues
            reply = answer(method, path, token, body)
            issues += path == ISSUE
            if path == ISSUE and issues % 40 == 0:
                raise VaultUnavailable("Vault broke off the connection", in_doubt=True)
            return reply

        w.vault.answer = lossy  # type: ignore[method-assign]
        w.vault.unheard[ISSUE] = 1
        w.keepers[0].tenure.ask_again("now")
        await asyncio.sleep(6 * 3600)
        assert len(w.vault.times(LOGIN)) - 1 <= 6
        assert len(w.of(LeaseRotated)) <= 700
