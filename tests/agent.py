"""What stands in for a Vault Agent or Proxy: HTTP on a Unix socket, passed on to Vault, with the agent's token where none comes."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import requests
from pydantic import SecretStr

from tests.waiting import LONG


@dataclass
class Agent:
    socket: Path
    token: SecretStr | None
    """The token of its auto-auth."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and token of each request as it came."""

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def agent(socket: Path, upstream: str, token: SecretStr | None = None) -> Iterator[Agent]:
    """An agent in front of the Vault at `upstream`."""
    running = Agent(socket, token)

    class Handler(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            headers = {name: value for name, value in self.headers.items() if name.startswith("X-Vault")}
            running.asked.append((self.path, headers.get("X-Vault-Token", "")))
            if running.token is not None:
                headers.setdefault("X-Vault-Token", running.token.get_secret_value())
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = requests.request(self.command, upstream + self.path, data=body, headers=headers, timeout=LONG)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_PUT = do_POST = do_DELETE = do_LIST = pass_on  # noqa: N815 - http.server's names

        def log_message(self, *_args: Any) -> None:
            """Nothing is printed."""

    with _Server(str(socket), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield running
        finally:
            server.shutdown()
            socket.unlink()
