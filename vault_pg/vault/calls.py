"""Blocking calls of hvac, made in threads and awaited on the loop, each for a bounded time.

To stop waiting doesn't stop the thread, and Vault may still issue a lease or a token that nobody asked for any more. So a result
changes hands exactly once: either the waiter takes it, or it is undone, by the thread itself if need be, even with the loop gone.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeAlias, TypeVar

from pydantic import SecretStr

from vault_pg.errors import NotRunning, VaultError, VaultUnavailable
from vault_pg.settings import VaultSettings
from vault_pg.vault.adapter import connect
from vault_pg.vault.answers import origin, within
from vault_pg.vault.endpoints import Client
from vault_pg.vault.nodes import Nodes

T = TypeVar("T")

GRACE = 10.0
"""Seconds that a thread still waits for an answer that may hold a lease or a token, after the caller has given up."""

log = logging.getLogger("vault_pg.vault")

Undo: TypeAlias = Callable[[Client, T], object]


_awaited: weakref.WeakKeyDictionary[threading.Thread, float] = weakref.WeakKeyDictionary()
"""Threads that the end of the interpreter waits for, and until when."""


def _await_grants() -> None:
    for thread, until in [*_awaited.items()]:
        if thread.is_alive():
            thread.join(max(0.0, until - time.monotonic()))


# urllib3 closes connections by weakref.finalize, which does nothing any more once its own atexit call has come. That is made with the
# first one there is, and what is registered last comes first: so this before whatever asks Vault at the end of the interpreter.
weakref.finalize(_await_grants, lambda: None)
atexit.register(_await_grants)


class Calls(Protocol):
    """Where the session's calls are made."""

    async def call(
        self, work: Callable[[Client], T], *, token: SecretStr | None, timeout: float, undo: Undo[T] | None = None
    ) -> T:
        """`work(client)` with `token`, over within `timeout` seconds; VaultUnavailable after that.

        Where it succeeds but nobody waits any more, `undo(client, result)` is called instead.
        """
        ...

    async def settled(self, *, timeout: float) -> None:
        """Return once no call is under way that may have a result to undo, or after `timeout` seconds."""
        ...

    async def close(self, *, timeout: float) -> None:
        """Take no more calls, and wait up to `timeout` seconds for those under way, undos included."""
        ...


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    work: Callable[[Client], T]
    undo: Undo[T] | None
    token: SecretStr | None
    timeout: float


class _Handover(Generic[T]):
    """The result of one call on its way from the thread to the waiter. Whoever comes second, of the two, learns so under the lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._outcome: tuple[T] | BaseException | None = None
        self._abandoned = False
        self.arrived: asyncio.Future[None] = self._loop.create_future()

    @property
    def abandoned(self) -> bool:
        with self._lock:
            return self._abandoned

    def deliver(self, outcome: tuple[T] | BaseException) -> bool:
        """From the thread. False: nobody waits, the outcome stays with the thread."""
        with self._lock:
            if self._abandoned:
                return False
            try:
                self._loop.call_soon_threadsafe(self._announce)
            except RuntimeError:  # the loop is closed, and with it the waiter gone
                self._abandoned = True
                return False
            self._outcome = outcome
            return True

    def claim(self) -> tuple[T] | BaseException | None:
        """From the loop, once: what has arrived; None leaves all that is still to come to the thread."""
        with self._lock:
            self._abandoned = True
            return self._outcome

    def call_soon(self, call: Callable[[], object]) -> None:
        """On the loop, if there is one still."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def _announce(self) -> None:
        if not self.arrived.done():
            self.arrived.set_result(None)


class ThreadCalls:
    """Each call has a client of its own (requests' sessions aren't made for threads), and a thread of its own for as long as it lasts.

    No executor: calls are rare, one queued behind others that a dead Vault swallowed would lose its time there, and the end of the
    interpreter waits for an executor however long it takes.
    """

    def __init__(
        self, settings: VaultSettings, lost: Callable[[SecretStr, VaultError], object] = lambda _token, _error: None
    ) -> None:
        """`lost(token, error)` is called on the loop where nobody waits for a result that has to be undone, and it could not be."""
        self._settings = settings
        self._lost = lost
        self._nodes = Nodes(settings.addresses)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._closed = False

    async def call(
        self, work: Callable[[Client], T], *, token: SecretStr | None, timeout: float, undo: Undo[T] | None = None
    ) -> T:
        """See Calls. Raises NotRunning after `close`, and in a forked child: what the session holds is its parent's."""
        if self._closed or os.getpid() != self._process:
            raise NotRunning("the Vault session is closed")
        job = _Job(work, undo, token, timeout)
        deadline = time.monotonic() + timeout
        handover = _Handover[T]()
        # What brings a lease or a token is waited for at the end of the interpreter, until it is here and undone.
        awaited = None if undo is None else deadline + timeout
        if not self._start(partial(self._serve, job, handover, deadline), awaited):
            if not threading.main_thread().is_alive():  # the interpreter ends, which nothing but this is left to do
                return self._with_client(work, token, deadline)
            raise VaultUnavailable("Vault cannot be asked: the system starts no more threads")
        try:
            await asyncio.wait([handover.arrived], timeout=timeout)
        except BaseException:
            # Cancelled, perhaps after the result had arrived: nobody will ever see it.
            outcome = handover.claim()
            if isinstance(outcome, tuple):
                self._start(partial(self._undo, job, outcome[0], handover), time.monotonic() + timeout)
            elif outcome is not None:
                self._tell_lost(job, outcome)
            raise
        outcome = handover.claim()
        if outcome is None:
            waited = within(timeout, self._settings.timeout)
            raise VaultUnavailable(f"Vault at {origin(self._settings.address)} did not answer {waited}", in_doubt=undo is None)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome[0]

    async def settled(self, *, timeout: float) -> None:
        """See Calls."""
        await self._ended(lambda: [thread for thread in self._running() if thread in _awaited], timeout)

    async def close(self, *, timeout: float) -> None:
        """See Calls."""
        self._closed = True
        await self._ended(self._running, timeout)

    async def _ended(self, running: Callable[[], list[threading.Thread]], timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                # A caller that is cancelled as its result arrives starts an undo when the loop comes to it: before this, or while we wait.
                await asyncio.sleep(0)
                while threads := running():
                    await _joined(threads)

    def _serve(self, job: _Job[T], handover: _Handover[T], deadline: float) -> None:
        """In the thread."""
        if handover.abandoned:  # before the thread had begun
            return
        outcome: tuple[T] | BaseException
        try:
            grace = GRACE if job.undo is not None else 0.0
            outcome = (self._with_client(job.work, job.token, deadline, grace),)
        except BaseException as error:  # noqa: BLE001 - raised again, on the waiter's side
            # Without the frames of the thread, which hold the token in clear.
            outcome = error.with_traceback(None)
        if handover.deliver(outcome):
            return
        if isinstance(outcome, tuple):
            self._undo(job, outcome[0], handover)
        else:
            handover.call_soon(partial(self._tell_lost, job, outcome))

    def _tell_lost(self, job: _Job[T], outcome: BaseException) -> None:
        """On the loop: what nobody waits for has failed, and Vault may have granted it all the same."""
        if job.undo is not None and job.token is not None and isinstance(outcome, VaultError) and outcome.in_doubt:
            self._lost(job.token, outcome)

    def _undo(self, job: _Job[T], result: T, handover: _Handover[T]) -> None:
        """In a thread, with as much time as the call itself had."""
        undo = job.undo
        if undo is None:
            return
        try:
            self._with_client(lambda client: undo(client, result), job.token, time.monotonic() + job.timeout)
        except VaultError as error:
            log.warning("could not revoke what Vault granted to a caller that is gone; it ends at its TTL: %s", error)
            if job.token is not None:
                handover.call_soon(partial(self._lost, job.token, error))

    def _with_client(self, work: Callable[[Client], T], token: SecretStr | None, deadline: float, grace: float = 0.0) -> T:
        client = connect(self._settings, deadline, grace, self._nodes)
        client.token = token.get_secret_value() if token is not None else ""
        try:
            return work(client)
        finally:
            # Calls are minutes apart: a connection kept that long is often dead, or leads to yesterday's leader.
            client.adapter.close()

    def _start(self, task: Callable[[], None], awaited: float | None) -> bool:
        """Run the task in a thread, which the end of the interpreter waits for until `awaited` (on `time.monotonic()`).

        False where there is no more to be had.
        """
        if os.getpid() != self._process:
            return False  # what there would be to undo in a forked child is in use in its parent

        def run() -> None:
            try:
                task()
            finally:
                with self._lock:
                    self._threads.discard(thread)

        # A daemon: one that hangs, in a user's own login say, may not hold up the end of the interpreter for ever.
        thread = threading.Thread(target=run, name="vault_pg call", daemon=True)
        with self._lock:
            self._threads.add(thread)
        if awaited is not None:
            _awaited[thread] = awaited
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.discard(thread)
            return False
        return True

    def _running(self) -> list[threading.Thread]:
        with self._lock:
            # Started ones only: the others are added before they start, and cannot be joined yet.
            return [thread for thread in self._threads if thread.is_alive()]


async def _joined(threads: list[threading.Thread]) -> None:
    """Wait for all of them; when that is cancelled, leave nothing behind that the end of the interpreter would wait for."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def join() -> None:
        for thread in threads:
            thread.join()
        with contextlib.suppress(RuntimeError):  # the loop is closed meanwhile
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=join, name="vault_pg close", daemon=True).start()
    await ended.wait()
