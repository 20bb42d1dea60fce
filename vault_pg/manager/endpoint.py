"""The status endpoint: a Unix socket for each manager, which gives a JSON snapshot to whoever of its user connects."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from vault_pg import fork
from vault_pg.errors import EndpointError
from vault_pg.manager.runtime import open_private, runtime_path
from vault_pg.manager.status import Status

SLOW_READER = 2.0
"""Seconds that a reader has for taking a snapshot before it is cut off."""

MOST_READERS = 64
"""Readers at a time; more are turned away, so that a reader's mistake can't use up the descriptors of the service."""

LONGEST_ADDRESS = 100
"""Bytes. `sun_path` holds 108 on Linux and 104 on macOS, the final NUL included."""

_numbers = itertools.count(1)


class StatusEndpoint:
    """Serves `snapshot()` on `<pid>-<n>.sock` in `directory` (by default the runtime directory) while it is started.

    A reader gets one JSON document and the end of the stream; what it sends is not read. `start` raises EndpointError.
    """

    def __init__(self, snapshot: Callable[[], Status], directory: Path | None = None) -> None:
        self._snapshot = snapshot
        self._directory = directory
        self._server: asyncio.Server | None = None
        self._listener: socket.socket | None = None
        self._readers: set[asyncio.Transport] = set()
        self._pid = 0
        self.path: Path | None = None

    async def start(self) -> None:
        if self._server is not None:
            return
        directory = self._directory if self._directory is not None else runtime_path()
        # Held until the server is made: an event loop may look once more at the name that the socket was bound under.
        descriptor = open_private(directory, create=True)
        try:
            listener, name = _listen(directory, descriptor)
            try:
                self._server = await asyncio.get_running_loop().create_unix_server(self._reader, sock=listener)
            except BaseException:
                listener.close()
                os.unlink(name, dir_fd=descriptor)
                raise
        except OSError as error:
            raise EndpointError(f"no status socket can be made in {directory}: {error.strerror or error}") from None
        finally:
            os.close(descriptor)
        self._pid, self.path, self._listener = os.getpid(), directory / name, listener

    async def close(self) -> None:
        """Stop serving and remove the socket. In a forked child, whose parent still serves, it only lets go."""
        server, path, self._server, self.path = self._server, self.path, None, None
        if server is None or path is None or os.getpid() != self._pid:
            return
        path.unlink(missing_ok=True)
        server.close()
        for reader in tuple(self._readers):
            reader.abort()
        await server.wait_closed()

    def abandon(self) -> None:
        """With the event loop closed that served it: remove the socket."""
        path, self.path, self._server = self.path, None, None
        if path is not None and self._listener is not None and os.getpid() == self._pid:
            path.unlink(missing_ok=True)
            self._listener.close()

    def disown(self) -> None:
        """In a forked child: let go of the socket, or it would outlive the parent and nobody could tell that it is dead."""
        if self._server is not None:
            fork.sever(listener.fileno() for listener in self._server.sockets)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _reader(self) -> _Reader:
        return _Reader(self._snapshot, self._readers)


class _Reader(asyncio.Protocol):
    """One connection: the snapshot is put in the transport's buffer at once, so a slow reader holds up nobody."""

    def __init__(self, snapshot: Callable[[], Status], readers: set[asyncio.Transport]) -> None:
        self._snapshot = snapshot
        self._readers = readers
        self._transport: asyncio.Transport | None = None
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._serve(cast("asyncio.Transport", transport))  # asyncio's signature is wider than what a stream gets

    def _serve(self, transport: asyncio.Transport) -> None:
        if len(self._readers) >= MOST_READERS:
            transport.abort()
            return
        self._transport = transport
        self._readers.add(transport)
        loop = asyncio.get_running_loop()
        self._cut = loop.call_later(SLOW_READER, transport.abort)
        try:
            transport.write(self._snapshot().model_dump_json().encode() + b"\n")
        except Exception as error:  # noqa: BLE001 - a fault in the snapshot costs this reader its answer, and nothing else
            loop.call_exception_handler({"message": "no status snapshot could be made", "exception": error})
            transport.abort()
            return
        transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._cut is not None:
            self._cut.cancel()
        if self._transport is not None:
            self._readers.discard(self._transport)


def _listen(directory: Path, descriptor: int) -> tuple[socket.socket, str]:
    """A listening socket in `directory`, mode 0600, and its name.

    It listens under a passing name first and is then linked to its own: whoever finds a socket that refuses can be sure that
    nobody listens there any more, and a name that is taken is never taken over.
    """
    passing = f".{secrets.token_hex(8)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(socket_address(directory, descriptor, passing))
        try:
            # Until here the mode is the umask's, which lets in nobody: the directory is closed to all but its owner.
            os.chmod(passing, 0o600, dir_fd=descriptor)
            listener.listen(MOST_READERS)
            return listener, _link(passing, descriptor)
        finally:
            os.unlink(passing, dir_fd=descriptor)
    except BaseException:
        listener.close()
        raise


def _link(passing: str, descriptor: int) -> str:
    while True:
        name = f"{os.getpid()}-{next(_numbers)}.sock"
        try:
            os.link(passing, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        except FileExistsError:
            continue  # left by a dead process of the same id, or made by one in another container that shares the directory
        return name


def socket_address(directory: Path, descriptor: int, name: str) -> str:
    """The address of the socket `name` in `directory`; where the path is too long for one, by way of the open `descriptor`."""
    path = str(directory / name)
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        return path
    if Path("/proc/self/fd").is_dir():
        return f"/proc/self/fd/{descriptor}/{name}"
    raise EndpointError(
        f"the path of status directory {directory} is too long for a socket; set VAULT_PG_RUNTIME_DIR to a shorter one"
    )
