"""The options of `python -m benchmarks`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import checkout as hot_path
from benchmarks import fleet as fleets
from benchmarks import leases as keeping
from benchmarks import report
from benchmarks import rotation as rotations
from benchmarks.backstage import Backstage, BenchmarkError
from benchmarks.contenders import MAX_SIZE, MIN_SIZE, Name
from benchmarks.machine import machine, versions
from benchmarks.rules import MAX_TTL, TTL
from vault_pg.manager.manager import AT_ONCE

app = typer.Typer(
    help="Rotation under load, the cost of a checkout, and a fleet's requests at Vault, against named peers in the same run; and what "
    "thousands of leases cost one process. "
    "Without a command: all of them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Rounds = Annotated[int, typer.Option(min=1, help="Rounds; each runs every contender, starting with another one.")]
Seconds = Annotated[float, typer.Option(min=2.0, help="Length of one contender's turn.")]
Every = Annotated[float, typer.Option(min=0.5, help="Seconds between rotations.")]
Clients = Annotated[list[int], typer.Option(min=1, help="Concurrent clients; may be given several times.")]
Only = Annotated[list[Name], typer.Option(help="Only this contender; may be given several times.")]
Quick = Annotated[bool, typer.Option("--quick", help="One round of 8 s: a first impression, not a result.")]
Json = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="Write machine, versions, options and all rounds here.")
]
ROTATION_CLIENTS = [8, 32]
CHECKOUT_CLIENTS = [1, 8, 32]
FLEETS = [5_000, 100_000]
LEASES = 10_000


@app.callback(invoke_without_command=True)
def everything(context: typer.Context, json: Json = None) -> None:
    if context.invoked_subcommand is None:
        with Backstage() as stage:
            results = _rotation(stage, list(Name), ROTATION_CLIENTS, rounds=5, seconds=10.0, every=3.0)
            results |= _checkout(stage, CHECKOUT_CLIENTS, rounds=5, checkouts=10000)
            postgresql = stage.desk.site().version
        results |= _fleet(FLEETS, seed=1)
        _save(postgresql, json, results | _leases(LEASES, ttl=TTL, seconds=60.0))


@app.command()
def rotation(
    *,
    rounds: Rounds = 5,
    seconds: Seconds = 10.0,
    every: Every = 3.0,
    clients: Clients = ROTATION_CLIENTS,
    only: Only = [],  # noqa: B006 - Typer's way to say that nothing is the default
    quick: Quick = False,
    json: Json = None,
) -> None:
    """Latency, failures and server connections while the credential rotates under load."""
    if quick:
        rounds, seconds = 1, 8.0
    if seconds < every + 1:
        raise typer.BadParameter(f"{seconds:g} s have no room for a rotation every {every:g} s: make --seconds longer")
    names = [name for name in Name if not only or name in only]
    with Backstage() as stage:
        results = _rotation(stage, names, clients, rounds=rounds, seconds=seconds, every=every)
        _save(stage.desk.site().version, json, results)


@app.command()
def checkout(
    rounds: Rounds = 5,
    clients: Clients = CHECKOUT_CLIENTS,
    checkouts: Annotated[int, typer.Option(min=100, help="Checkouts of one measurement.")] = 10000,
    json: Json = None,
) -> None:
    """CPU time of one checkout, HotSwapPool against psycopg_pool's own."""
    with Backstage() as stage:
        _save(stage.desk.site().version, json, _checkout(stage, clients, rounds=rounds, checkouts=checkouts))


@app.command()
def fleet(
    *,
    services: Annotated[list[int], typer.Option(min=100, help="Size of the fleet; may be given several times.")] = FLEETS,
    seed: Annotated[int, typer.Option(help="Of the dice.")] = 1,
    json: Json = None,
) -> None:
    """How evenly the requests of a fleet that restarts at once arrive at Vault. Simulated, on the shipped timing functions."""
    _save(None, json, _fleet(services, seed=seed))


@app.command()
def leases(
    *,
    number: Annotated[int, typer.Option("--leases", min=10, help="Leases of one process.")] = LEASES,
    ttl: Annotated[
        float, typer.Option(min=60.0, help="Seconds that each renewal asks for: a shorter one means more renewals.")
    ] = TTL,
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of the measuring.")] = 60.0,
    json: Json = None,
) -> None:
    """CPU, memory and renewals of one process with thousands of leases, on a stub of Vault and with no PostgreSQL."""
    _save(None, json, _leases(number, ttl=ttl, seconds=seconds))


def _rotation(
    stage: Backstage, names: list[Name], clients: list[int], *, rounds: int, seconds: float, every: float
) -> dict[str, object]:
    progress = Console(stderr=True, highlight=False)
    outcomes = rotations.run(
        stage,
        contenders=names,
        clients=clients,
        rounds=rounds,
        seconds=seconds,
        every=every,
        tell=lambda outcome: progress.print(report.rotation_line(outcome), soft_wrap=True),
    )
    summaries = rotations.summarise(outcomes)
    report.show(report.rotation_table(summaries))
    options = {
        "rounds": rounds, "seconds": seconds, "every": every, "clients": clients, "min_size": MIN_SIZE, "max_size": MAX_SIZE,
        "contenders": [name.value for name in names], "around_s": [rotations.BEFORE, rotations.AFTER],
    }  # fmt: skip
    return {"rotation": report.rotation_json(options, summaries, outcomes)}


def _checkout(stage: Backstage, clients: list[int], *, rounds: int, checkouts: int) -> dict[str, object]:
    rows: list[hot_path.Row] = stage.measured(hot_path.measure, hot_path.Plan(rounds, tuple(clients), checkouts))
    report.show(report.checkout_table(rows))
    options = {"rounds": rounds, "clients": clients, "checkouts": checkouts, "max_size": MAX_SIZE}
    return {"checkout": report.checkout_json(options, rows)}


def _fleet(services: list[int], *, seed: int) -> dict[str, object]:
    progress = Console(stderr=True, highlight=False)
    rows = fleets.run(services, seed=seed, tell=lambda line: progress.print(line, soft_wrap=True))
    report.show(report.fleet_table(rows))
    options = {
        "services": services, "seed": seed, "ttl": TTL, "max_ttl": MAX_TTL, "restart": fleets.RESTART, "hours": fleets.HOURS,
        "bin": fleets.BIN, "windows_h": fleets.WINDOWS,
    }  # fmt: skip
    return {"fleet": report.fleet_json(options, rows)}


def _leases(number: int, *, ttl: float, seconds: float) -> dict[str, object]:
    row = keeping.run(number, ttl=ttl, seconds=seconds)
    report.show(report.leases_table(row))
    options = {"leases": number, "ttl": ttl, "seconds": seconds, "max_size": keeping.MAX_SIZE, "at_once": AT_ONCE}
    return {"leases": report.leases_json(options, row)}


def _save(postgresql: str | None, path: Path | None, results: dict[str, object]) -> None:
    about: dict[str, object] = {"machine": machine(), "versions": versions(postgresql)}
    if path is not None:
        report.write(path, about | results)


def main() -> None:
    """Run the command line; what goes wrong is one sentence on stderr."""
    try:
        app()
    except BenchmarkError as error:
        sys.exit(f"benchmarks: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
