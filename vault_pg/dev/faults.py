"""Failures on demand: what a real Vault does on a bad day, for tests."""

from __future__ import annotations

import fnmatch
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self


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


class Fault:
    """One failure in force; ends by `end()`, at the end of a `with` block, or after its number of times. `hits` counts it."""

    def __init__(
        self, faults: Faults, apply: Callable[[Callable[[], Verdict]], Verdict], match: str, times: int | None, every: int
    ) -> None:
        self.apply = apply
        self.hits = 0
        self.ended = threading.Event()
        self._faults = faults
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

    def end(self) -> None:
        self._faults.end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()


class Leases(Protocol):
    def revoke(self, lease_id: str, *, sync: bool) -> None: ...


class State(Protocol):
    """What is done to the server's state."""

    @property
    def leases(self) -> Leases: ...
    def seal(self) -> None: ...
    def unseal(self) -> None: ...


class Served(Protocol):
    @property
    def core(self) -> State: ...
    def kill_token(self, name: str) -> None: ...


class Faults:
    """The failures of one dev Vault. Thread-safe.

    `match` is a glob on the path without /v1/ ("sys/leases/renew", "database/creds/*") or on "METHOD path". `times` ends a fault after
    so many strikes, `every` lets it strike each n-th matching request only. Of several that match the one set last counts.
    """

    def __init__(self, api: Served) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def judge(self, method: str, path: str, answer: Callable[[], Verdict]) -> Verdict:
        """What to send for a request; `answer` asks the API."""
        with self._lock:
            fault = next((fault for fault in reversed(self._faults) if fault.due(method, path)), None)
        return fault.apply(answer) if fault else answer()

    def _add(self, apply: Callable[[Callable[[], Verdict]], Verdict], match: str, times: int | None, every: int = 1) -> Fault:
        fault = Fault(self, apply, match, times, every)
        with self._lock:
            self._faults.append(fault)
        return fault

    def end(self, fault: Fault) -> None:
        with self._lock:
            if fault in self._faults:
                self._faults.remove(fault)
        fault.ended.set()

    def clear(self) -> None:
        """End all faults, a seal too."""
        with self._lock:
            ending = list(self._faults)
        for fault in ending:
            fault.end()
        self.unseal()

    def seal(self) -> None:
        """As an operator does it: everything answers 503, and nothing ends while it lasts."""
        self._api.core.seal()

    def unseal(self) -> None:
        self._api.core.unseal()

    def slow(self, seconds: float, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Wait before the request is served."""

        def apply(answer: Callable[[], Verdict]) -> Verdict:
            time.sleep(seconds)
            return answer()

        return self._add(apply, match, times, every)

    def hold(self, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Keep requests waiting until the fault ends, then serve them."""

        def apply(answer: Callable[[], Verdict]) -> Verdict:
            fault.ended.wait()
            return answer()

        fault = self._add(apply, match, times, every)
        return fault

    def late(self, seconds: float, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Serve the request, then wait before the answer is sent: what was done is done, and the client may have given up."""

        def apply(answer: Callable[[], Verdict]) -> Verdict:
            verdict = answer()
            time.sleep(seconds)
            return verdict

        return self._add(apply, match, times, every)

    def answer(
        self,
        status: int,
        body: Mapping[str, object] | str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        match: str = "*",
        times: int | None = None,
        every: int = 1,
    ) -> Fault:
        """Answer so instead of serving. Without a body: `{"errors": []}`, and nothing with 204; text is sent as it stands."""
        text = body if isinstance(body, str) else json.dumps({"errors": []} if body is None else body)
        verdict = Verdict(status, b"" if status == HTTPStatus.NO_CONTENT and body is None else text.encode(), headers or {})
        return self._add(lambda _answer: verdict, match, times, every)

    def cut(self, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Serve the request, then end the connection in the middle of the answer: what was done is done."""
        return self._add(lambda answer: replace(answer(), cut=True), match, times, every)

    def refuse(self, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """End the connection without serving the request."""
        return self._add(lambda _answer: Verdict(0, refuse=True), match, times, every)

    def lose_lease(self, lease_id: str) -> None:
        """End a lease behind its holder's back, role and all; returns when the role is gone."""
        self._api.core.leases.revoke(lease_id, sync=True)

    def kill_token(self, name: str) -> None:
        """End the token with this id or accessor, its children and their leases."""
        self._api.kill_token(name)
