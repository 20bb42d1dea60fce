"""A real Vault in its own development mode, for those who have its program."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import requests
import tenacity
from pydantic import SecretStr

from vault_pg.dev.errors import DevError

START_TIMEOUT = 60.0
END_TIMEOUT = 30.0
"""Seconds for its own end; it may wait for a PostgreSQL that is gone already."""

LICENCES = ("VAULT_LICENSE", "VAULT_LICENSE_PATH")


@dataclass(frozen=True)
class RealVault:
    """A `vault server -dev`."""

    address: str
    root_token: SecretStr


@contextmanager
def real_vault(binary: str) -> Iterator[RealVault]:
    """A `vault server -dev`, or OpenBao's, on a free port of 127.0.0.1, ended with the block. Raises DevError where it does not come up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    server = RealVault(f"http://{listen}", SecretStr(f"root-{secrets.token_hex(12)}"))
    command = [binary, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address={listen}"]
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment(server.root_token)
            )
        except OSError as error:
            raise DevError(f"the real Vault {binary} cannot be run: {error.strerror}; correct its path") from None
        try:
            _answers(server, process, output)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(root_token: SecretStr) -> dict[str, str]:
    """The caller's own, less what would set the server up otherwise than we ask it to."""
    kept = {name: value for name, value in os.environ.items() if name in LICENCES or not name.startswith(("VAULT_", "BAO_"))}
    return {**kept, "VAULT_DEV_ROOT_TOKEN_ID": root_token.get_secret_value()}


def _answers(server: RealVault, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
    """Return once it does."""
    try:
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(requests.RequestException),
            stop=tenacity.stop_after_delay(START_TIMEOUT),
            wait=tenacity.wait_fixed(0.05),
        ):
            with attempt:
                if process.poll() is not None:
                    raise DevError(f"the real Vault ended instead of starting: {_last_line(output, server.root_token)}")
                with requests.Session() as session:
                    session.trust_env = False
                    session.get(f"{server.address}/v1/sys/health", timeout=5).raise_for_status()
    except tenacity.RetryError:
        raise DevError(f"the real Vault did not answer within {START_TIMEOUT:.0f} s: run `vault server -dev` by hand") from None


def _last_line(output: IO[bytes], root_token: SecretStr) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").replace(root_token.get_secret_value(), "***").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing; run `vault server -dev` by hand")
