"""How one generation opens its connections: with its own credential."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable
from typing import Any, Generic
from weakref import ref

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool.abc import ACT

from vault_pg import fork
from vault_pg.errors import CredentialRejected, DatabaseError
from vault_pg.lease import Credential
from vault_pg.pool.farewell import Shadow
from vault_pg.pool.faults import login_fault

CONNECT_TIMEOUT = 10
"""Seconds for one login where neither conninfo nor kwargs nor PGCONNECT_TIMEOUT says otherwise."""


class Connector(Generic[ACT]):
    """Stands where psycopg_pool expects a connection class: it calls `connect()` and nothing else.

    The credential is added here, at the last moment, so that the pool's `conninfo` and `kwargs` hold no secret. A connection that is
    being opened belongs to its generation from its first byte on: no swap can make a pool keep one of another credential.
    """

    def __init__(self, credential: Credential, connection_class: type[ACT]) -> None:
        self.credential = credential
        self.connection_class = connection_class
        self.last_error: DatabaseError | None = None
        self.on_rejected: Callable[[], object] = lambda: None
        """Told when PostgreSQL refuses the credential."""
        self._opened: list[ref[ACT]] = []
        self._proven: ACT | None = None
        fork.watch(self)

    async def connect(self, conninfo: str = "", **kwargs: Any) -> ACT:
        """A new connection, or the one that was proven before there was a pool. Raises psycopg's errors, as a pool expects."""
        if (proven := self._proven) is not None:
            self._proven = None
            return proven
        used = self.credential
        try:
            conn = await self._login(conninfo, kwargs)
        except psycopg.Error as error:
            self.last_error = login_fault(error, self.credential.username, target(conninfo))
            if isinstance(self.last_error, CredentialRejected):
                if used is not self.credential:  # exchanged while this login was under way
                    return await self.connect(conninfo, **kwargs)
                self.on_rejected()
            raise
        self.last_error = None
        return conn

    async def _login(self, conninfo: str, kwargs: dict[str, Any]) -> ACT:
        if "connect_timeout" not in conninfo_to_dict(conninfo, **kwargs) and "PGCONNECT_TIMEOUT" not in os.environ:
            kwargs = kwargs | {"connect_timeout": CONNECT_TIMEOUT}
        try:
            conn = await self.connection_class.connect(
                conninfo,
                **kwargs,
                user=self.credential.username,
                password=self.credential.password.get_secret_value(),
            )
        except asyncio.CancelledError as cancelled:
            # psycopg leaves the half-open socket in its frames. Whoever retries keeps those in a cycle with the error, and the server a
            # session, until the garbage collector runs.
            traceback.clear_frames(cancelled.__traceback__)
            raise
        self._opened = [ref(known) for known in (*self.opened, conn)]
        return conn

    @property
    def opened(self) -> list[ACT]:
        """Every connection that is not closed yet, wherever it is: a pool knows neither those that are out nor those under way."""
        return [conn for known in self._opened if (conn := known()) is not None and not conn.closed]

    def disown(self) -> None:
        """In a forked child: the connections are the parent's."""
        fork.sever(conn.fileno() for conn in self.opened)

    def keep(self, conn: ACT) -> None:
        """Let the next `connect()` have this proven connection."""
        self._proven = conn

    async def close(self) -> None:
        """Close a proven connection that no pool came to fetch, and let the server end its session."""
        if (proven := self._proven) is not None:
            self._proven = None
            shadow = Shadow(proven)
            await proven.close()
            await shadow.gone()


def target(conninfo: str) -> str:
    """host:port/dbname for messages, as far as the conninfo says."""
    params = conninfo_to_dict(conninfo)
    host = params.get("host") or params.get("hostaddr") or "the default host"
    port = f":{params['port']}" if params.get("port") else ""
    name = f", database {params['dbname']}" if params.get("dbname") else ""
    return f"{host}{port}{name}"
