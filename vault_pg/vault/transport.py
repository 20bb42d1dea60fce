"""A requests session whose requests are over at a deadline, whatever the server does.

requests' own time-outs are for each read, so a server that sends a byte now and then holds a request for ever. Here the socket
is shut down at the deadline, which ends the read in the thread that waits in it.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError
from urllib3.response import HTTPResponse

from vault_pg.vault.faults import UnsafeRedirect

MAX_REDIRECTS = 3
"""A standby sends to its leader, once; a load balancer may add its own."""

LOOK_AROUND = 0.2
"""Seconds between two looks at whether the interpreter ends, which waits for our threads."""


class Cutter:
    """Shuts the sockets of one request down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.over = False

    def watch(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.append(sock)
        if self.over:
            self.cut()

    def cut(self) -> None:
        with self._lock:
            self.over = True
            for sock in self._sockets:
                # The plain socket's method: SSLSocket.shutdown would take the TLS state away from the thread that reads.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


_here = threading.local()
"""`_here.cutter` is that of the request which this thread makes now."""


class _Watched(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3 itself overrides http.client's this way
        cutter: Cutter | None = getattr(_here, "cutter", None)
        if cutter is not None and isinstance(self.sock, socket.socket):
            cutter.watch(self.sock)
        return super().getresponse()


class _WatchedTLS(_Watched, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Watched


class _PoolTLS(HTTPSConnectionPool):
    ConnectionCls = _WatchedTLS


_POOLS = {"http": _Pool, "https": _PoolTLS}


class _WatchedAdapter(HTTPAdapter):
    def __init__(self, server_name: str | None = None, ca_cert_bytes: str | None = None) -> None:
        self._server_name = server_name
        self._ca_cert_bytes = ca_cert_bytes
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._server_name:
            kwargs["server_hostname"] = self._server_name
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]  # requests types it in part only
        if self._ca_cert_bytes and verify:
            # requests knows files only; what it fell back on (its own, or REQUESTS_CA_BUNDLE) would be trusted instead.
            conn.ca_certs = conn.ca_cert_dir = None
            conn.conn_kw["ca_cert_data"] = self._ca_cert_bytes

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


UNIX = "http+unix://"
"""What stands before the path of a Unix socket, quoted to pass for a host, in URLs that requests takes."""


def url_of(address: str) -> str:
    """An address of the settings as a URL for requests."""
    path = address.removeprefix("unix://")
    return address if path == address else UNIX + quote(path, safe="")


class _UnixConnection(_Watched):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if isinstance(self.timeout, (int, float)):
                sock.settimeout(self.timeout)
            sock.connect(self._path)
        except TimeoutError as error:
            sock.close()
            raise ConnectTimeoutError(self, f"{self._path} does not answer") from error
        except OSError as error:
            sock.close()
            raise NewConnectionError(self, f"no connection to {self._path}") from error
        return sock


class _UnixPool(HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self._path)


class _UnixAdapter(HTTPAdapter):
    """Own code, as the libraries for this make connections that nobody else could cut at a deadline."""

    def get_connection_with_tls_context(
        self, request: requests.PreparedRequest, *_args: Any, **_kwargs: Any
    ) -> HTTPConnectionPool:
        return _UnixPool(unquote(urlsplit(request.url or "").netloc))

    def request_url(self, request: requests.PreparedRequest, _proxies: Any) -> str:
        return request.path_url


class BoundedSession(requests.Session):
    """For one thread at a time."""

    def __init__(self, server_name: str | None = None, ca_cert_bytes: str | None = None) -> None:
        super().__init__()
        self.max_redirects = MAX_REDIRECTS
        self.mount("https://", _WatchedAdapter(server_name, ca_cert_bytes))
        self.mount("http://", _WatchedAdapter())
        self.mount(UNIX, _UnixAdapter())

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Called before a redirect is followed, and the token header goes along with it."""
        if urlsplit(response.url).scheme == "https" and urlsplit(prepared_request.url or "").scheme != "https":
            raise UnsafeRedirect(request=prepared_request)
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]  # requests types it in part only

    @contextlib.contextmanager
    def over_at(self, deadline: float, grace: float = 0.0) -> Iterator[Cutter]:
        """Requests made inside fail at `deadline` (on `time.monotonic()`), or `grace` seconds later while the interpreter lives on."""
        cutter = _here.cutter = Cutter()
        done = threading.Event()
        watcher = threading.Thread(
            target=_cut_at, args=(cutter, done, deadline, deadline + grace), name="vault_pg deadline", daemon=True
        )
        # While the interpreter ends no thread starts any more; the time-out of each read has to do then.
        with contextlib.suppress(RuntimeError):
            watcher.start()
        try:
            yield cutter
        finally:
            done.set()
            _here.cutter = None


def _cut_at(cutter: Cutter, done: threading.Event, deadline: float, last: float) -> None:
    if done.wait(max(0.0, deadline - time.monotonic())):
        return
    while threading.main_thread().is_alive() and (left := last - time.monotonic()) > 0:
        if done.wait(min(left, LOOK_AROUND)):
            return
    cutter.cut()
