"""What a dev Vault was asked, for tests to count."""

from __future__ import annotations

import fnmatch
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Logged:
    """A request that was served, or made to fail."""

    method: str
    path: str
    """Without /v1/ and without its query."""
    status: int
    """0 where no answer was sent."""
    at: float
    """On `time.monotonic()`."""


def fits(match: str, method: str, path: str) -> bool:
    """Whether the glob `match` fits the path, or "METHOD path"."""
    return fnmatch.fnmatchcase(path, match) or fnmatch.fnmatchcase(f"{method} {path}", match)


class RequestLog:
    """The requests in the order of their answers. Thread-safe; holds no secrets."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[Logged] = []

    def add(self, method: str, path: str, status: int) -> None:
        with self._lock:
            self._records.append(Logged(method, path, status, time.monotonic()))

    def records(self, match: str = "*") -> list[Logged]:
        with self._lock:
            return [record for record in self._records if fits(match, record.method, record.path)]

    def count(self, match: str = "*", *, status: int | None = None) -> int:
        return sum(1 for record in self.records(match) if status in (None, record.status))

    def clear(self) -> None:
        with self._lock:
            self._records.clear()
