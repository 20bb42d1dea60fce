"""Ends of `vault_pg.connect()`: a signal while it is open, and a Vault that is down when it closes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

import vault_pg
from tests.chaos.conftest import Service
from tests.chaos.service import settings_of
from tests.chaos.test_ends import CODES, assert_nothing_left, read_until
from tests.servers import DatabaseView, Mount, mounted
from tests.waiting import eventually, until
from vault_pg import Settings
from vault_pg.dev import DevVault, EmbeddedPostgres, RoleSpec

OPEN = """
    import asyncio, vault_pg

    async def main():
        async with vault_pg.connect() as conn:
            await conn.execute("insert into orders (item) values ('half done')")
            print("open", flush=True)
            await conn.execute("select pg_sleep(3600)")

    asyncio.run(main())
"""


def sleeping(postgres: EmbeddedPostgres) -> int:
    with postgres.admin() as admin:
        query = "select 1 from pg_stat_activity where state = 'active' and usename like 'v-%' and wait_event = 'PgSleep'"
        return admin.execute(query).rowcount


@pytest.mark.parametrize("sent", CODES)
def test_a_signal_while_a_script_is_open_rolls_back_and_leaves_nothing(
    mount: Mount, database: DatabaseView, service: Service, sent: signal.Signals
) -> None:
    process = service(mount, OPEN)
    read_until(process, "open")
    # A statement that is not under way yet cannot be cancelled.
    until(lambda: sleeping(mount.postgres), "the statement runs")
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[sent], err
    assert_nothing_left(mount, database)
    with mount.postgres.admin() as admin:
        assert admin.execute("select count(*) from orders where item = 'half done'").fetchone() == (0,)


@pytest.fixture
def stage(new_vault: Callable[..., DevVault], postgres: EmbeddedPostgres) -> Iterator[tuple[DevVault, Mount, Settings]]:
    vault = new_vault()
    with mounted(vault, postgres, {"app": RoleSpec()}) as mount:
        yield vault, mount, settings_of(mount, vault_timeout=1.0).model_copy(update={"shutdown_timeout": 2.0})
        vault.start()


async def test_a_script_that_ends_while_vault_is_down_has_done_its_work_and_names_its_lease(
    stage: tuple[DevVault, Mount, Settings],
    database: DatabaseView,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vault, mount, settings = stage
    async with vault_pg.connect(settings) as conn:
        await conn.execute("insert into orders (item) values ('done')")
        [lease] = mount.leases()
        vault.stop()
    await eventually(lambda: database.sessions() == 0, "its connection is closed")
    told = [*caplog.messages, *capsys.readouterr().out.splitlines()]  # by logging, or by structlog where somebody has loaded it
    assert [line for line in told if "leases_left_behind" in line and lease in line]
    with mount.postgres.admin() as admin:
        assert admin.execute("delete from orders where item = 'done'").rowcount == 1


async def test_an_error_of_the_script_is_what_is_seen_of_it_even_where_vault_is_down(
    stage: tuple[DevVault, Mount, Settings], database: DatabaseView
) -> None:
    vault, _, settings = stage

    async def script() -> None:
        async with vault_pg.connect(settings) as conn:
            await conn.execute("insert into orders (item) values ('undone')")
            vault.stop()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await script()
    await eventually(lambda: database.sessions() == 0, "its connection is closed")
    with database.postgres.admin() as admin:
        assert admin.execute("select count(*) from orders where item = 'undone'").fetchone() == (0,)
