"""`vault-pg dev`: both servers, for as long as someone wants to try things on them."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from vault_pg.cli.embedded import MOUNT, POLICY, ROLE, STATIC_ROLE, Servers, foreign, servers
from vault_pg.cli.interrupts import interrupt, on_ending
from vault_pg.errors import VaultPgError

WATCHDOG = """
read -r pid || exit 0
read -r word && exit 0
kill -TERM "$pid" || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 1; kill -0 "$pid" || exit 0; done
kill -KILL "$pid"
"""
"""Waits on a pipe that only we hold. End of file without a word means that we were killed: the command ends too, its servers being gone."""

HEARTBEAT = 1.0
"""Seconds between two looks at whether PostgreSQL still runs, and the longest that a signal can be overheard."""


def run(command: Sequence[str], *, auth: str, ttl: int, max_ttl: int, port: int, as_json: bool) -> int:
    """Run both servers until a signal comes or `command` ends; returns the exit code. Raises VaultPgError."""
    surroundings = {name: value for name, value in os.environ.items() if not foreign(name)}
    came: list[int] = []
    try:
        with (
            on_ending(interrupt) as came,
            TemporaryDirectory(prefix="vault-pg-dev-") as folder,
            servers(ttl=ttl, max_ttl=max_ttl, port=port) as running,
        ):
            variables = exports(running, auth, Path(folder))
            if command:
                return attend(command, surroundings | variables, came)
            _print(variables, as_json=as_json)
            while running.postgres.running:
                time.sleep(HEARTBEAT)
            raise VaultPgError("PostgreSQL has ended, and nobody here told it to; start `vault-pg dev` again")
    except KeyboardInterrupt:
        return 128 + came[0] if command and came else 0  # without a command a signal is the ordinary end


def exports(running: Servers, auth: str, folder: Path) -> dict[str, str]:
    """What a service needs in its environment: a login with no more rights than it needs. The root token is for the curious."""
    from vault_pg.dev import LoginMethod, provision_login  # noqa: PLC0415 - as in `servers`

    return {
        "VAULT_ADDR": running.vault.address,
        **provision_login(running.root, LoginMethod(auth), POLICY, folder),
        "VAULT_PG_MOUNT": MOUNT,
        "VAULT_PG_ROLE": ROLE,
        "VAULT_PG_CONNINFO": running.postgres.conninfo(),
        "VAULT_DEV_ROOT_TOKEN_ID": running.vault.root_token.get_secret_value(),
    }


def _print(variables: dict[str, str], *, as_json: bool) -> None:
    """Words first: whoever has read the variables has all there is to read."""
    for line in (
        "PostgreSQL and the dev Vault run until Ctrl-C, and then leave nothing behind. The database has a table `orders`.",
        f"Vault has a dynamic role {ROLE}, and a static one for VAULT_PG_SOURCE=static VAULT_PG_ROLE={STATIC_ROLE}.",
        "Paste these lines into another shell; a service started there finds both. Its login may do what a service needs,",
        "VAULT_DEV_ROOT_TOKEN_ID everything.",
    ):
        typer.echo(line, err=True)
    exported = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    print(json.dumps(variables) if as_json else "\n".join(exported), flush=True)  # noqa: T201 - for the shell that reads it


def attend(command: Sequence[str], environment: dict[str, str], came: list[int]) -> int:
    """Run a command to its end. A signal that ends us is passed on, and the command may finish before its servers go.

    Where it dies of that, the exit code is the one of the signal that came to us.
    """
    with guard() as guarded:
        try:
            child = subprocess.Popen(command, env=environment)
        except OSError as error:
            raise VaultPgError(f"{command[0]!r} cannot be run: {error.strerror}") from None
        guarded(child.pid)
        while True:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                # Ctrl-C in a terminal has reached it too, a SIGTERM was for us alone: one more does no harm.
                child.terminate()
            else:
                return code if code >= 0 else 128 + came[0] if came else 128 - code


@contextmanager
def guard() -> Iterator[Callable[[int], object]]:
    """Gives a function to tell the id of a process by, which then ends soon after we do, whatever ends us."""
    reader, writer = os.pipe()
    watchdog = subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG],
        stdin=reader,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    os.close(reader)
    try:
        with os.fdopen(
            writer, "wb", buffering=0
        ) as pipe:  # where an exception leaves the process behind, the end of file ends it
            yield lambda pid: pipe.write(f"{pid}\n".encode())
            pipe.write(b"done\n")
    finally:
        watchdog.wait()
