"""An issue that Vault serves and whose answer is cut off: the role is there, and nobody knows whose it is. It goes with its token."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_manager import MakeMount, settings_for
from tests.servers import DatabaseView
from tests.waiting import eventually
from vault_pg import LeaseManager, errors
from vault_pg.dev import DevVault
from vault_pg.events import Event, IssueUnanswered, StartDelayed, TokenIssued, TokenRevoked


@pytest.fixture(autouse=True)
def _runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAULT_PG_RUNTIME_DIR", str(tmp_path / "run"))


async def test_a_role_that_nobody_knows_of_is_dropped_once_the_lease_that_serves_has_moved(
    make_mount: MakeMount, database: DatabaseView, dev_vault: DevVault
) -> None:
    mount = make_mount(default_ttl=3600, max_ttl=7200)
    events: list[Event] = []
    manager = LeaseManager(settings_for(mount))
    manager.add_listener(events.append)
    async with manager:
        with dev_vault.faults.cut(f"{mount.path}/creds/*", times=1), pytest.raises(errors.VaultUnavailable):
            await manager.rotate()
        [unanswered] = [event for event in events if isinstance(event, IssueUnanswered)]
        assert unanswered.replaced
        assert len(database.roles()) == len(mount.leases()) == 2
        await eventually(lambda: [event for event in events if isinstance(event, TokenIssued) and event.serial == 2])
        await manager.rotate()
        await eventually(lambda: [event for event in events if isinstance(event, TokenRevoked) and event.serial == 1])
        await eventually(lambda: len(database.roles()) == 1, "the role of the lost answer is gone")
        assert len(mount.leases()) == 1
        async with manager.get_pool().connection() as conn:
            await conn.execute("select count(*) from orders")
    assert (mount.leases(), database.sessions()) == ([], 0)


async def test_a_start_whose_first_answer_is_lost_leaves_one_role(
    make_mount: MakeMount, database: DatabaseView, dev_vault: DevVault
) -> None:
    mount = make_mount(default_ttl=3600, max_ttl=7200)
    events: list[Event] = []
    with dev_vault.faults.cut(f"{mount.path}/creds/*", times=1):
        manager = LeaseManager(settings_for(mount))
        manager.add_listener(events.append)
        async with manager:
            assert [event for event in events if isinstance(event, StartDelayed)]
            await eventually(lambda: [event.serial for event in events if isinstance(event, TokenRevoked)] == [1])
            await eventually(lambda: len(database.roles()) == 1, "the role of the lost answer is gone")
            assert len(mount.leases()) == 1
    assert (mount.leases(), database.sessions()) == ([], 0)
