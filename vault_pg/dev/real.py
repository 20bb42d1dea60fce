"""A real Vault in its own development mode, for those who have its program."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import requests
import tenacity
from pydantic import SecretStr

from vault_pg.dev.errors import DevError

START_TIMEOUT = 60.0


@dataclass(frozen=True)
class RealVault:
    """A `vault server -dev`."""

    address: str
    root_token: SecretStr


@contextmanager
def real_vault(binary: str) -> Iterator[RealVault]:
    """A `vault server -dev` on a free port of 127.0.0.1, ended with the block. Raises DevError where it does not come up."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    server = RealVault(f"http://{listen}", SecretStr(f"root-{secrets.token_hex(12)}"))
    command = [binary, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address={listen}"]
    environment = {**os.environ, "VAULT_DEV_ROOT_TOKEN_ID": server.root_token.get_secret_value()}
    quiet = subprocess.DEVNULL
    try:
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment)
    except OSError as error:
        raise DevError(f"the real Vault {binary} cannot be run: {error.strerror}; correct its path") from None
    try:
        _answers(server, process)
        yield server
    finally:
        process.terminate()
        process.wait()


def _answers(server: RealVault, process: subprocess.Popen[bytes]) -> None:
    """Return once it does."""
    try:
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(requests.RequestException),
            stop=tenacity.stop_after_delay(START_TIMEOUT),
            wait=tenacity.wait_fixed(0.05),
        ):
            with attempt:
                if process.poll() is not None:
                    raise DevError("the real Vault ended instead of starting: run `vault server -dev` by hand to see why")
                with requests.Session() as session:
                    session.trust_env = False
                    session.get(f"{server.address}/v1/sys/health", timeout=5).raise_for_status()
    except tenacity.RetryError:
        raise DevError(f"the real Vault did not answer within {START_TIMEOUT:.0f} s: run `vault server -dev` by hand") from None
