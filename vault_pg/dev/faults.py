"""Failures on demand: what a real Vault does on a bad day, for tests."""

from __future__ import annotations

import fnmatch
import json
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from http import HTTPStatus
from typing import Protocol

from vault_pg.dev.fault import Apply, Asked, Fault, Trouble, Verdict

PAGE = "<html><body>502: the upstream is having a bad day</body></html>"
"""What a proxy says in Vault's place."""

SAID = {
    HTTPStatus.PRECONDITION_FAILED: "required index state not present",
    HTTPStatus.TOO_MANY_REQUESTS: "request path: rate limit quota exceeded",
    HTTPStatus.INTERNAL_SERVER_ERROR: "internal error",
}
"""Vault's own words for statuses that mean "not now"."""


class Leases(Protocol):
    longest_grant: float | None
    refused_revocation: str

    def ids(self, prefix: str = "") -> list[str]: ...
    def revoke(self, lease_id: str, *, sync: bool) -> None: ...


class Network(Protocol):
    cut: bool


class State(Protocol):
    @property
    def leases(self) -> Leases: ...
    @property
    def network(self) -> Network: ...
    def seal(self) -> None: ...
    def unseal(self) -> None: ...
    def end_logins(self) -> int: ...


class Served(Protocol):
    @property
    def core(self) -> State: ...
    def kill_token(self, name: str) -> None: ...


class Server(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Faults:
    """The failures of one dev Vault. Thread-safe.

    Each lasts until its `end()`, which is also the end of a `with` block. Of those that strike requests `match` is a glob on the path
    without /v1/ ("sys/leases/renew", "database/creds/*") or on "METHOD path"; `times` ends one after so many strikes, `every` lets it
    strike each n-th matching request only. Of several that match the one set last counts.
    """

    def __init__(self, api: Served, server: Server) -> None:
        self._api = api
        self._server = server
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._troubles: list[Trouble] = []

    def judge(self, method: str, path: str, answer: Callable[[], Verdict]) -> Verdict:
        """What to send for a request; `answer` asks the API."""
        with self._lock:
            fault = next((fault for fault in reversed(self._faults) if fault.due(method, path)), None)
        return fault.apply(Asked(method, path, answer)) if fault else answer()

    def _add(self, apply: Apply, match: str, times: int | None, every: int = 1) -> Fault:
        fault = Fault(apply, match, times, every, self._remove)
        with self._lock:
            self._faults.append(fault)
        return fault

    def _remove(self, fault: Fault) -> None:
        with self._lock:
            if fault in self._faults:
                self._faults.remove(fault)

    def _trouble(self, end: Callable[[], object]) -> Trouble:
        trouble = Trouble(end)
        with self._lock:
            self._troubles.append(trouble)
        return trouble

    def clear(self) -> None:
        """End all of them; the server runs and is unsealed then."""
        with self._lock:
            ending: list[Trouble] = [*self._faults, *self._troubles]
            self._troubles.clear()
        for trouble in ending:
            trouble.end()
        self.unseal()
        self._server.start()

    # -- of the whole server

    def seal(self) -> Trouble:
        """As an operator does it: everything answers 503, and no lease or token ends while it lasts."""
        self._api.core.seal()
        return self._trouble(self.unseal)

    def unseal(self) -> None:
        self._api.core.unseal()

    def stop(self) -> Trouble:
        """A crash: connections are cut and new ones refused. What came due meanwhile ends when it is over."""
        self._server.stop()
        return self._trouble(self._server.start)

    def standby(self, leader: str | None = None, match: str = "*") -> Fault:
        """A standby of a cluster: every request is answered with 307 to the leader at this URL.

        Without one it is a leader that has just died: connections to its address are refused.
        """
        with ExitStack() as stack:
            if leader is None:
                # Bound and never listening: nobody else can take the port meanwhile.
                corpse = stack.enter_context(socket.socket())
                corpse.bind(("127.0.0.1", 0))
                leader = f"http://127.0.0.1:{corpse.getsockname()[1]}"
            address, grave = leader, stack.pop_all()

        def end(fault: Fault) -> None:
            self._remove(fault)
            grave.close()

        def apply(asked: Asked) -> Verdict:
            location = {"Location": f"{address}/v1/{asked.path}"}
            return Verdict(HTTPStatus.TEMPORARY_REDIRECT, headers=location)

        fault = Fault(apply, match, None, 1, end)
        with self._lock:
            self._faults.append(fault)
        return fault

    def cut_off_database(self) -> Trouble:
        """Vault no longer reaches PostgreSQL, which everybody else still does: nothing can be issued, renewed or revoked."""
        network = self._api.core.network
        network.cut = True

        def mend() -> None:
            network.cut = False

        return self._trouble(mend)

    # -- of requests

    def slow(self, seconds: float, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Wait before the request is served, at most until the fault ends."""

        def apply(asked: Asked) -> Verdict:
            fault.ended.wait(seconds)
            return asked()

        fault = self._add(apply, match, times, every)
        return fault

    def hold(self, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Keep requests waiting until the fault ends, then serve them."""
        return self.slow(threading.TIMEOUT_MAX, match, times=times, every=every)

    def late(self, seconds: float, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Serve the request, then hold its answer back: what was done is done, and the client may have given up."""

        def apply(asked: Asked) -> Verdict:
            verdict = asked()
            fault.ended.wait(seconds)
            return verdict

        fault = self._add(apply, match, times, every)
        return fault

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
        return self._add(lambda _asked: verdict, match, times, every)

    def unavailable(
        self,
        status: int = HTTPStatus.SERVICE_UNAVAILABLE,
        *,
        retry_after: int | None = None,
        match: str = "*",
        times: int | None = None,
        every: int = 1,
    ) -> Fault:
        """Answer "not now" in Vault's words: 412 (behind its leader), 429 (a quota), 472, 473 or a 5xx; `retry_after` in seconds."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        said = [SAID[HTTPStatus(status)]] if status in SAID else []
        return self.answer(status, {"errors": said}, headers=headers, match=match, times=times, every=every)

    def garbage(self, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Answer with a proxy's page of HTML instead of serving, and with a status of 200."""
        return self.answer(200, PAGE, headers={"Content-Type": "text/html"}, match=match, times=times, every=every)

    def no_content(self, match: str = "sys/leases/renew", *, times: int | None = None, every: int = 1) -> Fault:
        """Answer 204 instead of serving: neither a yes with its grant nor a no."""
        return self.answer(HTTPStatus.NO_CONTENT, match=match, times=times, every=every)

    def cut(self, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """Serve the request, then end the connection in the middle of the answer: what was done is done."""
        return self._add(lambda asked: replace(asked(), cut=True), match, times, every)

    def refuse(self, match: str = "*", *, times: int | None = None, every: int = 1) -> Fault:
        """End the connection without serving the request."""
        return self._add(lambda _asked: Verdict(0, refuse=True), match, times, every)

    # -- of leases and tokens

    def lose_lease(self, lease_id: str) -> None:
        """End a lease behind its holder's back, role and all; returns when the role is gone."""
        self._api.core.leases.revoke(lease_id, sync=True)

    def lose_leases(self, match: str = "*") -> list[str]:
        """The same for every lease whose id fits a glob ("database/creds/app/*"); returns the ids."""
        leases = self._api.core.leases
        lost = [lease_id for lease_id in leases.ids() if fnmatch.fnmatchcase(lease_id, match)]
        for lease_id in lost:
            leases.revoke(lease_id, sync=True)
        return lost

    def kill_token(self, name: str) -> None:
        """End the token with this id or accessor, its children and their leases."""
        self._api.kill_token(name)

    def kill_logins(self) -> int:
        """The same for every token that came of a login (AppRole and the like); how many there were."""
        return self._api.core.end_logins()

    def truncate_grants(self, seconds: float) -> Trouble:
        """No issue and no renewal is granted more than so many seconds: max TTL is near, or an operator has lowered it."""
        leases = self._api.core.leases
        leases.longest_grant = seconds

        def mend() -> None:
            leases.longest_grant = None

        return self._trouble(mend)

    def fail_revocations(self, why: str = "pq: role cannot be dropped because some objects depend on it") -> Trouble:
        """No lease can be revoked, asked for or due: Vault tries a due one again a few times, then calls it irrevocable."""
        leases = self._api.core.leases
        leases.refused_revocation = why

        def mend() -> None:
            leases.refused_revocation = ""

        return self._trouble(mend)
