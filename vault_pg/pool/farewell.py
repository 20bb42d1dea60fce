"""When a closed connection is really gone: the server has closed its end, and its slot is free."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any

import psycopg

PATIENCE = 1.0
"""Seconds to wait for a server that should be closing its end. A busy one needs a few milliseconds to end a backend."""


BLIND = 0.05
"""Seconds to wait for a connection that was closed before its socket could be doubled."""


class Shadow:
    """A second handle on a connection's socket, which outlives `conn.close()` and sees the server's end of it close."""

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._conn = conn
        self._sock: socket.socket | None = None
        with suppress(OSError, psycopg.Error):  # closed already
            self._sock = socket.socket(fileno=os.dup(conn.fileno()))
            self._sock.setblocking(False)  # libpq has it so already; asyncio's debug mode wants to hear it from Python

    async def gone(self) -> None:
        """Return when the server has closed its end, or after PATIENCE; at once if the connection is not closed but still in use."""
        sock, self._sock = self._sock, None
        if sock is None:
            await asyncio.sleep(BLIND)
            return
        # Only a closed connection may be read from here: the bytes of one that lives belong to its borrower.
        with sock, suppress(OSError, TimeoutError):
            if self._conn.closed:
                async with asyncio.timeout(PATIENCE):
                    while await asyncio.get_running_loop().sock_recv(sock, 4096):
                        pass  # what the server still had to say, TLS's own goodbye included

    def __del__(self) -> None:
        if self._sock is not None:
            self._sock.close()


def sever(conn: psycopg.AsyncConnection[Any]) -> None:
    """End the connection under its borrower.

    Not by `conn.close()`: a task that awaits the socket would wait for ever on a descriptor that is gone. A shut-down socket wakes it
    with an error, and the borrower's return or next use finds the connection broken.
    """
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)
