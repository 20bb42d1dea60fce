"""The session over a Vault in memory: what it asks, and what it makes of the answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.memory_vault import ADDRESS, DENIED, DOWN, MemoryCalls, MemoryVault, Refusal, auth
from vault_pg.errors import (
    LeaseLost,
    LoginFailed,
    NotRunning,
    PermissionDenied,
    TokenInvalid,
    VaultSealed,
    VaultUnavailable,
)
from vault_pg.events import Event, IssueUnanswered, TokenIssued, TokenRevocationFailed, TokenRevoked
from vault_pg.lease import Lease
from vault_pg.settings import AppRoleAuth, TokenAuth, VaultSettings
from vault_pg.vault.session import VaultSession

CREDS = "database/creds/app"
LOGIN = "auth/approle/login"
LOOK = "auth/token/lookup-self"
RENEW = "sys/leases/renew"
ISSUED: dict[str, Any] = {
    "lease_id": "database/creds/app/abc",
    "lease_duration": 10,
    "renewable": True,
    "data": {"username": "v-app", "password": "hunter2"},
}


class Ticks:
    """A lease clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    def __init__(self, auth_settings: AppRoleAuth | TokenAuth | None = None) -> None:
        self.clock = Ticks()
        self.vault = MemoryVault(self.clock)
        self.vault.paths[CREDS] = ISSUED
        self.events: list[Event] = []
        self.calls = MemoryCalls(self.vault)
        approle = AppRoleAuth(role_id="role", secret_id=SecretStr("secret-id"))
        self.session = VaultSession(
            VaultSettings(address=ADDRESS, auth=auth_settings or approle),
            emit=self.events.append,
            clock=self.clock,
            calls=self.calls,
        )

    async def leased(self) -> Lease:
        await self.session.open()
        return await self.session.issue("database", "app", timeout=5)


async def test_a_login_yields_the_first_token() -> None:
    world = World()
    with pytest.raises(NotRunning):
        _ = world.session.token
    await world.session.open()
    token = world.session.token
    assert (token.serial, token.granted_at, token.ttl, token.renewable, token.owned) == (1, 1000.0, 20, True, True)
    assert world.events == [TokenIssued(method="approle", serial=1, ttl_seconds=20, renewable=True)]
    assert world.vault.asked[0].body == {"role_id": "role", "secret_id": "secret-id"}
    assert world.vault.asked[0].token == ""


async def test_a_given_token_is_looked_up_and_not_ours() -> None:
    world = World(TokenAuth(token=SecretStr("hvs.given")))
    await world.session.open()
    assert world.vault.asked[0].token == "hvs.given"
    assert not world.session.token.owned
    await world.session.close(timeout=1)
    assert world.vault.times("auth/token/revoke-self") == []


async def test_a_wrong_token_is_said_so() -> None:
    world = World(TokenAuth(token=SecretStr("hvs.given")))
    world.vault.dead.add("hvs.given")
    with pytest.raises(TokenInvalid, match="does not accept the token") as caught:
        await world.session.open()
    assert "hvs.given" not in str(caught.value)


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (Refusal(400, "invalid secret id"), "role id and secret id"),
        (Refusal(400, "missing client token"), "no AppRole method answers at auth/approle"),
        (Refusal(403, "permission denied"), "no AppRole method answers at auth/approle"),
        (Refusal(404, "no handler for route 'auth/approle/login'"), "no AppRole method answers at auth/approle"),
    ],
)
async def test_a_refused_login_says_what_to_look_at(refused: Refusal, said: str) -> None:
    world = World()
    world.vault.paths[LOGIN] = refused
    with pytest.raises(LoginFailed, match=said):
        await world.session.open()


async def test_a_login_while_vault_is_sealed_may_be_tried_again() -> None:
    world = World()
    login = world.vault.paths[LOGIN]
    world.vault.paths[LOGIN] = Refusal(503, "Vault is sealed")
    with pytest.raises(VaultSealed):
        await world.session.open()
    assert (world.session.reachable, type(world.session.last_error)) == (False, VaultSealed)
    world.vault.paths[LOGIN] = login
    await world.session.open()
    assert (world.session.reachable, world.session.last_error) == (True, None)
    assert world.session.token.serial == 1


async def test_the_secret_id_file_is_read_at_each_login(tmp_path: Any) -> None:
    file = tmp_path / "secret-id"
    file.write_text("first\n")
    world = World(AppRoleAuth(role_id="role", secret_id_file=file))
    await world.session.open()
    file.write_text("second\n")
    await world.session.log_in()
    assert [asked.body["secret_id"] for asked in world.vault.asked if asked.path == LOGIN] == ["first", "second"]
    for bad in ("", None):
        file.write_text(bad) if bad is not None else file.unlink()
        with pytest.raises(LoginFailed, match="cannot use the secret id file"):
            await world.session.log_in()
    assert world.session.token.serial == 2


async def test_an_issued_lease_counts_from_before_the_request() -> None:
    world = World()

    def slow(_: dict[str, Any]) -> dict[str, Any]:
        world.clock.now += 3
        return ISSUED

    world.vault.paths[CREDS] = slow
    lease = await world.leased()
    assert (lease.id, lease.mount, lease.role, lease.token_serial) == ("database/creds/app/abc", "database", "app", 1)
    assert (lease.issued_at, lease.granted_at, lease.ttl, lease.default_ttl, lease.end) == (1000, 1000, 10, 10, 1010)
    assert lease.credential.username == "v-app"
    assert lease.credential.password.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(lease)
    assert "hvs" not in repr(world.session.token)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {**ISSUED, "lease_id": ""},
        {**ISSUED, "data": None},
        {**ISSUED, "data": {"username": "", "password": "x"}},
        {**ISSUED, "data": {"access_key": "AKIA", "secret_key": "hunter2"}},
        {**ISSUED, "lease_duration": None},
        {**ISSUED, "lease_duration": float("nan")},
        {**ISSUED, "lease_duration": -1},
    ],
)
async def test_nonsense_instead_of_a_credential_is_refused_and_its_lease_revoked(answer: dict[str, Any]) -> None:
    world = World()
    world.vault.paths[CREDS] = answer
    with pytest.raises(VaultUnavailable, match="answered nonsense to database/creds/app") as caught:
        await world.leased()
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__cause__ is None
    revoked = [asked.body["lease_id"] for asked in world.vault.asked if asked.path == "sys/leases/revoke"]
    assert revoked == ([answer["lease_id"]] if answer.get("lease_id") else [])


async def test_a_renewal_asks_for_whole_seconds_and_tells_what_was_granted() -> None:
    world = World()
    lease = await world.leased()
    world.clock.now = 1006.0
    world.vault.paths[RENEW] = {"lease_id": lease.id, "lease_duration": 8, "renewable": True}
    renewed = await world.session.renew(lease, 9.2, timeout=5)
    assert world.vault.asked[-1].body == {"lease_id": lease.id, "increment": 10}
    assert (renewed.end, renewed.asked, renewed.renewals, renewed.issued_at) == (1014, 10, 1, 1000)
    assert renewed.capped


@pytest.mark.parametrize(
    "answer", [{}, {"lease_duration": 8}, {"renewable": True}, {"lease_duration": "soon", "renewable": True}]
)
async def test_a_renewal_answered_by_nonsense_is_trouble_and_no_grant(answer: dict[str, Any]) -> None:
    world = World()
    lease = await world.leased()
    world.vault.paths[RENEW] = answer
    with pytest.raises(VaultUnavailable, match="nonsense"):
        await world.session.renew(lease, 10, timeout=5)


async def test_looking_a_lease_up() -> None:
    world = World()
    lease = await world.leased()
    world.vault.paths["sys/leases/lookup"] = {"data": {"ttl": 7}}
    assert await world.session.lookup(lease, timeout=5) == 7
    world.vault.paths["sys/leases/lookup"] = Refusal(400, "invalid lease")
    with pytest.raises(LeaseLost):
        await world.session.lookup(lease, timeout=5)
    world.vault.paths["sys/leases/lookup"] = {"data": {"ttl": -3}}
    with pytest.raises(LeaseLost):
        await world.session.lookup(lease, timeout=5)


async def test_revoking_waits_until_the_role_is_gone_and_forgives_a_lost_lease() -> None:
    world = World()
    lease = await world.leased()
    await world.session.revoke(lease, timeout=5)
    assert world.vault.asked[-1].body == {"lease_id": lease.id, "sync": True}
    world.vault.paths["sys/leases/revoke"] = Refusal(400, "invalid lease")
    await world.session.revoke(lease, timeout=5)


async def test_a_403_with_a_living_token_is_a_missing_right() -> None:
    world = World()
    world.vault.paths[CREDS] = DENIED
    with pytest.raises(PermissionDenied) as caught:
        await world.leased()
    assert (caught.value.path, caught.value.capability) == (CREDS, "read")
    assert world.session.reachable
    assert world.session.last_error is caught.value
    assert world.session.token.end == 1020


async def test_a_403_with_a_dead_token_ends_the_token_and_wakes_who_listens() -> None:
    world = World()
    woken: list[float] = []
    lease = await world.leased()
    remove = world.session.add_token_listener(lambda: woken.append(world.session.token_of(1).end))
    world.vault.dead.add("hvs.1")
    world.clock.now = 1004.0
    world.vault.paths[RENEW] = {}
    with pytest.raises(TokenInvalid):
        await world.session.renew(lease, 10, timeout=5)
    assert woken == [1004.0]
    assert not await world.session.check_token(timeout=5)
    assert woken == [1004.0]
    remove()
    await world.session.log_in()
    assert woken == [1004.0]
    assert world.session.token.serial == 2
    assert await world.session.check_token(timeout=5)


async def test_a_token_that_could_never_look_itself_up_is_not_dead_because_it_cannot() -> None:
    world = World()
    world.vault.paths[LOOK] = DENIED
    lease = await world.leased()
    world.session.recheck()
    assert await world.session.check_token()
    world.vault.paths[RENEW] = DENIED
    with pytest.raises(PermissionDenied, match="sys/leases/renew"):
        await world.session.renew(lease, 10, timeout=5)
    assert not world.session.is_dead(1)
    assert world.events == [TokenIssued(method="approle", serial=1, ttl_seconds=20, renewable=True)]


async def test_a_token_that_cannot_look_itself_up_is_dead_where_it_is_refused_what_it_was_allowed() -> None:
    world = World()
    world.vault.paths[LOOK] = DENIED
    await world.leased()
    world.vault.dead.add("hvs.1")
    with pytest.raises(TokenInvalid):
        await world.session.issue("database", "app", timeout=5)
    assert world.session.is_dead(1)


async def test_a_token_whose_look_after_the_login_was_not_answered_is_looked_at_later() -> None:
    world = World()
    look = world.vault.paths[LOOK]
    world.vault.paths[LOOK] = DOWN
    await world.leased()
    world.vault.paths[LOOK] = look
    assert await world.session.check_token()
    world.vault.dead.add("hvs.1")
    assert not await world.session.check_token()
    assert world.session.is_dead(1)


async def test_a_look_at_the_token_wakes_nobody_unless_its_end_moved() -> None:
    world = World()
    await world.session.open()
    woken: list[float] = []
    world.session.add_token_listener(lambda: woken.append(world.session.token.end))
    world.clock.now = 1004.5
    world.vault.token_left = 15  # Vault's whole seconds
    assert await world.session.check_token(timeout=5)
    assert woken == []
    world.vault.token_left = 3600  # somebody else renewed it
    assert await world.session.check_token(timeout=5)
    assert woken == [4604.5]


async def test_a_403_while_nobody_can_tell_why_is_trouble() -> None:
    world = World()
    world.vault.paths[CREDS] = DENIED
    world.vault.paths[LOOK] = DOWN
    with pytest.raises(VaultUnavailable):
        await world.leased()
    assert world.session.token.end == 1020


async def test_an_old_token_is_revoked_with_itself_once_it_is_forgotten() -> None:
    world = World()
    await world.session.open()
    await world.session.log_in()
    asked_before = len(world.vault.asked)
    await world.session.forget(2, timeout=5)  # the current one stays
    assert world.session.token_of(1).serial == 1
    await world.session.forget(1, timeout=5)
    assert [(asked.path, asked.token) for asked in world.vault.asked[asked_before:]] == [("auth/token/revoke-self", "hvs.1")]
    with pytest.raises(KeyError):
        world.session.token_of(1)
    assert world.events[-1] == TokenRevoked(method="approle", serial=1)


async def test_what_could_not_be_revoked_is_told_and_tried_again_at_the_end() -> None:
    world = World()
    await world.session.open()
    await world.session.log_in()
    world.vault.paths["auth/token/revoke-self"] = DOWN
    await world.session.forget(1, timeout=5)
    assert isinstance(world.events[-1], TokenRevocationFailed)
    world.vault.paths["auth/token/revoke-self"] = {}
    await world.session.close(timeout=5)
    revoked = [asked.token for asked in world.vault.asked if asked.path == "auth/token/revoke-self"]
    assert revoked == ["hvs.1", "hvs.1", "hvs.2"]
    assert world.calls.closed
    await world.session.close(timeout=5)
    assert len([asked for asked in world.vault.asked if asked.path == "auth/token/revoke-self"]) == 3


async def test_tokens_that_are_gone_or_cannot_be_revoked_are_left_alone_at_the_end() -> None:
    world = World()
    await world.session.open()
    world.vault.paths[LOGIN] = auth("hvb.2", 5000, renewable=False, kind="batch")
    await world.session.log_in()
    world.clock.now += 100  # the first has ended
    await world.session.close(timeout=5)
    assert world.vault.times("auth/token/revoke-self") == []


async def test_a_token_is_kept_where_the_caller_asks_for_that() -> None:
    world = World()
    await world.session.open()
    await world.session.close(timeout=5, revoke=False)
    assert world.vault.times("auth/token/revoke-self") == []


async def test_many_calls_at_once_use_the_token_of_their_time() -> None:
    world = World()
    await world.session.open()
    leases = await asyncio.gather(*(world.session.issue("database", "app", timeout=5) for _ in range(5)))
    assert {lease.token_serial for lease in leases} == {1}


async def test_a_look_up_that_comes_late_takes_back_no_renewal_of_the_token() -> None:
    """Asked before the renewal and answered after it, it tells of an end that has moved since."""
    world = World()
    await world.session.open()
    stale = {"data": {"ttl": 5, "creation_ttl": 20, "expire_time": "later", "renewable": True}}
    world.clock.now += 10
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    looked: asyncio.Future[None] = loop.create_future()
    call = world.calls.call

    async def slow(work: Any, **options: Any) -> Any:
        result = await call(work, **options)
        if world.vault.asked[-1].path == LOOK:
            arrived.set_result(None)
            await looked
        return result

    world.calls.call = slow  # type: ignore[method-assign]  # the answer is held back
    world.vault.paths[LOOK] = stale
    asked = asyncio.create_task(world.session.check_token())
    await arrived
    world.clock.now += 1
    await world.session.renew_token()
    renewed = world.session.token
    looked.set_result(None)
    assert await asked
    assert world.session.token == renewed
    assert renewed.end == 1011 + 20


async def test_an_answer_lost_with_a_token_that_is_not_ours_is_told_and_no_more() -> None:
    world = World(TokenAuth(token=SecretStr("hvs.given")))
    await world.session.open()
    world.vault.unheard[CREDS] = 1
    with pytest.raises(VaultUnavailable):
        await world.session.issue("database", "app", timeout=5)
    [unanswered] = [event for event in world.events if isinstance(event, IssueUnanswered)]
    assert not unanswered.replaced
    assert world.session.token.replace_at is None


async def test_a_token_is_not_revoked_while_an_issue_of_its_is_under_way() -> None:
    """The lease would die with it on arrival."""
    world = World()
    await world.session.open()
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    let_go: asyncio.Future[None] = loop.create_future()
    call = world.calls.call

    async def slow(work: Any, **options: Any) -> Any:
        result = await call(work, **options)
        if world.vault.asked[-1].path == CREDS:
            arrived.set_result(None)
            await let_go
        return result

    world.calls.call = slow  # type: ignore[method-assign]  # the answer is held back
    issuing = asyncio.create_task(world.session.issue("database", "app", timeout=5))
    await arrived
    await world.session.log_in()
    await world.session.forget(1, timeout=5)
    assert world.vault.times("auth/token/revoke-self") == []
    let_go.set_result(None)
    assert (await issuing).token_serial == 1
    await world.session.forget(1, timeout=5)
    assert len(world.vault.times("auth/token/revoke-self")) == 1


async def test_a_look_after_the_login_that_was_not_answered_is_made_again_so_that_a_dead_token_is_told_from_a_denied_one() -> (
    None
):
    world = World()
    look = world.vault.paths[LOOK]
    world.vault.paths[LOOK] = DOWN
    lease = await world.leased()
    world.vault.paths[LOOK] = look
    running = asyncio.create_task(world.session.run())
    await asyncio.sleep(0.05)
    running.cancel()
    world.vault.dead.add("hvs.1")
    world.vault.paths[RENEW] = {}
    with pytest.raises(TokenInvalid):
        await world.session.renew(lease, 10, timeout=5)
    assert world.session.is_dead(1)


async def test_a_token_that_may_not_look_itself_up_is_not_dead_because_the_one_before_could() -> None:
    world = World()
    await world.session.open()
    assert await world.session.check_token()
    world.vault.paths[LOOK] = DENIED  # the role lost that policy
    await world.session.log_in()
    world.session.recheck()
    assert await world.session.check_token()
    assert not world.session.is_dead(2)
