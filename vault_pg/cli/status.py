"""`vault-pg status`: once, or again and again."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from vault_pg.cli.status_view import lines, table
from vault_pg.manager.reader import Survey, survey
from vault_pg.manager.runtime import runtime_path

MUTE = 1
"""Exit code of a manager that lives and does not answer: nobody can say that it is healthy."""


def run(*, json: bool, interval: float | None) -> int:
    """Show what runs, once or every `interval` seconds; returns the exit code. Raises EndpointError."""
    directory = runtime_path()
    if interval is None:
        return _show(directory, json=json)
    try:
        _watch(directory, interval, json=json)
    except KeyboardInterrupt:
        return 0  # the ordinary end of watching


def _show(directory: Path, *, json: bool) -> int:
    found = survey(directory)
    if json:
        typer.echo(found.report.model_dump_json(indent=2))
        for pid in found.mute:
            typer.echo(f"vault-pg: the manager of process {pid} lives but does not answer", err=True)
    elif _nothing(found):
        typer.echo(_nowhere(directory))
    else:
        Console(highlight=False).print(table(found))
    return _exit_code(found)


def _watch(directory: Path, interval: float, *, json: bool) -> NoReturn:
    console = Console(highlight=False)
    if console.is_terminal and not json:
        _watch_live(console, directory, interval)
    while True:
        found = survey(directory)
        for line in [found.report.model_dump_json()] if json else _stamped(found, directory):
            print(line, flush=True)  # noqa: T201 - a command's stdout
        time.sleep(interval)


def _watch_live(console: Console, directory: Path, interval: float) -> NoReturn:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            found = survey(directory)
            live.update(Text(_nowhere(directory)) if _nothing(found) else table(found), refresh=True)
            time.sleep(interval)


def _stamped(found: Survey, directory: Path) -> list[str]:
    now = f"{datetime.now().astimezone():%H:%M:%S}"
    return [f"{now} {line}" for line in ([_nowhere(directory)] if _nothing(found) else lines(found))]


def _nothing(found: Survey) -> bool:
    return not found.report.managers and not found.mute


def _nowhere(directory: Path) -> str:
    return f"nothing runs: no manager of this user has a status socket in {directory}"


def _exit_code(found: Survey) -> int:
    if not found.mute:
        return found.report.exit_code
    return max(found.report.exit_code, MUTE) if found.report.managers else MUTE
