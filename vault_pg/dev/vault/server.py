"""The dev Vault: an HTTP server that speaks the part of Vault's API that dynamic database credentials need."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from vault_pg.dev.errors import DevError
from vault_pg.dev.fault import Verdict
from vault_pg.dev.faults import Faults
from vault_pg.dev.log import RequestLog
from vault_pg.dev.vault.api import Api
from vault_pg.dev.vault.durations import seconds
from vault_pg.dev.vault.messages import Answer, Refused, Request
from vault_pg.dev.vault.tokens import letters

log = logging.getLogger(__name__)

PREFIX = "/v1/"
LARGEST_BODY = 1 << 20
IDLE_TIMEOUT = 300.0


class DevVault:
    """A Vault of one's own for trials and tests: in memory, unsealed, on a port of 127.0.0.1, with a root token.

    It is set up through its HTTP API as a real one is, and really creates, alters and drops PostgreSQL roles. `faults` makes it fail
    in every way that a real one does, `log` has what was asked (no secrets), `secrets()` all that it handed out. Not for production.

    `stop()` is a crash: connections are cut, and the next `start()`, on the same port, finds all state as it was and ends what came
    due meanwhile. Thread-safe.
    """

    host = "127.0.0.1"

    def __init__(self, port: int = 0, root_token: SecretStr | str | None = None, *, revoke_retry_base: float = 1.0) -> None:
        given = SecretStr(root_token) if isinstance(root_token, str) else root_token
        self.root_token = given or SecretStr(f"hvs.{letters(24)}")
        self.port = port
        self.log = RequestLog()
        self._api = Api(self.root_token, revoke_retry_base=revoke_retry_base)
        self.faults = Faults(self._api, self)
        self._server: Server | None = None
        self._lifecycle = threading.Lock()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<DevVault {self.address} {'running' if self.running else 'stopped'}>"

    @property
    def address(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        return self._server is not None

    @property
    def unseal_key(self) -> SecretStr:
        return self._api.core.unseal_key

    def secrets(self) -> frozenset[str]:
        """Every token, password and secret id that went in or out since it was made."""
        return self._api.core.secrets()

    def start(self) -> None:
        """Listen, on the same port as before. Does nothing while it runs. Raises DevError where the port is taken."""
        with self._lifecycle:
            if self._server is not None:
                return
            try:
                server = Server((self.host, self.port), self._serve)
            except OSError as error:
                raise DevError(
                    f"the dev Vault cannot listen on {self.host}:{self.port}: {error.strerror}; choose another port"
                ) from None
            self.port = server.server_port
            self._server = server
            self._api.core.start()
            threading.Thread(target=server.serve_forever, args=(0.02,), name="dev-vault", daemon=True).start()

    def stop(self) -> None:
        """Stop listening and cut every connection. Leases and tokens neither end nor are revoked while it is down."""
        with self._lifecycle:
            server, self._server = self._server, None
            if server is None:
                return
            self._api.core.stop()
            server.shutdown()
            server.server_close()
            server.cut()

    def _serve(self, method: str, request: Request) -> Verdict:
        """What to send for a request: a fault's choice or the API's answer."""
        verdict = self.faults.judge(method, request.path, lambda: rendered(self._api.answer(request)))
        self.log.add(method, request.path, verdict.status)
        return verdict


def rendered(answer: Answer) -> Verdict:
    body = answer.body()
    content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode() + b"\n"
    return Verdict(answer.status, content)


class Server(ThreadingHTTPServer):
    """Knows its connections, so that it can cut them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], serve: Callable[[str, Request], Verdict]) -> None:
        self.serve = serve
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        error = sys.exc_info()[1]
        # A client that went away is no news.
        if not isinstance(error, OSError):
            log.error("the dev Vault failed at a request: %s", type(error).__name__)

    def cut(self) -> None:
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    # The client was faster.
                    continue


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_TIMEOUT
    server: Server
    verbs: ClassVar[dict[str, str]] = {
        "GET": "GET",
        "HEAD": "GET",
        "LIST": "LIST",
        "POST": "PUT",
        "PUT": "PUT",
        "DELETE": "DELETE",
    }

    def serve(self) -> None:
        split = urlsplit(self.path)
        if not split.path.startswith(PREFIX):
            self.send(Verdict(404, b"404 page not found\n"))
            return
        verdict = self.server.serve(
            self.command, self.request_of(unquote(split.path.removeprefix(PREFIX)), dict(parse_qsl(split.query)))
        )
        self.send(verdict)

    def request_of(self, path: str, query: dict[str, str]) -> Request:
        method = self.verbs[self.command]
        if method == "GET" and query.get("list") == "true":
            method = "LIST"
        token = self.headers.get("X-Vault-Token") or self.headers.get("Authorization", "").removeprefix("Bearer ")
        try:
            body = self.read_body()
            wrap = seconds(self.headers.get("X-Vault-Wrap-TTL"), "X-Vault-Wrap-TTL")
        except Refused as refused:
            return Request(method, path, token, query=query, bad_body=refused.errors[0])
        return Request(method, path, token, body, query, wrap)

    def read_body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > LARGEST_BODY or "Transfer-Encoding" in self.headers:
            # What follows cannot be told from a next request.
            self.close_connection = True
            raise Refused(400, "failed to parse JSON input: a body needs a Content-Length of no more than 1 MiB")
        try:
            body = json.loads(self.rfile.read(int(length)) or b"{}")
        except ValueError:
            raise Refused(400, "failed to parse JSON input: invalid character") from None
        if body is None:
            return {}
        if not isinstance(body, dict):
            raise Refused(400, "failed to parse JSON input: an object is needed")
        return body

    def send(self, verdict: Verdict) -> None:
        if verdict.refuse:
            self.close_connection = True
            return
        headers = {"Cache-Control": "no-store", "Content-Type": "application/json", "Date": formatdate(usegmt=True)}
        if verdict.status != HTTPStatus.NO_CONTENT:
            headers["Content-Length"] = str(len(verdict.body))
        headers |= verdict.headers
        reason = http.client.responses.get(verdict.status, "")
        lines = [f"{self.protocol_version} {verdict.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        message = "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if self.command == "HEAD" else verdict.body)
        if verdict.cut:
            message, self.close_connection = message[: len(message) - (len(verdict.body) + 1) // 2], True
        # One write, so that no answer waits for the acknowledgement of its own headers.
        self.wfile.write(message)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class has it so
        """Requests are kept in DevVault.log; nothing is printed."""


for verb in Handler.verbs:
    # http.server looks for a method of this name; LIST is Vault's own.
    setattr(Handler, f"do_{verb}", Handler.serve)
