"""The commands and their options. What a command needs is imported when it runs, so that `--help` is quick."""

from __future__ import annotations

import errno
import os
import signal
import sys
from enum import StrEnum
from typing import Annotated, cast

import typer

from vault_pg.cli.glyphs import adapt
from vault_pg.errors import EndpointError, SettingsError, VaultPgError

INTERRUPTED = 128 + signal.SIGINT
CANNOT_TELL = 4
"""Of `status`, whose smaller codes are verdicts; hence, too, sysexits' codes for a wrong command line and a fault of our own."""

UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""What a write fails with where the output is a file on a full or broken disk."""

# Typer brings its own click or uses the installed one, by its version, and exports of its errors only this one's subclass.
UsageError = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])

app = typer.Typer(
    name="vault-pg",
    help="Vault's dynamic PostgreSQL credentials: what runs here, and a place to try it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Auth(StrEnum):
    """The login methods of `dev`: those of vault_pg.dev.LoginMethod, which would be slow to import for `--help`."""

    TOKEN = "token"  # noqa: S105 - a kind of login
    APPROLE = "approle"
    USERPASS = "userpass"
    KUBERNETES = "kubernetes"
    JWT = "jwt"


Ttl = Annotated[int, typer.Option("--ttl", min=2, help="Default TTL of the leases, in seconds.")]
MaxTtl = Annotated[int, typer.Option("--max-ttl", min=2, help="Max TTL of the leases, in seconds: no renewal goes beyond it.")]


def main() -> None:
    """Run the command line; what goes wrong is one sentence on stderr and an exit code, never a traceback."""
    adapt(sys.stdout, sys.stderr)
    try:
        sys.exit(app(standalone_mode=False))
    except UsageError as error:
        error.show()
        sys.exit(os.EX_USAGE)
    except SettingsError as error:
        _fail(str(error), os.EX_USAGE)
    except EndpointError as error:
        _fail(str(error), CANNOT_TELL)
    except VaultPgError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is not None:
            _fail(_unexpected(error), os.EX_SOFTWARE)
        _fail(f"the output cannot be written: {error.strerror}", os.EX_IOERR)
    except Exception as error:  # noqa: BLE001 - the text of a foreign error may hold a URL or a conninfo, its type and place do not
        _fail(_unexpected(error), os.EX_SOFTWARE)


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__} at {_place(error)}; please report it with the command that you ran"


def _fail(sentence: str, code: int) -> None:
    print(f"vault-pg: {sentence}", file=sys.stderr)  # noqa: T201 - a command's stderr
    sys.exit(code)


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "an unknown place" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"


def _print_version(wanted: bool) -> None:
    if wanted:
        from vault_pg.version import __version__  # noqa: PLC0415 - see the module's docstring

        typer.echo(f"vault-pg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def status(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep looking, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 2.0,
) -> None:
    """Show every manager of yours that runs on this host: leases, what comes next, pools.

    Exit code: 0 healthy, 1 degraded (it serves, but Vault, PostgreSQL, a renewal or a login fails), 2 critical (no credential
    that works), 3 nothing runs, 4 nobody can tell (the directory of the status sockets can't be trusted), 64 wrong usage, 70 a
    fault of vault-pg itself, 74 the output cannot be written.
    """
    from vault_pg.cli.status import run  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(run(json=json, interval=interval if watch else None))


@app.command(context_settings={"allow_interspersed_args": False})
def dev(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", help="A command to run with those variables; the servers end with it."),
    ] = None,
    *,
    auth: Annotated[Auth, typer.Option(help="How the service logs in to Vault: the variables are those of it.")] = Auth.TOKEN,
    ttl: Ttl = 3600,
    max_ttl: MaxTtl = 86400,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the dev Vault; 0 takes a free one.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the variables as one JSON object.")] = False,
) -> None:
    r"""Start a throw-away PostgreSQL and a dev Vault, and print the variables that a service needs to use them.

    They run until Ctrl-C and leave nothing behind. Needs the extra `vault_pg\[dev]`, or PostgreSQL on this machine.
    """
    from vault_pg.cli.dev import run  # noqa: PLC0415 - see the module's docstring

    raise typer.Exit(run(command or [], auth=auth, ttl=ttl, max_ttl=max_ttl, port=port, as_json=json))


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the load runs.")] = 30.0,
    clients: Annotated[int, typer.Option(min=1, help="Clients that query in a loop.")] = 32,
    ttl: Ttl = 3,
    max_ttl: MaxTtl = 5,
    max_size: Annotated[int, typer.Option(min=1, help="Size of the pool that the clients share.")] = 10,
) -> None:
    """Put load on a real PostgreSQL while its credentials rotate, and show how it goes.

    Exit code 0 only after at least five rotations, with no failed query, and with no role, lease or connection left at the end.
    """
    from vault_pg.cli.demo import run  # noqa: PLC0415 - see the module's docstring
    from vault_pg.cli.verdict import Plan  # noqa: PLC0415 - likewise

    plan = Plan(seconds=seconds, clients=clients, ttl=ttl, max_ttl=max_ttl, max_size=max_size)
    raise typer.Exit(run(plan))
