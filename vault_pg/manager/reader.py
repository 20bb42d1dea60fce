"""Reading the status of every manager of this user on this host, from outside and without asyncio."""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vault_pg.manager.endpoint import socket_address
from vault_pg.manager.runtime import open_private
from vault_pg.manager.status import Report, Status

PATIENCE = 2.0
"""Seconds that one manager has for its answer."""

LONGEST_ANSWER = 4 * 1024 * 1024
"""Bytes; a real answer has a few hundred for each database."""

SOCKET_NAME = re.compile(r"(?P<pid>[1-9][0-9]*)-[0-9]+\.sock", re.ASCII)


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found: the managers that answered, and the process ids of live ones that did not (or gave no sense)."""

    report: Report
    mute: tuple[int, ...] = ()


def survey(directory: Path, *, patience: float = PATIENCE) -> Survey:
    """Ask every manager that has a socket in `directory`, all at once; each has `patience` seconds.

    Sockets that nobody listens on any more are removed. Raises EndpointError where the directory is not this user's own.
    """
    try:
        descriptor = open_private(directory, create=False)
    except FileNotFoundError:
        return Survey(Report(managers=()))
    try:
        found = sorted((int(match["pid"]), name) for name in _names(descriptor) if (match := SOCKET_NAME.fullmatch(name)))
        if not found:
            return Survey(Report(managers=()))
        with ThreadPoolExecutor(max_workers=min(32, len(found))) as readers:
            answers = list(readers.map(lambda each: _read(directory, descriptor, each[1], patience), found))
    finally:
        os.close(descriptor)
    statuses = tuple(answer for answer in answers if isinstance(answer, Status))
    mute = tuple(pid for (pid, _), answer in zip(found, answers, strict=True) if answer == "mute" and _lives(pid))
    return Survey(Report(managers=statuses), mute)


def read_all(directory: Path) -> list[Status]:
    """The status of every manager in `directory` that answers."""
    return list(survey(directory).report.managers)


def _names(descriptor: int) -> list[str]:
    with os.scandir(descriptor) as entries:
        return [entry.name for entry in entries if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)]


def _read(directory: Path, descriptor: int, name: str, patience: float) -> Status | str:
    """A status, "gone" where nobody listens, "mute" where somebody does and gives none in time."""
    deadline = time.monotonic() + patience
    try:
        before = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(patience)
            connection.connect(socket_address(directory, descriptor, name))
            return Status.model_validate_json(_receive(connection, deadline))
    except ConnectionRefusedError:
        _remove(name, descriptor, before)
        return "gone"
    except FileNotFoundError:
        return "gone"
    except (OSError, ValidationError):
        # A manager that stops right now removes its name first and then cuts its readers off.
        return "mute" if _exists(name, descriptor) else "gone"


def _exists(name: str, descriptor: int) -> bool:
    try:
        os.stat(name, dir_fd=descriptor, follow_symlinks=False)
    except OSError:
        return False
    return True


def _receive(connection: socket.socket, deadline: float) -> bytes:
    answer = bytearray()
    while len(answer) <= LONGEST_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        piece = connection.recv(65536)
        if not piece:
            return bytes(answer)
        answer += piece
    raise TimeoutError


def _remove(name: str, descriptor: int, seen: os.stat_result) -> None:
    """Remove a dead socket, unless the name belongs to another one by now."""
    try:
        now = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        if (now.st_ino, now.st_dev) == (seen.st_ino, seen.st_dev):
            os.unlink(name, dir_fd=descriptor)
    except OSError:
        return  # another reader was quicker


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False  # a forked child of a dead manager may still hold its socket
    except (PermissionError, OverflowError):
        return True
    return True
