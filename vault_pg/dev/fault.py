"""One failure: which requests it strikes, what it does with them, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

from vault_pg.dev.log import fits


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is sent for a request."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False
    """The connection ends in the middle of the answer."""
    refuse: bool = False
    """The connection ends with no answer at all."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that a fault strikes; calling it serves it."""

    method: str
    path: str
    serve: Callable[[], Verdict]

    def __call__(self) -> Verdict:
        return self.serve()


Apply: TypeAlias = Callable[[Asked], Verdict]


class Trouble:
    """Something in force until `end()` or the end of a `with` block."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.ended = threading.Event()
        self._end = end

    def end(self) -> None:
        """Does nothing the second time."""
        if not self.ended.is_set():
            self.ended.set()
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


class Fault(Trouble):
    """A failure of requests; ends after its number of times, too. `hits` counts the requests that it struck."""

    def __init__(self, apply: Apply, match: str, times: int | None, every: int, end: Callable[[Fault], object]) -> None:
        super().__init__(lambda: end(self))
        self.apply = apply
        self.hits = 0
        self._match = match
        self._times = times
        self._every = every
        self._seen = 0

    def due(self, method: str, path: str) -> bool:
        """Whether it strikes this request; the caller holds the lock."""
        if not fits(self._match, method, path) or (self._times is not None and self.hits >= self._times):
            return False
        self._seen += 1
        if self._seen % self._every:
            return False
        self.hits += 1
        return True
