"""Logins that are cancelled on their way, or never come to their end, over a real socket."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr

from tests.pools import Role
from tests.waiting import LONG
from vault_pg.errors import DatabaseUnavailable
from vault_pg.lease import Credential
from vault_pg.pool import build, prove_login
from vault_pg.pool.connector import Connector
from vault_pg.settings import DatabaseSettings


async def test_a_login_that_is_cancelled_leaves_no_session_though_its_error_is_kept() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        writer.close()
        ended.set()

    async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        connector = Connector(Credential("app", SecretStr("pw-connector")), psycopg.AsyncConnection)
        login = asyncio.create_task(connector.connect(f"host=127.0.0.1 port={port} sslmode=disable gssencmode=disable"))
        await asyncio.wait_for(asked.wait(), LONG)
        login.cancel()
        with pytest.raises(asyncio.CancelledError) as kept:
            await login
        await asyncio.wait_for(ended.wait(), LONG)
        del kept


@pytest.mark.parametrize("what", ["prove", "prove again", "build"])
async def test_a_server_that_falls_silent_after_the_login_has_no_more_time_for_the_proof_than_others(
    role: Role, what: str
) -> None:
    pids: list[int] = []

    class Silent(psycopg.AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *args: Any, **kwargs: Any) -> Any:
            conn = await super().connect(*args, **kwargs)
            pids.append(conn.info.backend_pid)
            os.kill(pids[-1], signal.SIGSTOP)
            return conn

    credential = Credential(role.name, role.password)
    settings = DatabaseSettings(role="app", conninfo=role.postgres.conninfo(), connection_class=Silent, build_timeout=1.0)
    proofs: dict[str, Callable[[], Awaitable[object]]] = {
        "prove": lambda: prove_login(credential, settings, within=1.0),
        "prove again": lambda: prove_login(credential, settings, patience=1.0),
        "build": lambda: build(credential, settings, name="silent"),
    }
    start = monotonic()
    try:
        with pytest.raises(DatabaseUnavailable):
            await proofs[what]()
    finally:
        took = monotonic() - start
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert took < 4
