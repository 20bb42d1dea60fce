"""A program: a service that forks in the middle of its life, in every way there is, and wants to live on."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import vault_pg
from vault_pg import HotSwapPool, LeaseManager, NotRunning, get_pool


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def use_all(manager: LeaseManager, pool: HotSwapPool[Any]) -> None:
    """Everything that a child may try with what its parent has."""

    async def connection() -> None:
        async with pool.connection():
            pass

    async def try_connection() -> None:
        async with pool.try_connection():
            pass

    async def plain(call: Callable[[], object]) -> None:
        call()

    attempts: dict[str, Callable[[], Awaitable[object]]] = {
        "get_pool": lambda: plain(get_pool),
        "manager.get_pool": lambda: plain(manager.get_pool),
        "status": lambda: plain(manager.status),
        "rotate": manager.rotate,
        "connection": connection,
        "try_connection": try_connection,
        "getconn": pool.getconn,
        "run_transaction": lambda: pool.run_transaction(connection_is_not_asked_for),
    }
    for name, attempt in attempts.items():
        try:
            await attempt()
        except NotRunning as error:
            say(f"child {name}: {'forked from' in str(error) and str(os.getppid()) in str(error)}")


async def connection_is_not_asked_for(_: object) -> None:
    raise AssertionError


def collect() -> None:
    """A child of multiprocessing: its garbage, then its end."""
    gc.collect()


def sleep() -> None:
    time.sleep(300)


def in_child(deed: Callable[[], None]) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=deed)
    process.start()
    return process  # type: ignore[return-value] # a ForkProcess, which typeshed has apart


async def main() -> None:
    async with LeaseManager() as manager:
        pool = get_pool()
        async with pool.connection() as held:
            await held.execute("create temporary table kept as select 1 as one")
            if (child := os.fork()) == 0:
                use = use_all(manager, pool)
                try:
                    while True:  # no event loop runs in here, asyncio says; what is tried needs none
                        use.send(None)
                except StopIteration:
                    sys.exit(7)  # through every block of this program, the manager's and asyncio.run's too
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            say(f"child exit {os.waitstatus_to_exitcode(status)}")
            collecting, sleeping = in_child(collect), in_child(sleep)
            await asyncio.to_thread(collecting.join)
            sleeping.terminate()
            await asyncio.to_thread(sleeping.join)
            say(f"children {collecting.exitcode} {sleeping.exitcode}")
            await held.execute("select one from kept")
        await manager.rotate()
        async with vault_pg.get_pool().connection() as conn:
            await conn.execute("select count(*) from orders")
        say(f"parent {manager.status().health}")


if __name__ == "__main__":
    asyncio.run(main())
