"""As much of Vault as keeps leases alive, in a process of its own: no database behind it, so that it can answer for ten thousand."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from random import Random

from benchmarks.backstage import SPAWN, BenchmarkError

HOST = "127.0.0.1"


class Stub:
    """A first grant is for a random time of `first` seconds, so that first renewals are spread out; a renewal gets what it asks for."""

    def __init__(self, first: tuple[float, float]) -> None:
        self._first = first
        self._numbers = itertools.count(1)
        self._dice = Random(1)  # noqa: S311 - chance in a simulation

    def answer(self, path: str, body: dict[str, object]) -> dict[str, object]:
        """What Vault says; an empty answer is a 204."""
        if "/creds/" in path:
            number = next(self._numbers)
            login = {"username": f"v-app-{number}", "password": f"pw-{number}"}
            grant = {
                "lease_id": f"{path}/{number:024}",
                "lease_duration": int(self._dice.uniform(*self._first)),
                "renewable": True,
            }
            return grant | {"data": login}
        if path == "sys/leases/renew":
            return {"lease_id": body["lease_id"], "lease_duration": body["increment"], "renewable": True}
        if path == "auth/token/lookup-self":
            return {"data": {"ttl": 0, "creation_ttl": 0, "expire_time": None, "renewable": False}}
        return {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                _, target, *_ = head.split(b" ", 2)
                headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
                answer = self.answer(target.decode().removeprefix("/v1/"), json.loads(body or b"{}"))
                content = json.dumps(answer).encode() if answer else b""
                status = b"200 OK" if answer else b"204 No Content"
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(content), content))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _work(pipe: Connection, first: tuple[float, float]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks; the end of the pipe is the end here

    async def serve() -> None:
        server = await asyncio.start_server(Stub(first).serve, HOST, backlog=1024)
        async with server:
            pipe.send(server.sockets[0].getsockname()[1])
            over = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe.fileno(), over.set)
            await over.wait()

    asyncio.run(serve())


@contextmanager
def vault_stub(first: tuple[float, float]) -> Iterator[str]:
    """The address of a running stub whose first grants last between the two numbers of seconds."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_work, args=(there, first), name="vault-stub")
    process.start()
    there.close()
    try:
        yield f"http://{HOST}:{here.recv()}"
    except EOFError:
        raise BenchmarkError("the process with the stub of Vault ended; why stands above") from None
    finally:
        here.close()
        process.join(10)
