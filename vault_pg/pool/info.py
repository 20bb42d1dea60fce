"""What there is to know of a connection that is out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from vault_pg.pool.generation import Borrow
from vault_pg.pool.leased import LeasedPool

_TALLY = "_vault_pg_tally"
_NONE = (0, 0.0)


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """One connection, while somebody holds it; durations in seconds as of the call that made this."""

    generation: int
    lease_id: str | None
    """Of the credential that it logged in with; None where it came from no Vault."""
    age: float
    """Since it was opened."""
    idle: float
    """What it spent in the pool before this checkout, since its last return or since it was opened."""
    checkouts: int
    """How often the pool has given it out, this time included."""
    checked_out_at: datetime
    where: str
    """File and line that asked for it."""


def count_return(conn: psycopg.AsyncConnection[Any]) -> None:
    """Once a checkout, so it is cheap: the tally stays on the connection, as psycopg_pool's own notes do, and goes with it."""
    notes = conn.__dict__
    notes[_TALLY] = (notes.get(_TALLY, _NONE)[0] + 1, monotonic())


def info_of(borrow: Borrow[Any]) -> ConnectionInfo:
    conn, now = borrow.conn, monotonic()
    returns, returned_at = conn.__dict__.get(_TALLY, _NONE)
    return ConnectionInfo(
        generation=borrow.generation.number,
        lease_id=_lease_id(borrow.generation.pool),
        age=now - conn._created_at,
        idle=max(0.0, borrow.since - (returned_at if returns else conn._created_at)),
        checkouts=returns + 1,
        checked_out_at=datetime.now(UTC) - timedelta(seconds=now - borrow.since),
        where=borrow.where,
    )


def _lease_id(pool: AsyncConnectionPool[Any]) -> str | None:
    return pool.lease_id if isinstance(pool, LeasedPool) else None
