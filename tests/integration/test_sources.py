"""Credentials from elsewhere than dynamic roles, on real PostgreSQL and under load: no query fails for a change of password."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests import leaks
from tests.integration.test_manager import settings_for
from tests.servers import DatabaseView, Mount
from tests.waiting import eventually
from vault_pg import CallableSource, DatabaseSettings, FileSource, LeaseManager, Settings, errors
from vault_pg.dev import EmbeddedPostgres, RoleSpec, StaticRoleSpec
from vault_pg.events import CredentialExpired, Event, LeaseRotated, PasswordExchanged, SourceUnreadable


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path))


class Person:
    """A PostgreSQL role with a password that a test changes."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self.postgres = postgres
        self.name = f"person-{secrets.token_hex(4)}"
        self.passwords: list[str] = []
        with postgres.admin() as conn:
            conn.execute(sql.SQL("create role {} login in role app_readwrite").format(sql.Identifier(self.name)))
        self.change()

    def change(self, valid: float | None = None) -> str:
        """A new password, which works for `valid` seconds; the old one does no more."""
        self.passwords.append(f"pw-{secrets.token_hex(8)}")
        statement = sql.SQL("alter role {} password {} valid until {}").format(
            sql.Identifier(self.name),
            sql.Literal(self.passwords[-1]),
            sql.Literal("infinity" if valid is None else self._end(valid)),
        )
        with self.postgres.admin() as conn:
            conn.execute(statement)
        return self.passwords[-1]

    def _end(self, valid: float) -> str:
        with self.postgres.admin() as conn:
            row = conn.execute("select (now() + make_interval(secs => %s))::text", [valid]).fetchone()
            assert row is not None
            return str(row[0])

    def json(self) -> str:
        return json.dumps({"username": self.name, "password": self.passwords[-1]})

    def drop(self) -> None:
        with self.postgres.admin() as conn:
            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(self.name)))


@pytest.fixture
def make_person(postgres: EmbeddedPostgres) -> Iterator[Callable[[], Person]]:
    persons: list[Person] = []

    def make() -> Person:
        persons.append(Person(postgres))
        return persons[-1]

    with leaks.watched(lambda: [password for person in persons for password in person.passwords]):
        yield make
    for person in persons:
        person.drop()


class Load:
    """Clients that query, and now and then lose their connection, so that the pool logs in all the time."""

    def __init__(self, manager: LeaseManager) -> None:
        self.manager = manager
        self.events: list[Event] = []
        self.queries = 0
        self.users: set[str] = set()
        manager.add_listener(self.events.append)

    def of(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    async def client(self) -> None:
        for number in itertools.count(1):
            async with self.manager.get_pool().connection() as conn:
                cursor = await conn.execute("select current_user, count(*) from orders")
                row = await cursor.fetchone()
                assert row is not None
                self.users.add(row[0])
                self.queries += 1
                if number % 10 == 0:
                    await conn.close()

    @asynccontextmanager
    async def running(self, clients: int = 6) -> AsyncIterator[Load]:
        """Any query that fails fails the test."""
        async with self.manager, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.client()) for _ in range(clients)]
            yield self
            for task in tasks:
                task.cancel()

    async def more(self, queries: int = 50) -> None:
        """So many queries later."""
        goal = self.queries + queries
        await eventually(lambda: self.queries >= goal, "queries go on")


def without_vault(postgres: EmbeddedPostgres, source: Any, **options: Any) -> Settings:
    """No token, no role: nothing that a login to Vault could be made of."""
    database = DatabaseSettings(source=source, conninfo=postgres.conninfo(), min_size=2, max_size=4, **options)
    return Settings(databases={"default": database}, start_timeout=20.0)


async def test_a_static_role_changes_its_password_under_load_and_no_query_fails(
    mount: Mount, make_person: Callable[[], Person]
) -> None:
    person = make_person()
    mount.provision({"app": RoleSpec()}, {"fixed": StaticRoleSpec(person.name)})
    settings = settings_for(mount, role="fixed", source="static", min_size=2)
    async with Load(LeaseManager(settings)).running() as load:
        for changes in (1, 2, 3):
            # By hand, so that nothing but a refused login tells of it.
            await asyncio.to_thread(mount.root.secrets.database.rotate_static_role_credentials, "fixed", mount_point=mount.path)
            await eventually(lambda wanted=changes: len(load.of(PasswordExchanged)) >= wanted, "the password is exchanged")  # type: ignore[misc]
            await load.more()
        status = load.manager.status()
        assert (status.databases[0].source, status.databases[0].role, status.health) == ("static", "fixed", "healthy")
        assert status.databases[0].lease is not None
        assert (status.databases[0].lease.id, status.databases[0].lease.ending) == (None, "change")
    assert load.users == {person.name}
    assert not load.of(LeaseRotated, CredentialExpired)
    mount.root.secrets.database.delete_static_role("fixed", mount_point=mount.path)


@pytest.mark.slow
async def test_a_static_role_that_vault_rotates_by_itself_every_five_seconds(
    mount: Mount, make_person: Callable[[], Person]
) -> None:
    person = make_person()
    mount.provision({"app": RoleSpec()}, {"fixed": StaticRoleSpec(person.name, rotation_period=5)})
    settings = settings_for(mount, role="fixed", source="static", min_size=2)
    async with Load(LeaseManager(settings)).running() as load:
        await eventually(lambda: len(load.of(PasswordExchanged)) >= 6, "six changes")
        await load.more()
        assert load.manager.get_pool().generation == 1
    assert not load.of(LeaseRotated, CredentialExpired, SourceUnreadable)
    mount.root.secrets.database.delete_static_role("fixed", mount_point=mount.path)


async def test_a_file_is_rewritten_under_load_and_no_query_fails(
    postgres: EmbeddedPostgres, make_person: Callable[[], Person], tmp_path: Path
) -> None:
    first, second = make_person(), make_person()
    file = tmp_path / "db.json"
    file.write_text(first.json())
    settings = without_vault(postgres, FileSource(path=file, interval=0.2))
    async with Load(LeaseManager(settings)).running() as load:
        assert load.manager.status().vault is None
        for changes in (1, 2, 3):
            await asyncio.to_thread(first.change)
            file.write_text("")  # as a writer does that is no friend of rename()
            file.write_text(first.json())
            await eventually(lambda wanted=changes: len(load.of(PasswordExchanged)) >= wanted, "the password is exchanged")  # type: ignore[misc]
            await load.more()
        assert load.manager.get_pool().generation == 1
        file.write_text(second.json())
        await eventually(lambda: load.of(LeaseRotated), "another role means another generation")
        await eventually(lambda: second.name in load.users, "it serves")
        await load.more()
    assert load.users == {first.name, second.name}
    assert not load.of(CredentialExpired)


@pytest.mark.slow
async def test_passwords_that_expire_under_load_and_no_query_fails(
    postgres: EmbeddedPostgres, make_person: Callable[[], Person]
) -> None:
    person = make_person()
    source = CallableSource(call=lambda: (person.change(valid=9.0), 9.0), username=person.name)
    async with Load(LeaseManager(without_vault(postgres, source))).running() as load:
        await eventually(lambda: len(load.of(PasswordExchanged)) >= 2, "two more passwords")
        await load.more()
        assert load.manager.get_pool().generation == 1
    assert not load.of(LeaseRotated, CredentialExpired)
    assert len(person.passwords) >= 4


async def test_one_unreadable_source_is_told_and_touches_no_other_database(
    postgres: EmbeddedPostgres, make_person: Callable[[], Person], tmp_path: Path
) -> None:
    files = {name: tmp_path / f"{name}.json" for name in ("default", "other")}
    for file in files.values():
        file.write_text(make_person().json())
    databases = {
        name: DatabaseSettings(source=FileSource(path=file, interval=0.1), conninfo=postgres.conninfo(), min_size=1, max_size=2)
        for name, file in files.items()
    }
    async with Load(LeaseManager(Settings(databases=databases))).running() as load:
        text = files["other"].read_text()
        files["other"].unlink()
        await eventually(lambda: load.of(SourceUnreadable), "it is told")
        assert {event.database for event in load.of(SourceUnreadable)} == {"other"}
        await load.manager.rotate("default")
        async with load.manager.get_pool("other").connection() as conn:
            await conn.execute("select 1")  # the last credential serves on
        healths = {each.name: each.health for each in load.manager.status().databases}
        assert healths == {"default": "healthy", "other": "degraded"}
        files["other"].write_text(text)
        await eventually(lambda: load.manager.status().health == "healthy", "it is read again")


async def test_a_start_waits_for_a_file_that_is_not_written_yet(
    postgres: EmbeddedPostgres, make_person: Callable[[], Person], tmp_path: Path
) -> None:
    file = tmp_path / "db.json"
    person = make_person()
    manager = LeaseManager(without_vault(postgres, FileSource(path=file)))
    delayed = asyncio.Event()
    manager.add_listener(lambda event: delayed.set() if event.name == "manager.start_delayed" else None)

    async def write() -> None:
        await delayed.wait()
        file.write_text(person.json())

    writing = asyncio.create_task(write())
    async with manager, manager.get_pool().connection() as conn:
        assert conn.info.user == person.name
    await writing


async def test_a_failed_start_names_the_database_and_leaves_nothing(
    mount: Mount, database: DatabaseView, make_person: Callable[[], Person], tmp_path: Path
) -> None:
    settings = settings_for(mount)
    wrong = settings.databases["default"].model_copy(update={"role": "nosuch"})
    settings = settings.model_copy(update={"databases": {**settings.databases, "reports": wrong}})
    with pytest.raises(errors.VaultError, match=r"^database 'reports': "):
        async with LeaseManager(settings):
            pass
    # An issue that was under way is undone, by us or, where its token has died, by Vault.
    await eventually(lambda: not mount.leases(), "no lease is left")
    await eventually(lambda: database.sessions() == 0, "no session is left")


async def test_a_manager_without_vault_reads_no_token_and_reaches_for_no_vault(
    postgres: EmbeddedPostgres, make_person: Callable[[], Person], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    file = tmp_path / "db.json"
    file.write_text(make_person().json())
    async with LeaseManager(without_vault(postgres, FileSource(path=file))) as manager:
        status = manager.status()
        assert (status.vault, status.health) == (None, "healthy")
        lease = status.databases[0].lease
        assert lease is not None
        assert (lease.id, lease.ttl_seconds, lease.remaining_seconds) == (None, None, None)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # a doubt, which finds nothing wrong
            async with manager.get_pool().connection() as conn:
                await conn.execute("create role nobody_may")
    status.model_dump_json()
