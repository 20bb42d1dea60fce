"""The session against a Vault that really makes, alters and drops roles."""

from __future__ import annotations

import asyncio
import random
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from tests.servers import DatabaseView, Mount
from tests.waiting import eventually, until
from vault_pg.dev import AppRoleLogin, DevVault, EmbeddedPostgres
from vault_pg.dev.fault import Verdict
from vault_pg.errors import (
    BackendUnavailable,
    LeaseLost,
    LoginFailed,
    MountNotFound,
    NotRenewable,
    PermissionDenied,
    RoleNotFound,
    TokenInvalid,
    VaultError,
    VaultSealed,
    VaultUnavailable,
)
from vault_pg.events import Event, TokenIssued, TokenLost, TokenRenewed, TokenRevoked
from vault_pg.lease import Lease
from vault_pg.settings import AppRoleAuth, TokenAuth, VaultSettings
from vault_pg.vault import VaultSession

LONG = 60.0
UNKNOWN = SecretStr("hvs.unknown-to-all")


def approle(login: AppRoleLogin) -> AppRoleAuth:
    return AppRoleAuth(role_id=login.role_id, secret_id=login.secret_id, mount=login.mount)


@asynccontextmanager
async def opened(
    mount: Mount,
    auth: AppRoleAuth | TokenAuth | None = None,
    *,
    told: list[Event] | None = None,
    draw: Callable[[], float] = random.random,
    **options: Any,
) -> AsyncIterator[VaultSession]:
    """An open session, by AppRole unless told otherwise."""
    settings = VaultSettings.model_validate(
        {"address": mount.server.address, "auth": auth or approle(mount.approle()), "timeout": LONG, **options}
    )
    session = VaultSession(settings, emit=(told if told is not None else []).append, draw=draw)
    try:
        await session.open()
        yield session
    finally:
        await session.close(timeout=LONG)


async def issue(session: VaultSession, mount: Mount, role: str = "app") -> Lease:
    return await session.issue(mount.path, role, timeout=LONG)


def log_in(postgres: EmbeddedPostgres, lease: Lease) -> str:
    """The name that PostgreSQL knows the lease's holder by."""
    with psycopg.connect(
        host=postgres.host,
        port=postgres.port,
        dbname="app",
        user=lease.credential.username,
        password=lease.credential.password.get_secret_value(),
    ) as conn:
        row = conn.execute("SELECT current_user").fetchone()
        assert row is not None
        return str(row[0])


async def test_a_lease_from_issue_to_revoke(mount: Mount, database: DatabaseView, postgres: EmbeddedPostgres) -> None:
    async with opened(mount) as session:
        lease = await issue(session, mount)
        assert (lease.ttl, lease.renewable, lease.token_serial) == (3600, True, 1)
        assert log_in(postgres, lease) == lease.credential.username
        renewed = await session.renew(lease, 7200, timeout=LONG)
        assert (renewed.ttl, renewed.asked, renewed.capped) == (7200, 7200, False)
        assert 7100 < await session.lookup(lease, timeout=LONG) <= 7200
        await session.revoke(lease, timeout=LONG)
        assert database.roles() == set()
        await session.revoke(lease, timeout=LONG)
        with pytest.raises(LeaseLost):
            await session.renew(lease, 10, timeout=LONG)
        with pytest.raises(LeaseLost):
            await session.lookup(lease, timeout=LONG)


async def test_a_grant_that_max_ttl_cut_short_is_capped(make_mount: Callable[..., Mount]) -> None:
    mount = make_mount(default_ttl=10, max_ttl=60)
    async with opened(mount) as session:
        renewed = await session.renew(await issue(session, mount), 3600, timeout=LONG)
        assert 0 < renewed.ttl <= 60
        assert renewed.capped


async def test_closing_revokes_the_token_that_we_logged_in_for_and_its_leases_go_with_it(
    mount: Mount, database: DatabaseView
) -> None:
    told: list[Event] = []
    async with opened(mount, told=told) as session:
        await issue(session, mount)
        assert len(database.roles()) == 1
    await eventually(lambda: not database.roles(), "the role is dropped")
    assert [type(event) for event in told] == [TokenIssued, TokenRevoked]


async def test_a_given_token_outlives_the_session(mount: Mount) -> None:
    token = mount.token()
    async with opened(mount, TokenAuth(token=token)) as session:
        assert not session.token.owned
        assert session.token.renewable
    client = mount.client(token)
    assert client.auth.token.lookup_self()["data"]["renewable"]
    client.adapter.close()


async def test_a_forgotten_token_is_revoked_and_the_current_one_lives(mount: Mount, database: DatabaseView) -> None:
    async with opened(mount) as session:
        old = await issue(session, mount)
        await session.log_in()
        new = await issue(session, mount)
        await session.forget(1, timeout=LONG)
        await eventually(lambda: database.roles() == {new.credential.username}, "the old token's role is dropped")
        with pytest.raises(LeaseLost):
            await session.lookup(old, timeout=LONG)
        await session.renew(new, 100, timeout=LONG)


@pytest.mark.parametrize(
    ("path", "role", "error", "said"),
    [
        (None, "nobody", PermissionDenied, 'capabilities = ["read"]'),
        ("nowhere", "app", PermissionDenied, "nowhere/creds/app"),
    ],
)
async def test_what_the_policy_lacks_is_named(
    mount: Mount, path: str | None, role: str, error: type[VaultError], said: str
) -> None:
    async with opened(mount) as session:
        with pytest.raises(error) as caught:
            await session.issue(path or mount.path, role, timeout=LONG)
        assert said in str(caught.value)
        assert session.reachable


async def test_an_unknown_role_and_an_unknown_mount(mount: Mount) -> None:
    async with opened(mount, TokenAuth(token=mount.server.root_token)) as session:
        with pytest.raises(RoleNotFound, match=f"no role 'nobody' at {mount.path}/"):
            await issue(session, mount, "nobody")
        with pytest.raises(MountNotFound, match="nothing mounted at nowhere/creds/app"):
            await session.issue("nowhere", "app", timeout=LONG)


async def test_without_the_right_to_renew_the_lease_lives_on(mount: Mount) -> None:
    allowed = f'path "{mount.path}/creds/app" {{ capabilities = ["read"] }}'
    # Vault's default policy lets every token renew, so that this has to be taken away.
    mount.write_policy(f'{allowed}\npath "sys/leases/renew" {{ capabilities = ["deny"] }}')
    async with opened(mount) as session:
        lease = await issue(session, mount)
        with pytest.raises(PermissionDenied) as caught:
            await session.renew(lease, 100, timeout=LONG)
        assert (caught.value.path, caught.value.capability) == ("sys/leases/renew", "update")
        with pytest.raises(PermissionDenied, match=r'path "sys/leases/revoke" \{ capabilities = \["update"\] \}'):
            await session.revoke(lease, timeout=LONG)
        assert await session.lookup(lease, timeout=LONG) > 0
        assert await session.check_token(timeout=LONG)


async def test_a_token_that_vault_does_not_know(mount: Mount) -> None:
    with pytest.raises(TokenInvalid, match="does not accept the token") as caught:
        async with opened(mount, TokenAuth(token=UNKNOWN)):
            pass
    assert UNKNOWN.get_secret_value() not in "".join(traceback.format_exception(caught.value))


async def test_a_wrong_secret_id(mount: Mount) -> None:
    login = mount.approle()
    wrong = AppRoleAuth(role_id=login.role_id, secret_id=UNKNOWN, mount=login.mount)
    with pytest.raises(LoginFailed, match="secret id") as caught:
        async with opened(mount, wrong):
            pass
    assert UNKNOWN.get_secret_value() not in "".join(traceback.format_exception(caught.value))
    nowhere = AppRoleAuth(role_id=login.role_id, secret_id=login.secret_id, mount="nowhere")
    with pytest.raises(LoginFailed, match="auth/nowhere"):
        async with opened(mount, nowhere):
            pass


async def test_a_token_killed_by_somebody_is_replaced_by_the_loop(dev_vault: DevVault, mount: Mount) -> None:
    told: list[Event] = []
    async with opened(mount, told=told) as session:
        running = asyncio.create_task(session.run())
        lease = await issue(session, mount)
        dev_vault.faults.kill_token(session.token.accessor)
        with pytest.raises(TokenInvalid):
            await session.renew(lease, 100, timeout=LONG)
        assert session.token_of(1).end <= session.token.granted_at or session.token.serial == 1
        await eventually(lambda: session.token.serial == 2, "a new login")
        await issue(session, mount)
        running.cancel()
    assert [type(event) for event in told] == [TokenIssued, TokenLost, TokenIssued, TokenRevoked]


async def test_the_loop_renews_and_replaces_real_tokens(mount: Mount) -> None:
    told: list[Event] = []
    auth = approle(mount.approle(token_ttl=4, token_max_ttl=6))
    # With that luck half of the token's life is left at each step: a busy machine must not lose it.
    async with opened(mount, auth, told=told, draw=lambda: 0.1) as session:
        running = asyncio.create_task(session.run())
        await eventually(lambda: session.token.serial >= 3, "two replacements")
        running.cancel()
    assert any(isinstance(event, TokenRenewed) for event in told)
    assert not any(isinstance(event, TokenLost) for event in told)


async def test_batch_tokens_are_replaced_and_not_revoked(mount: Mount) -> None:
    told: list[Event] = []
    async with opened(mount, approle(mount.approle(token_type="batch", token_ttl=100)), told=told) as session:
        assert not session.token.renewable
        lease = await issue(session, mount)
        assert lease.ttl <= 100
    assert [type(event) for event in told] == [TokenIssued]


async def test_a_database_that_is_down_is_not_a_vault_that_is_down(mount: Mount, postgres: EmbeddedPostgres) -> None:
    async with opened(mount) as session:
        lease = await issue(session, mount)
        postgres.stop(immediate=True)
        try:
            with pytest.raises(BackendUnavailable):
                await issue(session, mount)
            with pytest.raises(BackendUnavailable):
                await session.renew(lease, 100, timeout=LONG)
            assert session.reachable
        finally:
            postgres.start()
        assert await session.lookup(lease, timeout=LONG) > 0
        await session.renew(lease, 100, timeout=LONG)


async def test_a_lease_whose_role_was_dropped_by_hand_is_lost(mount: Mount, database: DatabaseView) -> None:
    async with opened(mount) as session:
        lease = await issue(session, mount)
        database.execute("DROP ROLE {}", lease.credential.username)
        with pytest.raises(LeaseLost, match="PostgreSQL no longer has its role"):
            await session.renew(lease, 100, timeout=LONG)


async def test_sealed_and_unsealed(dev_vault: DevVault, mount: Mount) -> None:
    async with opened(mount) as session:
        lease = await issue(session, mount)
        dev_vault.faults.seal()
        with pytest.raises(VaultSealed, match="unseal it"):
            await session.renew(lease, 100, timeout=LONG)
        assert (session.reachable, type(session.last_error)) == (False, VaultSealed)
        dev_vault.faults.unseal()
        await session.renew(lease, 100, timeout=LONG)
        assert (session.reachable, session.last_error) == (True, None)


async def test_trouble_on_the_way_is_vault_being_unavailable(dev_vault: DevVault, mount: Mount) -> None:
    async with opened(mount) as session:
        lease = await issue(session, mount)
        with dev_vault.faults.answer(429, {"errors": ["rate limit quota exceeded"]}, headers={"Retry-After": "9"}):
            with pytest.raises(VaultUnavailable) as caught:
                await session.renew(lease, 100, timeout=LONG)
            assert caught.value.retry_after == 9
        for fault in (dev_vault.faults.refuse, dev_vault.faults.cut):
            with fault("sys/leases/renew"), pytest.raises(VaultUnavailable, match="broke off"):
                await session.renew(lease, 100, timeout=LONG)
        for status in (412, 472, 473, 500, 502, 503):
            with dev_vault.faults.answer(status), pytest.raises(VaultUnavailable):
                await session.renew(lease, 100, timeout=LONG)
        with dev_vault.faults.answer(204), pytest.raises(VaultUnavailable, match="nonsense"):
            await session.renew(lease, 100, timeout=LONG)
        with dev_vault.faults.answer(400, {"errors": ["lease is not renewable"]}), pytest.raises(NotRenewable):
            await session.renew(lease, 100, timeout=LONG)
        dev_vault.stop()
        with pytest.raises(VaultUnavailable, match="refuses the connection"):
            await session.renew(lease, 100, timeout=LONG)
        dev_vault.start()
        await session.renew(lease, 100, timeout=LONG)


async def test_a_403_while_lookups_fail_does_not_kill_the_token(dev_vault: DevVault, mount: Mount) -> None:
    async with opened(mount) as session:
        lease = await issue(session, mount)
        denied = dev_vault.faults.answer(403, {"errors": ["permission denied"]}, match="sys/leases/renew")
        with denied, dev_vault.faults.answer(503, match="auth/token/lookup-self"), pytest.raises(VaultUnavailable):
            await session.renew(lease, 100, timeout=LONG)
        assert await session.check_token(timeout=LONG)


@dataclass
class Held:
    served: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)


@contextmanager
def held(dev_vault: DevVault, match: str) -> Iterator[Held]:
    """Requests are served at once, and their answers held back."""
    held = Held()

    def apply(answer: Callable[[], Verdict]) -> Verdict:
        verdict = answer()
        held.served.set()
        assert held.let_go.wait(LONG)
        return verdict

    with dev_vault.faults._add(apply, match, None):
        try:
            yield held
        finally:
            held.let_go.set()


# The shorter one leaves a busy machine the time to send the request in.
@pytest.mark.parametrize("timeout", [LONG, 2.0], ids=["cancelled", "timed out"])
async def test_an_issue_that_nobody_waits_for_leaves_no_lease(
    dev_vault: DevVault, mount: Mount, database: DatabaseView, timeout: float
) -> None:
    async with opened(mount) as session:
        with held(dev_vault, f"{mount.path}/creds/*") as answer:
            issuing = asyncio.create_task(session.issue(mount.path, "app", timeout=timeout))
            await eventually(database.roles, "Vault made the role")
            if timeout == LONG:
                issuing.cancel()
            with pytest.raises((asyncio.CancelledError, VaultUnavailable)):
                await issuing
            assert len(database.roles()) == 1
            answer.let_go.set()
            await eventually(lambda: not database.roles(), "the thread revoked the lease")
        assert mount.leases() == []
        assert dev_vault.log.count("sys/leases/revoke") == 1


async def test_a_session_that_closes_over_an_issue_keeps_its_token_until_that_lease_is_revoked(
    dev_vault: DevVault, mount: Mount, database: DatabaseView
) -> None:
    async with opened(mount) as session:
        with held(dev_vault, f"{mount.path}/creds/*") as answer:
            issuing = asyncio.create_task(session.issue(mount.path, "app", timeout=LONG))
            await eventually(database.roles, "Vault made the role")
            issuing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await issuing
            closing = asyncio.create_task(session.close(timeout=LONG))
            await asyncio.sleep(0.1)  # time to revoke the token too early in; if it takes longer, this passes for nothing
            answer.let_go.set()
            await closing
        assert (database.roles(), mount.leases()) == (set(), [])
        assert [record.path for record in dev_vault.log.records("*revoke*")] == ["sys/leases/revoke", "auth/token/revoke-self"]


def test_an_issue_whose_loop_is_gone_leaves_no_lease(dev_vault: DevVault, mount: Mount, database: DatabaseView) -> None:
    settings = VaultSettings(address=mount.server.address, auth=TokenAuth(token=mount.token()), timeout=LONG)

    async def start() -> None:
        session = VaultSession(settings, emit=lambda _: None)
        await session.open()
        asyncio.create_task(session.issue(mount.path, "app", timeout=LONG), name="left behind")  # noqa: RUF006 - on purpose
        await eventually(database.roles, "Vault made the role")

    with held(dev_vault, f"{mount.path}/creds/*") as answer:
        asyncio.run(start())
        assert len(database.roles()) == 1
        answer.let_go.set()
        until(lambda: not database.roles(), "the thread revoked the lease")


async def test_a_login_that_nobody_waits_for_leaves_no_token(dev_vault: DevVault, mount: Mount) -> None:
    settings = VaultSettings(address=mount.server.address, auth=approle(mount.approle()), timeout=LONG)
    session = VaultSession(settings, emit=lambda _: None)
    with held(dev_vault, "auth/approle/login") as answer:
        opening = asyncio.create_task(session.open())
        await eventually(answer.served.is_set, "Vault made the token")
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        answer.let_go.set()
        await session.close(timeout=LONG)
    assert dev_vault.log.count("auth/token/revoke-self", status=204) == 1


async def test_closing_is_over_in_time_although_vault_is_away(dev_vault: DevVault, mount: Mount) -> None:
    told: list[Event] = []
    settings = VaultSettings(address=mount.server.address, auth=approle(mount.approle()), timeout=LONG)
    session = VaultSession(settings, emit=told.append)
    await session.open()
    with dev_vault.faults.slow(3.0, "auth/token/revoke-self"):
        await session.close(timeout=0.2)
    assert told[-1].name == "token.revocation_failed"


async def test_vaults_own_environment_does_not_leak_in(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = TokenAuth(token=mount.token())
    monkeypatch.setenv("VAULT_TOKEN", "hvs.of-the-environment")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:1")
    async with opened(mount, auth) as session:
        await issue(session, mount)
