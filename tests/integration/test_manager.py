"""The main job, end to end: real PostgreSQL, real HTTP, and a service that keeps querying while its credentials rotate."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from pydantic import SecretStr

import vault_pg
from tests.servers import DatabaseView, Mount, mounted
from tests.waiting import eventually, until
from vault_pg import (
    AppRoleAuth,
    DatabaseSettings,
    LeaseManager,
    NotRunning,
    Settings,
    TokenAuth,
    VaultPgError,
    VaultSettings,
    errors,
)
from vault_pg.dev import DevVault, EmbeddedPostgres, RoleSpec
from vault_pg.events import Event, LeaseIssued, LeaseRenewed, LeaseRevoked, LeaseRotated, ManagerStopped, TaskDied

MakeMount = Callable[..., Mount]


@pytest.fixture(autouse=True)
def _runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "run"))


def settings_for(mount: Mount, role: str = "app", **overrides: object) -> Settings:
    """Settings of a service with an AppRole of its own."""
    login = mount.approle(token_ttl=60)
    auth = AppRoleAuth(role_id=login.role_id, secret_id=login.secret_id, mount=login.mount)
    options: dict[str, object] = {"conninfo": mount.postgres.conninfo(), "min_size": 1, "max_size": 4, "build_timeout": 5.0}
    return Settings(
        vault=VaultSettings(address=mount.server.address, auth=auth),
        databases={"default": DatabaseSettings(role=role, mount=mount.path, **(options | overrides))},  # type: ignore[arg-type]
        start_timeout=20.0,
    )


def leftovers(mount: Mount, database: DatabaseView) -> tuple[list[str], int]:
    """Leases of the mount and sessions of leased roles, once a busy PostgreSQL has ended those that were closed."""
    until(lambda: database.sessions() == 0, "PostgreSQL has ended the sessions")
    return mount.leases(), database.sessions()


async def test_a_service_queries_while_its_credentials_rotate(make_mount: MakeMount, database: DatabaseView) -> None:
    mount = make_mount(default_ttl=6, max_ttl=9)
    events: list[Event] = []
    users: set[str] = set()
    queries = 0
    stop = False
    # With that luck a renewal comes when half of the grant is left: a busy machine must not make the credential end before it.
    manager = LeaseManager(settings_for(mount, max_size=4), draw=lambda: 0.1)
    manager.add_listener(events.append)
    async with manager:
        pool = vault_pg.get_pool()
        assert pool is manager.get_pool()

        async def client() -> None:
            nonlocal queries
            while not stop:
                async with pool.connection() as conn:
                    cursor = await conn.execute("select current_user, count(*) from orders")
                    row = await cursor.fetchone()
                    assert row is not None
                    users.add(row[0])
                    queries += 1

        clients = [asyncio.create_task(client()) for _ in range(8)]
        rotated = await eventually(lambda: [e for e in events if isinstance(e, LeaseRotated)][1:], "two rotations")
        assert pool.get_stats()["generations_alive"] <= 2
        stop = True
        await asyncio.gather(*clients)
    assert queries > 0
    assert len(users) >= 3
    assert len({event.generation for event in rotated}) == len(rotated)
    await eventually(lambda: leftovers(mount, database) == ([], 0), "nothing is left")
    issued = {event.lease_id for event in events if isinstance(event, LeaseIssued)}
    revoked = {event.lease_id for event in events if isinstance(event, LeaseRevoked)}
    assert revoked
    assert revoked <= issued  # on a busy machine one of seconds may have ended by itself
    [stopped] = [event for event in events if isinstance(event, ManagerStopped)]
    assert stopped.left_behind == ()


async def test_a_lease_is_renewed_and_its_role_lives_on(make_mount: MakeMount, database: DatabaseView) -> None:
    mount = make_mount(default_ttl=4, max_ttl=3600)
    events: list[Event] = []
    manager = LeaseManager(settings_for(mount), draw=lambda: 0.0)
    manager.add_listener(events.append)
    async with manager:
        await eventually(lambda: len([e for e in events if isinstance(e, LeaseRenewed)]) >= 3, "three renewals")
        status = manager.status()
        assert status.databases[0].lease is not None
        assert status.databases[0].lease.renewals >= 3
        assert (status.health, status.databases[0].state) == ("healthy", "serving")
        async with manager.get_pool().connection() as conn:
            await conn.execute("insert into orders (item) values ('kept')")
    assert leftovers(mount, database) == ([], 0)


async def test_a_lazy_pool_holds_no_session_that_nobody_asked_for(mount: Mount, database: DatabaseView) -> None:
    async with LeaseManager(settings_for(mount, min_size=0)) as manager:
        await eventually(lambda: database.sessions() == 0, "no session after the start")
        await manager.rotate()
        await eventually(lambda: database.sessions() == 0, "no session after a rotation")
        async with manager.get_pool().connection() as conn:
            await conn.execute("select count(*) from orders")
        assert database.sessions() == 1
    assert leftovers(mount, database) == ([], 0)


async def test_rotate_by_hand_and_the_holder_kept_from_start_up(mount: Mount, database: DatabaseView) -> None:
    async with LeaseManager(settings_for(mount)) as manager:
        pool = manager.get_pool()
        seen = []
        for _ in range(3):
            async with pool.connection() as conn:
                seen.append(conn.info.user)
            await manager.rotate()
        assert len(set(seen)) == 3
        assert manager.status().databases[0].rotations == 3
        assert manager.get_pool() is pool
        with pytest.raises(NotRunning, match="'other'"):
            manager.get_pool("other")
    assert leftovers(mount, database) == ([], 0)
    with pytest.raises(NotRunning, match="enter"):
        manager.get_pool()
    with pytest.raises(NotRunning, match="no LeaseManager runs"):
        vault_pg.get_pool()


async def test_a_rotation_asked_for_while_the_manager_leaves_is_refused_at_once(mount: Mount) -> None:
    manager = LeaseManager(settings_for(mount))
    borrowed = asyncio.Event()

    async def job() -> None:
        pool = manager.get_pool()
        async with pool.connection():
            borrowed.set()
            await eventually(lambda: pool.closed, "the manager leaves")
            async with asyncio.timeout(10):
                await manager.rotate()

    async with manager:
        working = asyncio.create_task(job())
        await borrowed.wait()
    with pytest.raises(NotRunning, match="stopping"):
        await working


async def test_connect_gives_one_leased_connection_and_leaves_nothing(mount: Mount, database: DatabaseView) -> None:
    async with vault_pg.connect(settings_for(mount)) as conn:
        await conn.execute("insert into orders (item) values ('by script')")
        assert len(mount.leases()) == 1
    assert leftovers(mount, database) == ([], 0)
    with suppress(ZeroDivisionError):
        async with vault_pg.connect(settings_for(mount)) as conn:
            await conn.execute("insert into orders (item) values ('rolled back')")
            raise ZeroDivisionError
    async with vault_pg.connect(settings_for(mount)) as conn:
        cursor = await conn.execute("select count(*) from orders where item = 'rolled back'")
        assert await cursor.fetchone() == (0,)


async def test_two_databases_under_one_token(make_mount: MakeMount, database: DatabaseView) -> None:
    mount = make_mount(roles={"app": RoleSpec(), "reports": RoleSpec()})
    one = settings_for(mount)
    both = one.model_copy(
        update={"databases": {"app": one.databases["default"], "reports": settings_for(mount, "reports").databases["default"]}}
    )
    async with LeaseManager(both) as manager:
        assert manager.get_pool("app") is not vault_pg.get_pool("reports")
        async with manager.get_pool("app").connection() as a, manager.get_pool("reports").connection() as b:
            assert "-app-" in a.info.user
            assert "-reports-" in b.info.user
    assert (mount.leases("app"), mount.leases("reports"), database.sessions()) == ([], [], 0)


async def test_leaving_takes_no_longer_than_stated_when_vault_is_down(
    new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres
) -> None:
    vault = new_vault()
    with mounted(vault, postgres, {"app": RoleSpec()}) as mount:
        settings = settings_for(mount).model_copy(update={"shutdown_timeout": 2.0})
        events: list[Event] = []
        manager = LeaseManager(settings)
        manager.add_listener(events.append)
        async with manager:
            vault.stop()
        [stopped] = [event for event in events if isinstance(event, ManagerStopped)]
        assert len(stopped.left_behind) == 1
        assert stopped.seconds < 20
        vault.start()


async def test_a_borrower_that_does_not_return_is_cut_off_on_leaving(mount: Mount, database: DatabaseView) -> None:
    async with LeaseManager(settings_for(mount, drain_timeout=0.5)) as manager:
        conn = await manager.get_pool().getconn()
        query = asyncio.create_task(conn.execute("select pg_sleep(3600)"))
        await asyncio.sleep(0)
    with pytest.raises(psycopg.Error):
        await query
    await conn.close()
    assert leftovers(mount, database) == ([], 0)


# -- bad input: one sentence, and nothing left behind


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def fails(settings: Settings, kind: type[VaultPgError]) -> str:
    with pytest.raises(kind) as caught:
        async with LeaseManager(settings):
            pass
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


async def test_vault_unreachable(mount: Mount) -> None:
    address = f"http://127.0.0.1:{closed_port()}"
    settings = settings_for(mount).model_copy(
        update={"start_timeout": 3.0, "vault": VaultSettings(address=address, auth=TokenAuth(token=SecretStr("hvs.x")))}
    )
    assert address in await fails(settings, errors.VaultUnavailable)


async def test_wrong_token(mount: Mount) -> None:
    settings = settings_for(mount).model_copy(
        update={"vault": VaultSettings(address=mount.server.address, auth=TokenAuth(token=SecretStr("hvs.wrong")))}
    )
    sentence = await fails(settings, errors.VaultError)
    assert "token" in sentence
    assert "hvs.wrong" not in sentence


async def test_sealed(mount: Mount, dev_vault: DevVault) -> None:
    settings = settings_for(mount).model_copy(update={"start_timeout": 3.0})
    dev_vault.faults.seal()
    assert "unseal" in await fails(settings, errors.VaultSealed)


async def test_unknown_role(mount: Mount, database: DatabaseView) -> None:
    mount.write_policy(mount.service_policy("nope"))
    assert "nope" in await fails(settings_for(mount, "nope"), errors.RoleNotFound)
    assert leftovers(mount, database) == ([], 0)


async def test_no_right_on_the_role(mount: Mount) -> None:
    sentence = await fails(settings_for(mount, "other"), errors.PermissionDenied)
    assert f"{mount.path}/creds/other" in sentence
    assert "read" in sentence


async def test_postgres_unreachable(mount: Mount, database: DatabaseView) -> None:
    settings = settings_for(mount, conninfo=f"host=127.0.0.1 port={closed_port()} dbname=app", build_timeout=1.0)
    sentence = await fails(settings.model_copy(update={"start_timeout": 3.0}), errors.DatabaseUnavailable)
    assert "127.0.0.1" in sentence
    assert leftovers(mount, database) == ([], 0)


async def test_wrong_database_name(mount: Mount, database: DatabaseView) -> None:
    conninfo = mount.postgres.conninfo("nosuchdb")
    assert "nosuchdb" in await fails(settings_for(mount, conninfo=conninfo), errors.DatabaseNotFound)
    assert leftovers(mount, database) == ([], 0)


# -- a program of its own


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[[Mount, str], subprocess.Popen[str]]]:
    """Runs a program with four variables and nothing else in its environment."""
    started: list[subprocess.Popen[str]] = []

    def run(mount: Mount, body: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "VAULT_ADDR": mount.server.address,
            "VAULT_TOKEN": mount.token().get_secret_value(),
            "VAULT_PG_ROLE": "app",
            "VAULT_PG_CONNINFO": mount.postgres.conninfo(),
            "VAULT_PG_MOUNT": mount.path,
        }
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(body)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


SERVICE = """
    import asyncio
    from vault_pg import LeaseManager, get_pool

    async def main():
        async with LeaseManager():
            async with get_pool().connection() as conn:
                await conn.execute("select 1")
            print("ready", flush=True)
            try:
                await asyncio.Event().wait()
            finally:
                print("leaving", flush=True)
        print("not reached")

    asyncio.run(main())
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_ends_a_service_cleanly(
    mount: Mount, database: DatabaseView, service: Callable[[Mount, str], subprocess.Popen[str]], sent: signal.Signals, code: int
) -> None:
    process = service(mount, SERVICE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert len(mount.leases()) == 1
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert out == "leaving\n"
    assert process.returncode == code
    if sent == signal.SIGTERM:
        assert err == ""
    assert leftovers(mount, database) == ([], 0)


def test_a_service_that_crashes_at_start_leaves_nothing(
    mount: Mount, database: DatabaseView, service: Callable[[Mount, str], subprocess.Popen[str]]
) -> None:
    process = service(mount, SERVICE.replace('await conn.execute("select 1")', "raise RuntimeError('bug')"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "RuntimeError: bug" in err
    assert leftovers(mount, database) == ([], 0)


async def test_a_revocation_that_fails_for_a_moment_is_tried_again_on_leaving(
    mount: Mount, dev_vault: DevVault, database: DatabaseView
) -> None:
    busy = {"errors": ["failed to revoke entry: resp: (*logical.Response)(nil) err: pq: tuple concurrently updated"]}
    async with LeaseManager(settings_for(mount)):
        dev_vault.faults.answer(400, busy, match="sys/leases/revoke", times=2)
    assert leftovers(mount, database) == ([], 0)
    assert dev_vault.log.count("* sys/leases/revoke") >= 3


def test_a_manager_lives_again_in_another_event_loop(mount: Mount, database: DatabaseView) -> None:
    manager = LeaseManager(settings_for(mount))
    events: list[Event] = []
    manager.add_listener(events.append)

    async def live() -> None:
        async with manager:
            await manager.rotate()

    asyncio.run(live())
    asyncio.run(live())
    assert not [event for event in events if isinstance(event, TaskDied)]
    assert leftovers(mount, database) == ([], 0)
