"""How the dev Vault reaches PostgreSQL: a few connections kept, errors in Vault's words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import psycopg
from psycopg import conninfo
from pydantic import SecretStr

from vault_pg.dev.vault.leases import BackendError

CONNECT_TIMEOUT = 3
KEPT = 2


class ConnectFailed(BackendError):
    """PostgreSQL cannot be reached, or refuses the administrator."""


@dataclass(slots=True)
class Network:
    """Between this Vault and every PostgreSQL."""

    cut: bool = False


class Connections:
    """Administrator connections to one server, at most KEPT of them open between uses. Thread-safe."""

    def __init__(self, url: str, username: str, password: SecretStr, network: Network) -> None:
        self._network = network
        self._url = url.replace("{{username}}", quote(username, safe=""))
        self._password = password
        self._lock = threading.Lock()
        self._idle: list[psycopg.Connection] = []
        self._kept = KEPT

    @contextmanager
    def use(self) -> Iterator[psycopg.Connection]:
        """A connection in autocommit. Raises BackendError for all that PostgreSQL refuses inside."""
        conn = self._take()
        try:
            yield conn
        except psycopg.Error as error:
            raise BackendError(_said(error)) from None
        finally:
            self._give_back(conn)

    def keep(self) -> None:
        """Keep connections again after `close()`."""
        with self._lock:
            self._kept = KEPT

    def close(self) -> None:
        """Close what is idle now, and what is in use when its use ends."""
        with self._lock:
            idle, self._idle, self._kept = self._idle, [], 0
        for conn in idle:
            conn.close()

    def _take(self) -> psycopg.Connection:
        if self._network.cut:
            raise ConnectFailed(f"dial tcp {self._where()}: connect: connection refused")
        while True:
            with self._lock:
                conn = self._idle.pop() if self._idle else None
            if conn is None:
                return self._connect()
            try:
                conn.execute("")
            except psycopg.Error:
                # PostgreSQL was stopped or restarted meanwhile.
                conn.close()
            else:
                return conn

    def _give_back(self, conn: psycopg.Connection) -> None:
        with self._lock:
            keep = (
                not conn.closed and conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE and len(self._idle) < KEPT
            )
            if keep:
                self._idle.append(conn)
        if not keep:
            conn.close()

    def _connect(self) -> psycopg.Connection:
        url = self._url.replace("{{password}}", quote(self._password.get_secret_value(), safe=""))
        try:
            return psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT, application_name="dev-vault")
        except psycopg.OperationalError as error:
            raise ConnectFailed(self._refusal(str(error))) from None
        except psycopg.ProgrammingError:
            # libpq quotes the part of the URL that it cannot read, which may be the password.
            raise ConnectFailed("connection_url is not one that PostgreSQL's client library can read") from None

    def _refusal(self, said: str) -> str:
        # psycopg asks libpq how a connect went before the socket has told; on a busy machine libpq then takes a refused connect for
        # one that was made and closed again.
        if "refused" in said or "server closed the connection" in said:
            return f"dial tcp {self._where()}: connect: connection refused"
        if "timeout" in said:
            return f"dial tcp {self._where()}: i/o timeout"
        _, _, reason = said.partition("FATAL:  ")
        return f"pq: {reason.strip()}" if reason else f"dial tcp {self._where()}: connection failed"

    def _where(self) -> str:
        parts = conninfo.conninfo_to_dict(self._url.replace("{{password}}", ""))
        return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}"


def _said(error: psycopg.Error) -> str:
    message = error.diag.message_primary
    return f"pq: {message}" if message else "driver: bad connection"
