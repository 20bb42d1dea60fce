"""A check at checkout that tells a dead credential."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors

Check: TypeAlias = Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]

QUESTION = "select session_user"
"""Fails with 42704 once the role that logged in is dropped, where `select 1` and the empty query still pass; unlike `current_user` it
does so in a session that runs under another role (`SET ROLE`, `ALTER ROLE … SET ROLE`) too."""

DEAD = (errors.UndefinedObject, errors.InsufficientPrivilege)


def checked(seconds: float, *, also: Check | None = None) -> Check:
    """A `check` for a pool that notices a dead credential or connection, for one round trip in `seconds` and connection.

    0 asks at every checkout. A new connection has just logged in and counts as asked. One that fails is closed, so that the pool opens
    another instead of keeping it. `also` is a check of your own that runs at every checkout as well.
    """
    if seconds < 0:
        raise ValueError(f"checked({seconds}): give the seconds from one check of a connection to the next, 0 for every checkout")
    asked: WeakKeyDictionary[psycopg.AsyncConnection[Any], float] = WeakKeyDictionary()

    async def check(conn: psycopg.AsyncConnection[Any]) -> None:
        now = monotonic()
        if now - asked.get(conn, getattr(conn, "_created_at", -math.inf)) >= seconds:
            await ask(conn)
            asked[conn] = now
        if also is not None:
            await also(conn)

    return check


async def ask(conn: psycopg.AsyncConnection[Any]) -> None:
    """Ask the server who we are, in one round trip that leaves no transaction open. Ends the connection and raises if it is dead."""
    autocommit = conn.autocommit
    try:
        await conn.set_autocommit(True)
        await conn.execute(QUESTION, prepare=False)
    except (*DEAD, asyncio.CancelledError):
        # Not by close(), which hands it back to a pool with `close_returns`: a connection that works would be kept. Nor may one whose
        # asking was cut off be kept, perhaps in autocommit for good.
        conn.pgconn.finish()
        raise
    finally:
        with suppress(psycopg.Error):
            await conn.set_autocommit(autocommit)
