"""Logins of the user's own that never return: neither the start nor the end of the program waits for ever."""

from __future__ import annotations

import re
import signal

import pytest

from tests.chaos.conftest import Service
from tests.chaos.test_ends import CODES, read_until
from tests.servers import Mount

HANGS = """
    import asyncio, sys, time
    from vault_pg import CustomAuth, LeaseManager, Settings, VaultSettings

    def blocks(client):
        print("logging in", flush=True)
        time.sleep(10_000)

    async def waits():
        print("logging in", flush=True)
        await asyncio.sleep(10_000)

    async def main():
        login = {"blocks": blocks, "waits": waits}[sys.argv[1]]
        vault = VaultSettings(auth=CustomAuth(login=login), timeout=float(sys.argv[2]))
        async with LeaseManager(Settings(vault=vault, start_timeout=1.5 * float(sys.argv[2]))):
            print("not reached")

    asyncio.run(main())
"""


@pytest.mark.parametrize("login", ["blocks", pytest.param("waits", marks=pytest.mark.slow)])
def test_a_login_that_never_returns_does_not_hold_up_the_end_of_the_program(mount: Mount, service: Service, login: str) -> None:
    process = service(mount, HANGS, login, "0.5", VAULT_PG_AUTH="token", VAULT_PG_SHUTDOWN_TIMEOUT="0.5")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert set(out.split("\n")) == {"logging in", ""}
    # The start gives up for the login's own time-out or, where the machine has held that up, for the start's.
    assert re.search("did not|took longer than start_timeout", err.splitlines()[-1])


@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_during_a_login_that_never_returns(mount: Mount, service: Service, sent: signal.Signals) -> None:
    process = service(mount, HANGS, "blocks", "1", VAULT_PG_AUTH="token", VAULT_PG_SHUTDOWN_TIMEOUT="0.5")
    read_until(process, "logging in")
    for _ in range(3 if sent == signal.SIGINT else 1):
        process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[sent], err
