"""Neighbours: a manager that died beside the one that follows it, and several managers in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chaos.conftest import ROOT, Service
from tests.servers import DatabaseView, Mount
from tests.waiting import until

SERVES = """
    import asyncio
    from vault_pg import LeaseManager, get_pool

    async def main():
        async with LeaseManager():
            async with get_pool().connection() as conn:
                await conn.execute("select count(*) from orders")
            print("serving", flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())
"""


def serving(process: subprocess.Popen[str]) -> bool:
    assert process.stdout is not None
    return process.stdout.readline() == "serving\n"


def status_is_healthy() -> bool:
    command = [sys.executable, "-c", "from vault_pg.cli import main; main()", "status"]
    return subprocess.run(command, check=False, capture_output=True, cwd=ROOT).returncode == 0


def test_a_service_that_was_killed_is_in_nobodys_way(
    mount: Mount, database: DatabaseView, service: Service, runtime_dir: Path
) -> None:
    killed = service(mount, SERVES)
    assert serving(killed)
    left = set(mount.leases())
    killed.kill()
    killed.wait()
    assert [path.name.split("-")[0] for path in runtime_dir.iterdir()] == [str(killed.pid)]

    restarted = service(mount, SERVES)
    assert serving(restarted)
    assert len(left) == 1
    assert left < set(mount.leases())
    until(status_is_healthy, "the restarted one answers")
    assert [path.name.split("-")[0] for path in runtime_dir.iterdir()] == [str(restarted.pid)]

    restarted.terminate()
    _, err = restarted.communicate(timeout=60)
    assert restarted.returncode == 143, err
    assert set(mount.leases()) == left  # Vault ends it at its TTL
    until(lambda: database.sessions() == 0, "PostgreSQL has noticed")


TWO = """
    import asyncio
    from vault_pg import LeaseManager, Settings, get_pool

    async def serves(name="default"):
        async with get_pool(name).connection() as conn:
            await conn.execute("select count(*) from orders")

    async def same_name():
        first, second = LeaseManager(), LeaseManager()
        await first.__aenter__()
        assert get_pool() is first.get_pool()
        await second.__aenter__()
        assert get_pool() is second.get_pool() is not first.get_pool()
        async with get_pool().connection() as conn:
            await first.__aexit__(None, None, None)
            await conn.execute("select count(*) from orders")
        await second.rotate()
        await serves()
        async with first:
            assert get_pool() is first.get_pool()
            async with first.get_pool().connection(), second.get_pool().connection():
                pass
        assert get_pool() is second.get_pool()
        await serves()
        await second.__aexit__(None, None, None)

    async def other_names():
        settings = Settings()
        other = settings.model_copy(update={"databases": {"reports": settings.databases["default"]}})
        async with LeaseManager(other) as outer:
            async with LeaseManager() as inner:
                assert get_pool("reports") is outer.get_pool("reports")
                assert get_pool() is inner.get_pool()
                await asyncio.gather(serves(), serves("reports"))
            await outer.rotate("reports")
            await serves("reports")

    asyncio.run(same_name())
    asyncio.run(other_names())
    print("done")
"""


def test_managers_in_one_process_come_and_go_as_they_like(mount: Mount, database: DatabaseView, service: Service) -> None:
    process = service(mount, TWO)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "done\n"), err
    assert (mount.leases(), database.sessions(), database.roles()) == ([], 0, set())
