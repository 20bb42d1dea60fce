"""Burial: what is left to do for pools whose event loop is closed, so that their tasks will never run again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from vault_pg.pool.holder import HotSwapPool


def bury(loop: asyncio.AbstractEventLoop, holders: Iterable[HotSwapPool[Any]], *, prefix: str) -> None:
    """Cut every connection, and end the pools' tasks and those whose names begin with `prefix`, each without a word."""
    holders = list(holders)
    for holder in holders:
        holder.cut()
    for task in [*_tasks(loop, holders, prefix)]:
        # What it would do on its way out needs a loop.
        with suppress(BaseException):
            task.get_coro().close()
        private: Any = task  # asyncio has no public way; its own gather() does the same
        private._log_destroy_pending = False


def _tasks(loop: asyncio.AbstractEventLoop, holders: list[HotSwapPool[Any]], prefix: str) -> Iterator[asyncio.Task[Any]]:
    """By their names; and those without one in which Python 3.11 waits for the events of a pool's scheduler."""
    prefixes = (prefix, *(f"{holder.name}-" for holder in holders))
    scheduled = {id(pool._sched._event) for holder in holders for pool in holder._all_pools()}
    for task in asyncio.all_tasks(loop):
        frame = getattr(task.get_coro(), "cr_frame", None)
        waits_for = frame.f_locals.get("self") if frame is not None else None
        if task.get_name().startswith(prefixes) or id(waits_for) in scheduled:
            yield task
