"""Event loops that end, or are left, with a manager inside; and other loops and threads that come to its pool."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from psycopg import AsyncConnection

from tests.chaos.conftest import Service
from tests.chaos.service import QUERY, settings_of
from tests.servers import DatabaseView, Mount
from tests.waiting import until
from vault_pg import LeaseManager, NotRunning

ENTERED = """
    import asyncio, sys, threading
    import vault_pg
    from vault_pg import LeaseManager, get_pool

    async def enter():
        manager = LeaseManager()
        await manager.__aenter__()
        async with get_pool().connection() as conn:
            await conn.execute("select count(*) from orders")
        return manager
"""

ENDS = {
    "close": """
    loop = asyncio.new_event_loop()
    manager = loop.run_until_complete(enter())
    loop.close()
    """,
    "close, and forgotten": """
    loop = asyncio.new_event_loop()
    loop.run_until_complete(enter())
    loop.close()
    del loop
    """,
    "stop": """
    loop = asyncio.new_event_loop()
    import atexit
    atexit.register(loop.close)  # after the manager's own; a loop that nobody closes is told by Python
    manager = loop.run_until_complete(enter())
    loop.call_soon(loop.stop)
    loop.run_forever()
    """,
    "left to itself in a daemon thread": """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    manager = asyncio.run_coroutine_threadsafe(enter(), loop).result()
    """,
    "stop and close in mid-rotation": """
    loop = asyncio.new_event_loop()
    manager = loop.run_until_complete(enter())
    rotation = loop.create_task(manager.rotate())
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    rotation._log_destroy_pending = False  # the program's own
    loop.close()
    """,
    "asyncio.run returns": """
    asyncio.run(enter())
    """,
    "sys.exit in another task": """
    async def main():
        async def leave():
            sys.exit(5)
        async with LeaseManager():
            other = asyncio.create_task(leave())
            await asyncio.Event().wait()
    asyncio.run(main())
    """,
    "KeyboardInterrupt in another task": """
    async def main():
        async def leave():
            raise KeyboardInterrupt
        async with LeaseManager():
            other = asyncio.create_task(leave())
            await asyncio.Event().wait()
    asyncio.run(main())
    """,
}


CLOSED = [end for end in ENDS if "another task" not in end and "asyncio.run" not in end]
"""The loop was taken away from under the manager; the others leave it in order."""

CODES = {"sys.exit in another task": 5, "KeyboardInterrupt in another task": -signal.SIGINT}


@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_an_event_loop_nothing_is_left_and_nothing_is_said_of_pending_tasks(
    mount: Mount, database: DatabaseView, service: Service, runtime_dir: Path, end: str
) -> None:
    process = service(mount, ENTERED + ENDS[end])
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES.get(end, 0), err
    assert "pending" not in err
    assert "Exception ignored" not in err
    assert ("manager.loop_ended" in err) == (end in CLOSED), err
    assert mount.leases() == []
    until(lambda: database.sessions() == 0, "PostgreSQL has noticed")
    assert database.roles() == set()
    assert list(runtime_dir.iterdir()) == []


async def use(manager: LeaseManager) -> list[str]:
    """Everything that another event loop may try, and what it is told."""
    pool = manager.get_pool()

    async def connection() -> None:
        async with pool.connection() as conn:
            await conn.execute(QUERY)

    async def try_connection() -> None:
        async with pool.try_connection():
            pass

    async def transaction() -> None:
        async with pool.transaction():
            pass

    async def work(conn: AsyncConnection) -> None:
        await conn.execute(QUERY)

    told = []
    for attempt in (connection, try_connection, transaction, pool.getconn, lambda: pool.run_transaction(work), manager.rotate):
        try:
            await attempt()
        except NotRunning as error:
            told.append(str(error))
    return told


async def test_another_event_loop_is_told_what_to_do_and_harms_nobody(mount: Mount, database: DatabaseView) -> None:
    loop = asyncio.get_running_loop()
    async with LeaseManager(settings_of(mount), shared=False) as manager:
        pool, sessions = manager.get_pool(), database.sessions()

        async def count() -> int:
            async with pool.connection() as conn:
                return len(await (await conn.execute(QUERY)).fetchall())

        told = await asyncio.to_thread(lambda: asyncio.run(use(manager)))
        assert len(told) == 6
        assert all("belongs to another event loop" in sentence and "run_coroutine_threadsafe" in sentence for sentence in told)
        assert (await asyncio.to_thread(manager.status)).health == "healthy"
        handed_over = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(count(), loop).result(60))
        assert handed_over == await count()
        assert (pool.in_use, pool.generation, database.sessions()) == (0, 1, sessions)
    assert mount.leases() == []
