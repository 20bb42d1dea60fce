"""The ways to a token over a Vault in memory: what is asked, when, and what each mistake says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import hvac
import pytest
from pydantic import SecretStr

from tests.unit.memory_vault import ADDRESS, DENIED, DOWN, MemoryCalls, MemoryVault, Refusal, auth
from vault_pg.errors import LoginFailed, TokenInvalid, VaultUnavailable
from vault_pg.events import Event, TokenIssued, TokenLost, TokenRenewalFailed
from vault_pg.settings import (
    AgentAuth,
    AppRoleAuth,
    AuthSettings,
    CustomAuth,
    JwtAuth,
    KubernetesAuth,
    LdapAuth,
    TokenAuth,
    UserpassAuth,
    VaultSettings,
)
from vault_pg.vault.session import VaultSession

pytestmark = pytest.mark.looptime

LOOK = "auth/token/lookup-self"
RENEW = "auth/token/renew-self"
LOGIN = "auth/approle/login"
WRAPPING = SecretStr("hvs.wrapping")
HOUR = 3600.0


def now() -> float:
    return asyncio.get_running_loop().time()


def put(file: Path, text: str | None) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


class World:
    def __init__(self, settings: AuthSettings, *, draw: float = 0.5) -> None:
        self.vault = MemoryVault(now)
        self.events: list[Event] = []
        self.session = VaultSession(
            VaultSettings(address=ADDRESS, auth=settings),
            emit=self.events.append,
            clock=now,
            draw=lambda: draw,
            calls=MemoryCalls(self.vault),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[VaultSession]:
        await self.session.open()
        task = asyncio.create_task(self.session.run())
        try:
            yield self.session
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def bodies(self, path: str) -> list[dict[str, Any]]:
        return [asked.body for asked in self.vault.asked if asked.path == path]

    def told(self) -> list[type[Event]]:
        return [type(event) for event in self.events]


async def refused(world: World) -> str:
    with pytest.raises(LoginFailed) as caught:
        await world.session.open()
    assert caught.value.__cause__ is None
    return str(caught.value)


# -- a file with a token


@pytest.fixture
def sink(tmp_path: Path) -> Path:
    file = tmp_path / "sink"
    put(file, "hvs.first\n")
    return file


async def test_a_rotated_sink_token_is_picked_up_before_the_old_one_ends(sink: Path) -> None:
    world = World(TokenAuth(token_file=sink))
    world.vault.token_ttl = int(HOUR)
    async with world.running() as session:
        await asyncio.sleep(100)
        assert session.token.serial == 1
        put(sink, "hvs.second\n")
        await asyncio.sleep(11)
        assert (session.token.serial, session.token.secret.get_secret_value()) == (2, "hvs.second")
        assert session.token_of(1).end > now()
    assert world.told() == [TokenIssued, TokenIssued]


async def test_a_token_that_dies_is_replaced_as_soon_as_a_new_one_stands_in_its_file(sink: Path) -> None:
    world = World(TokenAuth(token_file=sink))
    world.vault.token_ttl = int(HOUR)
    async with world.running() as session:
        await asyncio.sleep(100)
        world.vault.dead.add("hvs.first")
        assert not await session.check_token()
        await asyncio.sleep(100)
        assert session.token.serial == 1
        asked = len(world.vault.asked)
        await asyncio.sleep(HOUR)
        assert len(world.vault.asked) == asked  # the dead one is in nobody's way
        put(sink, "hvs.second")
        await asyncio.sleep(1.1)
        assert session.token.serial == 2
    assert world.told() == [TokenIssued, TokenLost, TokenIssued]


async def test_a_living_token_is_renewed_on_whatever_happens_to_its_file(sink: Path) -> None:
    world = World(TokenAuth(token_file=sink))
    world.vault.token_ttl = 100
    async with world.running() as session:
        put(sink, None)
        await asyncio.sleep(HOUR)
        assert session.token.serial == 1
        put(sink, "")
        await asyncio.sleep(HOUR)
        assert session.token.end > now()
    assert len(world.vault.times(RENEW)) > 100
    assert TokenRenewalFailed not in world.told()


async def test_a_bad_token_in_the_file_is_told_and_the_good_one_kept(sink: Path) -> None:
    world = World(TokenAuth(token_file=sink))
    world.vault.token_ttl = int(HOUR)
    world.vault.dead.add("hvs.bad")
    async with world.running() as session:
        put(sink, "hvs.bad")
        await asyncio.sleep(2 * HOUR)
        assert session.token.serial == 1
        assert session.token.end > now()
    failures = [event for event in world.events if isinstance(event, TokenRenewalFailed)]
    assert failures
    assert f"does not accept the token in {sink}" in failures[0].error
    assert len(failures) < 2 * HOUR / 10


# -- an agent that adds its token


def agents_token(accessor: str, ttl: float) -> dict[str, Any]:
    return {"data": {"ttl": ttl, "creation_ttl": HOUR, "expire_time": "later", "renewable": True, "accessor": accessor}}


async def test_an_agents_token_is_never_sent_and_never_renewed() -> None:
    world = World(AgentAuth())
    world.vault.paths[LOOK] = agents_token("a", HOUR)
    world.vault.paths["database/creds/app"] = {
        "lease_id": "x",
        "lease_duration": 60,
        "renewable": True,
        "data": {"username": "u", "password": "p"},
    }
    async with world.running() as session:
        await session.issue("database", "app", timeout=5)
        await asyncio.sleep(24 * HOUR)
        assert session.token.serial == 1
        assert session.token.end > now()
        await session.close(timeout=1)
    assert {asked.token for asked in world.vault.asked} == {""}
    assert {asked.path for asked in world.vault.asked} == {LOOK, "database/creds/app"}
    assert 24 / 0.75 < len(world.vault.asked) < 24 / 0.4 + 2


async def test_an_agents_new_token_is_a_new_one_before_the_old_one_ends() -> None:
    world = World(AgentAuth(), draw=0.999)
    end = now() + HOUR
    world.vault.paths[LOOK] = lambda _: agents_token("a", max(0.0, end - now()))
    async with world.running() as session:
        await asyncio.sleep(0.7 * HOUR)
        assert session.token.serial == 1
        world.vault.paths[LOOK] = agents_token("b", HOUR)
        await asyncio.sleep(0.2 * HOUR)
        assert session.token.serial == 2
        assert session.token_of(1).end == end
    assert world.told() == [TokenIssued, TokenIssued]


async def test_an_agents_token_that_nobody_renews_is_looked_at_more_often_towards_its_end_but_never_in_a_hot_loop() -> None:
    world = World(AgentAuth())
    end = now() + HOUR
    world.vault.paths[LOOK] = lambda _: agents_token("a", float(int(max(0.0, end - now()))))
    async with world.running():
        await asyncio.sleep(HOUR + 60)
    assert 5 < len(world.vault.times(LOOK)) < 200


async def test_an_agent_without_a_token_is_told_what_it_needs() -> None:
    world = World(AgentAuth())
    world.vault.paths[LOOK] = Refusal(400, "missing client token")
    with pytest.raises(TokenInvalid, match="use_auto_auth_token"):
        await world.session.open()


# -- response-wrapped secret ids


def wrapped(**options: Any) -> World:
    settings = {"role_id": "role", "secret_id": WRAPPING, "wrapped": True, **options}
    world = World(AppRoleAuth.model_validate(settings))
    world.vault.paths["sys/wrapping/lookup"] = {"data": {"creation_path": "auth/approle/role/app/secret-id"}}
    used: list[object] = []

    def unwrap(body: dict[str, Any]) -> dict[str, Any] | Refusal:
        used.append(body)
        return (
            {"data": {"secret_id": "the-secret-id"}}
            if len(used) == 1
            else Refusal(400, "wrapping token is not valid or does not exist")
        )

    world.vault.paths["sys/wrapping/unwrap"] = unwrap
    return world


async def test_a_wrapped_secret_id_is_unwrapped_once_and_used_at_each_login() -> None:
    world = wrapped(role="app")
    await world.session.open()
    await world.session.log_in()
    assert [body["secret_id"] for body in world.bodies(LOGIN)] == ["the-secret-id"] * 2
    (unwrapping,) = [asked for asked in world.vault.asked if asked.path == "sys/wrapping/unwrap"]
    assert unwrapping.token == WRAPPING.get_secret_value(), "Vault unwraps nothing for those who bring no token"
    assert "the-secret-id" not in repr(world.session._login)


async def test_a_login_that_fails_after_the_unwrapping_keeps_the_secret_id() -> None:
    world = wrapped()
    login = world.vault.paths[LOGIN]
    world.vault.paths[LOGIN] = DOWN
    with pytest.raises(VaultUnavailable):
        await world.session.open()
    world.vault.paths[LOGIN] = login
    await world.session.open()
    assert len(world.bodies("sys/wrapping/unwrap")) == 1


@pytest.mark.parametrize(
    ("made_at", "options"),
    [
        ("sys/wrapping/wrap", {}),
        ("auth/approle/role/app/secret-id/lookup", {}),
        ("auth/other/role/app/secret-id", {}),
        ("auth/approle/role/other/secret-id", {"role": "app"}),
        ("auth/approle/role/app.x/secret-id", {"role": "app"}),
    ],
)
async def test_a_wrapping_token_made_elsewhere_is_not_unwrapped(made_at: str, options: dict[str, Any]) -> None:
    world = wrapped(**options)
    world.vault.paths["sys/wrapping/lookup"] = {"data": {"creation_path": made_at}}
    said = await refused(world)
    assert f"was made at {made_at} and not at auth/approle/role/" in said
    assert world.bodies("sys/wrapping/unwrap") == []
    assert world.bodies(LOGIN) == []


async def test_a_wrapping_token_that_is_used_up_is_an_alarm() -> None:
    world = wrapped()
    world.vault.paths["sys/wrapping/lookup"] = Refusal(400, "wrapping token is not valid or does not exist")
    said = await refused(world)
    assert "if nobody of yours has unwrapped it, somebody else holds the secret id" in said
    assert WRAPPING.get_secret_value() not in said
    # It was used between our look and our own use.
    world = wrapped()
    world.vault.paths["sys/wrapping/unwrap"] = Refusal(400, "wrapping token is not valid or does not exist")
    assert "somebody else holds the secret id" in await refused(world)


async def test_vault_being_sealed_does_not_use_the_wrapping_token_up() -> None:
    world = wrapped()
    world.vault.paths["sys/wrapping/lookup"] = DOWN
    with pytest.raises(VaultUnavailable):
        await world.session.open()


# -- JWT and passwords


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    put(file, "first\n")
    return file


@pytest.mark.parametrize("method", ["kubernetes", "jwt", "userpass", "ldap"])
async def test_files_are_read_anew_at_each_login(file: Path, method: str) -> None:
    settings: dict[str, tuple[AuthSettings, str, str]] = {
        "kubernetes": (KubernetesAuth(role="app", token_file=file, mount="team/k8s"), "auth/team/k8s/login", "jwt"),
        "jwt": (JwtAuth(role="app", jwt_file=file, mount="team/jwt"), "auth/team/jwt/login", "jwt"),
        "userpass": (UserpassAuth(username="bob", password_file=file, mount="team/up"), "auth/team/up/login/bob", "password"),
        "ldap": (LdapAuth(username="bob", password_file=file, mount="team/ldap"), "auth/team/ldap/login/bob", "password"),
    }
    auth_settings, path, field = settings[method]
    world = World(auth_settings)
    world.vault.paths[path] = lambda _: world.vault.log_in()
    await world.session.open()
    put(file, "second\n")
    await world.session.log_in()
    assert [body[field] for body in world.bodies(path)] == ["first", "second"]
    assert [asked.token for asked in world.vault.asked if asked.path == path] == ["", ""]
    put(file, None)
    with pytest.raises(LoginFailed, match=f"file {file}: No such file"):
        await world.session.log_in()
    world.vault.paths[path] = DENIED
    put(file, "third")
    with pytest.raises(LoginFailed, match=f"answers at {path.partition('/login')[0]}, or it does not allow this host or the"):
        await world.session.log_in()


# -- functions of the user's own


def answers(*given: Any) -> CustomAuth:
    left = list(given)

    def login(client: hvac.Client) -> Any:
        assert not client.token
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return CustomAuth(login=login)


async def test_a_custom_login_by_hvac_is_ours_and_revoked() -> None:
    def login(client: hvac.Client) -> dict[str, Any]:
        answer: dict[str, Any] = client.auth.approle.login("role", "secret")
        return answer

    world = World(CustomAuth(login=login))
    await world.session.open()
    assert world.session.token.owned
    await world.session.close(timeout=1)
    assert [asked.token for asked in world.vault.asked if asked.path == "auth/token/revoke-self"] == ["hvs.1"]


@pytest.mark.parametrize("token", ["hvs.mine\n", SecretStr("hvs.mine")])
async def test_a_custom_login_may_return_a_bare_token_which_is_not_revoked(token: object) -> None:
    world = World(answers(token))
    await world.session.open()
    assert world.vault.asked[0].token == "hvs.mine"
    assert not world.session.token.owned


async def test_a_coroutine_function_runs_on_the_event_loop() -> None:
    loops: list[object] = []

    async def login() -> str:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(1)
        return f"hvs.mine.{len(loops)}"

    world = World(CustomAuth(login=login))
    world.vault.renewable = False
    async with world.running() as session:
        await asyncio.sleep(60)
        assert session.token.serial > 2
        assert session.token.end > now()
    assert set(loops) == {asyncio.get_running_loop()}


async def test_a_coroutine_function_that_never_returns_is_given_up() -> None:
    async def login() -> str:
        await asyncio.sleep(HOUR)
        return ""

    said = await refused(World(CustomAuth(login=login)))
    assert said == "the custom login did not return within 10 s"


async def test_what_a_custom_login_raises_is_told_without_its_text() -> None:
    said = await refused(World(answers(ValueError("hvs.secret"))))
    assert said.startswith("the custom login failed: it raised ValueError at ")
    assert "test_logins.py" in said
    assert "hvs.secret" not in said
    assert "returned NoneType and not a token" in await refused(World(answers(None)))


async def test_a_custom_login_that_gives_the_same_token_again_makes_no_hot_loop() -> None:
    world = World(CustomAuth(login=lambda _client: "hvs.same"))
    world.vault.token_ttl, world.vault.renewable = 600, False
    async with world.running() as session:
        await asyncio.sleep(500)
        assert session.token.serial == 1
    failures = [event for event in world.events if isinstance(event, TokenRenewalFailed)]
    assert 3 < len(failures) < 200
    assert "gave the same token again" in failures[0].error


# -- tokens of few uses


async def test_a_token_of_few_uses_is_replaced_before_they_are_used_up() -> None:
    world = World(AppRoleAuth(role_id="role", secret_id=SecretStr("s")))
    world.vault.token_ttl = int(24 * HOUR)
    used: dict[str, int] = {}

    def log_in(_: dict[str, Any]) -> dict[str, Any]:
        world.vault.logins += 1
        return auth(f"hvs.{world.vault.logins}", 24 * HOUR, renewable=True, uses=10)

    world.vault.paths[LOGIN] = log_in
    world.vault.paths["sys/leases/lookup"] = {"data": {"ttl": 7}}
    world.vault.paths["database/creds/app"] = {
        "lease_id": "x",
        "lease_duration": 60,
        "renewable": True,
        "data": {"username": "u", "password": "p"},
    }
    async with world.running() as session:
        lease = await session.issue("database", "app", timeout=5)
        for _ in range(40):
            await session.lookup(lease, timeout=5)
            await asyncio.sleep(60)
    for asked in world.vault.asked:
        used[asked.token] = used.get(asked.token, 0) + 1
    del used[""]
    assert all(count < 10 for count in used.values()), used
    assert len(used) == 6  # of each ten, seven are used
    assert TokenLost not in world.told()


async def test_a_token_of_one_use_makes_no_hot_loop_of_logins() -> None:
    world = World(AppRoleAuth(role_id="role", secret_id=SecretStr("s")))

    def log_in(_: dict[str, Any]) -> dict[str, Any]:
        world.vault.logins += 1
        return auth(f"hvs.{world.vault.logins}", HOUR, renewable=False, uses=1)

    world.vault.paths[LOGIN] = log_in
    async with world.running():
        await asyncio.sleep(1000)
    assert world.vault.logins < 5
