"""Checkout and BEGIN in one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg_pool.abc import ACT

from vault_pg.pool.checkout import Checkout


@asynccontextmanager
async def transaction(checkout: Checkout[ACT], savepoint_name: str | None, force_rollback: bool) -> AsyncIterator[ACT]:
    """A connection inside `conn.transaction()`."""
    async with checkout as conn, conn.transaction(savepoint_name, force_rollback):
        yield conn
        if not force_rollback:
            insist_on_commit(conn)


def insist_on_commit(conn: psycopg.AsyncConnection[Any]) -> None:
    """Raise where psycopg would leave a transaction block in silence although nothing is committed.

    That is after an error that the block has caught: the server answers COMMIT with ROLLBACK then, and on a connection that is gone
    no COMMIT is sent at all.
    """
    if conn.pgconn.status != ConnStatus.OK:
        raise psycopg.OperationalError("the connection was lost in the transaction, so that nothing is committed: run it again")
    if conn.pgconn.transaction_status == TransactionStatus.INERROR:
        raise psycopg.errors.InFailedSqlTransaction(
            "a statement failed in the transaction and its error was caught, so that nothing can be committed: "
            "let such an error leave the transaction, or catch it around a nested conn.transaction()"
        )
