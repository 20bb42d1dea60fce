"""A TCP proxy in front of PostgreSQL that cuts connections when it is told to, or when a certain message comes by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

from psycopg.conninfo import make_conninfo

from vault_pg.dev import EmbeddedPostgres

Where = Literal["before", "after"]


@dataclass
class Proxy:
    """`cut_at` is looked for in what clients send; each text strikes once.

    The connection is cut `"before"` it has reached the server, or `"after"` the server has answered it, with the answer held back.
    """

    upstream: tuple[str, int]
    port: int = 0
    cut_at: dict[bytes, Where] = field(default_factory=dict)
    struck: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _deaf: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[None] | None] = field(default_factory=set)

    def conninfo(self, of: str) -> str:
        return make_conninfo(of, host="127.0.0.1", port=self.port, sslmode="disable", gssencmode="disable")

    def cut(self) -> int:
        """Cut every connection there is now; how many."""
        writers = [*self._writers]
        for writer in writers:
            writer.transport.abort()
        return len(writers) // 2

    def deafen(self) -> None:
        """Let nothing pass any more on the connections there are now, as a firewall does that has forgotten them."""
        self._deaf |= self._writers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(task := asyncio.current_task())
        try:
            await self._connect(reader, writer)
        finally:  # also of a client that went before the server was reached: Python tells of a transport that nobody closes
            writer.transport.abort()
            self._serving.discard(task)

    async def end(self) -> None:
        serving = [task for task in self._serving if task is not None]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(*self.upstream)
            both = {writer, server_writer}
            self._writers |= both
            held = asyncio.Event()
            ways = (
                asyncio.create_task(self._up(reader, server_writer, held)),
                asyncio.create_task(self._down(server_reader, writer, held)),
            )
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                self._writers -= both
                self._deaf -= both
                for each in both:
                    each.transport.abort()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if writer in self._deaf:
                continue
            for text, where in [*self.cut_at.items()]:
                if text in data:
                    del self.cut_at[text]
                    self.struck += 1
                    if where == "before":
                        return
                    held.set()
            writer.write(data)
            await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if held.is_set():
                return
            if writer not in self._deaf:
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def proxy_to(postgres: EmbeddedPostgres) -> AsyncIterator[Proxy]:
    proxy = Proxy((postgres.host, postgres.port))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
