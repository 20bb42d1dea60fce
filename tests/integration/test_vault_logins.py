"""Every way to a token, by hvac's own calls, against a Vault that checks what it is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import hvac
import pytest
from pydantic import SecretStr

from tests.agent import agent
from tests.servers import DatabaseView, Mount
from tests.waiting import LONG, eventually
from vault_pg.errors import LoginFailed
from vault_pg.events import Event, TokenIssued, TokenLost
from vault_pg.settings import AgentAuth, AppRoleAuth, AuthSettings, CustomAuth, TokenAuth, UserpassAuth, VaultSettings
from vault_pg.vault import VaultSession


@asynccontextmanager
async def running(
    mount: Mount, auth: AuthSettings, told: list[Event] | None = None, **options: Any
) -> AsyncIterator[VaultSession]:
    """An open session that keeps its token alive."""
    settings = VaultSettings.model_validate({"address": mount.server.address, "auth": auth, "timeout": LONG, **options})
    session = VaultSession(settings, emit=(told if told is not None else []).append)
    try:
        await session.open()
        task = asyncio.create_task(session.run())
        yield session
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    finally:
        await session.close(timeout=LONG)


async def leases(session: VaultSession, mount: Mount) -> None:
    """The token is good for what it is there for."""
    lease = await session.issue(mount.path, "app", timeout=LONG)
    await session.revoke(lease, timeout=LONG)


def put(file: Path, token: SecretStr) -> None:
    """As an agent does: in one step."""
    new = file.with_suffix(".new")
    new.write_text(token.get_secret_value())
    new.rename(file)


async def test_a_new_token_in_a_sink_is_taken_while_the_old_one_lives(mount: Mount, tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    first, second = mount.token(ttl="30s", explicit_max_ttl="30s"), mount.token()
    put(sink, first)
    told: list[Event] = []
    async with running(mount, TokenAuth(token_file=sink), told) as session:
        await leases(session, mount)
        put(sink, second)
        await eventually(lambda: session.token.serial == 2, "the new token is taken")
        await leases(session, mount)
        assert TokenLost not in map(type, told)
    client = mount.client(second)
    assert client.auth.token.lookup_self()["data"]["ttl"]  # it is the agent's, and not revoked
    client.adapter.close()


async def test_a_dead_token_is_replaced_by_the_one_that_appears_in_the_sink(mount: Mount, tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    first = mount.token()
    put(sink, first)
    told: list[Event] = []
    async with running(mount, TokenAuth(token_file=sink), told) as session:
        mount.root.auth.token.revoke(first.get_secret_value())
        assert not await session.check_token()
        put(sink, mount.token())
        await eventually(lambda: session.token.serial == 2, "the new token is taken")
        await leases(session, mount)
    assert [type(event) for event in told] == [TokenIssued, TokenLost, TokenIssued]


async def test_an_agent_on_a_unix_socket_adds_its_own_token(mount: Mount, tmp_path: Path) -> None:
    with agent(tmp_path / "agent.sock", mount.server.address, mount.token()) as way:
        async with running(mount, AgentAuth(), address=way.address) as session:
            await leases(session, mount)
            way.token = mount.token()
            assert await session.check_token()
            assert session.token.serial == 2
            await leases(session, mount)
    assert {token for _, token in way.asked} == {""}
    assert "/v1/auth/token/revoke-self" not in {path for path, _ in way.asked}


def wrapped_secret_id(mount: Mount, role: str) -> SecretStr:
    answer = mount.root.adapter.post(f"/v1/auth/approle/role/{role}/secret-id", wrap_ttl="60s")
    return SecretStr(answer["wrap_info"]["token"])


async def test_a_wrapped_secret_id_logs_in_again_and_again(mount: Mount, tmp_path: Path) -> None:
    login = mount.approle()
    file = tmp_path / "wrapped"
    put(file, wrapped_secret_id(mount, mount.path))
    auth = AppRoleAuth(role_id=login.role_id, secret_id_file=file, wrapped=True, role=mount.path)
    async with running(mount, auth) as session:
        await session.log_in()
        put(file, wrapped_secret_id(mount, mount.path))
        await session.log_in()
        await leases(session, mount)
        assert session.token.serial == 3


async def test_a_wrapped_secret_id_that_somebody_else_unwrapped_or_made(mount: Mount, make_mount: Callable[..., Mount]) -> None:
    login, other = mount.approle(), make_mount()
    other.approle()
    taken = wrapped_secret_id(mount, mount.path)
    mount.root.sys.unwrap(taken.get_secret_value())
    forged = SecretStr(mount.root.sys.wrap({"secret_id": "of the attacker"})["wrap_info"]["token"])
    for token, said in (
        (taken, "somebody else holds the secret id"),
        (forged, "was made at sys/wrapping/wrap and not at"),
        (wrapped_secret_id(mount, other.path), f"was made at auth/approle/role/{other.path}/secret-id and not at"),
    ):
        auth = AppRoleAuth(role_id=login.role_id, secret_id=token, wrapped=True, role=mount.path)
        with pytest.raises(LoginFailed, match=said) as caught:
            async with running(mount, auth):
                pass
        assert token.get_secret_value() not in str(caught.value)
    # The forged one was looked at and not used up.
    assert mount.root.sys.unwrap(forged.get_secret_value())["data"]


async def test_a_user_of_vaults_own(mount: Mount, root: hvac.Client, database: DatabaseView) -> None:
    path = f"{mount.path}-up"
    root.sys.enable_auth_method("userpass", path=path)
    root.auth.userpass.create_or_update_user("bob", password="pass word", policies=mount.policy, mount_point=path)
    try:
        auth = UserpassAuth(username="bob", password=SecretStr("pass word"), mount=path)
        async with running(mount, auth) as session:
            await leases(session, mount)
            await session.issue(mount.path, "app", timeout=LONG)
        await eventually(lambda: not database.roles(), "the token was revoked, and its lease with it")
        with pytest.raises(LoginFailed, match="look at the user name and password"):
            async with running(mount, UserpassAuth(username="bob", password=SecretStr("wrong one"), mount=path)):
                pass
    finally:
        root.sys.disable_auth_method(path)


async def test_a_function_of_the_users_own(mount: Mount, database: DatabaseView) -> None:
    login = mount.approle()

    def log_in(client: hvac.Client) -> Any:
        return client.auth.approle.login(login.role_id, login.secret_id.get_secret_value())

    async def token() -> SecretStr:
        await asyncio.sleep(0)
        return mount.token()

    async with running(mount, CustomAuth(login=log_in)) as session:
        await session.issue(mount.path, "app", timeout=LONG)
    await eventually(lambda: not database.roles(), "the token was ours")
    async with running(mount, CustomAuth(login=token)) as session:
        await leases(session, mount)
        assert not session.token.owned
