"""A program: workers that fork, or are spawned, before each enters a manager of its own, as those of gunicorn do."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys

from vault_pg import LeaseManager, get_pool


async def serve(manager: LeaseManager) -> None:
    async with manager:
        await manager.rotate()
        async with get_pool().connection() as conn:
            await conn.execute("select count(*) from orders")


def work(manager: LeaseManager | None = None) -> None:
    asyncio.run(serve(manager or LeaseManager()))


if __name__ == "__main__":
    made = LeaseManager()  # made in the parent, entered in a child
    processes = [
        multiprocessing.get_context("fork").Process(target=work, args=(made,)),
        multiprocessing.get_context("fork").Process(target=work),
        multiprocessing.get_context("spawn").Process(target=work),
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.stdout.write(f"{[process.exitcode for process in processes]}\n")
