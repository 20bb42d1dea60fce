"""Answers that are lost on the way: what Vault may have done is reckoned with, and undone in the end. On virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from tests.unit.memory_vault import Refusal
from tests.unit.test_keeper import ISSUE, RENEW, world
from vault_pg import LeaseManager, Settings, errors
from vault_pg.events import CredentialExpired, IssueUnanswered, LeaseRenewed, LeaseRotated, RenewalFailed, TokenRevoked
from vault_pg.schedule import BACKOFF_CAP
from vault_pg.settings import DatabaseSettings, TokenAuth, VaultSettings
from vault_pg.vault import VaultSession

pytestmark = pytest.mark.looptime


LOGIN = "auth/approle/login"


async def until(check: Callable[[], bool]) -> None:
    """In virtual time, looked at every second of an hour."""
    for _ in range(3600):
        if check():
            return
        await asyncio.sleep(1)
    raise AssertionError(f"not in an hour: {check}")


async def test_a_lease_whose_renewals_were_never_answered_is_revoked_although_its_horizon_is_over() -> None:
    """Vault has made it end later than anybody was told. The world looks for what is left on leaving."""
    async with world(ttl=60, max_ttl=86_400) as w:
        w.vault.unheard[RENEW] = 1_000
        w.down(ISSUE)
        await asyncio.sleep(61)
        assert w.of(CredentialExpired)
        assert w.keeper.holder is not None
        with pytest.raises(errors.NoCredential):
            await w.keeper.holder.getconn(timeout=1)
        assert w.leases.alive == {f"{ISSUE}/1"}
        assert [lease.id for lease in w.keeper.ledger.live] == [f"{ISSUE}/1"]


async def test_a_renewal_that_vault_refused_leaves_nothing_in_doubt() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.down()
        await asyncio.sleep(61)
        assert w.of(RenewalFailed)
        assert not w.keeper.ledger.live


async def test_an_answered_renewal_ends_the_doubt_of_those_before() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        w.vault.unheard[RENEW] = 1_000
        await until(lambda: bool(w.of(RenewalFailed)))
        w.vault.unheard.clear()
        await until(lambda: bool(w.of(LeaseRenewed)))
        w.down()
        await asyncio.sleep(61)
        assert not w.leases.alive
        assert not w.keeper.ledger.live


async def test_a_renewal_that_is_cancelled_on_its_way_is_in_doubt_too() -> None:
    async with world(ttl=60, max_ttl=86_400) as w:
        lease = w.keeper.tenure.lease
        assert lease is not None
        with pytest.raises(asyncio.CancelledError), w.keeper.ledger.renewing(lease, 60):
            raise asyncio.CancelledError
        w.down()
        await asyncio.sleep(61)
        assert [lease.id for lease in w.keeper.ledger.live] == [f"{ISSUE}/1"]


async def test_a_lease_that_was_issued_to_nobody_goes_with_its_token_once_the_others_have_moved() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        w.vault.unheard[ISSUE] = 1
        with pytest.raises(errors.VaultUnavailable, match="broke off"):
            await w.keeper.rotate()
        [unanswered] = w.of(IssueUnanswered)
        assert (unanswered.serial, unanswered.replaced) == (1, True)
        assert f"{ISSUE}/2" in w.leases.alive
        await asyncio.sleep(3600)
        assert [event.serial for event in w.of(TokenRevoked)] == [1]
        assert w.vault.logins == 2
        assert w.leases.alive == {f"{ISSUE}/3"}
        assert await w.serves() == "v-app-3"


async def test_an_issue_that_is_tried_again_asks_with_the_new_token() -> None:
    """Else its lease would have to move at once."""
    async with world(ttl=60, max_ttl=150) as w:
        w.vault.latency = 0.5
        w.vault.unheard[ISSUE] = 1
        await until(lambda: bool(w.of(LeaseRotated)))
        await asyncio.sleep(5)
        assert w.leases.owners == {f"{ISSUE}/1": "hvs.1", f"{ISSUE}/2": "hvs.1", f"{ISSUE}/3": "hvs.2"}
        assert w.leases.alive == {f"{ISSUE}/3"}


async def test_lost_answers_lead_to_one_login_in_ten_minutes() -> None:
    async with world(ttl=36_000, max_ttl=864_000) as w:
        for _ in range(5):
            w.vault.unheard[ISSUE] = 1
            with pytest.raises(errors.VaultUnavailable):
                await w.keeper.rotate()
            await asyncio.sleep(60)
        assert w.vault.logins == 2
        await asyncio.sleep(600)
        assert w.vault.logins == 3
        await asyncio.sleep(3600)
        assert w.vault.logins == 3


async def test_a_login_that_is_refused_leaves_the_token_as_it_is() -> None:
    """Its secret id may be used up: then the token is kept alive, which is worth more than one role."""
    async with world(ttl=3600, max_ttl=86_400, token_ttl=600) as w:
        w.down(LOGIN, reply=Refusal(400, "invalid secret id"))
        w.vault.unheard[ISSUE] = 1
        with pytest.raises(errors.VaultUnavailable):
            await w.keeper.rotate()
        await asyncio.sleep(7200)
        assert len(w.vault.times(LOGIN)) == 2
        assert await w.serves() == "v-app-1"
        assert not w.of(LeaseRotated, CredentialExpired)


async def test_a_login_that_fails_again_and_again_does_not_keep_the_token_from_being_renewed() -> None:
    async with world(ttl=3600, max_ttl=86_400, token_ttl=600) as w:
        mend = w.down(LOGIN)
        w.vault.unheard[ISSUE] = 1
        with pytest.raises(errors.VaultUnavailable):
            await w.keeper.rotate()
        await asyncio.sleep(7200)
        assert await w.serves() == "v-app-1"
        assert not w.of(CredentialExpired)
        mend()
        await asyncio.sleep(BACKOFF_CAP + 3600)
        assert w.vault.logins == 2
        assert w.leases.alive == {f"{ISSUE}/3"}


async def test_what_never_reached_vault_costs_no_token() -> None:
    async with world(ttl=3600, max_ttl=86_400) as w:
        w.down(ISSUE)
        with pytest.raises(errors.VaultUnavailable):
            await w.keeper.rotate()
        await asyncio.sleep(3600)
        assert w.vault.logins == 1
        assert not w.of(IssueUnanswered)


async def test_a_lease_that_arrives_while_another_token_is_revoked_keeps_its_own() -> None:
    """Asked for with a token that has been replaced since: the books know of it from its arrival on."""
    settings = Settings(
        vault=VaultSettings(address="https://vault.test:8200", auth=TokenAuth(token=SecretStr("hvs.1"))),
        databases={"default": DatabaseSettings(role="app")},
    )
    manager = LeaseManager(settings, shared=False)
    needed: set[int] = set()
    manager._keepers = cast("dict[str, Any]", {"default": SimpleNamespace(token_serials=needed)})
    forgotten: list[int] = []

    class Session:
        old_serials = frozenset({1, 2})

        async def forget(self, serial: int, *, timeout: float) -> bool:
            assert timeout > 0
            await asyncio.sleep(5)  # Vault is slow
            forgotten.append(serial)
            needed.add(2)
            return True

    forgetting = asyncio.create_task(manager._forget_old(cast(VaultSession, Session())))
    await manager._forget_tokens()
    await asyncio.sleep(60)
    forgetting.cancel()
    assert forgotten == [1]
