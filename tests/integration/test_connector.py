"""A login that is cancelled on its way, over a real socket."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from pydantic import SecretStr

from tests.waiting import LONG
from vault_pg.lease import Credential
from vault_pg.pool.connector import Connector


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
